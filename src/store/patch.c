/* SPDX-License-Identifier: Apache-2.0 */
#include "store/patch.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/workers.h"

enum {
	HUGE_FROM_BYTES = 8 << 20,
	MANY_PAGES = 4096,       /* from here on threads are worth it */
	BATCH_BYTES = 128 << 20, /* unpacked at a time */
	SLICE_PAGES = 256,       /* applied at a time */
};

static void batch_deinit(struct patch_batch *b);

void kage_patch_destroy(struct patch *p)
{
	if (!p)
		return;
	if (p->bytes)
		munmap(p->bytes, p->mapped);
	if (p->codes)
		batch_deinit(p->codes);
	free(p->codes);
	free(p->runs);
	free(p->at);
	free(p);
}

/* --- as pages --------------------------------------------------------------------------------- */

static struct patch *patch_of(struct kage_pages *p)
{
	return (struct patch *)p;
}

static uint8_t *page_at(const struct patch *p, size_t run, uint64_t page)
{
	return p->bytes + (p->at[run] + page - p->runs[run].first) * KAGE_PAGE_BYTES;
}

static const void *patch_borrow(struct kage_pages *base, uint32_t space, uint64_t first,
				uint64_t count)
{
	size_t i = kage_pages_find(base, space, first);
	const struct page_run *r = &base->runs[i];

	if (i == base->n_runs || r->space != space || r->first > first ||
	    r->first + r->count - first < count)
		return NULL;
	return page_at(patch_of(base), i, first);
}

static struct kage_err *patch_read(struct kage_pages *base, uint32_t space, uint64_t first,
				   uint64_t count, void *buffer)
{
	memcpy(buffer, patch_borrow(base, space, first, count), count * KAGE_PAGE_BYTES);
	return NULL;
}

static void patch_destroy(struct kage_pages *base)
{
	kage_patch_destroy(patch_of(base));
}

static const struct kage_pages_ops patch_ops = {
	.read = patch_read,
	.borrow = patch_borrow,
	.destroy = patch_destroy,
};

/* --- making ----------------------------------------------------------------------------------- */

/* The pages of N differences, as a fresh array: halves are joined, so that each run is looked at only as
 * often as the number of differences can be halved. */
static struct kage_err *join_runs(const struct difference *d, size_t n, struct page_run **ret_runs,
				  size_t *ret_n)
{
	_cleanup_free_ struct page_run *a = NULL, *b = NULL;
	size_t n_a = 0, n_b = 0;

	if (n <= 1)
		return kage_dirty_union(n ? d->dirty.runs : NULL, n ? d->dirty.n_runs : 0, NULL, 0,
					ret_runs, ret_n);
	TRY(join_runs(d, n / 2, &a, &n_a));
	TRY(join_runs(d + n / 2, n - n / 2, &b, &n_b));
	return kage_dirty_union(a, n_a, b, n_b, ret_runs, ret_n);
}

static struct kage_err *choose_runs(struct patch *p, const struct difference *d, size_t n,
				    const struct page_run *wanted, size_t n_wanted)
{
	_cleanup_free_ struct page_run *all = NULL;
	size_t n_all;

	TRY(join_runs(d, n, &all, &n_all));
	if (wanted)
		TRY(kage_dirty_common(all, n_all, wanted, n_wanted, &p->runs, &p->base.n_runs));
	else {
		p->runs = take_ptr(all);
		p->base.n_runs = n_all;
	}
	p->base.runs = p->runs;
	return NULL;
}

static struct kage_err *number_pages(struct patch *p)
{
	uint64_t pages = 0;

	p->at = malloc((p->base.n_runs + 1) * sizeof(*p->at));
	if (!p->at)
		return kage_err_nomem();
	for (size_t i = 0; i < p->base.n_runs; i++) {
		p->at[i] = pages;
		pages += p->runs[i].count;
	}
	return NULL;
}

static struct kage_err *make_room(struct patch *p)
{
	p->mapped = (kage_pages_total(&p->base) + 1) * KAGE_PAGE_BYTES;
	p->bytes = mmap(NULL, p->mapped, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->bytes == MAP_FAILED) {
		p->bytes = NULL;
		return kage_err_sys(errno, "map %zu bytes for changed pages", p->mapped);
	}
	if (p->mapped >= HUGE_FROM_BYTES)
		madvise(p->bytes, p->mapped, MADV_HUGEPAGE); /* a wish, not a need */
	return NULL;
}

/* --- adding ----------------------------------------------------------------------------------- */

/* Differences are unpacked many at a time, and sorted by page: so each page is changed by all of them while
 * it is in the processor's cache. */

/* What one difference says about one page. */
struct code {
	uint64_t page; /* of the patch */
	size_t at;     /* in the unpacked bytes */
	uint32_t size;
};

struct unpacked {
	uint8_t *bytes;
	size_t n_bytes, max_bytes;
	struct code *codes;
	size_t n_codes;
	size_t run; /* of the patch: the first that ends behind the last page */
};

struct sorted_code {
	const uint8_t *bytes;
	size_t size;
};

struct patch_batch {
	struct patch *patch;
	const struct difference *differences;
	struct unpacked *unpacked; /* of each */
	struct difference_reader readers[WORKERS_MAX];
	size_t n;
	uint64_t n_pages;          /* of the patch */
	size_t *ends;              /* of each page: where its codes end below */
	struct sorted_code *codes; /* by page */
};

static void batch_deinit(struct patch_batch *b)
{
	for (size_t i = 0; b->unpacked && i < b->n; i++) {
		free(b->unpacked[i].bytes);
		free(b->unpacked[i].codes);
	}
	for (size_t i = 0; i < WORKERS_MAX; i++)
		kage_difference_reader_deinit(&b->readers[i]);
	free(b->unpacked);
	free(b->ends);
	free(b->codes);
}

struct unpack {
	const struct patch *patch;
	struct unpacked *to;
};

static struct kage_err *keep_bytes(struct unpacked *u, const uint8_t *bytes, size_t size)
{
	if (u->max_bytes - u->n_bytes < size) {
		size_t max = u->max_bytes * 2 + size;
		uint8_t *grown = realloc(u->bytes, max);

		if (!grown)
			return kage_err_nomem();
		u->bytes = grown;
		u->max_bytes = max;
	}
	memcpy(u->bytes + u->n_bytes, bytes, size);
	u->n_bytes += size;
	return NULL;
}

/* Pages come in ascending order. */
static struct kage_err *keep_code(void *user, uint32_t space, uint64_t page, const uint8_t *code,
				  size_t size)
{
	const struct unpack *now = user;
	const struct patch *p = now->patch;
	struct unpacked *u = now->to;
	const struct page_run *r;

	for (; u->run < p->base.n_runs; u->run++) {
		r = &p->runs[u->run];
		if (r->space > space || (r->space == space && r->first + r->count > page))
			break;
	}
	r = &p->runs[u->run];
	if (u->run == p->base.n_runs || r->space != space || r->first > page)
		return NULL; /* nobody wants it */
	u->codes[u->n_codes++] = (struct code){
		.page = p->at[u->run] + page - r->first,
		.at = u->n_bytes,
		.size = (uint32_t)size,
	};
	return keep_bytes(u, code, size);
}

static struct kage_err *unpack_one(void *user, size_t thread, size_t i)
{
	struct patch_batch *b = user;
	const struct difference *d = &b->differences[i];
	struct unpack now = { b->patch, &b->unpacked[i] };

	now.to->codes = malloc((d->dirty.n_pages + 1) * sizeof(*now.to->codes));
	if (!now.to->codes)
		return kage_err_nomem();
	for (size_t g = 0; g < d->dirty.n_groups; g++)
		TRY(kage_difference_each(d, g, &b->readers[thread], keep_code, &now));
	return NULL;
}

/* Counts the codes of each page, and puts them side by side. */
static struct kage_err *sort_codes(struct patch_batch *b, size_t *ret_n)
{
	size_t total = 0;

	b->ends = calloc(b->n_pages + 1, sizeof(*b->ends));
	if (!b->ends)
		return kage_err_nomem();
	for (size_t i = 0; i < b->n; i++)
		for (size_t j = 0; j < b->unpacked[i].n_codes; j++)
			b->ends[b->unpacked[i].codes[j].page]++;
	for (uint64_t page = 0; page < b->n_pages; page++) { /* first where they begin */
		size_t n = b->ends[page];

		b->ends[page] = total;
		total += n;
	}
	b->codes = malloc((total + 1) * sizeof(*b->codes));
	if (!b->codes)
		return kage_err_nomem();
	for (size_t i = 0; i < b->n; i++)
		for (size_t j = 0; j < b->unpacked[i].n_codes; j++) {
			const struct code *c = &b->unpacked[i].codes[j];

			b->codes[b->ends[c->page]++] =
				(struct sorted_code){ b->unpacked[i].bytes + c->at, c->size };
		}
	*ret_n = total;
	return NULL;
}

/* Page PAGE of the patch, at BYTES. */
static void apply_codes(const struct patch_batch *b, uint64_t page, uint8_t *bytes)
{
	for (size_t i = page ? b->ends[page - 1] : 0; i < b->ends[page]; i++)
		kage_xor_apply(b->codes[i].bytes, b->codes[i].size, bytes);
}

static struct kage_err *apply_some(void *user, size_t thread, size_t i)
{
	struct patch_batch *b = user;
	uint64_t first = i * SLICE_PAGES, end = first + SLICE_PAGES;

	(void)thread;
	end = end < b->n_pages ? end : b->n_pages;
	for (uint64_t page = first; page < end; page++)
		apply_codes(b, page, b->patch->bytes + page * KAGE_PAGE_BYTES);
	return NULL;
}

/* Unpacks N differences, and sorts what they say. */
static struct kage_err *unpack(struct patch_batch *b, struct patch *p, const struct difference *d,
			       size_t n, bool many, size_t *ret_n_codes)
{
	b->patch = p;
	b->differences = d;
	b->n = n;
	b->n_pages = kage_pages_total(&p->base);
	b->unpacked = calloc(n, sizeof(*b->unpacked));
	if (!b->unpacked)
		return kage_err_nomem();
	TRY(kage_workers_run(unpack_one, b, n, many && n > 1));
	return sort_codes(b, ret_n_codes);
}

static struct kage_err *add_batch(struct patch *p, const struct difference *d, size_t n, bool many)
{
	_cleanup_(batch_deinit) struct patch_batch b = { 0 };
	size_t n_codes = 0;

	TRY(unpack(&b, p, d, n, many, &n_codes));
	return kage_workers_run(apply_some, &b, (b.n_pages + SLICE_PAGES - 1) / SLICE_PAGES,
				n_codes >= MANY_PAGES);
}

/* How many of N differences are one batch; *RET_MANY: and worth threads. */
static size_t batch_count(const struct difference *d, size_t n, bool *ret_many)
{
	uint64_t bytes = 0, pages = 0;
	size_t count = 0;

	for (; count < n && (count == 0 || bytes < BATCH_BYTES); count++) {
		bytes +=
			kage_difference_code_bytes(&d[count]) +
			d[count].dirty.n_pages * (sizeof(struct code) + sizeof(struct sorted_code));
		pages += d[count].dirty.n_pages;
	}
	*ret_many = pages >= MANY_PAGES;
	return count;
}

static struct kage_err *add_all(struct patch *p, const struct difference *d, size_t n)
{
	bool many;

	for (size_t done = 0, count; done < n; done += count) {
		count = batch_count(d + done, n - done, &many);
		TRY(add_batch(p, d + done, count, many));
	}
	return NULL;
}

/* What is there to be applied need not become pages, if it can stay in memory: most codes are of a few bytes. */
static struct kage_err *fill(struct patch *p, const struct difference *d, size_t n, bool to_apply)
{
	size_t n_codes;
	bool many;

	if (!to_apply || batch_count(d, n, &many) < n) {
		TRY(make_room(p));
		return add_all(p, d, n);
	}
	p->codes = calloc(1, sizeof(*p->codes));
	if (!p->codes)
		return kage_err_nomem();
	return unpack(p->codes, p, d, n, many, &n_codes);
}

/* --- all of it -------------------------------------------------------------------------------- */

struct kage_err *kage_patch_create(const struct difference *differences, size_t n,
				   const struct page_run *wanted, size_t n_wanted,
				   struct patch **ret_patch)
{
	struct patch *p = calloc(1, sizeof(*p));
	struct kage_err *e;

	if (!p)
		return kage_err_nomem();
	p->base.ops = &patch_ops;
	e = choose_runs(p, differences, n, wanted, n_wanted);
	if (!e)
		e = number_pages(p);
	if (!e)
		e = fill(p, differences, n, wanted);
	if (e) {
		kage_patch_destroy(p);
		return e;
	}
	*ret_patch = p;
	return NULL;
}

/* --- using ------------------------------------------------------------------------------------ */

bool kage_patch_touches(const struct patch *p, uint32_t space, uint64_t first, uint64_t count)
{
	size_t i = kage_pages_find(&p->base, space, first);

	return i < p->base.n_runs && p->runs[i].space == space && p->runs[i].first < first + count;
}

void kage_patch_apply(const struct patch *p, uint32_t space, uint64_t first, uint64_t count,
		      void *bytes)
{
	uint64_t end = first + count;

	for (size_t i = kage_pages_find(&p->base, space, first); i < p->base.n_runs; i++) {
		const struct page_run *r = &p->runs[i];
		uint64_t from = r->first > first ? r->first : first;
		uint64_t to = r->first + r->count < end ? r->first + r->count : end;

		if (r->space != space || r->first >= end)
			break;
		if (p->codes)
			for (uint64_t page = from; page < to; page++)
				apply_codes(p->codes, p->at[i] + page - r->first,
					    (uint8_t *)bytes + (page - first) * KAGE_PAGE_BYTES);
		else
			kage_xor_pages((uint8_t *)bytes + (from - first) * KAGE_PAGE_BYTES,
				       page_at(p, i, from), to - from);
	}
}
