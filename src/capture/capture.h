/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target to image. See DESIGN.md, "life of a capture".
 */
#ifndef CAPTURE_CAPTURE_H
#define CAPTURE_CAPTURE_H

#include "kind/kind.h"

struct cloning;
struct follow;

struct capture_options {
	bool carry;      /* executables and libraries go into the image */
	bool keep_still; /* leave the target frozen */
	bool checking;   /* obstacles only, no contents */
	bool lenient; /* what cannot be restored is noted in the image, and is no failure; with a clone only connections */
	bool verify; /* with FOLLOW: all memory is copied as well, in the same stop, and compared */
	struct follow *follow; /* what is known of the target from earlier images; may be NULL */
	struct cloning *
		clone; /* memory stays in a twin (capture/cloned.h), which is the caller's to end; may be NULL */
};

/** Takes the image of T, which is opened and not frozen, and thaws it again unless it is to be kept
 *  still. OBSTACLES collects what cannot be restored; unless only checking, a fatal one makes it fail.
 *  The target is thawed on every failure. */
struct kage_err *kage_capture(struct kage_ctx *ctx, struct kage_target *t,
			      const struct capture_options *options,
			      struct kage_obstacles *obstacles, struct kage_image **ret_image)
	_must_check_;

/** How often a program may execute another one in the middle of a capture. */
enum { KAGE_EXEC_TRIES = 8 };

/** Opens process PID. Where it executes another program at that moment, what was opened is of no use: then again. */
struct kage_err *kage_capture_open(struct kage_ctx *ctx, pid_t pid, struct kage_target **ret_t)
	_must_check_;

#endif
