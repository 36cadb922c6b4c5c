/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether an image holds what is in memory (kage record --verify): all of it is copied in the same stop before and after
 * what the image takes, and each page of the image has to be as in one of both. They differ where the kernel takes
 * pages away by itself: those of MADV_FREE when memory is short.
 */
#ifndef CAPTURE_VERIFY_H
#define CAPTURE_VERIFY_H

#include "kind/kind.h"

/** Makes room for both copies. */
struct kage_err *verify_init(struct kage_capture *c) _must_check_;
void verify_deinit(struct kage_capture *c);

/** Fills TO, one of both, with what a capture that follows nothing would copy. NULL is fine. */
struct kage_err *verify_copy(struct kage_capture *c, struct mem_pages *to) _must_check_;

/** KAGE_CORRUPT when C's image differs from both; NULL also where there are none. */
struct kage_err *verify_compare(struct kage_capture *c) _must_check_;

#endif
