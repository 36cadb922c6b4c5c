/* SPDX-License-Identifier: Apache-2.0 */
/* Which mappings came, went, grew, or may be used otherwise than before. */
#include <string.h>
#include <sys/mman.h>

#include "look/diff.h"

/* --- what one is ------------------------------------------------------------------------------ */

void look_diff_protection(const Kage__Mapping *m, char text[5])
{
	text[0] = m->prot & PROT_READ ? 'r' : '-';
	text[1] = m->prot & PROT_WRITE ? 'w' : '-';
	text[2] = m->prot & PROT_EXEC ? 'x' : '-';
	text[3] = m->shared ? 's' : 'p';
	text[4] = '\0';
}

static bool has_file(const Kage__Mapping *m)
{
	return m->backing == KAGE__MAPPING__BACKING__FILE_PRIVATE ||
	       m->backing == KAGE__MAPPING__BACKING__FILE_SHARED;
}

static bool of_kernel(const Kage__Mapping *m)
{
	return m->backing == KAGE__MAPPING__BACKING__VDSO ||
	       m->backing == KAGE__MAPPING__BACKING__VVAR ||
	       m->backing == KAGE__MAPPING__BACKING__VVAR_VCLOCK ||
	       m->backing == KAGE__MAPPING__BACKING__VSYSCALL ||
	       m->backing == KAGE__MAPPING__BACKING__UPROBES;
}

const char *look_diff_warning(const Kage__Mapping *m)
{
	if (!(m->prot & PROT_EXEC) || of_kernel(m))
		return NULL;
	if (m->prot & PROT_WRITE)
		return has_file(m) ? "executable and writable"
				   : "executable and writable, and comes from no file";
	return has_file(m) ? NULL : "executable, and comes from no file";
}

struct kage_err *look_diff_label(struct kage_symbols *symbols, uint64_t address,
				 const char **ret_label)
{
	struct kage_symbol s;

	TRY(kage_symbols_at(symbols, address, &s));
	*ret_label = s.module ? s.module : "";
	return NULL;
}

static bool same_file(const struct diff *d, const Kage__Mapping *a, const Kage__Mapping *b)
{
	const Kage__FileObject *fa = a->file ? kage_image_file(d->a, a->file) : NULL;
	const Kage__FileObject *fb = b->file ? kage_image_file(d->b, b->file) : NULL;

	return fa && fb ? strcmp(fa->path, fb->path) == 0 && fa->ino == fb->ino : fa == fb;
}

bool look_diff_same(const struct diff *d, const Kage__Mapping *a, const Kage__Mapping *b)
{
	return a->backing == b->backing && a->shared == b->shared && same_file(d, a, b) &&
	       a->offset_bytes - a->start == b->offset_bytes - b->start;
}

/* --- coming and going ------------------------------------------------------------------------- */

/* The number of pages of [START, END) that IMAGE has contents of. */
static uint64_t stored(const struct kage_image *image, const Kage__Memory *memory, uint64_t start,
		       uint64_t end)
{
	const struct kage_pages *p = image->pages;
	uint64_t first = start / KAGE_PAGE_BYTES, last = end / KAGE_PAGE_BYTES, n = 0;

	for (size_t i = p ? kage_pages_find(p, memory->space, first) : 0;
	     p && i < p->n_runs && p->runs[i].space == memory->space && p->runs[i].first < last;
	     i++) {
		uint64_t from = p->runs[i].first > first ? p->runs[i].first : first;
		uint64_t to = p->runs[i].first + p->runs[i].count;

		n += (to < last ? to : last) - from;
	}
	return n;
}

/* [START, END) of M is in one image only: in the later one if NEW. */
static struct kage_err *tell_alone(struct diff *d, const Kage__Mapping *m, bool new, uint64_t start,
				   uint64_t end)
{
	char protection[5];
	struct kage_difference f = {
		.part = KAGE_DIFF_MAPPING,
		.how = new ? KAGE_DIFF_NEW : KAGE_DIFF_GONE,
		.field = start > m->start || end < m->end ? "size" : NULL,
		.warning = look_diff_warning(m),
		.start = start,
		.end = end,
	};

	TRY(look_diff_label(new ? d->sb : d->sa, m->start, &f.object));
	look_diff_protection(m, protection);
	*(new ? &f.after : &f.before) = protection;
	f.pages = new ? stored(d->b, d->pb->memory, start, end)
		      : stored(d->a, d->pa->memory, start, end);
	look_diff_tell(d, &f);
	return NULL;
}

static bool same(const struct diff *d, const Kage__Mapping *m, const Kage__Mapping *other, bool new)
{
	return new ? look_diff_same(d, other, m) : look_diff_same(d, m, other);
}

/* What of M, which is of the later image if NEW, is not the same mapping in the other image. */
static struct kage_err *find_alone(struct diff *d, const Kage__Mapping *m, bool new)
{
	const Kage__Memory *other = new ? d->pa->memory : d->pb->memory;
	uint64_t at = m->start;

	for (size_t i = 0; i < other->n_mappings; i++) {
		const Kage__Mapping *o = other->mappings[i];
		uint64_t from = o->start > m->start ? o->start : m->start;

		if (o->end <= m->start || o->start >= m->end || !same(d, m, o, new))
			continue;
		if (from > at)
			TRY(tell_alone(d, m, new, at, from));
		at = o->end > at ? o->end : at;
	}
	return at < m->end ? tell_alone(d, m, new, at, m->end) : NULL;
}

/* [START, END) is A and B. */
static struct kage_err *compare_flags(struct diff *d, const Kage__Mapping *a,
				      const Kage__Mapping *b, uint64_t start, uint64_t end)
{
	char before[5], after[5];
	struct kage_difference f = {
		.part = KAGE_DIFF_MAPPING,
		.how = KAGE_DIFF_CHANGED,
		.field = "protection",
		.before = before,
		.after = after,
		.start = start,
		.end = end,
	};

	if (a->prot == b->prot)
		return NULL;
	look_diff_protection(a, before);
	look_diff_protection(b, after);
	f.warning = look_diff_warning(b);
	TRY(look_diff_label(d->sb, b->start, &f.object));
	look_diff_tell(d, &f);
	return NULL;
}

struct kage_err *look_diff_mappings(struct diff *d)
{
	const Kage__Memory *ma = d->pa->memory, *mb = d->pb->memory;

	for (size_t i = 0; i < ma->n_mappings; i++)
		TRY(find_alone(d, ma->mappings[i], false));
	for (size_t i = 0; i < mb->n_mappings; i++)
		TRY(find_alone(d, mb->mappings[i], true));
	for (size_t i = 0, j = 0; i < ma->n_mappings && j < mb->n_mappings;) {
		const Kage__Mapping *a = ma->mappings[i], *b = mb->mappings[j];
		uint64_t start = a->start > b->start ? a->start : b->start;
		uint64_t end = a->end < b->end ? a->end : b->end;

		if (start < end && look_diff_same(d, a, b))
			TRY(compare_flags(d, a, b, start, end));
		if (a->end <= b->end)
			i++;
		else
			j++;
	}
	return NULL;
}
