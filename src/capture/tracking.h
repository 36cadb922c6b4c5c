/* SPDX-License-Identifier: Apache-2.0 */
/* The tracker of a target that runs: it is stopped for as long as that takes. */
#ifndef CAPTURE_TRACKING_H
#define CAPTURE_TRACKING_H

#include "kind/kind.h"
#include "target/tracker.h"

/** Makes a tracker for C->target; errors are those of kage_tracker_create(). */
struct kage_err *tracking_begin(struct kage_capture *c, struct kage_tracker **ret_tracker)
	_must_check_;

#endif
