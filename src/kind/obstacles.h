/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Obstacles: what stands in the way of a capture or a restore, collected so that a person hears of
 * all of it at once, each with its cure. The way to add one is kage_obstacle() (kind/kind.h).
 *
 * Adding never fails. When memory runs out an obstacle is lost, and then whoever asks for the
 * result (report or refuse) gets KAGE_NOMEM: a list with a gap is never given out as whole.
 */
#ifndef KIND_OBSTACLES_H
#define KIND_OBSTACLES_H

#include <kage/kage.h>

#include "base/err.h"

struct kage_obstacles;

/** An empty collection, NULL without memory. */
struct kage_obstacles *kage_obstacles_create(void);
void kage_obstacles_destroy(struct kage_obstacles *o);

/** Forgets all of them. */
void kage_obstacles_clear(struct kage_obstacles *o);

static inline void kage_obstacles_cleanup(struct kage_obstacles **o)
{
	kage_obstacles_destroy(*o);
}

/** How many there are, and how many of them are fatal. */
size_t kage_obstacles_count(const struct kage_obstacles *o, size_t *ret_fatal);

/** A copy that outlives O; the caller frees it with kage_report_free(). */
struct kage_err *kage_obstacles_report(const struct kage_obstacles *o,
				       struct kage_report *ret_report) _must_check_;

/** Notes the fatal ones in IMAGE. */
struct kage_err *kage_obstacles_note(const struct kage_obstacles *o, struct kage_image *image)
	_must_check_;

/** Fails with KAGE_UNSUPPORTED when there is a fatal obstacle: the message names the first one with
 *  its cure, and says how many more there are. */
struct kage_err *kage_obstacles_refuse(const struct kage_obstacles *o) _must_check_;

#endif
