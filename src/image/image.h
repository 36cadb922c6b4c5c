/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The image in memory: one message (image.proto) whose parts all live in one arena, and the pages of
 * its spaces.
 */
#ifndef IMAGE_IMAGE_H
#define IMAGE_IMAGE_H

#include <kage/kage.h>

#include "base/arena.h"
#include "base/types.h"
#include "image.pb-c.h"
#include "image/pages.h"

struct kage_image {
	struct arena arena;
	Kage__Image *msg;
	struct kage_pages *pages; /* owned */
	char *label;              /* NAME@N, in the arena; NULL when not from a store */
	void (*on_close)(struct kage_image *image); /* further things to release, or NULL */
	char *pack_path;                            /* in the arena; NULL when not from a store */
	char *recipient; /* the public key for which it was encrypted, in the arena; NULL: it was not */
	char *doubtful_path; /* a pack that contents come from too, and that others may have
			      * written, in the arena; NULL when there is none */
};

/** An empty image with an empty message and no pages. */
struct kage_err *kage_image_create(struct kage_image **ret_image) _must_check_;

/** The message as bytes, which the caller frees. */
struct kage_err *kage_image_encode(const struct kage_image *image, uint8_t **ret_bytes,
				   size_t *ret_size) _must_check_;

/** Decodes SIZE bytes from anyone into a fresh image and validates it: the decoder bounds memory, and
 *  what comes out satisfies all that kage_image_validate() promises. */
struct kage_err *kage_image_decode(const uint8_t *bytes, size_t size, struct kage_image **ret_image)
	_must_check_;

/** Checks everything that later code relies on: numbers that refer to something do, mappings ascend,
 *  strings and counts are within bounds, enumerations are known. KAGE_CORRUPT names the field. */
struct kage_err *kage_image_validate(const struct kage_image *image) _must_check_;

/** Look-ups by number; NULL when there is none. */
Kage__Space *kage_image_space(const struct kage_image *image, uint32_t id);
Kage__FileObject *kage_image_file(const struct kage_image *image, uint32_t id);
Kage__Description *kage_image_description(const struct kage_image *image, uint32_t id);

/** A fresh initialised message of TYPE (lower case name of protobuf-c) in arena A, or NULL. */
#define msg_new(a, Type, init)                             \
	({                                                 \
		Type *m_ = arena_alloc((a), sizeof(Type)); \
		if (m_)                                    \
			init(m_);                          \
		m_;                                        \
	})

/** Appends a fresh initialised message to the repeated field LIST of MSG; NULL without memory. */
#define msg_append(a, msg, list, Type, init)                                                    \
	({                                                                                      \
		Type **slot_ = arena_push((a), &(msg)->list, &(msg)->n_##list, sizeof(Type *)); \
		Type *m_ = slot_ ? arena_alloc((a), sizeof(Type)) : NULL;                       \
		if (m_) {                                                                       \
			init(m_);                                                               \
			*slot_ = m_;                                                            \
		} else if (slot_) {                                                             \
			(msg)->n_##list--;                                                      \
		}                                                                               \
		m_;                                                                             \
	})

#endif
