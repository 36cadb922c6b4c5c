/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DIRTY record of a pack (kage-pack(5)): which pages differ from the neighbour, and which group of
 * differences each is in. Pure.
 *
 * Page i of DIRTY, counted through its runs, is page i of the DELTA groups.
 */
#ifndef STORE_DIRTY_H
#define STORE_DIRTY_H

#include "store/format.h"

struct dirty {
	struct page_run *runs;
	uint64_t *at; /* of each run: the pages in those before it */
	size_t n_runs;
	uint64_t n_pages;
	uint32_t group_pages;
	struct group *groups; /* offsets as in the file */
	size_t n_groups;
};

void kage_dirty_deinit(struct dirty *d);

/** Parses the payload of a DIRTY record; the record stands at OFFSET, the DELTA records begin at GROUPS. */
struct kage_err *kage_dirty_parse(const uint8_t *bytes, size_t size, uint64_t offset,
				  uint64_t groups, struct dirty *ret_dirty) _must_check_;

/** The payload for RUNS, and for N_GROUPS groups with STORED_BYTES each, as fresh bytes. */
struct kage_err *kage_dirty_encode(const struct page_run *runs, size_t n_runs,
				   const uint64_t *stored_bytes, size_t n_groups,
				   uint8_t **ret_bytes, size_t *ret_size) _must_check_;

/** The first run that ends behind page FIRST of SPACE, n_runs if none. */
size_t kage_dirty_find(const struct dirty *d, uint32_t space, uint64_t first);

/** The pages that are in A or in B, as a fresh array of runs. Neither is changed. */
struct kage_err *kage_dirty_union(const struct page_run *a, size_t n_a, const struct page_run *b,
				  size_t n_b, struct page_run **ret_runs, size_t *ret_n)
	_must_check_;

/** The pages that are in both. */
struct kage_err *kage_dirty_common(const struct page_run *a, size_t n_a, const struct page_run *b,
				   size_t n_b, struct page_run **ret_runs, size_t *ret_n)
	_must_check_;

#endif
