/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of a program that goes back. Its map is compared with that of the instant, stretch by stretch: what is mapped as
 * it was stays, the rest is unmapped and mapped anew. Then the pages: which of them are not the same frame any more as in
 * the twin tell both page maps (proc_pid_pagemap(5)); without the right to see frames their contents are compared. Those
 * are copied out of the twin; pages that were not there go.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "image/runs.h"
#include "kind/memory.h"
#include "restore/back.h"
#include "restore/back_pages.h"
#include "restore/restore.h"
#include "sys/iter.h"
#include "sys/kernel.h"
#include "sys/pagemap.h"

/* A stretch that is mapped anew. */
struct fresh {
	const Kage__Mapping *m;
	uint64_t start, end;
	size_t fd; /* index + 1 in the descriptors that are given; 0: none */
};

struct sweep {
	struct back *k;
	struct fresh *fresh;
	size_t n_fresh, max_fresh;
	int *given;
	size_t n_given;
	struct page_runs kept; /* private, and mapped as they were */
	bool same_map;         /* all was */
};

/* --- mappings --------------------------------------------------------------------------------- */

static bool is_kernels(const struct kage_vma *v)
{
	return strcmp(v->path, "[vdso]") == 0 || strncmp(v->path, "[vvar", 5) == 0 ||
	       strcmp(v->path, "[vsyscall]") == 0 || strcmp(v->path, "[uprobes]") == 0;
}

bool back_is_hand(const struct back *k, const struct kage_vma *v)
{
	uint64_t base = (uint64_t)(uintptr_t)k->hand.base;

	return v->start >= base && v->end <= base + k->hand.bytes;
}

struct kage_err *back_read_maps(struct back *k, struct kage_maps *ret_maps)
{
	struct back_tracking *t = k->tracking;

	if (!t->sought)
		err_drop(kage_vmaread_open(KAGE_ITER_PINS, &t->vmas));
	t->sought = true;
	return t->vmas ? kage_vmaread_maps(t->vmas, k->program->proc_fd, k->program->pid, ret_maps)
		       : kage_maps_read(k->program->proc_fd, false, ret_maps);
}

/* The first of MAPS that ends behind AT and is none of those that are left alone. */
static const struct kage_vma *next(const struct back *k, const struct kage_maps *maps, size_t *i,
				   uint64_t at)
{
	while (*i < maps->n && (maps->vmas[*i].end <= at || is_kernels(&maps->vmas[*i]) ||
				back_is_hand(k, &maps->vmas[*i])))
		++*i;
	return *i < maps->n ? &maps->vmas[*i] : NULL;
}

static bool is_stack(const struct kage_vma *v)
{
	return strcmp(v->path, "[stack]") == 0;
}

/* Whether both map the same at AT. */
static bool same_mapping(const struct kage_vma *a, const struct kage_vma *b, uint64_t at)
{
	if (a->shared != b->shared || a->ino != b->ino || is_stack(a) != is_stack(b))
		return false;
	return !a->ino || (a->dev_major == b->dev_major && a->dev_minor == b->dev_minor &&
			   a->offset + (at - a->start) == b->offset + (at - b->start));
}

/* mseal(2): nobody can take these away. */
struct kage_err *back_check_seals(const struct back *k)
{
	for (size_t i = 0; i < k->now.n; i++) {
		const struct kage_vma *now = &k->now.vmas[i];
		const struct kage_vma *then = kage_maps_find(&k->then->maps, now->start);

		if (kage_vma_has(now, VMFLAG('s', 'l')) && !is_kernels(now) &&
		    !(then && kage_vma_has(then, VMFLAG('s', 'l'))))
			return kage_err_new(
				KAGE_UNSUPPORTED,
				"it has sealed memory at %#llx since (mseal); wake the twin instead",
				(unsigned long long)now->start);
	}
	return NULL;
}

static struct kage_err *add_fresh(struct sweep *s, uint64_t start, uint64_t end)
{
	const Kage__Mapping *m = kage_memory_at(s->k->r->process->memory, start);
	int fd = -1;

	if (!m)
		return kage_err_new(KAGE_CORRUPT, "the image has nothing at %#llx",
				    (unsigned long long)start);
	if (s->n_fresh == s->max_fresh) {
		size_t max = s->max_fresh ? s->max_fresh * 2 : 64;
		struct fresh *grown = reallocarray(s->fresh, max, sizeof(*grown));
		int *fds = reallocarray(s->given, max, sizeof(*fds));

		s->fresh = grown ? grown : s->fresh;
		s->given = fds ? fds : s->given;
		if (!grown || !fds)
			return kage_err_nomem();
		s->max_fresh = max;
	}
	TRY(kage_memory_mapping_fd(s->k->r, m, &fd));
	if (fd >= 0)
		s->given[s->n_given++] = fd;
	s->fresh[s->n_fresh++] = (struct fresh){ m, start, end, fd >= 0 ? s->n_given : 0 };
	return NULL;
}

/* From START to END the program had THEN and has NOW; either may be NULL. */
static struct kage_err *settle(struct sweep *s, uint64_t start, uint64_t end,
			       const struct kage_vma *then, const struct kage_vma *now)
{
	uint64_t pages = (end - start) >> KAGE_PAGE_SHIFT;

	if (then && now && same_mapping(then, now, start)) {
		if (then->prot != now->prot) {
			s->same_map = false;
			s->k->waits_for_calls = true;
			BATCH(&s->k->calls, "protect memory as it was", SYS_mprotect, V(start),
			      V(end - start), V(then->prot));
		}
		TRY(back_flush_long(s->k));
		return kage_memory_is_private(then)
			       ? kage_runs_add(&s->kept, 0, start >> KAGE_PAGE_SHIFT, pages)
			       : NULL;
	}
	s->same_map = false;
	s->k->waits_for_calls = true;
	if (now)
		BATCH(&s->k->calls, "unmap memory", SYS_munmap, V(start), V(end - start));
	TRY(back_flush_long(s->k));
	return then ? add_fresh(s, start, end) : NULL;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static struct kage_err *sweep(struct sweep *s)
{
	struct back *k = s->k;
	size_t i = 0, j = 0;

	for (uint64_t at = 0, end;; at = end) {
		const struct kage_vma *then = next(k, &k->then->maps, &i, at);
		const struct kage_vma *now = next(k, &k->now, &j, at);
		uint64_t then_at, now_at;

		if (!then && !now)
			return NULL;
		then_at = !then ? UINT64_MAX : then->start > at ? then->start : at;
		now_at = !now ? UINT64_MAX : now->start > at ? now->start : at;
		at = min_u64(then_at, now_at);
		end = min_u64(!then           ? UINT64_MAX
			      : then_at == at ? then->end
					      : then->start,
			      !now           ? UINT64_MAX
			      : now_at == at ? now->end
					     : now->start);
		TRY(settle(s, at, end, then_at == at ? then : NULL, now_at == at ? now : NULL));
	}
}

static struct kage_err *map_fresh(struct sweep *s)
{
	struct kage_restore *r = s->k->r;
	int first = 0;

	if (s->n_given)
		TRY(back_give(s->k, s->given, s->n_given, &first));
	for (size_t i = 0; i < s->n_fresh; i++) {
		const struct fresh *f = &s->fresh[i];

		kage_memory_map_part(r, f->m, f->start, f->end, f->fd ? first + (int)f->fd - 1 : -1,
				     &s->k->calls);
		TRY(back_flush_long(s->k));
	}
	return s->n_fresh ? back_flush(s->k) : NULL;
}

/* What comes behind the contents: of whole mappings. */
static struct kage_err *finish_fresh(struct sweep *s)
{
	const Kage__Mapping *last = NULL;

	for (size_t i = 0; i < s->n_fresh; i++) {
		if (s->fresh[i].m == last)
			continue;
		last = s->fresh[i].m;
		kage_memory_finish_one(s->k->r, last, &s->k->calls);
		TRY(back_flush_long(s->k));
	}
	return NULL;
}

/* --- guards ----------------------------------------------------------------------------------- */

static struct kage_err *find_guards(const struct back *k, struct page_runs *then)
{
	const Kage__Memory *m = k->r->process->memory;

	for (size_t i = 0; i < m->n_mappings; i++)
		for (size_t g = 0; g < m->mappings[i]->n_guards; g++) {
			const Kage__Range *guard = m->mappings[i]->guards[g];

			TRY(kage_runs_add(then, 0, guard->start >> KAGE_PAGE_SHIFT,
					  (guard->end - guard->start) >> KAGE_PAGE_SHIFT));
		}
	kage_runs_sort(then);
	return NULL;
}

static struct kage_err *advise(struct back *k, const struct page_runs *runs, int advice)
{
	for (size_t i = 0; i < runs->n; i++) {
		BATCH(&k->calls, "put guards as they were", SYS_madvise,
		      V(runs->v[i].first << KAGE_PAGE_SHIFT),
		      V(runs->v[i].count << KAGE_PAGE_SHIFT), V(advice));
		TRY(back_flush_long(k));
	}
	return NULL;
}

struct kage_err *back_guards(struct back *k, const struct page_runs *now)
{
	struct page_runs then = { 0 }, gone = { 0 }, missing = { 0 };
	struct kage_err *e = find_guards(k, &then);

	if (!e)
		e = kage_runs_minus(now->v, now->n, then.v, then.n, &gone);
	if (!e)
		e = kage_runs_minus(then.v, then.n, now->v, now->n, &missing);
	k->waits_for_calls |= gone.n || missing.n;
	if (!e)
		e = advise(k, &gone, KMADV_GUARD_REMOVE);
	if (!e)
		e = advise(k, &missing, KMADV_GUARD_INSTALL);
	kage_runs_deinit(&then);
	kage_runs_deinit(&gone);
	kage_runs_deinit(&missing);
	return e;
}

/* --- all -------------------------------------------------------------------------------------- */

/* It may be in several pieces. */
static uint64_t heap_end(const struct kage_maps *m)
{
	uint64_t end = 0;

	for (size_t i = 0; i < m->n; i++)
		if (strcmp(m->vmas[i].path, "[heap]") == 0)
			end = m->vmas[i].end;
	return end;
}

/* The end of the heap, up to the byte. The map is another one behind that only where it has gained or lost pages. */
static struct kage_err *set_break(struct back *k)
{
	BATCH(&k->calls, "set the end of its heap", SYS_brk, V(k->r->process->memory->brk));
	if (heap_end(&k->then->maps) == heap_end(&k->now))
		return NULL;
	TRY(back_flush(k));
	kage_maps_deinit(&k->now);
	return back_read_maps(k, &k->now);
}

static struct kage_err *all(struct sweep *s)
{
	struct back *k = s->k;

	TRY(set_break(k));
	TRY(sweep(s));
	kage_runs_sort(&s->kept);
	TRY(map_fresh(s));
	TRY(back_pages(k, &s->kept, s->same_map));
	TRY(back_spaces(k));
	return finish_fresh(s);
}

struct kage_err *back_memory(struct back *k)
{
	struct sweep s = { .k = k, .same_map = true };
	struct kage_err *e = all(&s);

	kage_runs_deinit(&s.kept);
	free(s.fresh);
	free(s.given);
	return e;
}
