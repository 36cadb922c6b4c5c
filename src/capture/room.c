/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/room.h"

#include <string.h>

/* The one that has most. */
struct kage_err *room_take(struct room *r, struct mem_pages **ret_pages)
{
	size_t best = 0;

	if (!r->n)
		return kage_mem_pages_create(ret_pages);
	for (size_t i = 1; i < r->n; i++)
		if (kage_mem_pages_room(r->sets[i]) > kage_mem_pages_room(r->sets[best]))
			best = i;
	*ret_pages = r->sets[best];
	r->sets[best] = r->sets[--r->n];
	return NULL;
}

void room_give(struct room *r, struct mem_pages *m)
{
	uint64_t bytes;

	if (!m)
		return;
	kage_mem_pages_clear(m);
	bytes = kage_mem_pages_room(m);
	for (size_t i = 0; i < r->n; i++)
		bytes += kage_mem_pages_room(r->sets[i]);
	if (r->n == ROOM_SETS || bytes > ROOM_BYTES)
		kage_mem_pages_destroy(m);
	else
		r->sets[r->n++] = m;
}

void room_deinit(struct room *r)
{
	while (r->n)
		kage_mem_pages_destroy(r->sets[--r->n]);
}
