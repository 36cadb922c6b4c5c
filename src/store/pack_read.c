/* SPDX-License-Identifier: Apache-2.0 */
#include "store/pack_read.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/workers.h"
#include "image/units.h"
#include "store/description.h"
#include "store/group.h"

enum {
	SMALL_BYTES = 256 * 1024, /* a pack up to this size is read in one go */
	CACHED_GROUPS = 8,
	MANY_GROUPS = 16,                /* from here on threads are worth it */
	DIRECT_BYTES = 32 * 1024 * 1024, /* and from here on reading past the page cache */
};

struct kage_err *kage_pack_glance(int fd, const char *path, struct pack_glance *ret_glance)
{
	struct pack_file f = { .fd = fd, .direct_fd = -1, .path = path };
	struct kage_err *e;

	e = kage_pack_open_file(&f, 0, &ret_glance->payload, &ret_glance->summary);
	ret_glance->file_bytes = f.size;
	ret_glance->head = f.pack;
	memcpy(ret_glance->recipient, f.sealed.recipient, RECIPIENT_BYTES);
	kage_pack_file_deinit(&f);
	return kage_err_wrap(e, "pack %s", path);
}

/* --- pages ------------------------------------------------------------------------------------ */

struct cached_group {
	size_t number_plus_1; /* 0: empty */
	uint64_t used;
	struct group_reader reader;
	const uint8_t *bytes;
};

struct pack_pages {
	struct kage_pages base;
	struct pack_file file; /* owned: both descriptors, path, head */
	struct pack_index index;
	struct cached_group cache[CACHED_GROUPS];
	uint64_t clock;
};

static struct pack_pages *pack_of(struct kage_pages *p)
{
	return (struct pack_pages *)p;
}

static void pack_destroy(struct kage_pages *base)
{
	struct pack_pages *p = pack_of(base);

	for (size_t i = 0; i < CACHED_GROUPS; i++)
		kage_group_reader_deinit(&p->cache[i].reader);
	kage_format_index_deinit(&p->index);
	close_fd(p->file.fd);
	close_fd(p->file.direct_fd);
	free((char *)p->file.path);
	kage_pack_file_deinit(&p->file);
	free(p);
}

/* The bytes of group NUMBER, valid until other groups were asked for. */
static struct kage_err *get_group(struct pack_pages *p, size_t number, const uint8_t **ret_bytes)
{
	struct cached_group *oldest = &p->cache[0];

	for (size_t i = 0; i < CACHED_GROUPS; i++) {
		struct cached_group *c = &p->cache[i];

		if (c->number_plus_1 == number + 1) {
			c->used = ++p->clock;
			*ret_bytes = c->bytes;
			return NULL;
		}
		if (c->used < oldest->used)
			oldest = c;
	}
	oldest->number_plus_1 = 0;
	TRY(kage_group_prepare(&oldest->reader));
	TRY_WRAP(kage_group_read(&p->file, &p->index, number, &oldest->reader, &oldest->bytes),
		 "pack %s", p->file.path);
	oldest->number_plus_1 = number + 1;
	oldest->used = ++p->clock;
	*ret_bytes = oldest->bytes;
	return NULL;
}

/* The bytes of SLOT, and in *ret_n how many of the COUNT slots from there are in one piece. */
static struct kage_err *get_slots(struct pack_pages *p, uint64_t slot, uint64_t count,
				  const uint8_t **ret_bytes, uint64_t *ret_n)
{
	uint64_t number = slot / p->index.group_pages, in = slot % p->index.group_pages;
	uint64_t left = p->index.groups[number].n_pages - in;
	const uint8_t *bytes;

	TRY(get_group(p, number, &bytes));
	*ret_bytes = bytes + in * KAGE_PAGE_BYTES;
	*ret_n = count < left ? count : left;
	return NULL;
}

/* The extent of run number RUN that holds its page AT. */
static const struct extent *find_extent(const struct pack_index *x, size_t run, uint64_t at)
{
	size_t low = x->run_extents[run], high = x->run_extents[run + 1] - 1;

	while (low < high) {
		size_t mid = high - (high - low) / 2;

		if (x->extents[mid].at <= at)
			low = mid;
		else
			high = mid - 1;
	}
	return &x->extents[low];
}

/* COUNT pages from page IN of extent E. */
static struct kage_err *read_extent(struct pack_pages *p, const struct extent *e, uint64_t in,
				    uint64_t count, uint8_t *buffer)
{
	if (e->kind == EXTENT_ZERO) {
		memset(buffer, 0, count * KAGE_PAGE_BYTES);
		return NULL;
	}
	for (uint64_t done = 0, n; done < count; done += n) {
		const uint8_t *bytes;

		TRY(get_slots(p, e->slot + in + done, count - done, &bytes, &n));
		memcpy(buffer + done * KAGE_PAGE_BYTES, bytes, n * KAGE_PAGE_BYTES);
	}
	return NULL;
}

static struct kage_err *check_contents(const struct pack_pages *p)
{
	if (p->index.keyframe)
		return NULL;
	return kage_err_new(KAGE_INVALID, "pack %s has differences and no contents", p->file.path);
}

static struct kage_err *pack_read(struct kage_pages *base, uint32_t space, uint64_t first,
				  uint64_t count, void *buffer)
{
	struct pack_pages *p = pack_of(base);
	size_t i = kage_pages_find(base, space, first);
	const struct page_run *r = &base->runs[i];
	const struct extent *e;

	TRY(check_contents(p));
	if (i == base->n_runs || r->space != space || r->first > first ||
	    r->first + r->count - first < count)
		return kage_err_new(KAGE_INVALID, "pages %#llx+%llu of space %u are not in one run",
				    (unsigned long long)first, (unsigned long long)count, space);
	e = find_extent(&p->index, i, first - r->first);
	for (uint64_t done = 0, n; done < count; done += n, e++) {
		uint64_t in = first - r->first + done - e->at;

		n = e->count - in < count - done ? e->count - in : count - done;
		TRY(read_extent(p, e, in, n, (uint8_t *)buffer + done * KAGE_PAGE_BYTES));
	}
	return NULL;
}

/* --- all pages, each group once --------------------------------------------------------------- */

/* Pages of one group that go to consecutive pages of one space. */
struct piece {
	uint64_t slot, page;
	uint32_t space, count;
};

struct pieces {
	struct piece *v;
	size_t n, max;
	bool sorted;
};

static int compare_pieces(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;

	if (x->slot != y->slot)
		return x->slot < y->slot ? -1 : 1;
	if (x->space != y->space)
		return x->space < y->space ? -1 : 1;
	return x->page < y->page ? -1 : x->page > y->page;
}

static struct kage_err *add_piece(struct pieces *l, const struct piece *piece)
{
	if (l->n == l->max) {
		size_t max = l->max ? l->max * 2 : 256;
		struct piece *grown = realloc(l->v, max * sizeof(*grown));

		if (!grown)
			return kage_err_nomem();
		l->v = grown;
		l->max = max;
	}
	if (l->n && compare_pieces(&l->v[l->n - 1], piece) > 0)
		l->sorted = false;
	l->v[l->n++] = *piece;
	return NULL;
}

/* Cuts extent E, whose first page is PAGE of SPACE, at the borders of groups; pages of zeros are
 * given to FN at once. */
static struct kage_err *cut_extent(const struct pack_index *x, const struct extent *e,
				   uint32_t space, uint64_t page, struct pieces *l,
				   kage_pages_fn *fn, void *user)
{
	for (uint64_t done = 0, n; done < e->count; done += n) {
		bool zero = e->kind == EXTENT_ZERO;
		uint64_t room = zero ? KAGE_PAGES_PIECE
				     : x->group_pages - (e->slot + done) % x->group_pages;

		n = e->count - done < room ? e->count - done : room;
		if (zero)
			TRY(fn(user, space, page + done, n, NULL));
		else
			TRY(add_piece(l, &(struct piece){ e->slot + done, page + done, space,
							  (uint32_t)n }));
	}
	return NULL;
}

static struct kage_err *cut_all(struct pack_pages *p, uint32_t space, struct pieces *l,
				kage_pages_fn *fn, void *user)
{
	const struct pack_index *x = &p->index;

	for (size_t i = 0; i < x->n_runs; i++) {
		const struct page_run *r = &x->runs[i];

		if (space && r->space != space)
			continue;
		for (size_t j = x->run_extents[i]; j < x->run_extents[i + 1]; j++)
			TRY(cut_extent(x, &x->extents[j], r->space, r->first + x->extents[j].at, l,
				       fn, user));
	}
	return NULL;
}

/* Which groups the pieces are in, each once, ascending. */
static struct kage_err *groups_of(const struct pack_index *x, const struct pieces *l,
				  size_t **ret_numbers, size_t *ret_n)
{
	size_t *numbers = calloc(l->n + 1, sizeof(*numbers));
	size_t n = 0;

	if (!numbers)
		return kage_err_nomem();
	for (size_t i = 0; i < l->n; i++) {
		size_t number = l->v[i].slot / x->group_pages;

		if (n == 0 || numbers[n - 1] != number)
			numbers[n++] = number;
	}
	*ret_numbers = numbers;
	*ret_n = n;
	return NULL;
}

/* Calls FN for all pieces; groups come from AHEAD, or from the cache when that is NULL. */
static struct kage_err *give_pieces(struct pack_pages *p, const struct pieces *l,
				    struct group_ahead *ahead, kage_pages_fn *fn, void *user)
{
	uint64_t group_pages = p->index.group_pages;
	const uint8_t *bytes = NULL;
	size_t now = SIZE_MAX;

	for (size_t i = 0; i < l->n; i++) {
		const struct piece *c = &l->v[i];
		size_t number = c->slot / group_pages;

		if (number != now && ahead)
			TRY_WRAP(kage_group_ahead_next(ahead, &bytes), "pack %s", p->file.path);
		else if (number != now)
			TRY(get_group(p, number, &bytes));
		now = number;
		TRY(fn(user, c->space, c->page, c->count,
		       bytes + c->slot % group_pages * KAGE_PAGE_BYTES));
	}
	return NULL;
}

static struct kage_err *read_pieces(struct pack_pages *p, const struct pieces *l, kage_pages_fn *fn,
				    void *user)
{
	_cleanup_free_ size_t *numbers = NULL;
	struct group_ahead *ahead = NULL;
	unsigned n_threads = kage_processors();
	struct kage_err *e;
	size_t n = 0;

	TRY(groups_of(&p->index, l, &numbers, &n));
	if (n >= MANY_GROUPS)
		TRY(kage_group_ahead_create(&p->file, &p->index, numbers, n, n_threads, &ahead));
	e = give_pieces(p, l, ahead, fn, user);
	kage_group_ahead_destroy(ahead);
	return e;
}

static struct kage_err *pack_each(struct kage_pages *base, uint32_t space, kage_pages_fn *fn,
				  void *user)
{
	struct pack_pages *p = pack_of(base);
	struct pieces l = { .sorted = true };
	struct kage_err *e = check_contents(p);

	if (!e)
		e = cut_all(p, space, &l, fn, user);

	if (!e && !l.sorted)
		qsort(l.v, l.n, sizeof(*l.v), compare_pieces);
	if (!e)
		e = read_pieces(p, &l, fn, user);
	free(l.v);
	return e;
}

/* --- units: its groups, and pages of zeros ------------------------------------------------------ */

struct pack_units {
	struct kage_units base;
	struct pack_pages *pages;
	struct pieces list;  /* sorted */
	struct pieces zeros; /* a unit each, after those of the groups; no slots */
	size_t *begins;      /* of each group's unit: in the list; one more than there are */
	size_t n_groups;     /* units that are groups */
};

static struct pack_units *units_of(struct kage_units *u)
{
	return (struct pack_units *)u;
}

static void *units_room(const struct kage_units *u)
{
	(void)u;
	return calloc(1, sizeof(struct group_reader));
}

static void units_room_destroy(void *room)
{
	kage_group_reader_deinit(room);
	free(room);
}

static struct kage_err *units_read(struct kage_units *base, size_t i, void *room, kage_pages_fn *fn,
				   void *user)
{
	struct pack_units *u = units_of(base);
	const struct pack_pages *p = u->pages;
	const uint8_t *bytes;

	if (i >= u->n_groups) {
		const struct piece *c = &u->zeros.v[i - u->n_groups];

		return fn(user, c->space, c->page, c->count, NULL);
	}
	TRY(kage_group_prepare(room));
	TRY_WRAP(kage_group_read(&p->file, &p->index,
				 u->list.v[u->begins[i]].slot / p->index.group_pages, room, &bytes),
		 "pack %s", p->file.path);
	for (size_t at = u->begins[i]; at < u->begins[i + 1]; at++) {
		const struct piece *c = &u->list.v[at];

		TRY(fn(user, c->space, c->page, c->count,
		       bytes + c->slot % p->index.group_pages * KAGE_PAGE_BYTES));
	}
	return NULL;
}

static void units_destroy(struct kage_units *base)
{
	struct pack_units *u = units_of(base);

	free(u->list.v);
	free(u->zeros.v);
	free(u->begins);
	free(base->pieces);
	free(u);
}

static const struct kage_units_ops units_ops = {
	.room_create = units_room,
	.room_destroy = units_room_destroy,
	.read = units_read,
	.destroy = units_destroy,
};

static struct kage_err *note_zeros(void *user, uint32_t space, uint64_t first, uint64_t count,
				   const void *bytes)
{
	struct pack_units *u = user;

	(void)bytes;
	return add_piece(&u->zeros, &(struct piece){ 0, first, space, (uint32_t)count });
}

/* Makes units of both lists. */
static struct kage_err *number_units(struct pack_units *u)
{
	uint64_t group_pages = u->pages->index.group_pages, now = UINT64_MAX;

	u->begins = calloc(u->list.n + 1, sizeof(*u->begins));
	if (!u->begins)
		return kage_err_nomem();
	for (size_t i = 0; i < u->list.n; i++) {
		const struct piece *c = &u->list.v[i];

		if (c->slot / group_pages != now)
			u->begins[u->n_groups++] = i;
		now = c->slot / group_pages;
		TRY(kage_units_add(&u->base, c->page, c->count, u->n_groups - 1));
	}
	u->begins[u->n_groups] = u->list.n;
	for (size_t i = 0; i < u->zeros.n; i++)
		TRY(kage_units_add(&u->base, u->zeros.v[i].page, u->zeros.v[i].count,
				   u->n_groups + i));
	u->base.n = u->n_groups + u->zeros.n;
	kage_units_sort(&u->base);
	return NULL;
}

static struct kage_err *pack_units(struct kage_pages *base, uint32_t space,
				   struct kage_units **ret_units)
{
	struct pack_pages *p = pack_of(base);
	struct pack_units *u;
	struct kage_err *e;

	TRY(check_contents(p));
	u = calloc(1, sizeof(*u));
	if (!u)
		return kage_err_nomem();
	u->base.ops = &units_ops;
	u->pages = p;
	u->list.sorted = true;
	e = cut_all(p, space, &u->list, note_zeros, u);
	if (!e && !u->list.sorted)
		qsort(u->list.v, u->list.n, sizeof(*u->list.v), compare_pieces);
	if (!e)
		e = number_units(u);
	if (e) {
		units_destroy(&u->base);
		return e;
	}
	*ret_units = &u->base;
	return NULL;
}

static const struct kage_pages_ops pack_ops = {
	.read = pack_read,
	.each = pack_each,
	.units = pack_units,
	.destroy = pack_destroy,
};

/* --- an image --------------------------------------------------------------------------------- */

/* What IMAGE and INDEX say about each other. */
static struct kage_err *check_spaces(const struct kage_image *image, const struct pack_index *x,
				     uint64_t offset)
{
	for (size_t i = 0; i < x->n_runs; i++) {
		const struct page_run *r = &x->runs[i];
		const Kage__Space *s = kage_image_space(image, r->space);

		if (!s)
			return kage_format_damage(offset,
						  "pages of space %u, which the image does not "
						  "have",
						  r->space);
		if (s->kind != KAGE__SPACE__KIND__ADDRESS_SPACE &&
		    r->first + r->count > page_ceil(s->size_bytes) / KAGE_PAGE_BYTES)
			return kage_format_damage(offset, "pages behind the end of space %u",
						  r->space);
	}
	return NULL;
}

static struct kage_err *read_index(struct pack_pages *p)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	struct record r;

	TRY(kage_pack_read_head(&p->file, p->file.footer.index_offset, p->file.footer_offset,
				RECORD_INDEX, &r));
	TRY(kage_pack_read_payload(&p->file, &r, &bytes));
	TRY(kage_format_index(bytes, r.raw_bytes, r.offset, &p->index));
	p->base.runs = p->index.runs;
	p->base.n_runs = p->index.n_runs;
	if (p->index.n_runs && p->index.keyframe != p->file.pack.keyframe)
		return kage_format_damage(r.offset, "an index of %s in a pack that is none",
					  p->index.keyframe ? "a keyframe" : "differences");
	p->index.keyframe = p->file.pack.keyframe;
	return NULL;
}

static struct kage_err *read_image(struct pack_pages *p, const struct summary *summary,
				   const struct pack_place *place, struct kage_image **ret_image)
{
	struct kage_description d = { 0 };
	struct kage_err *e;

	TRY(kage_description_of(&p->file, summary, place, &d));
	e = kage_image_decode(d.bytes, d.size, ret_image);
	kage_description_deinit(&d);
	return kage_err_wrap(e, "damaged at offset %llu",
			     (unsigned long long)p->file.footer.image_offset);
}

/* Opens the pack a second time, for reading past the page cache. May well fail. */
static void open_direct(struct pack_file *f)
{
	char self[32];

	if (f->size < DIRECT_BYTES)
		return;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", f->fd);
	f->direct_fd = open(self, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

/* Of *RET_SUMMARY the strings are lent no longer. */
static struct kage_err *open_pages(struct pack_pages *p, const struct pack_place *place,
				   struct summary *ret_summary)
{
	_cleanup_free_ uint8_t *payload = NULL;

	TRY(kage_pack_open_file(&p->file, SMALL_BYTES, &payload, ret_summary));
	TRY(kage_pack_unlock(&p->file, payload, place));
	open_direct(&p->file);
	return read_index(p);
}

/* The public key for which the pack of P is encrypted, as text for IMAGE. */
static struct kage_err *note_recipient(const struct pack_pages *p, struct kage_image *image)
{
	char text[KEY_TEXT_BYTES];

	if (!p->file.pack.encrypted)
		return NULL;
	kage_keyfile_text(p->file.sealed.recipient, text);
	image->recipient = arena_strdup(&image->arena, text);
	return image->recipient ? NULL : kage_err_nomem();
}

static struct kage_err *open_image(struct pack_pages *p, const struct pack_place *place,
				   struct kage_image **ret_image)
{
	struct kage_image *image = NULL;
	struct summary summary;
	struct kage_err *e;

	TRY(open_pages(p, place, &summary));
	TRY(read_image(p, &summary, place, &image));
	e = check_spaces(image, &p->index, p->file.footer.index_offset);
	if (!e)
		e = note_recipient(p, image);
	if (!e) {
		image->pack_path = arena_strdup(&image->arena, p->file.path);
		e = image->pack_path ? NULL : kage_err_nomem();
	}
	if (e) {
		kage_image_close(image);
		return e;
	}
	*ret_image = image;
	return NULL;
}

/* The pages of a pack that is still to be opened. FD is taken in any case. */
static struct kage_err *new_pages(int fd, const char *path, struct pack_pages **ret_pages)
{
	struct pack_pages *p = calloc(1, sizeof(*p));
	char *name = strdup(path);

	if (!p || !name) {
		free(p);
		free(name);
		close_fd(fd);
		return kage_err_nomem();
	}
	p->base.ops = &pack_ops;
	p->file.fd = fd;
	p->file.direct_fd = -1;
	p->file.path = name;
	*ret_pages = p;
	return NULL;
}

struct kage_err *kage_pack_open(int fd, const char *path, const struct pack_place *place,
				struct kage_image **ret_image, bool *ret_keyframe)
{
	struct pack_pages *p;
	struct kage_err *e;

	TRY(new_pages(fd, path, &p));
	e = open_image(p, place, ret_image);
	if (e) {
		pack_destroy(&p->base);
		return kage_err_wrap(e, "pack %s", path);
	}
	(*ret_image)->pages = &p->base;
	if (ret_keyframe)
		*ret_keyframe = p->file.pack.keyframe;
	return NULL;
}

size_t kage_pack_count_groups(struct kage_pages *pages)
{
	return pack_of(pages)->index.n_groups;
}

struct kage_err *kage_pack_open_pages(int fd, const char *path, const struct pack_place *place,
				      struct kage_pages **ret_pages)
{
	struct summary summary;
	struct pack_pages *p;
	struct kage_err *e;

	TRY(new_pages(fd, path, &p));
	e = open_pages(p, place, &summary);
	if (!e)
		e = check_contents(p);
	if (e) {
		pack_destroy(&p->base);
		return kage_err_wrap(e, "pack %s", path);
	}
	*ret_pages = &p->base;
	return NULL;
}
