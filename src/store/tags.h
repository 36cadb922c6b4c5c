/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tags: names that people give to images. A tag is a symbolic link ".tag-NAME" beside the pack whose
 * file name is its target, so it can be no pack, appears and moves at once, and goes with its
 * history.
 */
#ifndef STORE_TAGS_H
#define STORE_TAGS_H

#include "store/dir.h"

/** Whether TEXT can be a tag: as the name of a history, but beginning with a letter, and neither
 *  "latest" nor "first". */
bool kage_tags_can_be(const char *text);

/** The number of the image that has TAG in H; 0 when there is none. */
struct kage_err *kage_tags_find(const struct history *h, const char *tag, uint64_t *ret_number)
	_must_check_;

/** All tags of H, by number and name, in an arena that the caller releases. */
struct kage_err *kage_tags_read(const struct history *h, struct arena *a,
				struct kage_tag **ret_tags, size_t *ret_n) _must_check_;

/** KAGE_BUSY when an image from FIRST to LAST has a tag: it is not to be removed. */
struct kage_err *kage_tags_refuse(const struct history *h, uint64_t first, uint64_t last)
	_must_check_;

/** Removes the tags of H of which there is no image any more. */
void kage_tags_drop_dangling(const struct history *h);

#endif
