/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of a target were written since the last clearing, by the kernel's soft-dirty bits (sys/dirtybits.h) and
 * what is noted beside them (sys/blind.h). Nothing is done to the target but that its pages are protected once more.
 *
 * Bits cannot be read and cleared in one step, so a round of looking, copying and clearing is for a target that stands.
 * The first clearing may be done while it runs, if all that is there is copied afterwards.
 *
 *	begin	  in the target, once for each pass over all mappings
 *	look	  mapping by mapping
 *	clear	  when what was told is copied
 *
 * Should anybody else clear the bits of the target meanwhile (CRIU with --track-mem, another kage), that is seen, and the next
 * pass tells everything.
 */
#ifndef TARGET_SOFTDIRTY_H
#define TARGET_SOFTDIRTY_H

#include "sys/maps.h"
#include "sys/pagemap.h"
#include "target/target.h"

struct kage_softdirty;

/** For T, to which nothing is done yet. KAGE_UNSUPPORTED where the kernel has not what is needed, or something better;
 *  KAGE_PERM without the rights. */
struct kage_err *kage_softdirty_create(const struct kage_target *t,
				       struct kage_softdirty **ret_soft) _must_check_;

/** May take some ten milliseconds; NULL is fine. */
void kage_softdirty_destroy(struct kage_softdirty *s);

/** Beside the running target: clears all bits, unless that was done for the program that it is now. *RET_CLEARED: all that
 *  is there has to be copied from now on. ANEW: in any case. */
struct kage_err *kage_softdirty_start(struct kage_softdirty *s, struct kage_target *t, bool anew,
				      bool *ret_cleared) _must_check_;

/** What was told was not copied after all: if it was cleared, the next pass tells everything. */
void kage_softdirty_distrust(struct kage_softdirty *s);

struct kage_err *kage_softdirty_begin(struct kage_softdirty *s, struct kage_target *t) _must_check_;

/** Also of a twin of the target, which has its bits as of the fork, until the next pass. Tells the private pages of V, KAGE_PAGE_SAME or KAGE_PAGE_WRITTEN, of which PAGEMAP_FD is the page map. FN may be
 *  called for the same pages more than once; written once is written. */
struct kage_err *kage_softdirty_look(struct kage_softdirty *s, const struct kage_vma *v,
				     int pagemap_fd, kage_pagemap_changes_fn *fn, void *user)
	_must_check_;

/** In the freeze, when what was told is copied. *RET_STILL false: a sleeper woke up, so nothing was cleared. If one
 *  wakes up just then, the next pass tells everything. */
struct kage_err *kage_softdirty_clear(struct kage_softdirty *s, struct kage_target *t,
				      bool *ret_still) _must_check_;

#endif
