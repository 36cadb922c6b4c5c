/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Following a target from image to image, so that it stands only for what it changed last.
 *
 * What is known of its private memory lies in layers over each other:
 *
 *	final    copied while the target stood (kage_capture.pages holds what is not private memory)
 *	rounds   copied while it ran, of what the tracker told as written; the latest on top
 *	shadow   the image before this one; before the first image: what was copied while it ran
 *
 * Where nothing can be tracked there are no rounds, and `final` is read from a twin of the target when that goes on
 * again (capture/twinned.h), or else holds everything.
 *
 * The rounds are over when one finds little. Whatever a round told once is copied once more if it is
 * written again, because each look protects what it tells. follow_commit() makes the shadow the image that was
 * stored; before that nothing is forgotten, so an image that could not be taken or stored costs nothing
 * but time.
 */
#ifndef CAPTURE_FOLLOW_H
#define CAPTURE_FOLLOW_H

#include "image/runs.h"
#include "kind/kind.h"

struct follow;

/** Nothing is done to any target yet. The shadow is a file in the directory DIR_FD; -1: there is to be one image only, whose
 *  pages all stay in memory. SECRET: nothing of the target stands in it in clear. */
struct kage_err *follow_create(int dir_fd, bool secret, struct follow **ret_follow) _must_check_;

/** Takes the tracking away; NULL is fine. */
void follow_destroy(struct follow *f);

/** The same, but what was captured stays: no other image follows. NULL is fine. */
void follow_let_go(struct follow *f);

/** An empty set of pages, for what is not private memory. */
struct kage_err *follow_take_room(struct follow *f, struct mem_pages **ret_pages) _must_check_;

/** The steps of a capture (capture.c), in this order. LOOK also makes the tracker when there is none; COPY sets
 *  *RET_STILL false when another instant is needed, at which some thread stands. */
struct kage_err *follow_look(struct kage_capture *c) _must_check_;
struct kage_err *follow_copy(struct kage_capture *c, bool *ret_still) _must_check_;
struct kage_err *follow_finish(struct kage_capture *c) _must_check_;

/** Keeps what the next capture can use again, also after a failure. */
void follow_keep(struct kage_capture *c);

/** Whether an earlier image was committed, in the same address space: the next one can be a difference. */
bool follow_has_before(const struct follow *f);

/** The pages that may differ from the image before, and that image's pages; until the commit. */
const struct page_runs *follow_changes(const struct follow *f);
struct kage_pages *follow_before(struct follow *f);

/** The captured image is stored: the next one is compared with it. */
struct kage_err *follow_commit(struct follow *f) _must_check_;

#endif
