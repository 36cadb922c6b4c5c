/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removing several packs of a history as one step, whatever happens meanwhile.
 *
 * Names may reach the disk in any order, and a power failure in the middle could leave packs whose neighbours are
 * gone. So a note comes first, durable: a symbolic link whose target is the range of numbers. While it is there its
 * packs are in no list, and whoever locks the history next finishes what it says.
 */
#ifndef STORE_REMOVAL_H
#define STORE_REMOVAL_H

#include "store/dir.h"

/** A range of numbers; empty: 0 and 0. */
struct removal {
	uint64_t first, last;
};

/** Notes, durably, that the packs of R go. The history H is locked. */
struct kage_err *kage_removal_begin(const struct history *h, const struct removal *r) _must_check_;

/** Takes away the packs that the note names, if there is one, and the note. The history H is locked. */
struct kage_err *kage_removal_finish(const struct history *h) _must_check_;

/** What the note of H says; empty without one. */
struct removal kage_removal_read(const struct history *h);

#endif
