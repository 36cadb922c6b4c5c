/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking images out of a history, so that every image that stays can be restored as before, at every
 * instant.
 *
 * Each step writes one pack anew, and adds a way or replaces one by one that goes past the images that
 * are to go; none takes one away while it may be needed:
 *
 *	1. Where without the others no keyframe can be reached any more, the first image of those that
 *	   hang together becomes one.
 *	2. An image whose neighbour goes gets the nearest one before that as its neighbour, if any
 *	   stays: the differences between are joined into one.
 *	3. Only when all of that is durable the packs go, which is the caller's.
 */
#ifndef STORE_PRUNE_H
#define STORE_PRUNE_H

#include "store/way.h"

/** Takes out of GONE those without which an image that stays would have to be written anew, which cannot be read
 *  for want of a key: a keyframe does without the difference to its neighbour, others do not. */
struct kage_err *kage_prune_spare(struct way_map *m, bool *gone, size_t *ret_spared) _must_check_;

/** Steps 1 and 2. GONE has an element for each node of M, all of which are loaded; the history is locked. */
struct kage_err *kage_prune_prepare(struct way_map *m, const bool *gone) _must_check_;

/** For each node whether a keyframe can be reached from it, as a fresh array. */
struct kage_err *kage_prune_reachable(struct way_map *m, bool **ret_reachable) _must_check_;

/** Takes out of GONE what others that stay lean on with their descriptions, where their pages do not need it: then nothing
 *  has to be written for that. *RET_SPARED are added. */
void kage_prune_spare_leaning(const struct way_map *m, bool *gone, size_t *ret_spared);

#endif
