/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing the pack of an image anew, in its place: under its number and with its id, which are the
 * image's, so that those whose neighbour it is go on to find it. The history is locked.
 *
 * The new pack is whole and durable when it takes the name: at every instant there is one of the two.
 */
#ifndef STORE_REWRITE_H
#define STORE_REWRITE_H

#include "store/way.h"

/** Makes the image of node I a keyframe. Its difference is kept, if it is not marked as bad. */
struct kage_err *kage_rewrite_as_keyframe(struct way_map *m, size_t i) _must_check_;

/** Makes node BASE, to which the way from I goes from neighbour to neighbour, the neighbour of I. */
struct kage_err *kage_rewrite_neighbour(struct way_map *m, size_t i, size_t base) _must_check_;

/** Removes what somebody left who was killed while writing anew. */
void kage_rewrite_clean(const struct history *h);

#endif
