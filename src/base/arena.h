/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that is given out piece by piece and released all at once.
 *
 * An image is thousands of small messages with one lifetime, so they share an arena. Nothing from
 * an arena is ever freed alone. All memory is zeroed. Alignment is 16 bytes.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

#include "base/err.h"

struct arena_chunk;

struct arena {
	struct arena_chunk *chunks;
	size_t total; /* bytes given out */
	size_t limit; /* refuse beyond this; 0 is no limit. For decoding what a stranger sent */
};

#define ARENA_INIT ((struct arena){ 0 })

void arena_deinit(struct arena *a);

/** SIZE zeroed bytes, or NULL when memory or the limit is used up. */
void *arena_alloc(struct arena *a, size_t size) __attribute__((alloc_size(2)));

/** A copy of SIZE bytes at P. */
void *arena_dup(struct arena *a, const void *p, size_t size);

/** A copy of the string S. */
char *arena_strdup(struct arena *a, const char *s);

char *arena_printf(struct arena *a, const char *fmt, ...) _printf_(2, 3);

/** Grows the array *ARRAY of *N elements of SIZE bytes by one zeroed element and returns it, NULL
 *  without memory. Capacity is always the power of two at or above *N, so that only the
 *  count has to be kept (which is what protobuf-c's structures do). */
void *arena_push(struct arena *a, void *array, size_t *n, size_t size);

#define arena_new(a, type) ((type *)arena_alloc((a), sizeof(type)))

#endif
