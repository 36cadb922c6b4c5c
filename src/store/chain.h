/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening an image of a history, with the contents of its pages: those of the nearest keyframe, on
 * either side, exclusive-or all differences on the way from it.
 */
#ifndef STORE_CHAIN_H
#define STORE_CHAIN_H

#include "image/image.h"
#include "store/way.h"

/** Opens the image of node I of M. A pack on the way that turns out to be damaged is marked in M and gone
 *  around, where there is another way; else that damage is the error. */
struct kage_err *kage_chain_open(struct way_map *m, size_t i, struct kage_image **ret_image)
	_must_check_;

#endif
