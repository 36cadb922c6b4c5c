/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/look.h"

#include <errno.h>
#include <fcntl.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/memory.h"

enum { SPACE = 1 }; /* of pages of private memory: the process's own */

void look_deinit(struct look *l)
{
	look_untrack(l);
	kage_runs_deinit(&l->populated);
	kage_runs_deinit(&l->guards);
	kage_runs_deinit(&l->unsure);
	kage_runs_deinit(&l->written);
}

void look_untrack(struct look *l)
{
	kage_tracker_destroy(l->tracker);
	kage_softdirty_destroy(l->soft);
	l->tracker = NULL;
	l->soft = NULL;
}

static struct kage_err *found(void *user, uint64_t start, uint64_t end, enum kage_page_state state)
{
	struct look *l = user;
	uint64_t first = start >> KAGE_PAGE_SHIFT, count = (end - start) >> KAGE_PAGE_SHIFT;

	if (state == KAGE_PAGE_UNSURE)
		return kage_runs_add(&l->unsure, SPACE, first, count);
	if (state == KAGE_PAGE_GUARD)
		return kage_runs_add(&l->guards, SPACE, first, count);
	TRY(kage_runs_add(&l->populated, SPACE, first, count));
	return state == KAGE_PAGE_WRITTEN ? kage_runs_add(&l->written, SPACE, first, count) : NULL;
}

static struct kage_err *found_written(void *user, uint64_t start, uint64_t end)
{
	return found(user, start, end, KAGE_PAGE_WRITTEN);
}

static struct kage_err *found_guard(void *user, uint64_t start, uint64_t end)
{
	return found(user, start, end, KAGE_PAGE_GUARD);
}

/* Reads what may be a page or a trace of one. A page it is then, and what is the process's own of them is taken
 * for written. */
static struct kage_err *make_sure(struct look *l, struct kage_target *of, int pagemap)
{
	for (size_t i = 0; i < l->unsure.n; i++) {
		uint64_t start = l->unsure.v[i].first << KAGE_PAGE_SHIFT;
		uint64_t end = start + (l->unsure.v[i].count << KAGE_PAGE_SHIFT);
		char byte;

		for (uint64_t at = start; at < end; at += KAGE_PAGE_BYTES)
			err_drop(kage_target_read(of, addr(at), &byte, 1));
		TRY(kage_pagemap_private(pagemap, start, end, found_written, l));
	}
	kage_runs_clear(&l->unsure);
	return NULL;
}

/* All that is there may have been written. */
static struct kage_err *look_untracked(struct look *l, const struct kage_vma *v, int pagemap)
{
	TRY(kage_pagemap_guards(pagemap, v->start, v->end, found_guard, l));
	return kage_pagemap_private(pagemap, v->start, v->end, found_written, l);
}

/* The protection of a page of hugetlbfs outlives it (MADV_DONTNEED): of the zeros that come next it would be told that
 * nobody has written them. */
static bool can_be_tracked(const struct kage_vma *v)
{
	return !kage_vma_has(v, VMFLAG('h', 't'));
}

/* Most mappings of a library have none of the process's own, but thousands of the file's, which a look would pass by. */
static bool has_pages(const struct kage_vma *v)
{
	return !v->untouched && kage_memory_is_private(v);
}

/* Looks at mapping *I of MAPS and, if they can be looked at together, at those behind it; *I is the last of these then. */
static struct kage_err *look_at(struct look *l, const struct kage_maps *maps, size_t *i,
				int pagemap, bool sliced)
{
	const struct kage_vma *v = &maps->vmas[*i];
	size_t n = 1;

	if (l->soft)
		return kage_softdirty_look(l->soft, v, pagemap, found, l);
	if (!l->tracker)
		return look_untracked(l, v, pagemap);
	if (!can_be_tracked(v))
		return kage_pagemap_private(pagemap, v->start, v->end, found_written, l);
	while (*i + 1 < maps->n && has_pages(&maps->vmas[*i + 1]) &&
	       can_be_tracked(&maps->vmas[*i + 1])) {
		++*i;
		n++;
	}
	return kage_tracker_look(l->tracker, pagemap, v, n, sliced, found, l);
}

static struct kage_err *open_pagemap(const struct kage_target *of, int *ret_fd)
{
	*ret_fd = openat(of->proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);
	return *ret_fd < 0 ? kage_err_sys(errno, "open /proc/%d/pagemap", of->pid) : NULL;
}

struct kage_err *look_in(struct look *l, struct kage_target *of, const struct kage_maps *maps,
			 look_which_fn *which, bool sliced)
{
	_cleanup_fd_ int pagemap = -1;
	struct kage_err *e = NULL;

	TRY(open_pagemap(of, &pagemap));
	kage_runs_clear(&l->guards);
	kage_runs_clear(&l->unsure);
	for (size_t i = 0; i < maps->n && !e; i++) {
		const struct kage_vma *v = &maps->vmas[i];

		if (has_pages(v) && (!which || which(v)))
			e = look_at(l, maps, &i, pagemap, sliced);
	}
	if (!e)
		e = make_sure(l, of, pagemap);
	kage_runs_sort(&l->populated);
	kage_runs_sort(&l->guards);
	kage_runs_sort(&l->written);
	return e;
}

struct kage_err *look_at_page(struct look *l, const struct kage_target *of, uint64_t page)
{
	_cleanup_fd_ int pagemap = -1;

	TRY(open_pagemap(of, &pagemap));
	TRY(kage_pagemap_private(pagemap, page, page + KAGE_PAGE_BYTES, found_written, l));
	kage_runs_sort(&l->populated);
	kage_runs_sort(&l->written);
	return NULL;
}
