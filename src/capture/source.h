/* SPDX-License-Identifier: Apache-2.0 */
/* Where and when an image was taken, and what belongs to no kind. */
#ifndef CAPTURE_SOURCE_H
#define CAPTURE_SOURCE_H

#include "kind/kind.h"

/** The instant, by the clocks, and the numbers of the process. The target is frozen. */
struct kage_err *source_instant(struct kage_capture *c) _must_check_;

/** How long it stood still until now. */
void source_pause(struct kage_capture *c);

/** The rest, which needs no instant: machine, names, command line. */
struct kage_err *source_fill(struct kage_capture *c) _must_check_;

#endif
