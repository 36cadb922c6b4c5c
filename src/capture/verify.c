/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/verify.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/runs.h"
#include "kind/memory.h"
#include "sys/pagemap.h"

struct kage_err *verify_init(struct kage_capture *c)
{
	TRY(kage_mem_pages_create(&c->verify.before));
	return kage_mem_pages_create(&c->verify.after);
}

void verify_deinit(struct kage_capture *c)
{
	kage_mem_pages_destroy(c->verify.before);
	kage_mem_pages_destroy(c->verify.after);
}

struct kage_err *verify_copy(struct kage_capture *c, struct mem_pages *to)
{
	struct mem_pages *pages = c->pages;
	struct kage_err *e;

	if (!to)
		return NULL;
	kage_mem_pages_clear(to);
	c->pages = to;
	e = kage_memory_copy(c, c->target, NULL);
	c->pages = pages;
	return e;
}

/* --- comparing -------------------------------------------------------------------------------- */

struct comparing {
	struct kage_pages *image, *before, *after;
	pid_t pid;
};

static struct kage_err *missed(const struct comparing *k, uint64_t page)
{
	return kage_err_new(
		KAGE_CORRUPT,
		"the image differs from the memory of process %d at %#llx: a change was "
		"missed",
		k->pid, (unsigned long long)(page * KAGE_PAGE_BYTES));
}

/* Pages of P, those that it has not are zeros, as fresh bytes. */
static struct kage_err *read_pages(struct kage_pages *p, uint32_t space, uint64_t first,
				   uint64_t count, uint8_t **ret_bytes)
{
	*ret_bytes = malloc(count * KAGE_PAGE_BYTES);
	return *ret_bytes ? kage_pages_read(p, space, first, count, *ret_bytes) : kage_err_nomem();
}

/* These pages of the image are as before or as after. */
static struct kage_err *compare_piece(void *user, uint32_t space, uint64_t first, uint64_t count,
				      const void *bytes)
{
	const struct comparing *k = user;
	_cleanup_free_ uint8_t *image = NULL, *before = NULL, *after = NULL;

	(void)bytes;
	TRY(read_pages(k->image, space, first, count, &image));
	TRY(read_pages(k->before, space, first, count, &before));
	TRY(read_pages(k->after, space, first, count, &after));
	for (uint64_t i = 0; i < count; i++) {
		size_t at = i * KAGE_PAGE_BYTES;

		if (memcmp(image + at, after + at, KAGE_PAGE_BYTES) != 0 &&
		    memcmp(image + at, before + at, KAGE_PAGE_BYTES) != 0)
			return missed(k, first + i);
	}
	return NULL;
}

/* Into SPLIT what A has and B has not, of SPACE. */
static struct kage_err *minus(const struct kage_pages *a, const struct kage_pages *b,
			      uint32_t space, struct page_runs *split)
{
	struct page_runs of_a = { 0 };
	struct kage_err *e = NULL;

	for (size_t i = 0; i < a->n_runs && !e; i++)
		if (a->runs[i].space == space)
			e = kage_runs_add_all(&of_a, &a->runs[i], 1);
	if (!e)
		e = kage_runs_minus(of_a.v, of_a.n, b->runs, b->n_runs, split);
	kage_runs_deinit(&of_a);
	kage_runs_sort(split);
	return e;
}

/* Pages that the image has are in one of the copies. */
static struct kage_err *check_not_stale(const struct comparing *k, uint32_t space)
{
	struct page_runs gone = { 0 }, stale = { 0 };
	struct kage_err *e = minus(k->image, k->after, space, &gone);

	if (!e)
		e = kage_runs_minus(gone.v, gone.n, k->before->runs, k->before->n_runs, &stale);
	if (!e && stale.n)
		e = missed(k, stale.v[0].first);
	kage_runs_deinit(&gone);
	kage_runs_deinit(&stale);
	return e;
}

/* Pages that both copies have are in the image. */
static struct kage_err *check_not_missing(const struct comparing *k, uint32_t space)
{
	struct page_runs came = { 0 }, missing = { 0 }, gone = { 0 };
	struct kage_err *e = minus(k->after, k->image, space, &missing);

	if (!e)
		e = minus(k->after, k->before, space, &came);
	if (!e)
		e = kage_runs_minus(missing.v, missing.n, came.v, came.n, &gone);
	if (!e && gone.n)
		e = missed(k, gone.v[0].first);
	kage_runs_deinit(&came);
	kage_runs_deinit(&missing);
	kage_runs_deinit(&gone);
	return e;
}

static bool can_scan(const struct kage_target *t)
{
	_cleanup_fd_ int pagemap = openat(t->proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);

	return pagemap >= 0 && kage_pagemap_can_scan(pagemap);
}

static struct kage_err *compare(const struct comparing *k, uint32_t space, bool scanned)
{
	/* Without PAGEMAP_SCAN the kernel's zero page looks like any other, and a twin has none where nothing was
	 * written: then one of them has zeros for nothing. */
	if (scanned) {
		TRY(check_not_stale(k, space));
		TRY(check_not_missing(k, space));
	}
	TRY(kage_pages_each(k->after, 0, compare_piece, (void *)k));
	return kage_pages_each(k->image, space, compare_piece, (void *)k);
}

struct kage_err *verify_compare(struct kage_capture *c)
{
	struct comparing k = { .image = c->image->pages, .pid = c->target->pid };

	if (!c->verify.after)
		return NULL;
	k.before = kage_mem_pages_finish(c->verify.before);
	k.after = kage_mem_pages_finish(c->verify.after);
	return compare(&k, c->process->memory->space, can_scan(c->target));
}
