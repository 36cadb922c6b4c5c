/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptions of images: the messages of image.proto that stand in IMAGE records. From one image to the next a few
 * bytes of many thousands change, so one may lean on that of its neighbour: it is compressed as if it went on where
 * that ends.
 */
#ifndef STORE_DESCRIPTION_H
#define STORE_DESCRIPTION_H

#include <stdlib.h>

#include "store/pack_file.h"

/* As it is stored, before compression. */
struct kage_description {
	uint8_t *bytes; /* NULL: there is none */
	size_t size;
	unsigned leans; /* on so many others, one on the next */
};

static inline void kage_description_deinit(struct kage_description *d)
{
	free(d->bytes);
	*d = (struct kage_description){ 0 };
}

/** The description in the pack of F, which is opened and unlocked, whose neighbour SUMMARY names, and which stands at
 *  PLACE (or NULL). KAGE_CORRUPT when it leans on one that is not there. */
struct kage_err *kage_description_of(const struct pack_file *f, const struct summary *summary,
				     const struct pack_place *place,
				     struct kage_description *ret_description) _must_check_;

/** The description in the pack at PLACE. */
struct kage_err *kage_description_read(const struct pack_place *place,
				       struct kage_description *ret_description) _must_check_;

#endif
