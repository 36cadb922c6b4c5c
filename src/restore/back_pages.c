/* SPDX-License-Identifier: Apache-2.0 */
#include "restore/back_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/memory.h"
#include "restore/restore.h"
#include "sys/kernel.h"
#include "sys/pagemap.h"

enum {
	ENTRIES = 4096,
	MANY_PAGES = 2048, /* below, comparing frames is cheap enough */
	NEAR_PAGES = 2048,
	PIECE_PAGES = 256, /* copied at once: in the processor's cache in between */
};

/* Sets of pages of the address space. */
struct pages {
	struct back *k;
	int theirs, twins;              /* pagemaps of the program and of the twin */
	const struct page_runs *wanted; /* that the twin has */
	struct page_runs now;           /* that the program has, where it is mapped as it was */
	struct page_runs
		written; /* of these, with tracking: since it was taken back the last time */
	struct page_runs guards; /* that the program has */
	struct page_runs huge;   /* with tracking: what is not tracked */
	struct page_runs drop, copy;
	struct kage_maps map; /* of the program, unless it is still the one that is known */
	struct kage_vma *own; /* the mappings of it that can have such pages */
	size_t n_own;
};

static void deinit(struct pages *p)
{
	close_fd(p->theirs);
	close_fd(p->twins);
	kage_runs_deinit(&p->now);
	kage_runs_deinit(&p->written);
	kage_runs_deinit(&p->guards);
	kage_runs_deinit(&p->huge);
	kage_maps_deinit(&p->map);
	free(p->own);
	kage_runs_deinit(&p->drop);
	kage_runs_deinit(&p->copy);
}

static struct kage_err *add(void *user, uint64_t start, uint64_t end)
{
	return kage_runs_add(user, 0, start >> KAGE_PAGE_SHIFT, (end - start) >> KAGE_PAGE_SHIFT);
}

/* --- which pages ------------------------------------------------------------------------------ */

static struct kage_err *find_wanted(struct pages *p)
{
	const Kage__Memory *m = p->k->r->process->memory;
	struct cloned_instant *then = p->k->then;

	p->wanted = &then->own;
	if (then->knows_own)
		return NULL;
	kage_runs_clear(&then->own);
	for (size_t i = 0; i < m->n_mappings; i++)
		if (kage_memory_is_carried(m->mappings[i]))
			TRY(kage_pagemap_private(p->twins, m->mappings[i]->start,
						 m->mappings[i]->end, add, &then->own));
	kage_runs_sort(&then->own);
	then->knows_own = true;
	return NULL;
}

static struct kage_err *find_now(struct pages *p, const struct page_runs *kept)
{
	for (size_t i = 0; i < kept->n; i++)
		TRY(kage_pagemap_private(p->theirs, kept->v[i].first << KAGE_PAGE_SHIFT,
					 (kept->v[i].first + kept->v[i].count) << KAGE_PAGE_SHIFT,
					 add, &p->now));
	kage_runs_sort(&p->now);
	return NULL;
}

/* Documentation/admin-guide/mm/pagemap.rst: bits 0-54 say which frame, or where in swap; without the right to know they are
 * zero. */
static const uint64_t where = (1ull << 55) - 1, how = 3ull << 62;

static bool same_frame(uint64_t a, uint64_t b)
{
	return ((a ^ b) & (where | how)) == 0;
}

static struct kage_err *read_entries(int fd, uint64_t first, uint64_t n, uint64_t *entries)
{
	size_t got = 0;

	TRY(kage_file_read(fd, entries, n * sizeof(*entries), (off_t)(first * sizeof(*entries)),
			   "pagemap", &got));
	return got == n * sizeof(*entries) ? NULL
					   : kage_err_new(KAGE_CHANGED, "a page map ended early");
}

static struct kage_err *read_pages(struct kage_target *t, uint64_t first, uint64_t n, void *to)
{
	return kage_target_read(t, addr(first << KAGE_PAGE_SHIFT), to, n << KAGE_PAGE_SHIFT);
}

/* Without the right to know where they are. */
static struct kage_err *compare_contents(struct pages *p, uint64_t first, uint64_t n)
{
	_cleanup_free_ uint8_t *mine = malloc(PIECE_PAGES << KAGE_PAGE_SHIFT);
	_cleanup_free_ uint8_t *other = malloc(PIECE_PAGES << KAGE_PAGE_SHIFT);

	if (!mine || !other)
		return kage_err_nomem();
	for (uint64_t done = 0, some; done < n; done += some) {
		some = n - done < PIECE_PAGES ? n - done : PIECE_PAGES;
		TRY(read_pages(p->k->program, first + done, some, mine));
		TRY(read_pages(p->k->r->twin->process, first + done, some, other));
		for (uint64_t i = 0; i < some; i++)
			if (memcmp(mine + (i << KAGE_PAGE_SHIFT), other + (i << KAGE_PAGE_SHIFT),
				   KAGE_PAGE_BYTES) != 0)
				TRY(kage_runs_add(&p->copy, 0, first + done + i, 1));
	}
	return NULL;
}

/* Of the pages of RUN, which both have, those that are not the same. */
static struct kage_err *compare_run(struct pages *p, const struct page_run *run, uint64_t *mine,
				    uint64_t *other)
{
	for (uint64_t done = 0, n; done < run->count; done += n) {
		n = run->count - done < ENTRIES ? run->count - done : ENTRIES;
		TRY(read_entries(p->theirs, run->first + done, n, mine));
		TRY(read_entries(p->twins, run->first + done, n, other));
		if (!((mine[0] | other[0]) & where)) {
			TRY(compare_contents(p, run->first + done, n));
			continue;
		}
		for (uint64_t i = 0; i < n; i++)
			if (!same_frame(mine[i], other[i]))
				TRY(kage_runs_add(&p->copy, 0, run->first + done + i, 1));
	}
	return NULL;
}

static struct kage_err *compare_frames(struct pages *p, const struct page_runs *now)
{
	_cleanup_free_ uint64_t *entries = calloc(2 * ENTRIES, sizeof(*entries));
	struct page_runs both = { 0 };
	struct kage_err *e;

	if (!entries)
		return kage_err_nomem();
	e = kage_runs_common(p->wanted, now, &both);
	for (size_t i = 0; !e && i < both.n; i++)
		e = compare_run(p, &both.v[i], entries, entries + ENTRIES);
	kage_runs_deinit(&both);
	return e;
}

static bool is_huge(const struct kage_vma *v)
{
	return kage_vma_has(v, VMFLAG('h', 'g')) || kage_vma_has(v, VMFLAG('h', 't'));
}

static struct kage_err *compare_huge(struct pages *p, bool same_map)
{
	const struct kage_maps *map = same_map ? &p->k->now : &p->map;

	for (size_t i = 0; i < map->n; i++)
		if (kage_memory_is_private(&map->vmas[i]) && is_huge(&map->vmas[i]))
			TRY(kage_pagemap_private(p->theirs, map->vmas[i].start, map->vmas[i].end,
						 add, &p->huge));
	kage_runs_sort(&p->huge);
	TRY(compare_frames(p, &p->huge));
	return kage_runs_add_all(&p->now, p->huge.v, p->huge.n);
}

/* Pages of the twin where the program's are tracked. */
static uint64_t n_tracked(const struct pages *p)
{
	uint64_t n = 0;

	for (size_t i = 0, m = 0; i < p->wanted->n; i++) {
		const struct page_run *run = &p->wanted->v[i];

		while (m < p->n_own && p->own[m].end >> KAGE_PAGE_SHIFT <= run->first)
			m++;
		if (m < p->n_own && p->own[m].start >> KAGE_PAGE_SHIFT <= run->first)
			n += run->count;
	}
	return n;
}

/* --- tracking --------------------------------------------------------------------------------- */

static bool is_tracked(const struct back *k)
{
	const struct back_tracking *t = k->tracking;

	return t->tracker && t->twin == k->r->twin && !kage_tracker_is_dead(t->tracker);
}

static struct kage_err *note_state(void *user, uint64_t start, uint64_t end,
				   enum kage_page_state state)
{
	struct pages *p = user;

	if (state == KAGE_PAGE_GUARD)
		return add(&p->guards, start, end);
	if (state != KAGE_PAGE_SAME)
		TRY(add(&p->written, start, end));
	return add(&p->now, start, end);
}

static struct kage_err *note_nothing(void *user, uint64_t start, uint64_t end,
				     enum kage_page_state state)
{
	(void)user, (void)start, (void)end, (void)state;
	return NULL;
}

/* A huge page would be split by the first byte that is written to it; of those frames are compared. */
static bool is_tracked_kind(const struct back *k, const struct kage_vma *v)
{
	return kage_memory_is_private(v) && !v->untouched && !is_huge(v) && !back_is_hand(k, v);
}

static struct kage_err *find_own(struct pages *p, bool same_map)
{
	const struct kage_maps *map = same_map ? &p->k->now : &p->map;

	if (!same_map) {
		TRY(back_flush(p->k));
		TRY(back_read_maps(p->k, &p->map));
	}
	p->own = calloc(map->n + 1, sizeof(*p->own));
	if (!p->own)
		return kage_err_nomem();
	for (size_t i = 0; i < map->n; i++)
		if (is_tracked_kind(p->k, &map->vmas[i]))
			p->own[p->n_own++] = map->vmas[i];
	return NULL;
}

static struct kage_err *look(struct pages *p, kage_pagemap_changes_fn *fn)
{
	TRY(kage_tracker_look(p->k->tracking->tracker, p->theirs, p->own, p->n_own, false, fn, p));
	kage_runs_sort(&p->now);
	kage_runs_sort(&p->written);
	kage_runs_sort(&p->guards);
	return NULL;
}

/* For the next time. Without it frames are compared again. */
static struct kage_err *track(struct pages *p)
{
	struct back_tracking *t = p->k->tracking;
	struct kage_err *e = NULL;

	t->twin = NULL;
	if (n_tracked(p) < MANY_PAGES)
		return NULL;
	TRY(back_flush(p->k));
	if (t->tracker && kage_tracker_is_dead(t->tracker))
		kage_back_untrack(t);
	if (!t->tracker)
		e = kage_tracker_create(p->k->program, p->k->program->threads[0], &t->tracker);
	if (!e)
		e = look(p, note_nothing);
	if (!e)
		t->twin = p->k->r->twin;
	if (e && kage_err_code(e) != KAGE_UNSUPPORTED && kage_err_code(e) != KAGE_PERM)
		return e;
	err_drop(e);
	return NULL;
}

/* What was put back was written by that. Runs that are near each other, and of one mapping, are protected together. What is
 * not tracked is told as written the next time, too. */
static struct kage_err *protect_again(struct pages *p)
{
	const struct page_run *v = p->copy.v;
	bool tracked;

	for (size_t i = 0, next, m = 0; i < p->copy.n; i = next) {
		uint64_t start = v[i].first, end = start + v[i].count, mapped;

		while (m < p->n_own && p->own[m].end >> KAGE_PAGE_SHIFT <= start)
			m++;
		mapped = m < p->n_own ? p->own[m].end >> KAGE_PAGE_SHIFT : 0;
		for (next = i + 1; next < p->copy.n && v[next].first - end < NEAR_PAGES &&
				   v[next].first + v[next].count <= mapped;
		     next++)
			end = v[next].first + v[next].count;
		TRY(kage_pagemap_changes(p->theirs, start << KAGE_PAGE_SHIFT,
					 end << KAGE_PAGE_SHIFT, false, note_nothing, NULL,
					 &tracked));
	}
	return NULL;
}

/* --- taking pages away ------------------------------------------------------------------------ */

/* What is locked is not given up; zeros do as well, but not where there was a file's page. */
static struct kage_err *put_zeros(struct back *k, const struct page_run *run)
{
	static const uint8_t zeros[KAGE_PAGE_BYTES];
	const Kage__Mapping *m =
		kage_memory_at(k->r->process->memory, run->first << KAGE_PAGE_SHIFT);

	if (!m || m->backing != KAGE__MAPPING__BACKING__ANONYMOUS)
		return kage_err_new(KAGE_UNSUPPORTED,
				    "pages of a file at %#llx are locked in memory",
				    (unsigned long long)run->first << KAGE_PAGE_SHIFT);
	for (uint64_t i = 0; i < run->count; i++)
		TRY(kage_target_write(k->program, addr((run->first + i) << KAGE_PAGE_SHIFT), zeros,
				      sizeof(zeros)));
	return NULL;
}

/* Asked of a page of ours that is worth nothing. */
static bool can_drop_locked(void)
{
	void *page = mmap(NULL, KAGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool can = page != MAP_FAILED && madvise(page, KAGE_PAGE_BYTES, KMADV_DONTNEED_LOCKED) == 0;

	if (page != MAP_FAILED)
		munmap(page, KAGE_PAGE_BYTES);
	return can;
}

static bool is_locked(const struct back *k, const struct page_run *run)
{
	const Kage__Mapping *m =
		kage_memory_at(k->r->process->memory, run->first << KAGE_PAGE_SHIFT);

	return m && m->locked;
}

/* Pages that stand in the image, because a fork does not take them along. */
static bool has_rest(const struct back *k)
{
	const struct kage_pages *pages = k->r->image->pages;

	for (size_t i = 0; i < pages->n_runs; i++)
		if (pages->runs[i].space == k->r->process->memory->space)
			return true;
	return false;
}

static struct kage_err *drop(struct pages *p)
{
	const bool locked_too = can_drop_locked();
	const struct page_run *v = p->drop.v;

	for (size_t i = 0; i < p->drop.n; i++) {
		if (!locked_too && is_locked(p->k, &v[i]))
			TRY(put_zeros(p->k, &v[i]));
		else
			BATCH(&p->k->calls, "drop pages", SYS_madvise,
			      V(v[i].first << KAGE_PAGE_SHIFT), V(v[i].count << KAGE_PAGE_SHIFT),
			      V(locked_too ? KMADV_DONTNEED_LOCKED : MADV_DONTNEED));
		TRY(back_flush_long(p->k));
	}
	return p->k->waits_for_calls || has_rest(p->k) ? back_flush(p->k) : NULL;
}

/* --- putting pages back ----------------------------------------------------------------------- */

/* All of the N ranges at once; where that stops, memory is not the program's to write. */
static struct kage_err *write_all(struct kage_target *t, const struct iovec *here,
				  const struct iovec *there, size_t n)
{
	for (size_t i = 0; i < n;) {
		ssize_t done = process_vm_writev(t->pid, here + i, n - i, there + i, n - i, 0);

		if (done < 0 && errno != EFAULT)
			return kage_err_sys(errno, "write to process %d", t->pid);
		for (; i < n && done >= (ssize_t)here[i].iov_len; i++)
			done -= (ssize_t)here[i].iov_len;
		if (i < n) {
			TRY(kage_target_write_forced(t,
						     addr((uint64_t)(uintptr_t)there[i].iov_base),
						     here[i].iov_base, here[i].iov_len));
			i++;
		}
	}
	return NULL;
}

/* A piece of at most PIECE_PAGES pages. */
static struct kage_err *copy_piece(struct back *k, const struct page_runs *piece, uint8_t *buffer)
{
	struct iovec here[PIECE_PAGES], there[PIECE_PAGES];
	size_t at = 0;

	for (size_t i = 0; i < piece->n; i++) {
		size_t bytes = piece->v[i].count << KAGE_PAGE_SHIFT;

		here[i] = (struct iovec){ buffer + at, bytes };
		there[i] =
			(struct iovec){ (void *)(uintptr_t)(piece->v[i].first << KAGE_PAGE_SHIFT),
					bytes };
		at += bytes;
	}
	TRY(kage_target_readv(k->r->twin->process, here, there, piece->n));
	return write_all(k->program, here, there, piece->n);
}

static struct kage_err *copy(struct pages *p)
{
	_cleanup_free_ uint8_t *buffer = malloc(PIECE_PAGES * KAGE_PAGE_BYTES);
	struct page_runs piece = { 0 };
	struct kage_err *e = NULL;
	uint64_t done = 0;
	size_t i = 0;

	if (!buffer)
		return kage_err_nomem();
	while (!e && i < p->copy.n) {
		kage_runs_clear(&piece);
		e = kage_runs_take(&p->copy, &i, &done, PIECE_PAGES, &piece);
		if (!e)
			e = copy_piece(p->k, &piece, buffer);
	}
	kage_runs_deinit(&piece);
	p->k->result.pages += kage_runs_total(&p->copy);
	return e;
}

/* What a twin has not stands in the image. */
static struct kage_err *copy_rest(struct pages *p)
{
	const struct kage_pages *pages = p->k->r->image->pages;
	const uint32_t space = p->k->r->process->memory->space;
	uint8_t page[KAGE_PAGE_BYTES];

	for (size_t i = 0; i < pages->n_runs; i++) {
		const struct page_run *run = &pages->runs[i];

		for (uint64_t n = 0; run->space == space && n < run->count; n++) {
			TRY(kage_pages_read(p->k->r->image->pages, space, run->first + n, 1, page));
			TRY(kage_target_write(p->k->program,
					      addr((run->first + n) << KAGE_PAGE_SHIFT), page,
					      sizeof(page)));
		}
	}
	return NULL;
}

/* --- all -------------------------------------------------------------------------------------- */

static struct kage_err *open_pagemap(const struct kage_target *t, int *ret_fd)
{
	*ret_fd = openat(t->proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);
	return *ret_fd < 0 ? kage_err_sys(errno, "open /proc/%d/pagemap", t->pid) : NULL;
}

static struct kage_err *all(struct pages *p, const struct page_runs *kept, bool same_map)
{
	bool tracked;

	TRY(open_pagemap(p->k->program, &p->theirs));
	TRY(open_pagemap(p->k->r->twin->process, &p->twins));
	TRY(find_wanted(p));
	TRY(find_own(p, same_map));
	tracked = is_tracked(p->k);
	if (tracked) {
		TRY(look(p, note_state));
		TRY(compare_huge(p, same_map));
		kage_runs_sort(&p->now);
		TRY(kage_runs_common(p->wanted, &p->written, &p->copy));
	} else {
		TRY(find_now(p, kept));
		TRY(kage_pagemap_guards(p->theirs, 0, KAGE_ARCH_USER_CEILING, add, &p->guards));
		kage_runs_sort(&p->guards);
		TRY(compare_frames(p, &p->now));
	}
	TRY(back_guards(p->k, &p->guards));
	TRY(kage_runs_minus(p->wanted->v, p->wanted->n, p->now.v, p->now.n, &p->copy));
	TRY(kage_runs_minus(p->now.v, p->now.n, p->wanted->v, p->wanted->n, &p->drop));
	kage_runs_sort(&p->copy);
	kage_runs_sort(&p->drop);
	TRY(drop(p));
	TRY(copy(p));
	TRY(copy_rest(p));
	return tracked ? protect_again(p) : track(p);
}

struct kage_err *back_pages(struct back *k, const struct page_runs *kept, bool same_map)
{
	struct pages p = { .k = k, .theirs = -1, .twins = -1 };
	struct kage_err *e = all(&p, kept, same_map);

	deinit(&p);
	return e;
}
