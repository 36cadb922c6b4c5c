/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a pack (kage-pack(5)): one sweep from its first byte to its last, but for the SUMMARY, which
 * is filled in when all is known.
 */
#ifndef STORE_PACK_WRITE_H
#define STORE_PACK_WRITE_H

#include "base/ctx.h"
#include "image/image.h"
#include "store/description.h"
#include "store/pack_key.h"

/* The difference to a neighbour: what BEFORE and AFTER have in RUNS, one exclusive-or the other. */
struct pack_difference {
	uint64_t base_number;
	uint8_t base_id[IMAGE_ID_BYTES];
	const struct page_run *runs; /* ascending, without overlap */
	size_t n_runs;
	struct kage_pages *before, *after; /* NULL: all zero */
};

struct pack_options {
	const char *history;                      /* the name that the summary gives */
	int level;                                /* zstd's, 0 the default */
	const uint8_t *id;                        /* of the image; NULL: a new one */
	const struct pack_difference *difference; /* or NULL */
	const struct pack_sealing *sealing;       /* NULL: not encrypted */
	const struct kage_description *before;    /* the neighbour's, to lean on; or NULL */
	/* What the image's description is; NULL: that is to be made. An image that is written anew keeps it to the
	 * byte, because others may lean on it. */
	const struct kage_description *description;
	bool keep;     /* the description that was made */
	bool keyframe; /* with all pages; without a difference always */
};

struct pack_written {
	uint8_t id[IMAGE_ID_BYTES];
	uint64_t bytes;         /* of the pack */
	uint64_t changed_pages; /* in the difference */
	bool keyframe;
	struct kage_description description; /* if it was to be kept; of the caller */
};

/** Writes IMAGE as a pack to FD, an empty file open for writing, whose name for messages is PATH.
 *  Nothing is synced. */
struct kage_err *kage_pack_write(const struct kage_ctx *ctx, int fd, const char *path,
				 const struct kage_image *image, const struct pack_options *options,
				 struct pack_written *ret_written) _must_check_;

#endif
