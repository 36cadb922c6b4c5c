/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of a target were written since the last look, by a userfaultfd of its own that only we
 * hold (sys/uffd.h). Nothing stays in the target: when the tracker, or we, are gone, so is the
 * tracking.
 *
 * A mapping is registered when it is first looked at, in whole, and so joins its neighbours again as soon as they
 * are registered too. What is not tracked (mappings that somebody else registered, new and moved ones) is
 * told as changed, all of it.
 */
#ifndef TARGET_TRACKER_H
#define TARGET_TRACKER_H

#include "sys/maps.h"
#include "sys/pagemap.h"
#include "target/target.h"

struct kage_tracker;

/** Makes a tracker for T, which is frozen; THREAD of it stands, and is put back. KAGE_UNSUPPORTED where the
 *  kernel cannot do it. */
struct kage_err *kage_tracker_create(struct kage_target *t, struct kage_thread *thread,
				     struct kage_tracker **ret_tracker) _must_check_;

/** Takes the tracking of all mappings away, in slices between which the target can change its
 *  map; NULL is fine. */
void kage_tracker_destroy(struct kage_tracker *tracker);

/** Looks at the private pages of the N mappings at V, neighbours in the map of the process behind PAGEMAP_FD, and protects
 *  them again. SLICED: in slices of a fraction of a millisecond, for a target that runs. FN may be called for
 *  the same pages more than once; written once is written. */
struct kage_err *kage_tracker_look(struct kage_tracker *tracker, int pagemap_fd,
				   const struct kage_vma *v, size_t n, bool sliced,
				   kage_pagemap_changes_fn *fn, void *user) _must_check_;

/** Whether the address space that it was made for is gone (execve(2)): then nothing is tracked any more. */
bool kage_tracker_is_dead(const struct kage_tracker *tracker);

#endif
