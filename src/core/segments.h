/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan of a core file's memory: each mapping of an image as one or more segments, and where the
 * bytes of each come from.
 *
 * Segments ascend by address and cover every mapping whole. What a segment has beyond file_bytes is
 * not in the core file: a debugger takes it from the mapped file (NT_FILE), or says that it cannot
 * be read.
 */
#ifndef CORE_SEGMENTS_H
#define CORE_SEGMENTS_H

#include "base/ctx.h"
#include "core/out.h"
#include "image/image.h"

struct core_segment {
	uint64_t start, end;
	uint64_t file_bytes; /* from start; whole pages */
	uint32_t prot;       /* PROT_* */
	enum core_from {
		CORE_FROM_NOWHERE,
		CORE_FROM_SPACE, /* pages of `space`, zero where it has none */
		CORE_FROM_IMAGE, /* as kage_image_read() puts them together */
		CORE_FROM_VDSO,  /* core_segments.vdso */
	} from;
	uint32_t space;
	uint64_t first; /* page of the space at start */
};

struct core_segments {
	const struct kage_image *image;
	struct core_segment *v; /* n of them, in the arena */
	size_t n;
	struct arena arena;
	const uint8_t *vdso; /* in the arena; NULL when it is not known */
	uint8_t *buffer;     /* in the arena; for pages on their way */
	uint32_t lost_file;  /* the last file that was told to be missing */
};

/** Plans the segments of the first process of IMAGE. Tells through CTX about files that are not any
 *  more what the image had mapped: of these the pages that the process changed are in the core, the
 *  others not. Release with core_segments_deinit(), also after a failure. */
struct kage_err *core_segments_init(struct core_segments *s, struct kage_ctx *ctx,
				    const struct kage_image *image) _must_check_;
void core_segments_deinit(struct core_segments *s);

/** Writes the file_bytes bytes of segment I. */
struct kage_err *core_segments_write(const struct core_segments *s, struct kage_ctx *ctx, size_t i,
				     struct core_out *out) _must_check_;

#endif
