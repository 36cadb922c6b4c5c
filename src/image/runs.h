/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sets of pages as lists of runs: ascending by (space, first), not empty, without overlap. Runs that meet
 * are one.
 */
#ifndef IMAGE_RUNS_H
#define IMAGE_RUNS_H

#include <stdbool.h>

#include "image/pages.h"

struct page_runs {
	struct page_run *v;
	size_t n, max;
	bool mixed; /* added out of order: kage_runs_sort() is due */
};

void kage_runs_deinit(struct page_runs *s);

/** Forgets all runs, keeps the room. */
void kage_runs_clear(struct page_runs *s);

/** Adds COUNT pages from FIRST of SPACE, which may be there already. Cheapest in ascending order. */
struct kage_err *kage_runs_add(struct page_runs *s, uint32_t space, uint64_t first, uint64_t count)
	_must_check_;
struct kage_err *kage_runs_add_all(struct page_runs *s, const struct page_run *v, size_t n)
	_must_check_;

/** The next MOST pages of S, as they come, in RET_PIECE; fewer at the end. *I and *DONE say where to go on: run number, and
 *  how many pages of it were taken; 0 and 0 at first. */
struct kage_err *kage_runs_take(const struct page_runs *s, size_t *i, uint64_t *done, uint64_t most,
				struct page_runs *ret_piece) _must_check_;

/** Puts what was added in order. To be called before S is read. */
void kage_runs_sort(struct page_runs *s);

/** Adds to RET what is in A and not in B, which are both in order. */
struct kage_err *kage_runs_minus(const struct page_run *a, size_t n_a, const struct page_run *b,
				 size_t n_b, struct page_runs *ret) _must_check_;

/** Adds to RET what is in both. */
struct kage_err *kage_runs_common(const struct page_runs *a, const struct page_runs *b,
				  struct page_runs *ret) _must_check_;

uint64_t kage_runs_total(const struct page_runs *s);

#endif
