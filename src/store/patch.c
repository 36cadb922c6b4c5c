/* SPDX-License-Identifier: Apache-2.0 */
#include "store/patch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"

enum {
	HUGE_FROM_BYTES = 8 << 20,
	MANY_PAGES = 4096, /* from here on threads are worth it */
	MAX_THREADS = 3,   /* beside the one that asks */
	STRIPES = 256,
};

void kage_patch_destroy(struct patch *p)
{
	if (!p)
		return;
	if (p->bytes)
		munmap(p->bytes, p->mapped);
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

static struct kage_err *make_room(struct patch *p)
{
	uint64_t pages = 0;

	p->at = malloc((p->base.n_runs + 1) * sizeof(*p->at));
	if (!p->at)
		return kage_err_nomem();
	for (size_t i = 0; i < p->base.n_runs; i++) {
		p->at[i] = pages;
		pages += p->runs[i].count;
	}
	p->mapped = (pages + 1) * KAGE_PAGE_BYTES;
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

/* --- adding, by several threads --------------------------------------------------------------- */

/* Each takes the next difference that nobody has taken. A page is changed under the lock of its stripe:
 * differences of different images often have the same pages. */
struct adder {
	struct patch *patch;
	const struct difference *differences;
	size_t n;
	pthread_mutex_t lock; /* of the two below */
	size_t n_taken;
	struct kage_err *e;
	pthread_mutex_t stripes[STRIPES];
};

/* Where the pages of one difference go, which come in ascending order. */
struct walk {
	struct adder *adder;
	size_t run;              /* the first that ends behind the last page asked for */
	pthread_mutex_t *locked; /* that of the last page, or NULL */
};

static void unlock(struct walk *w)
{
	if (w->locked)
		pthread_mutex_unlock(w->locked);
	w->locked = NULL;
}

static void *lock_page(struct walk *w, uint64_t page)
{
	w->locked = &w->adder->stripes[page % STRIPES];
	pthread_mutex_lock(w->locked);
	return page_at(w->adder->patch, w->run, page);
}

static void *find_page(void *user, uint32_t space, uint64_t page)
{
	struct walk *w = user;
	const struct patch *p = w->adder->patch;

	unlock(w);
	while (w->run < p->base.n_runs) {
		const struct page_run *r = &p->runs[w->run];

		if (r->space > space || (r->space == space && r->first > page))
			return NULL;
		if (r->space == space && r->first + r->count > page)
			return lock_page(w, page);
		w->run++;
	}
	return NULL;
}

static struct kage_err *add(struct adder *a, const struct difference *d,
			    struct difference_reader *reader)
{
	struct walk w = { .adder = a };
	struct kage_err *e = NULL;

	for (size_t g = 0; !e && g < d->dirty.n_groups; g++) {
		e = kage_difference_apply(d, g, reader, find_page, &w);
		unlock(&w);
	}
	return e;
}

/* The next difference, NULL at the end or after an error. E is that of the last one. */
static const struct difference *take_next(struct adder *a, struct kage_err *e)
{
	const struct difference *d = NULL;

	pthread_mutex_lock(&a->lock);
	if (!a->e)
		a->e = e;
	else
		err_drop(e);
	if (!a->e && a->n_taken < a->n)
		d = &a->differences[a->n_taken++];
	pthread_mutex_unlock(&a->lock);
	return d;
}

static void *thread_main(void *arg)
{
	struct difference_reader reader = { 0 };
	struct adder *a = arg;
	const struct difference *d = take_next(a, NULL);

	while (d)
		d = take_next(a, add(a, d, &reader));
	kage_difference_reader_deinit(&reader);
	return NULL;
}

/* How many threads beside this one are worth it. Signals are for those that were there before. */
static size_t start_threads(struct adder *a, pthread_t *threads)
{
	long n_processors = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t pages = 0;
	sigset_t all, old;
	size_t n = 0;

	for (size_t i = 0; i < a->n; i++)
		pages += a->differences[i].dirty.n_pages;
	if (a->n < 2 || pages < MANY_PAGES)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (n < MAX_THREADS && (long)n + 1 < n_processors &&
	       pthread_create(&threads[n], NULL, thread_main, a) == 0)
		n++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return n;
}

static struct kage_err *add_all(struct patch *p, const struct difference *d, size_t n)
{
	struct adder a = { .patch = p, .differences = d, .n = n };
	pthread_t threads[MAX_THREADS];
	size_t n_threads;

	pthread_mutex_init(&a.lock, NULL);
	for (size_t i = 0; i < STRIPES; i++)
		pthread_mutex_init(&a.stripes[i], NULL);
	n_threads = start_threads(&a, threads);
	thread_main(&a);
	for (size_t i = 0; i < n_threads; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < STRIPES; i++)
		pthread_mutex_destroy(&a.stripes[i]);
	pthread_mutex_destroy(&a.lock);
	return a.e;
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
		e = make_room(p);
	if (!e)
		e = add_all(p, differences, n);
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
		kage_xor_pages((uint8_t *)bytes + (from - first) * KAGE_PAGE_BYTES,
			       page_at(p, i, from), to - from);
	}
}
