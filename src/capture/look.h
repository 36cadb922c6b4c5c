/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A look at the private memory of a target, or of its twin: what is there, and what was written since the last look.
 * What a look tells as written it does not tell again (it is protected then): whoever looks keeps it.
 */
#ifndef CAPTURE_LOOK_H
#define CAPTURE_LOOK_H

#include "image/runs.h"
#include "sys/maps.h"
#include "target/softdirty.h"
#include "target/tracker.h"

/** Zero-initialise; without a tracker and soft-dirty bits all that is there may have been written. */
struct look {
	struct kage_tracker *tracker;
	struct kage_softdirty *soft; /* where there can be no tracker; or NULL */
	struct page_runs populated;  /* private memory that looks found */
	struct page_runs guards;     /* of the last look */
	struct page_runs unsure;     /* likewise, until it is known */
	struct page_runs written;    /* what looks told, and nobody has taken from here yet */
};

void look_deinit(struct look *l);

/** Ends the tracking. */
void look_untrack(struct look *l);

/** Whether mapping V is to be looked at. */
typedef bool look_which_fn(const struct kage_vma *v);

/** Looks at those of MAPS, in process OF, for which WHICH (NULL: any) is true. SLICED: beside the running target, so in small
 *  steps (target/tracker.h). Adds to what is populated and written; guards are those of this look. After an error it is not
 *  known what was written: some may be protected that was not told. */
struct kage_err *look_in(struct look *l, struct kage_target *of, const struct kage_maps *maps,
			 look_which_fn *which, bool sliced) _must_check_;

/** Adds the page at PAGE, if it is there, as written. */
struct kage_err *look_at_page(struct look *l, const struct kage_target *of, uint64_t page)
	_must_check_;

#endif
