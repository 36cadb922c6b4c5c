/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The userfaultfd is made by a batch of two calls, the second of which closes it in the target; in between
 * we take a duplicate. Should we die then, the second call is made all the same.
 */
#include "target/tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "sys/pagemap.h"
#include "sys/procmap.h"
#include "sys/uffd.h"
#include "target/batch.h"

/* Whoever maps or unmaps in the target waits for a whole scan (mmap_lock); protecting 64 MiB of small pages
 * takes 0.2 ms. A multiple of every huge page that could be cut else. */
static const uint64_t slice_bytes = 64ull << 20;

/* Mappings up to these sizes are looked at many at once. A survey asks more of each page, so not large ones; and what stands
 * in its regions is in memory at once. */
enum { SMALL_BYTES = 8 << 20, SMALL_FILE_BYTES = 32 << 20, SURVEY_BYTES = 64 << 20, REGIONS = 256 };

struct range {
	uint64_t start, end;
};

struct kage_tracker {
	int uffd;
	int maps_fd;  /* /proc/PID/maps: what stands where just now */
	bool can_ask; /* it tells a single one */
	bool dead;
	struct range *ranges; /* registered at some time; ascending, without overlap */
	size_t n_ranges, max_ranges;
};

/* --- making ----------------------------------------------------------------------------------- */

static struct kage_err *take_out(void *user, struct kage_target *t, int64_t result)
{
	struct kage_tracker *tracker = user;

	if (result < 0)
		return NULL; /* told by the batch */
	return kage_target_get_fd(t, (int)result, &tracker->uffd);
}

static struct kage_err *make_uffd(struct kage_target *t, struct kage_thread *thread,
				  struct kage_tracker *tracker)
{
	struct kage_batch b;
	struct kage_err *e;
	size_t fd;

	kage_batch_init(&b);
	fd = BATCH(&b, "make a userfaultfd", SYS_userfaultfd, V(O_CLOEXEC | KUFFD_USER_MODE_ONLY));
	b.meet_at = BATCH_TRY(&b, "close it", SYS_close, RESULT(fd));
	b.meet = take_out;
	b.meet_user = tracker;
	e = kage_batch_run(t, thread, &b);
	kage_batch_deinit(&b);
	if (e && kage_err_errno(e) == ENOSYS) {
		err_drop(e);
		return kage_err_new(KAGE_UNSUPPORTED, "this kernel has no userfaultfd");
	}
	return e;
}

static void destroy(struct kage_tracker *tracker)
{
	close_fd(tracker->uffd);
	close_fd(tracker->maps_fd);
	free(tracker->ranges);
	free(tracker);
}

struct kage_err *kage_tracker_create(struct kage_target *t, struct kage_thread *thread,
				     struct kage_tracker **ret_tracker)
{
	struct kage_tracker *tracker = calloc(1, sizeof(*tracker));
	struct kage_err *e;

	if (!tracker)
		return kage_err_nomem();
	tracker->uffd = -1;
	tracker->maps_fd = openat(t->proc_fd, "maps", O_RDONLY | O_CLOEXEC);
	e = make_uffd(t, thread, tracker);
	kage_site_leave(t);
	if (!e)
		e = kage_uffd_begin(tracker->uffd);
	if (!e && tracker->maps_fd < 0)
		e = kage_err_sys(errno, "open /proc/%d/maps", t->pid);
	tracker->can_ask = !e && kage_procmap_works(tracker->maps_fd);
	if (e) {
		destroy(tracker);
		return e;
	}
	*ret_tracker = tracker;
	return NULL;
}

/* What is slow about it is done in slices, in which no mapping is cut. */
static void unprotect(const struct kage_tracker *tracker, const struct range *r)
{
	for (uint64_t at = r->start; at < r->end; at += slice_bytes)
		kage_uffd_unprotect(tracker->uffd, at,
				    r->end - at < slice_bytes ? r->end : at + slice_bytes);
}

/* Mapping by mapping as they are now, because one that is cut cannot be moved by mremap(2). What has grown
 * beyond what was registered ends with the userfaultfd. */
static void unregister(const struct kage_tracker *tracker, const struct range *r)
{
	struct kage_procmap m;

	for (uint64_t at = r->start;
	     kage_procmap_from(tracker->maps_fd, at, &m) && m.start < r->end; at = m.end)
		if (m.start >= r->start && m.end <= r->end)
			kage_uffd_unregister(tracker->uffd, m.start, m.end);
}

void kage_tracker_destroy(struct kage_tracker *tracker)
{
	if (!tracker)
		return;
	for (size_t i = 0; i < tracker->n_ranges && !tracker->dead; i++) {
		unprotect(tracker, &tracker->ranges[i]);
		unregister(tracker, &tracker->ranges[i]);
	}
	destroy(tracker);
}

bool kage_tracker_is_dead(const struct kage_tracker *tracker)
{
	return tracker->dead;
}

/* --- what is registered ----------------------------------------------------------------------- */

/* The first range that ends behind ADDRESS. */
static size_t find(const struct kage_tracker *tracker, uint64_t address)
{
	size_t low = 0, high = tracker->n_ranges;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (tracker->ranges[mid].end <= address)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static bool is_noted(const struct kage_tracker *tracker, uint64_t start, uint64_t end)
{
	size_t i = find(tracker, start);

	return i < tracker->n_ranges && tracker->ranges[i].start <= start &&
	       tracker->ranges[i].end >= end;
}

static struct kage_err *make_room(struct kage_tracker *tracker)
{
	size_t max = tracker->max_ranges ? tracker->max_ranges * 2 : 256;
	struct range *grown;

	if (tracker->n_ranges < tracker->max_ranges)
		return NULL;
	grown = reallocarray(tracker->ranges, max, sizeof(*grown));
	if (!grown)
		return kage_err_nomem();
	tracker->ranges = grown;
	tracker->max_ranges = max;
	return NULL;
}

/* Joins START to END with all ranges that it touches. */
static struct kage_err *note(struct kage_tracker *tracker, uint64_t start, uint64_t end)
{
	size_t i, n;

	TRY(make_room(tracker));
	i = start ? find(tracker, start - 1) : 0;
	for (n = i; n < tracker->n_ranges && tracker->ranges[n].start <= end; n++) {
		start = tracker->ranges[n].start < start ? tracker->ranges[n].start : start;
		end = tracker->ranges[n].end > end ? tracker->ranges[n].end : end;
	}
	memmove(&tracker->ranges[i + 1], &tracker->ranges[n],
		(tracker->n_ranges - n) * sizeof(*tracker->ranges));
	tracker->n_ranges += i + 1 - n;
	tracker->ranges[i] = (struct range){ start, end };
	return NULL;
}

/* Whether a part of START to END was registered, and nobody tracks it any more: mremap(2) that joins what it moves with
 * a neighbour takes the userfaultfd off both (mm/mremap.c), and leaves the protection of the neighbour's pages, which
 * what is written from then on does not take away. */
static bool was_let_go(const struct kage_tracker *tracker, int pagemap_fd, uint64_t start,
		       uint64_t end)
{
	size_t i = find(tracker, start);

	return i < tracker->n_ranges && tracker->ranges[i].start < end &&
	       !kage_pagemap_is_tracked(pagemap_fd, start, end);
}

/* Registers the neighbour MAP if it could be one mapping with what has FLAGS. */
static struct kage_err *join(struct kage_tracker *tracker, int pagemap_fd,
			     const struct kage_procmap *map, uint64_t flags)
{
	bool let_go;
	int num;

	if (map->flags != flags || is_noted(tracker, map->start, map->end))
		return NULL;
	let_go = was_let_go(tracker, pagemap_fd, map->start, map->end);
	kage_uffd_register(tracker->uffd, map->start, map->end, &num);
	if (num != 0)
		return NULL;
	if (let_go)
		unprotect(tracker, &(struct range){ map->start, map->end });
	return note(tracker, map->start, map->end);
}

/* The mapping may have become a larger one just before START to END of it was registered: then it is in
 * pieces now, and mremap(2) of the whole fails. */
static struct kage_err *mend(struct kage_tracker *tracker, int pagemap_fd, uint64_t start,
			     uint64_t end)
{
	struct kage_procmap here, other;

	if (!kage_procmap_at(tracker->maps_fd, start, &here))
		return NULL;
	if (kage_procmap_at(tracker->maps_fd, end, &other) && other.start == end)
		TRY(join(tracker, pagemap_fd, &other, here.flags));
	if (kage_procmap_at(tracker->maps_fd, start - 1, &other) && other.end == start)
		TRY(join(tracker, pagemap_fd, &other, here.flags));
	return NULL;
}

static bool is_one_mapping(const struct kage_tracker *tracker, uint64_t start, uint64_t end)
{
	struct kage_procmap now;

	if (kage_procmap_at(tracker->maps_fd, start, &now))
		return now.start == start && now.end == end;
	return !tracker->can_ask;
}

/* Registers a mapping if that was not done yet, or AGAIN. *RET_TRACKED is false when it cannot be.
 * It may have other borders by now, also while the target stands, since sleepers wake up. Only a whole one is registered,
 * because the program can no longer move one of which a part is (EFAULT); what is left for that to happen is the
 * microsecond between the question and the answer, and it is mended at once. */
static struct kage_err *enlist(struct kage_tracker *tracker, int pagemap_fd, uint64_t start,
			       uint64_t end, bool again, bool *ret_tracked)
{
	bool let_go;
	int num;

	*ret_tracked = true;
	if (!again && is_noted(tracker, start, end))
		return NULL;
	*ret_tracked = false;
	if (!is_one_mapping(tracker, start, end)) {
		tracker->dead = kage_procmap_is_gone(tracker->maps_fd);
		return NULL;
	}
	let_go = was_let_go(tracker, pagemap_fd, start, end);
	kage_uffd_register(tracker->uffd, start, end, &num);
	tracker->dead = num == ENOMEM;
	if (num != 0)
		return NULL;
	if (let_go)
		unprotect(tracker, &(struct range){ start, end });
	*ret_tracked = true;
	TRY(note(tracker, start, end));
	return mend(tracker, pagemap_fd, start, end);
}

/* --- looking ---------------------------------------------------------------------------------- */

/* Whom tell_all() and tell_guard() tell. */
struct listener {
	kage_pagemap_changes_fn *fn;
	void *user;
};

static struct kage_err *tell_all(void *user, uint64_t start, uint64_t end)
{
	const struct listener *l = user;

	return l->fn(l->user, start, end, KAGE_PAGE_WRITTEN);
}

static struct kage_err *tell_guard(void *user, uint64_t start, uint64_t end)
{
	const struct listener *l = user;

	return l->fn(l->user, start, end, KAGE_PAGE_GUARD);
}

static struct kage_err *look_in_slices(int pagemap_fd, const struct range *r, bool file,
				       bool sliced, kage_pagemap_changes_fn *fn, void *user,
				       bool *ret_tracked)
{
	*ret_tracked = true;
	for (uint64_t at = r->start; at < r->end && *ret_tracked;) {
		uint64_t to = (at / slice_bytes + 1) * slice_bytes;

		to = !sliced || to > r->end ? r->end : to;
		TRY(kage_pagemap_changes(pagemap_fd, at, to, file, fn, user, ret_tracked));
		at = to;
	}
	return NULL;
}

static struct kage_err *look_at(struct kage_tracker *tracker, int pagemap_fd,
				const struct kage_vma *v, bool sliced, kage_pagemap_changes_fn *fn,
				void *user)
{
	const uint64_t start = v->start, end = v->end;
	const struct range r = { start, end };
	struct listener l = { fn, user };
	bool file = v->ino != 0, tracked;

	TRY(enlist(tracker, pagemap_fd, start, end, false, &tracked));
	if (tracked)
		TRY(look_in_slices(pagemap_fd, &r, file, sliced, fn, user, &tracked));
	if (tracked)
		return NULL;
	/* Something else stands there than what was registered. What the scan has protected by now is not known:
	 * from here on all is protected, and all is told. */
	TRY(enlist(tracker, pagemap_fd, start, end, true, &tracked));
	if (tracked)
		TRY(look_in_slices(pagemap_fd, &r, file, sliced, fn, user, &tracked));
	TRY(kage_pagemap_guards(pagemap_fd, start, end, tell_guard, &l));
	return kage_pagemap_private(pagemap_fd, start, end, tell_all, &l);
}

/* --- many small mappings ---------------------------------------------------------------------- */

/* A program has a hundred of them, most of which nobody ever writes, and a look takes three system calls. So one call looks
 * at as many as possible, and only those in which something was written are looked at by themselves. */
struct survey {
	struct kage_page_region regions[REGIONS];
	size_t n, at; /* told up to here */
};

static bool is_small(const struct kage_tracker *tracker, const struct kage_vma *v)
{
	return v->end - v->start <= (v->ino ? SMALL_FILE_BYTES : SMALL_BYTES) &&
	       is_noted(tracker, v->start, v->end);
}

/* The regions of S that lie in V, which comes behind those before: *RET_CALM if all are the same. They may reach over the
 * end. */
static void find_in(struct survey *s, const struct kage_vma *v, size_t *ret_first, size_t *ret_end,
		    bool *ret_calm)
{
	while (s->at < s->n && s->regions[s->at].end <= v->start)
		s->at++;
	*ret_first = s->at;
	*ret_calm = true;
	for (*ret_end = s->at; *ret_end < s->n && s->regions[*ret_end].start < v->end; ++*ret_end)
		*ret_calm &= s->regions[*ret_end].state == KAGE_PAGE_SAME;
}

static struct kage_err *tell_survey(struct survey *s, struct kage_tracker *tracker, int pagemap_fd,
				    const struct kage_vma *v, size_t n, bool sliced,
				    kage_pagemap_changes_fn *fn, void *user)
{
	for (size_t i = 0; i < n; i++) {
		size_t k, end;
		bool calm;

		find_in(s, &v[i], &k, &end, &calm);
		if (!calm)
			TRY(look_at(tracker, pagemap_fd, &v[i], sliced, fn, user));
		for (; calm && k < end; k++) {
			const struct kage_page_region *r = &s->regions[k];

			TRY(fn(user, r->start > v[i].start ? r->start : v[i].start,
			       r->end < v[i].end ? r->end : v[i].end, KAGE_PAGE_SAME));
		}
	}
	return NULL;
}

struct kage_err *kage_tracker_look(struct kage_tracker *tracker, int pagemap_fd,
				   const struct kage_vma *v, size_t n, bool sliced,
				   kage_pagemap_changes_fn *fn, void *user)
{
	for (size_t i = 0, k; i < n; i = k) {
		struct survey s = { .n = 0 };
		uint64_t bytes = 0;
		bool known = false;

		for (k = i; k < n && bytes < SURVEY_BYTES && is_small(tracker, &v[k]) &&
			    !v[k].ino == !v[i].ino;
		     k++)
			bytes += v[k].end - v[k].start;
		if (k > i)
			TRY(kage_pagemap_survey(pagemap_fd, v[i].start, v[k - 1].end, v[i].ino != 0,
						s.regions, REGIONS, &s.n, &known));
		if (known)
			TRY(tell_survey(&s, tracker, pagemap_fd, &v[i], k - i, sliced, fn, user));
		for (k += k == i; !known && i < k; i++)
			TRY(look_at(tracker, pagemap_fd, &v[i], sliced, fn, user));
	}
	return NULL;
}
