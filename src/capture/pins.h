/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that the kernel writes behind the tracker's back: pages that it has pinned take what arrives in them
 * without a fault. That goes for the buffers registered with an io_uring, for reads past the page cache (O_DIRECT)
 * that are under way, and for what devices do. Which pages they are is known of none of these, so
 * all memory has to be compared while it may be so.
 */
#ifndef CAPTURE_PINS_H
#define CAPTURE_PINS_H

#include "kind/kind.h"

/** Beside the running target: whether pages of it may be pinned just now. */
struct kage_err *kage_pins_look(struct kage_target *t, bool *ret_pinned) _must_check_;

/** The same of what C->fds and C->maps say, of the instant of the image. */
bool kage_pins_seen(const struct kage_capture *c);

/** Whether reads past the page cache may be under way now, with all threads stopped or asleep: only by rings. Who reads
 *  so itself cannot be stopped in the middle of it. */
bool kage_pins_under_way(const struct kage_capture *c);

/** Whether T has a userfaultfd of its own; and whether one is in C->fds. What we have registered it cannot register. */
struct kage_err *kage_pins_find_uffd(struct kage_target *t, bool *ret_found) _must_check_;
bool kage_pins_uffd_seen(const struct kage_capture *c);

#endif
