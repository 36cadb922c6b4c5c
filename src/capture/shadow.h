/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shadow: the contents of the latest image of a target that is being recorded, page by page, in a file
 * without a name. The next image is stored as its difference from them. A file and not memory: it is as large as the
 * target, and is used seldom; the kernel may write it out and forget it.
 */
#ifndef CAPTURE_SHADOW_H
#define CAPTURE_SHADOW_H

#include <stdbool.h>

#include "image/pages.h"

struct shadow;

/** An empty one, in a file in the directory DIR_FD; -1: one that stays empty. SECRET: what is in the file is
 *  encrypted with a key that is in locked memory and goes with the shadow. */
struct kage_err *shadow_create(int dir_fd, bool secret, struct shadow **ret_shadow) _must_check_;
void shadow_destroy(struct shadow *s);

/** Sets COUNT pages from FIRST of SPACE. Whether they are part of the image is for shadow_set_runs(). */
struct kage_err *shadow_write(struct shadow *s, uint32_t space, uint64_t first, uint64_t count,
			      const void *bytes) _must_check_;

/** The same for all pages of P, which are in memory. */
struct kage_err *shadow_write_all(struct shadow *s, struct kage_pages *p) _must_check_;

/** Which pages the image has, copied. */
struct kage_err *shadow_set_runs(struct shadow *s, const struct page_run *runs, size_t n)
	_must_check_;

/** The pages of the image, borrowed. */
struct kage_pages *shadow_pages(struct shadow *s);

#endif
