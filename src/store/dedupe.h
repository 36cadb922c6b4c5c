/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages were seen before: a table from the hash of a page to the slot that holds it.
 *
 * A hash only proposes; the caller compares the bytes. Of two different pages with one hash only the
 * first is ever found again, which costs space and nothing else.
 */
#ifndef STORE_DEDUPE_H
#define STORE_DEDUPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct dedupe_entry {
	uint64_t hash;
	uint64_t slot_plus_1; /* 0: empty */
};

struct dedupe {
	struct dedupe_entry *entries;
	size_t mask; /* capacity - 1, a power of two */
};

/** Room for N_PAGES different pages, which is never exceeded. */
struct kage_err *kage_dedupe_init(struct dedupe *d, uint64_t n_pages) _must_check_;
void kage_dedupe_deinit(struct dedupe *d);

/** Prepares the look-up of HASH, so that memory is on its way when it comes. */
static inline void kage_dedupe_prefetch(const struct dedupe *d, uint64_t hash)
{
	__builtin_prefetch(&d->entries[hash & d->mask], 1);
}

/** The slot noted for HASH; else notes SLOT for it and returns SLOT. */
static inline uint64_t kage_dedupe_note(struct dedupe *d, uint64_t hash, uint64_t slot)
{
	size_t i = hash & d->mask;

	while (d->entries[i].slot_plus_1) {
		if (d->entries[i].hash == hash)
			return d->entries[i].slot_plus_1 - 1;
		i = (i + 1) & d->mask;
	}
	d->entries[i] = (struct dedupe_entry){ hash, slot + 1 };
	return slot;
}

#endif
