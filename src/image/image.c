/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image.h"

#include <stdlib.h>

#include "base/cleanup.h"

/* Encoded messages are at most 256 MiB (kage-pack(5)). A message of two bytes can become a structure
 * of two hundred, so the decoder may use a multiple of what it was given, and never more than this. */
enum { DECODE_FACTOR = 128 };
static const size_t decode_floor_bytes = 1 << 20;
static const size_t decode_ceiling_bytes = (size_t)4 << 30;

struct kage_err *kage_image_create(struct kage_image **ret_image)
{
	struct kage_image *image = calloc(1, sizeof(*image));

	if (!image)
		return kage_err_nomem();
	image->msg = msg_new(&image->arena, Kage__Image, kage__image__init);
	if (!image->msg) {
		kage_image_close(image);
		return kage_err_nomem();
	}
	*ret_image = image;
	return NULL;
}

void kage_image_close(struct kage_image *image)
{
	if (!image)
		return;
	if (image->on_close)
		image->on_close(image);
	kage_pages_destroy(image->pages);
	arena_deinit(&image->arena);
	free(image);
}

const char *kage_image_label(const struct kage_image *image)
{
	return image->label ? image->label : "an image in memory";
}

struct kage_err *kage_image_encode(const struct kage_image *image, uint8_t **ret_bytes,
				   size_t *ret_size)
{
	size_t size = kage__image__get_packed_size(image->msg);
	uint8_t *bytes = malloc(size ? size : 1);

	if (!bytes)
		return kage_err_nomem();
	*ret_size = kage__image__pack(image->msg, bytes);
	*ret_bytes = bytes;
	return NULL;
}

/* protobuf-c gives a repeated field exactly the room that it needs. arena_push() relies on powers of
 * two; rounding up keeps its promise for decoded messages too. */
static void *decode_alloc(void *arena, size_t size)
{
	size_t room = 16;

	while (room < size && room <= SIZE_MAX / 4)
		room *= 2;
	return arena_alloc(arena, room < size ? size : room);
}

static void decode_free(void *arena, void *p)
{
	(void)arena;
	(void)p; /* goes with the arena */
}

struct kage_err *kage_image_decode(const uint8_t *bytes, size_t size, struct kage_image **ret_image)
{
	struct kage_image *image = NULL;
	ProtobufCAllocator allocator = { .alloc = decode_alloc, .free = decode_free };
	struct kage_err *e;

	TRY(kage_image_create(&image));
	image->arena.limit = decode_ceiling_bytes;
	if (size < decode_ceiling_bytes / DECODE_FACTOR)
		image->arena.limit = decode_floor_bytes + size * DECODE_FACTOR;
	allocator.allocator_data = &image->arena;
	image->msg = kage__image__unpack(&allocator, size, bytes);
	image->arena.limit = 0; /* what comes later is our own */
	if (!image->msg)
		e = kage_err_new(KAGE_CORRUPT, "%zu bytes that are no image message", size);
	else
		e = kage_image_validate(image);
	if (e) {
		kage_image_close(image);
		return e;
	}
	*ret_image = image;
	return NULL;
}

/* Numbers are usually given out one by one from 1, so the place is guessed first. */
Kage__Space *kage_image_space(const struct kage_image *image, uint32_t id)
{
	if (id - 1 < image->msg->n_spaces && image->msg->spaces[id - 1]->id == id)
		return image->msg->spaces[id - 1];
	for (size_t i = 0; i < image->msg->n_spaces; i++)
		if (image->msg->spaces[i]->id == id)
			return image->msg->spaces[i];
	return NULL;
}

Kage__FileObject *kage_image_file(const struct kage_image *image, uint32_t id)
{
	if (id - 1 < image->msg->n_files && image->msg->files[id - 1]->id == id)
		return image->msg->files[id - 1];
	for (size_t i = 0; i < image->msg->n_files; i++)
		if (image->msg->files[i]->id == id)
			return image->msg->files[i];
	return NULL;
}

Kage__Description *kage_image_description(const struct kage_image *image, uint32_t id)
{
	if (id - 1 < image->msg->n_descriptions && image->msg->descriptions[id - 1]->id == id)
		return image->msg->descriptions[id - 1];
	for (size_t i = 0; i < image->msg->n_descriptions; i++)
		if (image->msg->descriptions[i]->id == id)
			return image->msg->descriptions[i];
	return NULL;
}
