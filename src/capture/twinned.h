/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image of a target that cannot be tracked, from a twin of it (twin/forkx.h): the target stands only while it is
 * forked; its memory is read from the twin when it goes on already.
 */
#ifndef CAPTURE_TWINNED_H
#define CAPTURE_TWINNED_H

#include "capture/shadow.h"
#include "image/runs.h"
#include "kind/kind.h"
#include "twin/forkx.h"

/** Whether copying all of the target of C, frozen and seen, takes no longer than forking it. */
bool twinned_is_small(const struct kage_capture *c);

/** Whether copying PAGES pages of it takes longer than forking it. */
bool twinned_saves(const struct kage_capture *c, uint64_t pages);

/** Whether reading all entries of its page map takes longer than forking it: large mappings with little in them. */
bool twinned_is_sparse(const struct kage_capture *c);

/** Why it must not be forked just now; NULL: it may be. The second where the twin is what matters and not that
 *  the target is not held up: pages that devices have pinned are copied for it by the fork. */
const char *twinned_obstacle(const struct kage_capture *c);
const char *twinned_kept_obstacle(const struct kage_capture *c);

/** Whether the contents of VMA are read from a twin. A page of the process's own in a mapping of a file goes from both when
 *  the file is made shorter, so those are copied in the stop. */
bool twinned_takes(const struct kage_vma *v);

/** Of ALL pages, adds to HERE what a twin does not have, and to LATER what is in it and not in HERE. All are in order. */
struct kage_err *twinned_split(const struct kage_capture *c, const struct page_runs *all,
			       struct page_runs *here, struct page_runs *later) _must_check_;

/** Whether TWIN, made in the stop, has all that it should have by C->maps, flags of which are older than the stop.
 *  KAGE_CHANGED if not. */
struct kage_err *twinned_check(const struct kage_capture *c, const struct kage_twin *twin)
	_must_check_;

/** Reads RUNS from TWIN and adds to M those pages that differ from the shadow's or are not in its image. */
struct kage_err *twinned_compare(struct kage_capture *c, const struct kage_twin *twin,
				 const struct page_runs *runs, struct shadow *s,
				 struct mem_pages *m) _must_check_;

#endif
