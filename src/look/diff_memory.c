/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contents of the mappings that two images have both. Only pages of which one of them has contents
 * are read: all others are zero in both, or come from one file. Memory needed is that of two pieces.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "look/diff.h"

enum { PIECE_PAGES = KAGE_PAGES_PIECE, PIECE_BYTES = PIECE_PAGES * KAGE_PAGE_BYTES };
enum { JOINED_GAP_BYTES = 8 }; /* equal bytes within a run that is told, where fewer than so many */

struct side {
	const struct kage_image *image;
	const Kage__Memory *memory;
	const Kage__Mapping *m; /* that is being compared */
	unsigned char *bytes;   /* of a piece */
	bool lost[PIECE_PAGES]; /* their file is not any more what it was */
};

struct walk {
	struct diff *d;
	struct side a, b;
	uint64_t bytes, pages, lost; /* of the mapping so far */
	uint64_t first;              /* address of its first difference */
	struct kage_symbol symbol;   /* in which the last difference was */
	uint64_t symbol_end;         /* how far that is known to reach; 0: none yet */
	uint64_t symbol_bytes;
	const char *label;
	const char *warning;
};

/* --- where there is something to read --------------------------------------------------------- */

/* The stretch of stored pages of SPACE that ends behind page AT. */
static bool next_in(const struct kage_pages *p, uint32_t space, uint64_t at, uint64_t *ret_first,
		    uint64_t *ret_last)
{
	size_t i = p && space ? kage_pages_find(p, space, at) : 0;

	if (!p || !space || i >= p->n_runs || p->runs[i].space != space)
		return false;
	*ret_first = p->runs[i].first > at ? p->runs[i].first : at;
	*ret_last = p->runs[i].first + p->runs[i].count;
	return true;
}

/* The space that stands behind the mapping, 0 for none. */
static uint32_t space_behind(const struct side *s)
{
	const Kage__FileObject *f = s->m->file ? kage_image_file(s->image, s->m->file) : NULL;

	return s->m->object_space ? s->m->object_space : f ? f->content_space : 0;
}

/* Narrows [*START, *END) to the first stretch from AT on of which S has contents. */
static void next_stored(const struct side *s, uint64_t at, uint64_t *start, uint64_t *end)
{
	uint64_t first, last, shift = s->m->start - s->m->offset_bytes;

	if (next_in(s->image->pages, s->memory->space, at / KAGE_PAGE_BYTES, &first, &last) &&
	    first * KAGE_PAGE_BYTES < *start) {
		*start = first * KAGE_PAGE_BYTES;
		*end = last * KAGE_PAGE_BYTES;
	}
	if (next_in(s->image->pages, space_behind(s), (at - shift) / KAGE_PAGE_BYTES, &first,
		    &last) &&
	    first * KAGE_PAGE_BYTES + shift < *start) {
		*start = first * KAGE_PAGE_BYTES + shift;
		*end = last * KAGE_PAGE_BYTES + shift;
	}
}

static bool has_own(const struct side *s, uint64_t page)
{
	uint64_t first, last;

	return next_in(s->image->pages, s->memory->space, page, &first, &last) && first == page;
}

/* A page that is not the process's own: of the object or file behind the mapping. */
static struct kage_err *read_behind(struct side *s, uint64_t address, size_t i)
{
	struct kage_err *e;
	size_t n = 0;

	e = kage_image_read(s->image, address, s->bytes + i * KAGE_PAGE_BYTES, KAGE_PAGE_BYTES, &n);
	s->lost[i] = e || n < KAGE_PAGE_BYTES;
	if (e && kage_err_code(e) != KAGE_CHANGED && kage_err_code(e) != KAGE_SYS &&
	    kage_err_code(e) != KAGE_PERM)
		return e;
	err_drop(e);
	return NULL;
}

static struct kage_err *read_side(struct side *s, uint64_t at, uint64_t count)
{
	uint64_t first = at / KAGE_PAGE_BYTES;

	memset(s->lost, 0, sizeof(s->lost));
	TRY(kage_pages_read(s->image->pages, s->memory->space, first, count, s->bytes));
	if (s->m->backing == KAGE__MAPPING__BACKING__ANONYMOUS)
		return NULL;
	for (uint64_t i = 0; i < count; i++)
		if (!has_own(s, first + i))
			TRY(read_behind(s, at + i * KAGE_PAGE_BYTES, i));
	return NULL;
}

/* --- what is told ----------------------------------------------------------------------------- */

static void tell_symbol(struct walk *w)
{
	if (w->symbol_bytes && w->symbol.name)
		look_diff_tell(w->d, &(struct kage_difference){
					     .part = KAGE_DIFF_SYMBOL,
					     .how = KAGE_DIFF_CHANGED,
					     .object = w->symbol.name,
					     .warning = w->warning,
					     .start = w->symbol.address,
					     .end = w->symbol.address + w->symbol.size,
					     .bytes = w->symbol_bytes,
				     });
	w->symbol_bytes = 0;
}

/* The byte at ADDRESS differs, which is not known to be in the symbol that was counted last. */
static struct kage_err *next_symbol(struct walk *w, uint64_t address)
{
	struct kage_symbol next;

	TRY(kage_symbols_at(w->d->sb, address, &next));
	if (next.name != w->symbol.name || next.address != w->symbol.address)
		tell_symbol(w);
	w->symbol = next;
	if (w->symbol.name && address < w->symbol.address + w->symbol.size)
		w->symbol_end = w->symbol.address + w->symbol.size;
	else if (w->symbol.module && w->symbol.module[0] == '[')
		w->symbol_end = UINT64_MAX; /* no file has symbols here */
	else
		w->symbol_end = address / 16 * 16 + 16;
	return NULL;
}

static void tell_run(struct walk *w, uint64_t address, const unsigned char *before,
		     const unsigned char *after, size_t n)
{
	look_diff_tell(w->d, &(struct kage_difference){
				     .part = KAGE_DIFF_BYTES,
				     .how = KAGE_DIFF_CHANGED,
				     .object = w->label,
				     .warning = w->warning,
				     .start = address,
				     .end = address + n,
				     .bytes = n,
				     .old_bytes = before,
				     .new_bytes = after,
			     });
}

static void tell_mapping(struct walk *w)
{
	struct kage_difference f = {
		.part = KAGE_DIFF_MEMORY,
		.how = KAGE_DIFF_CHANGED,
		.object = w->label,
		.warning = w->warning,
		.start = w->b.m->start,
		.end = w->b.m->end,
		.bytes = w->bytes,
		.pages = w->pages,
	};

	tell_symbol(w);
	if (w->lost) {
		f.field = "not in the images";
		f.lost_pages = w->lost;
	}
	if (w->bytes || w->lost)
		look_diff_tell(w->d, &f);
}

/* --- comparing -------------------------------------------------------------------------------- */

/* A page that differs. */
static struct kage_err *count_page(struct walk *w, uint64_t address, const unsigned char *before,
				   const unsigned char *after)
{
	size_t run = 0, end = 0; /* bytes [run, end) are to be told together */

	w->pages++;
	for (size_t i = 0; i < KAGE_PAGE_BYTES; i++) {
		if (before[i] == after[i])
			continue;
		if (address + i >= w->symbol_end || address + i < w->symbol.address)
			TRY(next_symbol(w, address + i));
		w->symbol_bytes++;
		w->bytes++;
		if (end && i - end >= JOINED_GAP_BYTES) {
			if (w->d->bytes)
				tell_run(w, address + run, before + run, after + run, end - run);
			end = 0;
		}
		run = end ? run : i;
		end = i + 1;
	}
	if (end && w->d->bytes)
		tell_run(w, address + run, before + run, after + run, end - run);
	return NULL;
}

static struct kage_err *compare_piece(struct walk *w, uint64_t at, uint64_t count)
{
	TRY(kage_ctx_poll(w->d->ctx));
	TRY(read_side(&w->a, at, count));
	TRY(read_side(&w->b, at, count));
	for (uint64_t i = 0; i < count; i++) {
		const unsigned char *before = w->a.bytes + i * KAGE_PAGE_BYTES;
		const unsigned char *after = w->b.bytes + i * KAGE_PAGE_BYTES;

		if (w->a.lost[i] || w->b.lost[i])
			w->lost++;
		else if (memcmp(before, after, KAGE_PAGE_BYTES) != 0)
			TRY(count_page(w, at + i * KAGE_PAGE_BYTES, before, after));
	}
	return NULL;
}

/* Whether the file behind the mapping has other contents in the second image, and these are in
 * neither: what is not the process's own cannot be compared then. */
static bool file_changed(const struct walk *w)
{
	const Kage__FileObject *a = w->a.m->file ? kage_image_file(w->a.image, w->a.m->file) : NULL;
	const Kage__FileObject *b = w->b.m->file ? kage_image_file(w->b.image, w->b.m->file) : NULL;

	return a && b && !(a->content_space && b->content_space) &&
	       (a->mtime_ns != b->mtime_ns || a->size_bytes != b->size_bytes);
}

/* [START, END) of the mappings of both sides. */
static struct kage_err *compare_stretch(struct walk *w, uint64_t start, uint64_t end)
{
	w->bytes = w->pages = w->lost = w->symbol_bytes = w->symbol_end = 0;
	w->symbol = (struct kage_symbol){ 0 };
	w->warning = w->b.m->prot & PROT_EXEC ? "it is executable" : NULL;
	TRY(look_diff_label(w->d->sb, w->b.m->start, &w->label));
	for (uint64_t at = start; at < end;) {
		uint64_t from = UINT64_MAX, to = UINT64_MAX;

		next_stored(&w->a, at, &from, &to);
		next_stored(&w->b, at, &from, &to);
		if (from >= end)
			from = end;
		if (file_changed(w))
			w->lost += (from - at) / KAGE_PAGE_BYTES;
		if (from == end)
			break;
		to = to < end ? to : end;
		to = to - from < PIECE_BYTES ? to : from + PIECE_BYTES;
		TRY(compare_piece(w, from, (to - from) / KAGE_PAGE_BYTES));
		at = to;
	}
	tell_mapping(w);
	return NULL;
}

static bool has_contents(const Kage__Mapping *m)
{
	switch (m->backing) {
	case KAGE__MAPPING__BACKING__ANONYMOUS:
	case KAGE__MAPPING__BACKING__FILE_PRIVATE:
	case KAGE__MAPPING__BACKING__FILE_SHARED:
	case KAGE__MAPPING__BACKING__SHARED_OBJECT:
	case KAGE__MAPPING__BACKING__MEMFD_PRIVATE:
		return true;
	default:
		return false;
	}
}

static struct kage_err *walk(struct walk *w)
{
	const Kage__Memory *ma = w->a.memory, *mb = w->b.memory;

	for (size_t i = 0, j = 0; i < ma->n_mappings && j < mb->n_mappings;) {
		uint64_t start, end;

		w->a.m = ma->mappings[i];
		w->b.m = mb->mappings[j];
		start = w->a.m->start > w->b.m->start ? w->a.m->start : w->b.m->start;
		end = w->a.m->end < w->b.m->end ? w->a.m->end : w->b.m->end;
		if (start < end && has_contents(w->a.m) && look_diff_same(w->d, w->a.m, w->b.m))
			TRY(compare_stretch(w, start, end));
		if (w->a.m->end <= w->b.m->end)
			i++;
		else
			j++;
	}
	return NULL;
}

struct kage_err *look_diff_memory(struct diff *d)
{
	_cleanup_free_ unsigned char *before = malloc(PIECE_BYTES), *after = malloc(PIECE_BYTES);
	struct walk w = {
		.d = d,
		.a = { .image = d->a, .memory = d->pa->memory, .bytes = before },
		.b = { .image = d->b, .memory = d->pb->memory, .bytes = after },
	};

	if (!before || !after)
		return kage_err_nomem();
	return walk(&w);
}
