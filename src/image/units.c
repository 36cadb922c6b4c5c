/* SPDX-License-Identifier: Apache-2.0 */
#include "image/units.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/types.h"
#include "base/workers.h"

enum { MANY_UNITS = 16 }; /* from here on threads are worth it */

/* --- pieces ----------------------------------------------------------------------------------- */

struct kage_err *kage_units_add(struct kage_units *u, uint64_t page, uint64_t count, size_t unit)
{
	if (u->n_pieces == u->max_pieces) {
		size_t max = u->max_pieces ? u->max_pieces * 2 : 256;
		struct kage_unit_piece *grown = reallocarray(u->pieces, max, sizeof(*grown));

		if (!grown)
			return kage_err_nomem();
		u->pieces = grown;
		u->max_pieces = max;
	}
	u->pieces[u->n_pieces++] = (struct kage_unit_piece){ page, count, unit };
	return NULL;
}

static int compare(const void *a, const void *b)
{
	const struct kage_unit_piece *x = a, *y = b;

	return x->page < y->page ? -1 : x->page > y->page;
}

void kage_units_sort(struct kage_units *u)
{
	bool sorted = true;

	for (size_t i = 1; i < u->n_pieces && sorted; i++)
		sorted = u->pieces[i - 1].page < u->pieces[i].page;
	if (!sorted)
		qsort(u->pieces, u->n_pieces, sizeof(*u->pieces), compare);
}

size_t kage_units_find(const struct kage_units *u, uint64_t page)
{
	size_t low = 0, high = u->n_pieces;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (u->pieces[mid].page + u->pieces[mid].count <= page)
			low = mid + 1;
		else
			high = mid;
	}
	return low < u->n_pieces && u->pieces[low].page <= page ? u->pieces[low].unit : u->n;
}

/* --- all of them ------------------------------------------------------------------------------ */

struct each {
	struct kage_units *units;
	const size_t *only;
	void *rooms[WORKERS_MAX];
	kage_pages_fn *fn;
	void *user;
};

static struct kage_err *read_one(void *user, size_t thread, size_t i)
{
	struct each *s = user;

	if (!s->rooms[thread])
		s->rooms[thread] = s->units->ops->room_create(s->units);
	if (!s->rooms[thread])
		return kage_err_nomem();
	if (s->only)
		i = s->only[i];
	return s->units->ops->read(s->units, i, s->rooms[thread], s->fn, s->user);
}

struct kage_err *kage_units_each(struct kage_units *u, const size_t *only, size_t n,
				 kage_pages_fn *fn, void *user)
{
	struct each s = { .units = u, .only = only, .fn = fn, .user = user };
	struct kage_err *e;

	n = only ? n : u->n;
	e = kage_workers_run(read_one, &s, n, n >= MANY_UNITS);

	for (size_t i = 0; i < WORKERS_MAX; i++)
		if (s.rooms[i])
			u->ops->room_destroy(s.rooms[i]);
	return e;
}

/* --- of any pages: each run in pieces, a piece a unit ------------------------------------------- */

struct any_units {
	struct kage_units base;
	struct kage_pages *pages;
	uint32_t space;
	pthread_mutex_t lock; /* one reads at a time */
};

static struct any_units *any_of(struct kage_units *u)
{
	return (struct any_units *)u;
}

static void *any_room(const struct kage_units *u)
{
	(void)u;
	return malloc((size_t)KAGE_PAGES_PIECE * KAGE_PAGE_BYTES);
}

static struct kage_err *any_read(struct kage_units *base, size_t i, void *room, kage_pages_fn *fn,
				 void *user)
{
	struct any_units *u = any_of(base);
	const struct kage_unit_piece *piece = &base->pieces[i];
	struct kage_err *e;

	pthread_mutex_lock(&u->lock);
	e = u->pages->ops->read(u->pages, u->space, piece->page, piece->count, room);
	pthread_mutex_unlock(&u->lock);
	TRY(e);
	return fn(user, u->space, piece->page, piece->count, room);
}

static void any_destroy(struct kage_units *base)
{
	struct any_units *u = any_of(base);

	pthread_mutex_destroy(&u->lock);
	free(base->pieces);
	free(u);
}

static const struct kage_units_ops any_ops = {
	.room_create = any_room,
	.room_destroy = free,
	.read = any_read,
	.destroy = any_destroy,
};

static struct kage_err *cut_run(struct kage_units *u, const struct page_run *r)
{
	for (uint64_t done = 0, n; done < r->count; done += n) {
		n = r->count - done < KAGE_PAGES_PIECE ? r->count - done : KAGE_PAGES_PIECE;
		TRY(kage_units_add(u, r->first + done, n, u->n));
		u->n++;
	}
	return NULL;
}

static struct kage_err *cut_any(struct kage_pages *p, uint32_t space, struct kage_units *u)
{
	for (size_t i = 0; i < p->n_runs; i++)
		if (p->runs[i].space == space)
			TRY(cut_run(u, &p->runs[i]));
	return NULL;
}

struct kage_err *kage_units_create(struct kage_pages *p, uint32_t space,
				   struct kage_units **ret_units)
{
	struct any_units *u;
	struct kage_err *e;

	if (p->ops->units)
		return p->ops->units(p, space, ret_units);
	u = calloc(1, sizeof(*u));
	if (!u)
		return kage_err_nomem();
	u->base.ops = &any_ops;
	u->pages = p;
	u->space = space;
	pthread_mutex_init(&u->lock, NULL);
	e = cut_any(p, space, &u->base);
	if (e) {
		any_destroy(&u->base);
		return e;
	}
	*ret_units = &u->base;
	return NULL;
}
