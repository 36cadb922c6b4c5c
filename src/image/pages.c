/* SPDX-License-Identifier: Apache-2.0 */
#include "image/pages.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/types.h"

/* --- any pages -------------------------------------------------------------------------------- */

static uint64_t run_end(const struct page_run *r)
{
	return r->first + r->count;
}

size_t kage_pages_find(const struct kage_pages *p, uint32_t space, uint64_t first)
{
	size_t low = 0, high = p->n_runs;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct page_run *r = &p->runs[mid];

		if (r->space < space || (r->space == space && run_end(r) <= first))
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct kage_err *kage_pages_read(struct kage_pages *p, uint32_t space, uint64_t first,
				 uint64_t count, void *buffer)
{
	unsigned char *at = buffer;

	for (size_t i = kage_pages_find(p, space, first); count > 0; i++) {
		bool more = i < p->n_runs && p->runs[i].space == space;
		uint64_t hole = more && p->runs[i].first > first ? p->runs[i].first - first : 0;
		uint64_t n = 0;

		if (!more || hole > count)
			hole = count;
		memset(at, 0, hole * KAGE_PAGE_BYTES);
		at += hole * KAGE_PAGE_BYTES;
		first += hole;
		count -= hole;
		if (count == 0)
			break;
		n = run_end(&p->runs[i]) - first;
		n = n < count ? n : count;
		TRY(p->ops->read(p, space, first, n, at));
		at += n * KAGE_PAGE_BYTES;
		first += n;
		count -= n;
	}
	return NULL;
}

/* One run in pieces, through BUFFER where the pages cannot be borrowed. */
static struct kage_err *each_of_run(struct kage_pages *p, const struct page_run *r, void *buffer,
				    kage_pages_fn *fn, void *user)
{
	for (uint64_t done = 0, n; done < r->count; done += n) {
		const void *bytes = NULL;

		n = r->count - done < KAGE_PAGES_PIECE ? r->count - done : KAGE_PAGES_PIECE;
		if (p->ops->borrow)
			bytes = p->ops->borrow(p, r->space, r->first + done, n);
		if (!bytes) {
			TRY(p->ops->read(p, r->space, r->first + done, n, buffer));
			bytes = buffer;
		}
		TRY(fn(user, r->space, r->first + done, n, bytes));
	}
	return NULL;
}

struct kage_err *kage_pages_each(struct kage_pages *p, uint32_t space, kage_pages_fn *fn,
				 void *user)
{
	_cleanup_free_ void *buffer = NULL;

	if (p->ops->each)
		return p->ops->each(p, space, fn, user);
	buffer = malloc((size_t)KAGE_PAGES_PIECE * KAGE_PAGE_BYTES);
	if (!buffer)
		return kage_err_nomem();
	for (size_t i = 0; i < p->n_runs; i++)
		if (!space || p->runs[i].space == space)
			TRY(each_of_run(p, &p->runs[i], buffer, fn, user));
	return NULL;
}

uint64_t kage_pages_total(const struct kage_pages *p)
{
	uint64_t total = 0;

	for (size_t i = 0; i < p->n_runs; i++)
		total += p->runs[i].count;
	return total;
}

/* --- pages in our memory ---------------------------------------------------------------------- */

/* Small targets have a few dozen pages: zeroing a huge page for them would cost more than all the
 * rest. So the first chunk is small, and only large ones ask for huge pages. */
enum {
	FIRST_CHUNK_BYTES = 256 * 1024,
	CHUNK_BYTES = 32 * 1024 * 1024,
	HUGE_BYTES = 2 * 1024 * 1024,
	HUGE_FROM_BYTES = 8 * 1024 * 1024,
	SPARE_RUNS = 1024,
};

struct mem_chunk {
	void *mapping;
	size_t mapped;
	unsigned char *bytes; /* within the mapping */
	size_t size, used;
	size_t faulted; /* of SIZE, from the beginning */
};

struct mem_run {
	struct page_run run;
	unsigned char *bytes;
};

struct mem_pages {
	struct kage_pages base;
	struct mem_chunk *chunks; /* the last one is being filled */
	size_t n_chunks;
	struct mem_run *items;
	size_t n_items, max_items;
	struct page_run *runs; /* room for as many; after finish: base.runs, item by item */
};

static struct mem_pages *mem_of(struct kage_pages *p)
{
	return (struct mem_pages *)p;
}

void kage_mem_pages_destroy(struct mem_pages *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n_chunks; i++)
		munmap(m->chunks[i].mapping, m->chunks[i].mapped);
	free(m->chunks);
	free(m->items);
	free(m->runs);
	free(m);
}

static void mem_destroy(struct kage_pages *p)
{
	kage_mem_pages_destroy(mem_of(p));
}

static const void *mem_borrow(struct kage_pages *p, uint32_t space, uint64_t first, uint64_t count)
{
	size_t i = kage_pages_find(p, space, first);
	const struct mem_run *item;

	if (i == p->n_runs)
		return NULL;
	item = &mem_of(p)->items[i];
	if (item->run.space != space || item->run.first > first ||
	    run_end(&item->run) - first < count)
		return NULL;
	return item->bytes + (first - item->run.first) * KAGE_PAGE_BYTES;
}

static struct kage_err *mem_read(struct kage_pages *p, uint32_t space, uint64_t first,
				 uint64_t count, void *buffer)
{
	const void *bytes = mem_borrow(p, space, first, count);

	if (!bytes)
		return kage_err_new(KAGE_INVALID, "pages %#llx+%llu of space %u are not in one run",
				    (unsigned long long)first, (unsigned long long)count, space);
	memcpy(buffer, bytes, count * KAGE_PAGE_BYTES);
	return NULL;
}

static const struct kage_pages_ops mem_ops = {
	.read = mem_read,
	.borrow = mem_borrow,
	.destroy = mem_destroy,
};

struct kage_err *kage_mem_pages_create(struct mem_pages **ret_pages)
{
	struct mem_pages *m = calloc(1, sizeof(*m));

	if (!m)
		return kage_err_nomem();
	m->base.ops = &mem_ops;
	*ret_pages = m;
	return NULL;
}

/* Maps a chunk of SIZE bytes, which becomes the last. Large ones begin at a huge page. */
static struct kage_err *add_chunk(struct mem_pages *m, size_t size)
{
	size_t align = size >= HUGE_FROM_BYTES ? HUGE_BYTES : KAGE_PAGE_BYTES;
	struct mem_chunk c = { .size = size }, *grown;

	grown = realloc(m->chunks, (m->n_chunks + 1) * sizeof(*grown));
	if (!grown)
		return kage_err_nomem();
	m->chunks = grown;
	c.mapped = size + align - KAGE_PAGE_BYTES;
	c.mapping = mmap(NULL, c.mapped, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c.mapping == MAP_FAILED)
		return kage_err_sys(errno, "map %zu bytes for pages of an image", c.mapped);
	c.bytes = (unsigned char *)(((uintptr_t)c.mapping + align - 1) & ~(uintptr_t)(align - 1));
	if (align == HUGE_BYTES)
		madvise(c.bytes, size, MADV_HUGEPAGE); /* a wish, not a need */
	m->chunks[m->n_chunks++] = c;
	return NULL;
}

static struct kage_err *reserve_items(struct mem_pages *m, size_t spare)
{
	size_t n = m->max_items ? m->max_items * 2 : 64;
	struct mem_run *items;
	struct page_run *runs;

	if (m->max_items - m->n_items >= spare)
		return NULL;
	if (n < m->n_items + spare)
		n = m->n_items + spare;
	items = realloc(m->items, n * sizeof(*items));
	if (!items)
		return kage_err_nomem();
	m->items = items;
	runs = realloc(m->runs, n * sizeof(*runs));
	if (!runs)
		return kage_err_nomem();
	m->runs = runs;
	m->max_items = n;
	/* Touched here, so that it does not fault later. */
	memset(m->items + m->n_items, 0, (n - m->n_items) * sizeof(*items));
	return NULL;
}

/* The first END bytes of C. */
static struct kage_err *fault_in(struct mem_chunk *c, size_t end)
{
	size_t begin = c->faulted > c->used ? c->faulted : c->used;

	if (end <= begin)
		return NULL;
	if (madvise(c->bytes + begin, end - begin, MADV_POPULATE_WRITE) < 0) {
		if (errno != EINVAL) /* a kernel before 5.14 does not know it */
			return kage_err_sys(errno, "get %zu bytes of memory for pages of an image",
					    end - begin);
		for (size_t at = begin; at < end; at += KAGE_PAGE_BYTES)
			((volatile unsigned char *)c->bytes)[at] = 0;
	}
	c->faulted = end;
	return NULL;
}

struct kage_err *kage_mem_pages_reserve(struct mem_pages *m, uint64_t bytes)
{
	struct mem_chunk *c = m->n_chunks ? &m->chunks[m->n_chunks - 1] : NULL;

	TRY(reserve_items(m, SPARE_RUNS));
	bytes = page_ceil(bytes);
	if (!c || c->size - c->used < bytes) {
		TRY(add_chunk(m, bytes ? bytes : KAGE_PAGE_BYTES));
		c = &m->chunks[m->n_chunks - 1];
	}
	return fault_in(c, c->used + bytes);
}

struct kage_err *kage_mem_pages_add(struct mem_pages *m, uint32_t space, uint64_t first,
				    uint64_t count, void **ret_bytes)
{
	uint64_t bytes = count * KAGE_PAGE_BYTES;
	struct mem_chunk *c = m->n_chunks ? &m->chunks[m->n_chunks - 1] : NULL;

	if (space == 0 || count == 0 || count > (uint64_t)1 << 40 || first > UINT64_MAX - count)
		return kage_err_new(KAGE_INVALID, "%llu pages from %#llx of space %u make no run",
				    (unsigned long long)count, (unsigned long long)first, space);
	TRY(reserve_items(m, 1));
	if (!c || c->size - c->used < bytes) {
		size_t size = m->n_chunks ? CHUNK_BYTES : FIRST_CHUNK_BYTES;

		TRY(add_chunk(m, bytes > size ? bytes : size));
		c = &m->chunks[m->n_chunks - 1];
	}
	m->items[m->n_items++] = (struct mem_run){
		.run = { .space = space, .first = first, .count = count },
		.bytes = c->bytes + c->used,
	};
	*ret_bytes = c->bytes + c->used;
	c->used += bytes;
	return NULL;
}

void kage_mem_pages_trim(struct mem_pages *m, uint64_t count)
{
	struct mem_run *last = m->n_items ? &m->items[m->n_items - 1] : NULL;

	if (!last || count >= last->run.count)
		return;
	m->chunks[m->n_chunks - 1].used -= (last->run.count - count) * KAGE_PAGE_BYTES;
	last->run.count = count;
	if (count == 0)
		m->n_items--;
}

void kage_mem_pages_clear(struct mem_pages *m)
{
	struct mem_chunk kept = { 0 };

	for (size_t i = 0; i < m->n_chunks; i++) {
		struct mem_chunk c = m->chunks[i];

		if (c.used > c.faulted)
			c.faulted = c.used;
		if (c.faulted > kept.faulted || !kept.mapping) {
			struct mem_chunk smaller = kept;

			kept = c;
			c = smaller;
		}
		if (c.mapping)
			munmap(c.mapping, c.mapped);
	}
	m->n_chunks = kept.mapping != NULL;
	if (m->n_chunks)
		m->chunks[0] = kept;
	if (m->n_chunks)
		m->chunks[0].used = 0;
	m->n_items = 0;
}

uint64_t kage_mem_pages_room(const struct mem_pages *m)
{
	return m->n_chunks ? m->chunks[0].faulted : 0;
}

struct mem_pages *kage_mem_pages_of(struct kage_pages *p)
{
	return p && p->ops == &mem_ops ? mem_of(p) : NULL;
}

static int compare_items(const void *a, const void *b)
{
	const struct page_run *x = &((const struct mem_run *)a)->run;
	const struct page_run *y = &((const struct mem_run *)b)->run;

	if (x->space != y->space)
		return x->space < y->space ? -1 : 1;
	return x->first < y->first ? -1 : x->first > y->first;
}

static void join_items(struct mem_pages *m)
{
	size_t n = 0;

	for (size_t i = 0; i < m->n_items; i++) {
		struct mem_run *item = &m->items[i], *before = n ? &m->items[n - 1] : NULL;

		if (before && before->run.space == item->run.space &&
		    run_end(&before->run) == item->run.first &&
		    before->bytes + before->run.count * KAGE_PAGE_BYTES == item->bytes)
			before->run.count += item->run.count;
		else
			m->items[n++] = *item;
	}
	m->n_items = n;
}

static bool sorted(const struct mem_pages *m)
{
	for (size_t i = 1; i < m->n_items; i++)
		if (compare_items(&m->items[i - 1], &m->items[i]) > 0)
			return false;
	return true;
}

struct kage_pages *kage_mem_pages_finish(struct mem_pages *m)
{
	if (!sorted(m))
		qsort(m->items, m->n_items, sizeof(*m->items), compare_items);
	join_items(m);
	for (size_t i = 0; i < m->n_items; i++)
		m->runs[i] = m->items[i].run;
	m->base.runs = m->runs;
	m->base.n_runs = m->n_items;
	return &m->base;
}
