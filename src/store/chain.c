/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pages of an image that is not read from its own pack alone.
 *
 * Whoever asks for few pages gets them by unpacking only the groups that these are in. The
 * differences are joined into one patch when all pages are asked for, or when unpacking single
 * groups has cost as much as that would have.
 */
#include "store/chain.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "image/units.h"
#include "store/pack_read.h"
#include "store/patch.h"

enum { KEPT_FDS = 64 }; /* packs on the way that may be kept open */

struct chain {
	struct kage_pages base;
	struct kage_pages *own; /* of the image's pack: owns the runs */
	struct kage_pages *key; /* of the keyframe */
	struct difference *differences;
	size_t n_differences;
	uint64_t difference_bytes, unpacked_bytes; /* in all groups; in those unpacked one by one */
	struct patch *patch;                       /* all of it, once made */
	struct difference_reader reader;
	size_t doubtful; /* while opening: a node that others may have written, or NO_NODE */
};

static struct chain *chain_of(struct kage_pages *p)
{
	return (struct chain *)p;
}

static void chain_destroy(struct kage_pages *base)
{
	struct chain *c = chain_of(base);

	kage_patch_destroy(c->patch);
	for (size_t i = 0; i < c->n_differences; i++)
		kage_difference_deinit(&c->differences[i]);
	free(c->differences);
	kage_difference_reader_deinit(&c->reader);
	kage_pages_destroy(c->own);
	kage_pages_destroy(c->key);
	free(c);
}

static struct kage_err *make_patch(struct chain *c)
{
	if (c->patch)
		return NULL;
	return kage_patch_create(c->differences, c->n_differences, c->base.runs, c->base.n_runs,
				 &c->patch);
}

/* --- few pages -------------------------------------------------------------------------------- */

struct window {
	uint32_t space;
	uint64_t first, count;
	uint8_t *bytes;
};

static struct kage_err *apply_in_window(void *user, uint32_t space, uint64_t page,
					const uint8_t *code, size_t size)
{
	const struct window *w = user;

	if (space == w->space && page >= w->first && page - w->first < w->count)
		kage_xor_apply(code, size, w->bytes + (page - w->first) * KAGE_PAGE_BYTES);
	return NULL;
}

/* Applies what D says about the pages of W. */
static struct kage_err *apply_difference(struct chain *c, const struct difference *d,
					 struct window *w)
{
	const struct dirty *dirty = &d->dirty;
	uint64_t done = 0; /* groups below are applied */

	for (size_t i = kage_dirty_find(dirty, w->space, w->first); i < dirty->n_runs; i++) {
		const struct page_run *r = &dirty->runs[i];
		uint64_t end = w->first + w->count, from = r->first, to = r->first + r->count;
		uint64_t group, last;

		if (r->space != w->space || r->first >= end)
			break;
		from = from > w->first ? from : w->first;
		to = to < end ? to : end;
		group = (dirty->at[i] + from - r->first) / dirty->group_pages;
		last = (dirty->at[i] + to - 1 - r->first) / dirty->group_pages;
		for (group = group > done ? group : done; group <= last; group++) {
			TRY(kage_difference_each(d, group, &c->reader, apply_in_window, w));
			c->unpacked_bytes += dirty->groups[group].stored_bytes;
			done = group + 1;
		}
	}
	return NULL;
}

static struct kage_err *chain_read(struct kage_pages *base, uint32_t space, uint64_t first,
				   uint64_t count, void *buffer)
{
	struct window w = { space, first, count, buffer };
	struct chain *c = chain_of(base);

	TRY(kage_pages_read(c->key, space, first, count, buffer));
	if (c->unpacked_bytes > c->difference_bytes)
		TRY(make_patch(c));
	if (c->patch) {
		kage_patch_apply(c->patch, space, first, count, buffer);
		return NULL;
	}
	for (size_t i = 0; i < c->n_differences; i++)
		TRY(apply_difference(c, &c->differences[i], &w));
	return NULL;
}

/* --- all pages -------------------------------------------------------------------------------- */

struct each {
	struct chain *chain;
	uint8_t *room; /* KAGE_PAGES_PIECE pages */
	kage_pages_fn *fn;
	void *user;
};

/* COUNT pages, at most KAGE_PAGES_PIECE, which are BYTES (NULL: zeros) in the keyframe. */
static struct kage_err *give(void *user, uint32_t space, uint64_t first, uint64_t count,
			     const void *bytes)
{
	const struct each *s = user;
	const struct chain *c = s->chain;

	if (kage_patch_touches(c->patch, space, first, count)) {
		if (bytes)
			memcpy(s->room, bytes, count * KAGE_PAGE_BYTES);
		else
			memset(s->room, 0, count * KAGE_PAGE_BYTES);
		kage_patch_apply(c->patch, space, first, count, s->room);
		bytes = s->room;
	}
	return s->fn(s->user, space, first, count, bytes);
}

/* Is given pages of the keyframe: those that the image has too are patched and given on. */
static struct kage_err *give_from_key(void *user, uint32_t space, uint64_t first, uint64_t count,
				      const void *bytes)
{
	const struct each *s = user;
	const struct kage_pages *p = &s->chain->base;
	uint64_t end = first + count;

	for (size_t i = kage_pages_find(p, space, first); i < p->n_runs; i++) {
		const struct page_run *r = &p->runs[i];
		uint64_t from = r->first > first ? r->first : first;
		uint64_t to = r->first + r->count < end ? r->first + r->count : end;
		const uint8_t *at = bytes;

		if (r->space != space || r->first >= end)
			break;
		if (at)
			at += (from - first) * KAGE_PAGE_BYTES;
		TRY(give(user, space, from, to - from, at));
	}
	return NULL;
}

/* Pages FROM to TO of SPACE, which the keyframe does not have. */
static struct kage_err *give_new(uint32_t space, uint64_t from, uint64_t to, kage_pages_fn *fn,
				 void *user)
{
	for (uint64_t n; from < to; from += n) {
		n = to - from < KAGE_PAGES_PIECE ? to - from : KAGE_PAGES_PIECE;
		TRY(fn(user, space, from, n, NULL));
	}
	return NULL;
}

/* Calls FN for all pages of R, a run of the image, that the keyframe does not have. */
static struct kage_err *each_rest_of(const struct chain *c, const struct page_run *r,
				     kage_pages_fn *fn, void *user)
{
	const struct kage_pages *key = c->key;
	uint64_t at = r->first, end = r->first + r->count;

	for (size_t i = kage_pages_find(key, r->space, at); i < key->n_runs && at < end; i++) {
		const struct page_run *k = &key->runs[i];

		if (k->space != r->space || k->first >= end)
			break;
		if (k->first > at)
			TRY(give_new(r->space, at, k->first, fn, user));
		at = k->first + k->count;
	}
	return at < end ? give_new(r->space, at, end, fn, user) : NULL;
}

static uint8_t *new_room(void)
{
	return malloc((size_t)KAGE_PAGES_PIECE * KAGE_PAGE_BYTES);
}

static struct kage_err *chain_each(struct kage_pages *base, uint32_t space, kage_pages_fn *fn,
				   void *user)
{
	struct chain *c = chain_of(base);
	_cleanup_free_ uint8_t *room = new_room();
	struct each s = { c, room, fn, user };

	TRY(make_patch(c));
	if (!room)
		return kage_err_nomem();
	TRY(kage_pages_each(c->key, space, give_from_key, &s));
	for (size_t i = 0; i < base->n_runs; i++)
		if (!space || base->runs[i].space == space)
			TRY(each_rest_of(c, &base->runs[i], give, &s));
	return NULL;
}

/* --- units: the keyframe's, and the pages that it does not have ---------------------------------- */

struct chain_units {
	struct kage_units base;
	struct chain *chain;
	struct kage_units *key;
	struct page_run *rest; /* a unit each, after the keyframe's */
	size_t n_rest, max_rest;
};

struct chain_room {
	const struct kage_units *key;
	void *key_room;
	uint8_t *bytes;
};

static struct chain_units *units_of(struct kage_units *u)
{
	return (struct chain_units *)u;
}

static void units_room_destroy(void *room)
{
	struct chain_room *r = room;

	if (r->key_room)
		r->key->ops->room_destroy(r->key_room);
	free(r->bytes);
	free(r);
}

static void *units_room(const struct kage_units *base)
{
	const struct kage_units *key = ((const struct chain_units *)base)->key;
	struct chain_room *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->key = key;
	r->key_room = key->ops->room_create(key);
	r->bytes = new_room();
	if (r->key_room && r->bytes)
		return r;
	units_room_destroy(r);
	return NULL;
}

static struct kage_err *units_read(struct kage_units *base, size_t i, void *room, kage_pages_fn *fn,
				   void *user)
{
	struct chain_units *u = units_of(base);
	struct chain_room *r = room;
	struct each s = { u->chain, r->bytes, fn, user };
	const struct page_run *rest;

	if (i < u->key->n)
		return u->key->ops->read(u->key, i, r->key_room, give_from_key, &s);
	rest = &u->rest[i - u->key->n];
	return give(&s, rest->space, rest->first, rest->count, NULL);
}

static void units_destroy(struct kage_units *base)
{
	struct chain_units *u = units_of(base);

	kage_units_destroy(u->key);
	free(u->rest);
	free(base->pieces);
	free(u);
}

static const struct kage_units_ops units_ops = {
	.room_create = units_room,
	.room_destroy = units_room_destroy,
	.read = units_read,
	.destroy = units_destroy,
};

static struct kage_err *note_rest(void *user, uint32_t space, uint64_t first, uint64_t count,
				  const void *bytes)
{
	struct chain_units *u = user;

	(void)bytes;
	if (u->n_rest == u->max_rest) {
		size_t max = u->max_rest ? u->max_rest * 2 : 64;
		struct page_run *grown = reallocarray(u->rest, max, sizeof(*grown));

		if (!grown)
			return kage_err_nomem();
		u->rest = grown;
		u->max_rest = max;
	}
	TRY(kage_units_add(&u->base, first, count, u->base.n));
	u->base.n++;
	u->rest[u->n_rest++] = (struct page_run){ space, first, count };
	return NULL;
}

static struct kage_err *cut(struct chain_units *u, uint32_t space)
{
	struct chain *c = u->chain;

	TRY(make_patch(c));
	TRY(kage_units_create(c->key, space, &u->key));
	for (size_t i = 0; i < u->key->n_pieces; i++) {
		const struct kage_unit_piece *p = &u->key->pieces[i];

		TRY(kage_units_add(&u->base, p->page, p->count, p->unit));
	}
	u->base.n = u->key->n;
	for (size_t i = 0; i < c->base.n_runs; i++)
		if (c->base.runs[i].space == space)
			TRY(each_rest_of(c, &c->base.runs[i], note_rest, u));
	kage_units_sort(&u->base);
	return NULL;
}

static struct kage_err *chain_units(struct kage_pages *base, uint32_t space,
				    struct kage_units **ret_units)
{
	struct chain_units *u = calloc(1, sizeof(*u));
	struct kage_err *e;

	if (!u)
		return kage_err_nomem();
	u->base.ops = &units_ops;
	u->chain = chain_of(base);
	e = cut(u, space);
	if (e) {
		units_destroy(&u->base);
		return e;
	}
	*ret_units = &u->base;
	return NULL;
}

static const struct kage_pages_ops chain_ops = {
	.read = chain_read,
	.each = chain_each,
	.units = chain_units,
	.destroy = chain_destroy,
};

/* --- opening ---------------------------------------------------------------------------------- */

/* Whether E is damage that another way may lead around: then it is kept for the end. */
static bool goes_around(struct way_map *m, struct kage_err *e)
{
	if (kage_err_code(e) != KAGE_CORRUPT)
		return false;
	if (m->first)
		err_drop(e);
	else
		m->first = e;
	return true;
}

static struct kage_err *open_key(const struct way_map *m, size_t key, struct chain *c)
{
	_cleanup_free_ char *path = kage_dir_pack_path(m->h, m->nodes[key].number);
	struct pack_place place = kage_dir_place(m->h, m->nodes[key].number);
	int fd;

	if (!path)
		return kage_err_nomem();
	TRY(kage_dir_pack_open(m->h, m->nodes[key].number, &fd));
	return kage_pack_open_pages(fd, path, &place, &c->key);
}

/* Opens all that is on the way from KEY back to node I. *ret_bad is set when there is damage on it, which
 * is marked then. */
static struct kage_err *open_way(struct way_map *m, size_t i, size_t key, struct chain *c,
				 bool *ret_bad)
{
	struct kage_err *e = open_key(m, key, c);
	size_t n = 0;

	if (e && goes_around(m, e)) {
		m->nodes[key].bad_pages = true;
		*ret_bad = true;
		return NULL;
	}
	TRY(e);
	c->doubtful = m->nodes[key].doubtful ? key : NO_NODE;
	for (size_t at = key; at != i; at = m->nodes[at].via)
		n++;
	c->differences = calloc(n + 1, sizeof(*c->differences));
	if (!c->differences)
		return kage_err_nomem();
	for (size_t at = key; at != i; at = m->nodes[at].via) {
		struct difference *d = &c->differences[c->n_differences];
		size_t edge = m->nodes[at].edge;

		e = kage_way_difference(m, edge, n <= KEPT_FDS, d);
		if (e && goes_around(m, e)) {
			m->nodes[edge].bad_difference = true;
			*ret_bad = true;
			return NULL;
		}
		TRY(e);
		if (m->nodes[edge].doubtful)
			c->doubtful = edge;
		c->n_differences++;
		c->difference_bytes += d->place.bytes;
	}
	return NULL;
}

/* Why node I cannot be reached. */
static struct kage_err *no_way(struct way_map *m, size_t i)
{
	_cleanup_free_ char *path = kage_dir_pack_path(m->h, m->nodes[i].number);
	const struct way_node *node = &m->nodes[i];
	struct kage_err *e = m->first;

	for (size_t j = 0; !e && j < m->n; j++)
		e = take_ptr(m->nodes[j].damage);
	m->first = NULL;
	if (!e)
		e = kage_err_new(KAGE_CORRUPT,
				 "pack %s: damaged at offset %llu: no keyframe can "
				 "be reached from its neighbour %s@%llu",
				 path ? path : "", (unsigned long long)node->place.offset,
				 m->h->name, (unsigned long long)node->place.base_number);
	return kage_err_wrap(e, "%s@%llu needs other packs", m->h->name,
			     (unsigned long long)node->number);
}

/* One try; *ret_bad tells that another may find a better way. */
static struct kage_err *try_way(struct way_map *m, size_t i, struct chain *c, bool *ret_bad)
{
	size_t key;

	*ret_bad = false;
	TRY(kage_way_find(m, i, &key));
	if (key == NO_NODE)
		return no_way(m, i);
	return open_way(m, i, key, c, ret_bad);
}

/* Puts the contents of node I's pages in place of OWN, which is taken in any case. */
static struct kage_err *open_chain(struct way_map *m, size_t i, struct kage_pages *own,
				   struct kage_pages **ret_pages, size_t *ret_doubtful)
{
	struct kage_err *e = NULL;
	struct chain *c = NULL;
	bool bad = true;

	while (!e && bad) {
		if (c)
			chain_destroy(&c->base);
		c = calloc(1, sizeof(*c));
		e = c ? try_way(m, i, c, &bad) : kage_err_nomem();
	}
	if (e) {
		if (c)
			chain_destroy(&c->base);
		kage_pages_destroy(own);
		return e;
	}
	c->base = (struct kage_pages){ &chain_ops, own->runs, own->n_runs };
	c->own = own;
	*ret_pages = &c->base;
	*ret_doubtful = c->doubtful;
	return NULL;
}

static struct kage_err *set_paths(const struct way_map *m, size_t i, size_t doubtful,
				  struct kage_image *image)
{
	_cleanup_free_ char *path = NULL;

	image->label = arena_printf(&image->arena, "%s@%llu", m->h->name,
				    (unsigned long long)m->nodes[i].number);
	if (!image->label)
		return kage_err_nomem();
	if (doubtful == NO_NODE)
		return NULL;
	path = kage_dir_pack_path(m->h, m->nodes[doubtful].number);
	image->doubtful_path = path ? arena_strdup(&image->arena, path) : NULL;
	return image->doubtful_path ? NULL : kage_err_nomem();
}

/* Its description may come from others than its pages. */
static struct kage_err *look_at_description(struct way_map *m, size_t i, size_t *doubtful)
{
	size_t base;

	TRY(kage_way_load(m, i));
	for (; m->nodes[i].leaning; i = base) {
		base = kage_way_node(m, m->nodes[i].place.base_number);
		if (base == NO_NODE || base >= i)
			return NULL; /* it could not be read then */
		TRY(kage_way_load(m, base));
		if (m->nodes[base].doubtful)
			*doubtful = base;
	}
	return NULL;
}

struct kage_err *kage_chain_open(struct way_map *m, size_t i, struct kage_image **ret_image)
{
	const struct way_node *node = &m->nodes[i];
	_cleanup_free_ char *path = kage_dir_pack_path(m->h, node->number);
	struct pack_place place = kage_dir_place(m->h, node->number);
	struct kage_image *image = NULL;
	size_t doubtful = NO_NODE;
	struct kage_err *e = NULL;
	bool keyframe;
	int fd;

	if (!path)
		return kage_err_nomem();
	TRY(kage_dir_pack_open(m->h, node->number, &fd));
	TRY(kage_pack_open(fd, path, &place, &image, &keyframe));
	if (!keyframe || node->bad_pages)
		e = open_chain(m, i, take_ptr(image->pages), &image->pages, &doubtful);
	if (!e)
		e = look_at_description(m, i, &doubtful);
	if (!e)
		e = set_paths(m, i, doubtful, image);
	if (e) {
		kage_image_close(image);
		return e;
	}
	*ret_image = image;
	return NULL;
}
