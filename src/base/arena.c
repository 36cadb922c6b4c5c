/* SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arena_chunk {
	struct arena_chunk *next;
	size_t size, used;
	_Alignas(16) unsigned char bytes[];
};

enum { CHUNK_BYTES = 64 * 1024 - 64, ALIGNMENT = 16 };

void arena_deinit(struct arena *a)
{
	struct arena_chunk *next;

	for (struct arena_chunk *c = a->chunks; c; c = next) {
		next = c->next;
		free(c);
	}
	*a = ARENA_INIT;
}

static struct arena_chunk *new_chunk(struct arena *a, size_t room)
{
	size_t size = room > CHUNK_BYTES ? room : CHUNK_BYTES;
	struct arena_chunk *c = calloc(1, sizeof(*c) + size);

	if (!c)
		return NULL;
	c->size = size;
	c->next = a->chunks;
	a->chunks = c;
	return c;
}

void *arena_alloc(struct arena *a, size_t size)
{
	struct arena_chunk *c = a->chunks;
	void *p;

	if (size > SIZE_MAX / 2)
		return NULL;
	size = (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
	if (a->limit && (a->total > a->limit || size > a->limit - a->total))
		return NULL;
	if (!c || c->size - c->used < size)
		c = new_chunk(a, size);
	if (!c)
		return NULL;
	p = c->bytes + c->used;
	c->used += size;
	a->total += size;
	return p;
}

void *arena_dup(struct arena *a, const void *p, size_t size)
{
	void *copy = arena_alloc(a, size);

	if (copy && size)
		memcpy(copy, p, size);
	return copy;
}

char *arena_strdup(struct arena *a, const char *s)
{
	return arena_dup(a, s, strlen(s) + 1);
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	char *tmp = NULL, *copy;
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = vasprintf(&tmp, fmt, ap);
	va_end(ap);
	if (r < 0)
		return NULL;
	copy = arena_strdup(a, tmp);
	free(tmp);
	return copy;
}

void *arena_push(struct arena *a, void *array, size_t *n, size_t size)
{
	unsigned char *items = *(unsigned char **)array;
	bool full = (*n & (*n - 1)) == 0; /* 0 and the powers of two */

	if (full) {
		size_t capacity = *n ? *n * 2 : 1;
		unsigned char *grown = arena_alloc(a, capacity * size);

		if (!grown)
			return NULL;
		if (*n)
			memcpy(grown, items, *n * size);
		items = grown;
		*(unsigned char **)array = items;
	}
	return items + (*n)++ * size;
}
