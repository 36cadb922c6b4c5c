/* SPDX-License-Identifier: Apache-2.0 */
#include "store/dirty.h"

#include <stdlib.h>

#include "base/cleanup.h"

static const uint64_t page_limit = (uint64_t)1 << 52;

void kage_dirty_deinit(struct dirty *d)
{
	free(d->runs);
	free(d->at);
	free(d->groups);
	*d = (struct dirty){ 0 };
}

/* --- parsing ---------------------------------------------------------------------------------- */

/* A table of numbers that is being read. */
struct cursor {
	const uint8_t *bytes;
	size_t size, at;
	bool bad;
};

static uint64_t next(struct cursor *c)
{
	uint64_t v = 0;
	size_t n = kage_leb_get(c->bytes + c->at, c->size - c->at, &v);

	c->bad |= n == 0;
	c->at += n;
	return v;
}

/* Every group takes at least one byte, every run three: so the counts are bounded by the size. */
static struct kage_err *parse_counts(const uint8_t *bytes, size_t size, uint64_t offset,
				     struct dirty *d, size_t *ret_tables)
{
	struct dirty_fixed f;
	uint64_t fixed, groups, runs;

	if (size < sizeof(f))
		return kage_format_damage(offset, "a list of changes of %zu bytes", size);
	memcpy(&f, bytes, sizeof(f));
	fixed = le32_get(f.fixed_bytes);
	groups = le64_get(f.n_groups);
	runs = le64_get(f.n_runs);
	d->group_pages = le32_get(f.group_pages);
	d->n_pages = le64_get(f.n_pages);
	if (fixed < sizeof(f) || fixed > size)
		return kage_format_damage(offset, "a list of changes whose tables begin at %llu",
					  (unsigned long long)fixed);
	if (d->group_pages < 1 || d->group_pages > GROUP_PAGES || groups > size - fixed ||
	    runs > (size - fixed) / 3 || d->n_pages > groups * GROUP_PAGES ||
	    groups != (d->n_pages + d->group_pages - 1) / d->group_pages)
		return kage_format_damage(offset, "a list of changes whose counts make no sense");
	d->n_groups = groups;
	d->n_runs = runs;
	*ret_tables = fixed;
	return NULL;
}

/* The groups fill the file from GROUPS to OFFSET. */
static struct kage_err *parse_groups(struct cursor *c, uint64_t offset, uint64_t groups,
				     struct dirty *d)
{
	uint64_t at = groups;

	for (size_t i = 0; i < d->n_groups; i++) {
		uint64_t stored = next(c), left = d->n_pages - i * d->group_pages;

		if (c->bad || stored > DELTA_BYTES + RECORD_TAG_BYTES || at > offset ||
		    stored + RECORD_BYTES > offset - at)
			return kage_format_damage(
				offset, "a list of changes whose group %zu is not in the pack", i);
		d->groups[i] = (struct group){
			.offset = at,
			.stored_bytes = stored,
			.n_pages = left < d->group_pages ? (uint32_t)left : d->group_pages,
		};
		at += RECORD_BYTES + stored;
	}
	if (at != offset)
		return kage_format_damage(offset, "a list of changes whose groups do not fill "
						  "their place");
	return NULL;
}

static struct kage_err *parse_runs(struct cursor *c, uint64_t offset, struct dirty *d)
{
	uint64_t end = 0, pages = 0, space = 0;

	for (size_t i = 0; i < d->n_runs; i++) {
		uint64_t more = next(c), gap = next(c), count = next(c);

		if (more)
			end = 0;
		if (c->bad || more > UINT32_MAX - space || space + more == 0 ||
		    gap > page_limit - end || count == 0 || count > page_limit - end - gap ||
		    count > d->n_pages - pages)
			return kage_format_damage(
				offset, "a list of changes whose run %zu makes no sense", i);
		space += more;
		d->runs[i] = (struct page_run){ (uint32_t)space, end + gap, count };
		d->at[i] = pages;
		end += gap + count;
		pages += count;
	}
	if (pages != d->n_pages || c->at != c->size)
		return kage_format_damage(offset, "a list of changes that does not add up");
	return NULL;
}

static struct kage_err *parse_tables(struct cursor *c, uint64_t offset, uint64_t groups,
				     struct dirty *d)
{
	d->groups = calloc(d->n_groups + 1, sizeof(*d->groups));
	d->runs = calloc(d->n_runs + 1, sizeof(*d->runs));
	d->at = calloc(d->n_runs + 1, sizeof(*d->at));
	if (!d->groups || !d->runs || !d->at)
		return kage_err_nomem();
	TRY(parse_groups(c, offset, groups, d));
	return parse_runs(c, offset, d);
}

struct kage_err *kage_dirty_parse(const uint8_t *bytes, size_t size, uint64_t offset,
				  uint64_t groups, struct dirty *ret_dirty)
{
	struct cursor c = { .bytes = bytes, .size = size };
	struct dirty d = { 0 };
	struct kage_err *e;

	TRY(parse_counts(bytes, size, offset, &d, &c.at));
	e = parse_tables(&c, offset, groups, &d);
	if (e) {
		kage_dirty_deinit(&d);
		return e;
	}
	*ret_dirty = d;
	return NULL;
}

/* --- the other direction ---------------------------------------------------------------------- */

enum { LEB_MAX = 10 };

struct kage_err *kage_dirty_encode(const struct page_run *runs, size_t n_runs,
				   const uint64_t *stored_bytes, size_t n_groups,
				   uint8_t **ret_bytes, size_t *ret_size)
{
	uint8_t *bytes = malloc(DIRTY_FIXED_BYTES + (n_groups + 3 * n_runs) * LEB_MAX), *at;
	uint64_t end = 0, pages = 0;
	uint32_t space = 0;
	struct dirty_fixed f;

	if (!bytes)
		return kage_err_nomem();
	at = bytes + sizeof(f);
	for (size_t i = 0; i < n_groups; i++)
		at += kage_leb_put(at, stored_bytes[i]);
	for (size_t i = 0; i < n_runs; i++) {
		const struct page_run *r = &runs[i];

		if (r->space != space)
			end = 0;
		at += kage_leb_put(at, r->space - space);
		at += kage_leb_put(at, r->first - end);
		at += kage_leb_put(at, r->count);
		space = r->space;
		end = r->first + r->count;
		pages += r->count;
	}
	f = (struct dirty_fixed){
		.fixed_bytes = le32_of(sizeof(f)),
		.group_pages = le32_of(GROUP_PAGES),
		.n_groups = le64_of(n_groups),
		.n_runs = le64_of(n_runs),
		.n_pages = le64_of(pages),
	};
	memcpy(bytes, &f, sizeof(f));
	*ret_bytes = bytes;
	*ret_size = (size_t)(at - bytes);
	return NULL;
}

/* --- sets of pages ---------------------------------------------------------------------------- */

static uint64_t run_end(const struct page_run *r)
{
	return r->first + r->count;
}

size_t kage_dirty_find(const struct dirty *d, uint32_t space, uint64_t first)
{
	struct kage_pages p = { .runs = d->runs, .n_runs = d->n_runs };

	return kage_pages_find(&p, space, first);
}

/* Appends R to the N runs, none of which begins behind it. Returns how many there are then. */
static size_t append(struct page_run *runs, size_t n, const struct page_run *r)
{
	struct page_run *last = n ? &runs[n - 1] : NULL;

	if (!last || last->space != r->space || run_end(last) < r->first) {
		runs[n] = *r;
		return n + 1;
	}
	if (run_end(r) > run_end(last))
		last->count = run_end(r) - last->first;
	return n;
}

static bool before(const struct page_run *a, const struct page_run *b)
{
	return a->space != b->space ? a->space < b->space : a->first < b->first;
}

struct kage_err *kage_dirty_union(const struct page_run *a, size_t n_a, const struct page_run *b,
				  size_t n_b, struct page_run **ret_runs, size_t *ret_n)
{
	struct page_run *runs = malloc((n_a + n_b + 1) * sizeof(*runs));
	size_t n = 0, i = 0, j = 0;

	if (!runs)
		return kage_err_nomem();
	while (i < n_a || j < n_b) {
		bool first = j == n_b || (i < n_a && before(&a[i], &b[j]));

		n = append(runs, n, first ? &a[i++] : &b[j++]);
	}
	*ret_runs = runs;
	*ret_n = n;
	return NULL;
}

struct kage_err *kage_dirty_common(const struct page_run *a, size_t n_a, const struct page_run *b,
				   size_t n_b, struct page_run **ret_runs, size_t *ret_n)
{
	struct page_run *runs = malloc((n_a + n_b + 1) * sizeof(*runs));
	size_t n = 0, i = 0, j = 0;

	if (!runs)
		return kage_err_nomem();
	while (i < n_a && j < n_b) {
		const struct page_run *x = &a[i], *y = &b[j];
		uint64_t first = x->first > y->first ? x->first : y->first;
		uint64_t end = run_end(x) < run_end(y) ? run_end(x) : run_end(y);

		if (x->space == y->space && first < end)
			runs[n++] = (struct page_run){ x->space, first, end - first };
		if (x->space != y->space ? x->space < y->space : run_end(x) <= run_end(y))
			i++;
		else
			j++;
	}
	*ret_runs = runs;
	*ret_n = n;
	return NULL;
}
