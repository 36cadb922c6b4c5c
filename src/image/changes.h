/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In what an image differs from its neighbour, the image that was taken before it in the same
 * recording.
 *
 * Every page of every space has contents; what an image does not have is zero. A space has the same
 * number in both images where it is the same object; one that only one of them has is zero in the
 * other.
 */
#ifndef IMAGE_CHANGES_H
#define IMAGE_CHANGES_H

#include <stddef.h>
#include <stdint.h>

#include "image/pages.h"

struct kage_changes {
	uint64_t base_number; /* of the neighbour, in the same history */
	uint8_t base_id[16];  /* its id */
	/* Pages that may differ, those that only one of the two images has included; ascending by
	 * (space, first), without overlap. A page in none of them is equal in both. */
	const struct page_run *runs;
	size_t n_runs;
	/* Contents of the neighbour; pages in no run of it are zero. Only pages of the runs above are
	 * asked for. */
	struct kage_pages *before;
};

#endif
