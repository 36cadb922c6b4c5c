/* SPDX-License-Identifier: Apache-2.0 */
/* Which of some names was probably meant. */
#ifndef STORE_SUGGEST_H
#define STORE_SUGGEST_H

#include <stddef.h>

/** "redis, python3": the N names, those most similar to NAME first, at most eight of them, as a fresh
 *  string; NULL without memory. */
char *kage_suggest(const char *name, const char *const *names, size_t n);

#endif
