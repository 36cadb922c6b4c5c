/* SPDX-License-Identifier: Apache-2.0 */
#include "store/pack_read.h"

#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "store/pack_file.h"

enum {
	SMALL_BYTES = 256 * 1024, /* a pack up to this size is read in one go */
	CACHED_GROUPS = 8,
};

struct kage_err *kage_pack_glance(int fd, const char *path, struct pack_glance *ret_glance)
{
	struct pack_file f = { .fd = fd, .path = path };
	struct kage_err *e;

	e = kage_pack_open_file(&f, 0, &ret_glance->payload, &ret_glance->summary);
	ret_glance->file_bytes = f.size;
	free(f.head);
	return kage_err_wrap(e, "pack %s", path);
}

/* --- pages ------------------------------------------------------------------------------------ */

struct cached_group {
	size_t number_plus_1; /* 0: empty */
	uint64_t used;
	uint8_t *record; /* the record of an uncompressed group, or room for the bytes of another */
	const uint8_t *bytes;
};

struct pack_pages {
	struct kage_pages base;
	struct pack_file file; /* owned: fd, path, head */
	struct pack_index index;
	ZSTD_DCtx *zstd;
	uint8_t *stored; /* a compressed record */
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
		free(p->cache[i].record);
	free(p->stored);
	ZSTD_freeDCtx(p->zstd);
	kage_format_index_deinit(&p->index);
	close_fd(p->file.fd);
	free((char *)p->file.path);
	free(p->file.head);
	free(p);
}

/* Reads group NUMBER into C. */
static struct kage_err *fill(struct pack_pages *p, struct cached_group *c, size_t number)
{
	const struct group *g = &p->index.groups[number];
	uint64_t raw = (uint64_t)g->n_pages * KAGE_PAGE_BYTES;
	bool compressed = g->stored_bytes < raw;
	uint8_t *into = compressed ? p->stored : c->record;
	struct record r;

	TRY(kage_pack_read_at(&p->file, g->offset, RECORD_BYTES + g->stored_bytes, into));
	TRY(kage_format_record(into, g->offset, RECORD_BYTES + g->stored_bytes, &r));
	if (r.type != RECORD_PAGES || r.argument != number || r.raw_bytes != raw ||
	    r.stored_bytes != g->stored_bytes || r.compressed != compressed)
		return kage_format_damage(g->offset,
					  "not the group of pages that the index speaks of");
	TRY(kage_format_payload(&r, into + RECORD_BYTES));
	c->bytes = compressed ? c->record : into + RECORD_BYTES;
	if (compressed)
		TRY(kage_pack_decompress(p->zstd, &r, into + RECORD_BYTES, c->record));
	return NULL;
}

static struct kage_err *prepare(struct pack_pages *p, struct cached_group *c)
{
	if (!p->zstd)
		p->zstd = ZSTD_createDCtx();
	if (!p->stored)
		p->stored = malloc(RECORD_BYTES + GROUP_BYTES);
	if (!c->record)
		c->record = malloc(RECORD_BYTES + GROUP_BYTES);
	return p->zstd && p->stored && c->record ? NULL : kage_err_nomem();
}

/* The bytes of group NUMBER, valid until other groups were asked for. */
static struct kage_err *get_group(struct pack_pages *p, size_t number, const uint8_t **ret_bytes)
{
	struct cached_group *oldest = &p->cache[0];
	struct kage_err *e;

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
	TRY(prepare(p, oldest));
	oldest->number_plus_1 = 0;
	e = fill(p, oldest, number);
	if (e)
		return kage_err_wrap(e, "pack %s", p->file.path);
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

static struct kage_err *pack_read(struct kage_pages *base, uint32_t space, uint64_t first,
				  uint64_t count, void *buffer)
{
	struct pack_pages *p = pack_of(base);
	size_t i = kage_pages_find(base, space, first);
	const struct page_run *r = &base->runs[i];
	const struct extent *e;

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

static struct kage_err *pack_each(struct kage_pages *base, uint32_t space, kage_pages_fn *fn,
				  void *user)
{
	struct pack_pages *p = pack_of(base);
	struct pieces l = { .sorted = true };
	struct kage_err *e = cut_all(p, space, &l, fn, user);

	if (!e && !l.sorted)
		qsort(l.v, l.n, sizeof(*l.v), compare_pieces);
	if (!e && l.n * sizeof(struct piece) > 0)
		posix_fadvise(p->file.fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	for (size_t i = 0; !e && i < l.n; i++) {
		const struct piece *c = &l.v[i];
		const uint8_t *bytes;
		uint64_t n;

		e = get_slots(p, c->slot, c->count, &bytes, &n);
		if (!e)
			e = fn(user, c->space, c->page, c->count, bytes);
	}
	free(l.v);
	return e;
}

static const struct kage_pages_ops pack_ops = {
	.read = pack_read,
	.each = pack_each,
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
	return NULL;
}

static struct kage_err *read_image(struct pack_pages *p, struct kage_image **ret_image)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	struct record r;
	struct kage_err *e;

	TRY(kage_pack_read_head(&p->file, p->file.footer.image_offset, p->file.footer_offset,
				RECORD_IMAGE, &r));
	TRY(kage_pack_read_payload(&p->file, &r, &bytes));
	e = kage_image_decode(bytes, r.raw_bytes, ret_image);
	return kage_err_wrap(e, "damaged at offset %llu", (unsigned long long)r.offset);
}

static struct kage_err *open_pack(struct pack_pages *p, struct kage_image **ret_image)
{
	_cleanup_free_ uint8_t *payload = NULL;
	struct kage_image *image = NULL;
	struct summary summary;
	struct kage_err *e;

	TRY(kage_pack_open_file(&p->file, SMALL_BYTES, &payload, &summary));
	TRY(read_index(p));
	TRY(read_image(p, &image));
	e = check_spaces(image, &p->index, p->file.footer.index_offset);
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

struct kage_err *kage_pack_open(int fd, const char *path, struct kage_image **ret_image)
{
	struct pack_pages *p = calloc(1, sizeof(*p));
	char *name = strdup(path);
	struct kage_err *e;

	if (!p || !name) {
		free(p);
		free(name);
		close_fd(fd);
		return kage_err_nomem();
	}
	p->base.ops = &pack_ops;
	p->file.fd = fd;
	p->file.path = name;
	e = open_pack(p, ret_image);
	if (e) {
		pack_destroy(&p->base);
		return kage_err_wrap(e, "pack %s", path);
	}
	(*ret_image)->pages = &p->base;
	return NULL;
}
