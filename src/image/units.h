/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pages of one space, cut into units that several threads read at the same time: what is cheapest
 * to read at once, about KAGE_PAGES_PIECE pages. (Groups of a pack are unpacked as a whole.)
 */
#ifndef IMAGE_UNITS_H
#define IMAGE_UNITS_H

#include "image/pages.h"

/* COUNT pages from PAGE are in UNIT, if the image has them. */
struct kage_unit_piece {
	uint64_t page, count;
	size_t unit;
};

struct kage_units;

struct kage_units_ops {
	/** What a thread needs for reading; NULL without memory. */
	void *(*room_create)(const struct kage_units *u);
	void (*room_destroy)(void *room);
	/** Calls FN for all pages of unit I, in pieces of at most KAGE_PAGES_PIECE. */
	struct kage_err *(*read)(struct kage_units *u, size_t i, void *room, kage_pages_fn *fn,
				 void *user);
	void (*destroy)(struct kage_units *u);
};

/* Embedded at the beginning of each implementation. */
struct kage_units {
	const struct kage_units_ops *ops;
	size_t n;
	struct kage_unit_piece *pieces; /* ascending by page, without overlap */
	size_t n_pieces, max_pieces;
};

/** The units of SPACE in P, which must not be used by others as long as they exist. */
struct kage_err *kage_units_create(struct kage_pages *p, uint32_t space,
				   struct kage_units **ret_units) _must_check_;

static inline void kage_units_destroy(struct kage_units *u)
{
	if (u)
		u->ops->destroy(u);
}

/** The unit that PAGE is in; U->n when the image does not have it. */
size_t kage_units_find(const struct kage_units *u, uint64_t page);

/** Calls FN for all pages of the N units ONLY of U (NULL: of all), from several threads at the same time if
 *  there are many. */
struct kage_err *kage_units_each(struct kage_units *u, const size_t *only, size_t n,
				 kage_pages_fn *fn, void *user) _must_check_;

/* --- for implementations ---------------------------------------------------------------------- */

/** Adds a piece, in any order; kage_units_sort() brings them into the one that is promised. */
struct kage_err *kage_units_add(struct kage_units *u, uint64_t page, uint64_t count, size_t unit)
	_must_check_;
void kage_units_sort(struct kage_units *u);

#endif
