/* SPDX-License-Identifier: Apache-2.0 */
/* What libkage exports: everything else is hidden. */
#ifndef KAGE_EXPORT_H
#define KAGE_EXPORT_H

#define KAGE_API __attribute__((visibility("default")))

#endif
