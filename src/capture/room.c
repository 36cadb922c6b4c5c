/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/room.h"

#include <string.h>

#include "target/copy.h"

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

void room_begin(struct room *r)
{
	r->given = 0;
}

void room_give(struct room *r, struct mem_pages *m)
{
	uint64_t bytes, most;

	if (!m)
		return;
	kage_mem_pages_clear(m);
	bytes = kage_mem_pages_room(m);
	r->given += bytes;
	most = r->given > ROOM_BYTES ? r->given : ROOM_BYTES;
	for (size_t i = 0; i < r->n; i++)
		bytes += kage_mem_pages_room(r->sets[i]);
	if (r->n == ROOM_SETS || bytes > most)
		kage_mem_pages_destroy(m);
	else
		r->sets[r->n++] = m;
}

void room_deinit(struct room *r)
{
	while (r->n)
		kage_mem_pages_destroy(r->sets[--r->n]);
}

struct kage_err *room_fill(struct kage_target *from, const struct page_run *runs, size_t n,
			   bool loose, struct mem_pages *m)
{
	struct kage_copy copy = { 0 };
	struct kage_err *e = NULL;

	for (size_t i = 0; i < n && !e; i++) {
		void *to;

		e = kage_mem_pages_add(m, runs[i].space, runs[i].first, runs[i].count, &to);
		if (!e)
			e = kage_copy_add(&copy, to, addr(runs[i].first << KAGE_PAGE_SHIFT),
					  runs[i].count << KAGE_PAGE_SHIFT);
	}
	if (!e)
		e = loose ? kage_copy_run_loose(&copy, from) : kage_copy_run(&copy, from);
	kage_copy_deinit(&copy);
	return e;
}
