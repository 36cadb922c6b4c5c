/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A life from a twin: as a restore, but the process is split off the twin, with its memory, its rights, its limits and
 * its directories. Descriptors are made in our process and passed to it.
 */
#ifndef RESTORE_WAKE_H
#define RESTORE_WAKE_H

#include "twin/hold.h"

/** Room that batches for lives of IMAGE need, for kage_twin_hold(). */
struct kage_err *kage_wake_area_bytes(const struct kage_image *image, size_t *ret_bytes)
	_must_check_;

struct wake_options {
	const struct kage_restore_options
		*restore;     /* its fds come in place of those that the image has */
	const char *event;    /* as in struct kage_wake_options */
	uint32_t event_value; /* comes with the event */
};

/** Gives TWIN, held by the calling thread, whose image is IMAGE (kage_capture() with a clone), one more life: a child of
 *  the twin's parent, detached. Whole or not at all; the twin stays as it is. */
struct kage_err *kage_wake(struct kage_ctx *ctx, struct kage_image *image, struct kage_twin *twin,
			   const struct wake_options *options, struct kage_life *ret_life)
	_must_check_;

#endif
