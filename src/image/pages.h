/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contents of an image's spaces: which pages there are, and their bytes.
 *
 * A page is KAGE_PAGE_BYTES; a space is a number of image.proto's Space. Runs are ascending by
 * (space, first), never empty and never overlap. A page in no run is zero, or comes from the mapped
 * file. Two implementations: pages in our memory, as a capture collects them (below), and pages in
 * a pack (src/store).
 */
#ifndef IMAGE_PAGES_H
#define IMAGE_PAGES_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct page_run {
	uint32_t space;
	uint64_t first; /* page number: address or offset / KAGE_PAGE_BYTES */
	uint64_t count; /* pages */
};

struct kage_pages;
struct kage_units; /* image/units.h */

/** Is given COUNT pages from FIRST of SPACE. BYTES are theirs, valid during the call; NULL means that
 *  they are all zero. */
typedef struct kage_err *kage_pages_fn(void *user, uint32_t space, uint64_t first, uint64_t count,
				       const void *bytes);

struct kage_pages_ops {
	/** Reads COUNT pages from FIRST of SPACE into BUFFER. All lie within one run. Cheapest in
	 *  ascending order. */
	struct kage_err *(*read)(struct kage_pages *p, uint32_t space, uint64_t first,
				 uint64_t count, void *buffer);
	/** The same pages without copying, valid until the next call, or NULL when this implementation
	 *  has none in memory. May be NULL itself. */
	const void *(*borrow)(struct kage_pages *p, uint32_t space, uint64_t first, uint64_t count);
	/** As kage_pages_each(), where this implementation has a better way than read. May be NULL. */
	struct kage_err *(*each)(struct kage_pages *p, uint32_t space, kage_pages_fn *fn,
				 void *user);
	/** As kage_units_create(), where this implementation has a better way than read. May be NULL. */
	struct kage_err *(*units)(struct kage_pages *p, uint32_t space,
				  struct kage_units **ret_units);
	void (*destroy)(struct kage_pages *p);
};

/* Embedded at the beginning of each implementation. */
struct kage_pages {
	const struct kage_pages_ops *ops;
	const struct page_run *runs;
	size_t n_runs;
};

static inline void kage_pages_destroy(struct kage_pages *p)
{
	if (p)
		p->ops->destroy(p);
}

/** The index of the first run of P that ends behind page FIRST of SPACE, n_runs if none. */
size_t kage_pages_find(const struct kage_pages *p, uint32_t space, uint64_t first);

/** Reads COUNT pages from FIRST of SPACE into BUFFER, pages in no run as zeros. */
struct kage_err *kage_pages_read(struct kage_pages *p, uint32_t space, uint64_t first,
				 uint64_t count, void *buffer) _must_check_;

/** Calls FN for all pages of SPACE (0: of every space), each exactly once, in contiguous pieces of at
 *  most KAGE_PAGES_PIECE. The order is the cheapest one for the implementation: a pack decompresses
 *  each of its groups once, so pages that are equal to earlier ones come along with those; otherwise
 *  ascending. Pages in no run are not mentioned. Ends with the first error of FN. */
struct kage_err *kage_pages_each(struct kage_pages *p, uint32_t space, kage_pages_fn *fn,
				 void *user) _must_check_;

enum { KAGE_PAGES_PIECE = 256 }; /* 1 MiB */

/** The number of pages in all runs. */
uint64_t kage_pages_total(const struct kage_pages *p);

/* --- pages in our memory ---------------------------------------------------------------------- */

struct mem_pages;

/** An empty set. Released by kage_pages_destroy() on what finish gave, or by destroy below when it
 *  never came to that. */
struct kage_err *kage_mem_pages_create(struct mem_pages **ret_pages) _must_check_;

/** Room for BYTES more is mapped and faulted in beforehand, so that later adding does not fault. */
struct kage_err *kage_mem_pages_reserve(struct mem_pages *m, uint64_t bytes) _must_check_;

/** Adds a run of COUNT pages (not 0) from FIRST of SPACE and gives the place for its bytes, contiguous. Runs
 *  may come in any order but not overlap. */
struct kage_err *kage_mem_pages_add(struct mem_pages *m, uint32_t space, uint64_t first,
				    uint64_t count, void **ret_bytes) _must_check_;

/** Takes back the last added run's pages beyond its first COUNT (0 takes it back whole). */
void kage_mem_pages_trim(struct mem_pages *m, uint64_t count);

/** Takes back all runs, also after finish. The largest piece of the room that M has stays. */
void kage_mem_pages_clear(struct mem_pages *m);

/** How many bytes of room M, empty, has. */
uint64_t kage_mem_pages_room(const struct mem_pages *m);

/** The set whose general view P is, NULL if it is none. */
struct mem_pages *kage_mem_pages_of(struct kage_pages *p);

/** Sorts the runs, joins those that meet in the space and in memory, and gives the general view, which stays owned by M; M must not grow afterwards. */
struct kage_pages *kage_mem_pages_finish(struct mem_pages *m);

/** Releases M with all its pages; NULL is fine. Not after the general view was destroyed. */
void kage_mem_pages_destroy(struct mem_pages *m);

#endif
