/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image whose memory stays in a twin: the target stands only while it is forked. In the image itself are the contents
 * of what a fork does not take along.
 */
#ifndef CAPTURE_CLONED_H
#define CAPTURE_CLONED_H

#include "image/runs.h"
#include "kind/fds_back.h"
#include "kind/kind.h"
#include "twin/forkx.h"

/* By what the program can be compared later with how it was, beyond what an image says. */
struct cloned_instant {
	struct kage_maps maps;
	struct kage_fd_id *fds; /* of each description, in the order of the image's */
	size_t n_fds;
	pid_t *children; /* processes that it had started */
	size_t n_children;
	struct page_runs
		own;    /* private pages that the twin has; it stands, so they stay the same */
	bool knows_own; /* they were looked for */
};

void cloned_instant_deinit(struct cloned_instant *instant);

/* Of one capture. */
struct cloning {
	struct kage_twin *twin; /* NULL before it is made */
	struct cloned_instant instant;
	unsigned n_asleep; /* attempts in which no thread stood that could fork */
};

/** Makes the twin, in the stop, and copies what it has not. *RET_STILL is false where a thread has to be stopped
 *  before. KAGE_UNSUPPORTED, KAGE_PERM or KAGE_LIMIT where there can be none. */
struct kage_err *cloned_copy(struct kage_capture *c, bool *ret_still) _must_check_;

/** When the target goes on: the rest, from the twin. */
struct kage_err *cloned_finish(struct kage_capture *c) _must_check_;

/* An image made whole for a while, with its memory out of a twin. */
struct cloned_whole {
	struct kage_pages *memory; /* of the twin */
	struct kage_pages *rest;   /* what the image had, and has again */
};

/** Puts the memory of IMAGE, which is in TWIN, into it; kage_cloned_end() takes it out again, also after an error. */
struct kage_err *kage_cloned_begin(struct kage_ctx *ctx, struct kage_image *image,
				   const struct kage_twin *twin, struct cloned_whole *ret_whole)
	_must_check_;
void kage_cloned_end(struct kage_image *image, struct cloned_whole *whole);

#endif
