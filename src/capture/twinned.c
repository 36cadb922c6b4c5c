/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/twinned.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "capture/pins.h"
#include "kind/memory.h"
#include "sys/text.h"
#include "target/copy.h"

enum {
	PIECE_PAGES = 4096,
	SMALL_KB = 16 * 1024,  /* is copied in less time than a batch and a fork take */
	FORK_IS_FASTER = 8,    /* so many times, about, than copying */
	FORK_NS = 1000 * 1000, /* about, the batch included */
	FORK_PAGE_NS = 60,
	READ_ENTRY_NS = 3,
};

/* Memory of the target's own: that much is copied if it writes to all of it. */
static uint64_t own_kb(const struct kage_capture *c)
{
	uint64_t kb = 0, swapped = 0;

	kage_text_u64(c->status, "RssAnon", 10, &kb);
	kage_text_u64(c->status, "VmSwap", 10, &swapped);
	return kb + swapped;
}

bool twinned_is_small(const struct kage_capture *c)
{
	return own_kb(c) < SMALL_KB;
}

bool twinned_saves(const struct kage_capture *c, uint64_t pages)
{
	uint64_t kb = pages * (KAGE_PAGE_BYTES / 1024);

	return kb >= SMALL_KB && kb >= own_kb(c) / FORK_IS_FASTER;
}

bool twinned_is_sparse(const struct kage_capture *c)
{
	uint64_t pages = 0, own = own_kb(c) * 1024 / KAGE_PAGE_BYTES;

	for (size_t i = 0; i < c->maps.n; i++)
		if (kage_memory_is_private(&c->maps.vmas[i]))
			pages += (c->maps.vmas[i].end - c->maps.vmas[i].start) / KAGE_PAGE_BYTES;
	return pages * READ_ENTRY_NS > FORK_NS + own * FORK_PAGE_NS;
}

static const char lost_reads[] = "what it reads past the page cache could be lost to it";

const char *twinned_obstacle(const struct kage_capture *c)
{
	/* What arrives in a page under way arrives in the twin's when the target writes there first: open(2), O_DIRECT,
	 * about fork. */
	return kage_pins_seen(c) ? lost_reads : twinned_kept_obstacle(c);
}

const char *twinned_kept_obstacle(const struct kage_capture *c)
{
	if (kage_pins_under_way(c))
		return lost_reads;
	if (kage_pins_uffd_seen(c))
		return "it has a userfaultfd, which would be told";
	if (!kage_twin_has_room(c->target, own_kb(c) * 1024))
		return "the memory limit of its control group is near";
	return kage_twin_obstacle(c->target, &c->inside, &c->maps);
}

bool twinned_takes(const struct kage_vma *v)
{
	return v->ino == 0 && kage_twin_has(v);
}

/* All that a twin has, page or not. */
static struct kage_err *add_taken(const struct kage_capture *c, struct page_runs *ret)
{
	for (size_t i = 0; i < c->maps.n; i++) {
		const struct kage_vma *v = &c->maps.vmas[i];

		if (kage_memory_is_private(v) && twinned_takes(v))
			TRY(kage_runs_add(ret, 1, v->start >> KAGE_PAGE_SHIFT,
					  (v->end - v->start) >> KAGE_PAGE_SHIFT));
	}
	return NULL;
}

struct kage_err *twinned_split(const struct kage_capture *c, const struct page_runs *all,
			       struct page_runs *here, struct page_runs *later)
{
	struct page_runs taken = { 0 };
	struct kage_err *e = add_taken(c, &taken);

	if (!e)
		e = kage_runs_minus(all->v, all->n, taken.v, taken.n, here);
	kage_runs_sort(here);
	if (!e)
		e = kage_runs_minus(all->v, all->n, here->v, here->n, later);
	kage_runs_deinit(&taken);
	return e;
}

static bool has_all(const struct kage_capture *c, const struct kage_maps *theirs)
{
	for (size_t i = 0; i < c->maps.n; i++) {
		const struct kage_vma *v = &c->maps.vmas[i], *t;

		if (!kage_memory_is_private(v) || !twinned_takes(v))
			continue;
		t = kage_maps_find(theirs, v->start);
		if (!t || t->start != v->start || t->end != v->end || !kage_twin_has(t))
			return false;
	}
	return true;
}

struct kage_err *twinned_check(const struct kage_capture *c, const struct kage_twin *twin)
{
	_cleanup_(kage_maps_deinit) struct kage_maps theirs = { 0 };

	TRY(kage_maps_read(twin->process->proc_fd, true, &theirs));
	TRY(kage_twin_check(twin));
	return has_all(c, &theirs) ? NULL
				   : kage_err_new(KAGE_CHANGED,
						  "process %d changed what a fork takes along "
						  "(madvise) right before it was stopped",
						  c->target->pid);
}

static bool is_known(const struct kage_pages *p, const struct page_run *run, uint64_t page)
{
	size_t i = kage_pages_find(p, run->space, page);

	return i < p->n_runs && p->runs[i].space == run->space && p->runs[i].first <= page;
}

/* Adds the pages of RUN, whose contents are NOW and were BEFORE, that differ. */
static struct kage_err *add_different(struct mem_pages *m, const struct kage_pages *known,
				      const struct page_run *run, const uint8_t *now,
				      const uint8_t *before)
{
	for (uint64_t i = 0; i < run->count; i++) {
		const uint8_t *page = now + i * KAGE_PAGE_BYTES;
		void *to;

		if (is_known(known, run, run->first + i) &&
		    memcmp(page, before + i * KAGE_PAGE_BYTES, KAGE_PAGE_BYTES) == 0)
			continue;
		TRY(kage_mem_pages_add(m, run->space, run->first + i, 1, &to));
		memcpy(to, page, KAGE_PAGE_BYTES);
	}
	return NULL;
}

/* A piece of a run, in buffers NOW and BEFORE. */
static struct kage_err *compare_piece(const struct kage_twin *twin, const struct page_run *run,
				      struct kage_pages *shadow, uint8_t *now, uint8_t *before,
				      struct mem_pages *m)
{
	struct kage_copy copy = { 0 };
	struct kage_err *e = kage_copy_add(&copy, now, addr(run->first << KAGE_PAGE_SHIFT),
					   run->count << KAGE_PAGE_SHIFT);

	if (!e)
		e = kage_copy_run(&copy, twin->process);
	kage_copy_deinit(&copy);
	if (!e)
		e = kage_pages_read(shadow, run->space, run->first, run->count, before);
	return e ? e : add_different(m, shadow, run, now, before);
}

struct kage_err *twinned_compare(struct kage_capture *c, const struct kage_twin *twin,
				 const struct page_runs *runs, struct shadow *s,
				 struct mem_pages *m)
{
	_cleanup_free_ uint8_t *now = malloc(PIECE_PAGES * KAGE_PAGE_BYTES);
	_cleanup_free_ uint8_t *before = malloc(PIECE_PAGES * KAGE_PAGE_BYTES);

	if (!now || !before)
		return kage_err_nomem();
	for (size_t i = 0; i < runs->n; i++) {
		struct page_run run = runs->v[i];

		for (uint64_t left = run.count; left > 0; left -= run.count) {
			run.count = left < PIECE_PAGES ? left : PIECE_PAGES;
			TRY(kage_ctx_poll(c->ctx));
			TRY(compare_piece(twin, &run, shadow_pages(s), now, before, m));
			run.first += run.count;
		}
	}
	return NULL;
}
