/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for copies that is used again for the next image: to get it from the kernel anew, zeroed, would take a
 * quarter of a recorder's time.
 */
#ifndef CAPTURE_ROOM_H
#define CAPTURE_ROOM_H

#include "image/pages.h"
#include "target/target.h"

enum { ROOM_SETS = 12, ROOM_BYTES = 48 << 20 };

/* At most so many sets, and bytes in all or, if that is more, as many as the last image took; what is beyond goes back.
 * Zero-initialise. */
struct room {
	struct mem_pages *sets[ROOM_SETS];
	size_t n;
	uint64_t given; /* bytes, of this image */
};

/** What is given from now on is counted anew: the sets of an image that is done. */
void room_begin(struct room *r);

/** An empty set of pages, which belongs to the caller. */
struct kage_err *room_take(struct room *r, struct mem_pages **ret_pages) _must_check_;

/** Takes M over; NULL is fine. */
void room_give(struct room *r, struct mem_pages *m);

void room_deinit(struct room *r);

/** Copies N runs of FROM, an address space whose pages they are, into M. LOOSE: it runs meanwhile. */
struct kage_err *room_fill(struct kage_target *from, const struct page_run *runs, size_t n,
			   bool loose, struct mem_pages *m) _must_check_;

#endif
