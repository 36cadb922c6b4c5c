/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What many differences come to: for each page that any of them names, the exclusive-or of all.
 *
 * Exclusive-ors commute, so the order of the differences is nobody's business, nor is in which
 * direction each is gone.
 */
#ifndef STORE_PATCH_H
#define STORE_PATCH_H

#include "image/pages.h"
#include "store/difference.h"

struct patch_batch;

/* Pages in no run of it are all zero, and need no patching. */
struct patch {
	struct kage_pages base; /* lends its pages, unless there are CODES */
	struct page_run *runs;
	uint64_t *at; /* of each run: the pages in those before it */
	uint8_t *bytes;
	size_t mapped;
	struct patch_batch *codes; /* in place of BYTES: what the differences say, by page */
};

/** The patch of N differences; only of the pages in the N_WANTED runs WANTED, unless that is NULL. Such a one is there to
 *  be applied, not to be read as pages. */
struct kage_err *kage_patch_create(const struct difference *differences, size_t n,
				   const struct page_run *wanted, size_t n_wanted,
				   struct patch **ret_patch) _must_check_;
void kage_patch_destroy(struct patch *p);

/** Whether any page of COUNT from FIRST of SPACE is in the patch. */
bool kage_patch_touches(const struct patch *p, uint32_t space, uint64_t first, uint64_t count);

/** Applies it to COUNT pages at BYTES, which are those from FIRST of SPACE. */
void kage_patch_apply(const struct patch *p, uint32_t space, uint64_t first, uint64_t count,
		      void *bytes);

#endif
