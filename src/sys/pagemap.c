/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/pagemap.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/workers.h"
#include "sys/kernel.h"

enum { REGIONS = 512, ENTRIES = 4096 };

/* Bits of an entry of pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define ENTRY_PRESENT (1ull << 63)
#define ENTRY_SWAPPED (1ull << 62)
#define ENTRY_FILE    (1ull << 61)
#define ENTRY_GUARD   (1ull << 58)

/* What is called with each region that a scan finds: one of them. */
struct finder {
	kage_pagemap_fn *fn;
	kage_pagemap_changes_fn *changes;
	void *user;
};

static enum kage_page_state state_of(uint64_t categories)
{
	if (categories & KPAGE_IS_GUARD)
		return KAGE_PAGE_GUARD;
	if (categories & KPAGE_IS_SWAPPED)
		return KAGE_PAGE_UNSURE;
	return categories & KPAGE_IS_WRITTEN ? KAGE_PAGE_WRITTEN : KAGE_PAGE_SAME;
}

static struct kage_err *tell(const struct finder *f, const struct kpage_region *r)
{
	if (f->fn)
		return f->fn(f->user, r->start, r->end);
	return f->changes(f->user, r->start, r->end, state_of(r->categories));
}

/* Runs the scan that ARG describes over its range. ENOTTY or EINVAL in *ret_errno where the kernel
 * has no such scan, or not these categories. */
static struct kage_err *scan(int fd, struct kpm_scan_arg arg, const struct finder *f,
			     int *ret_errno)
{
	struct kpage_region regions[REGIONS];

	*ret_errno = 0;
	arg.size = sizeof(arg);
	arg.vec = (uint64_t)(uintptr_t)regions;
	while (arg.start < arg.end) {
		uint64_t most = (arg.end - arg.start) / KAGE_PAGE_BYTES;
		int n;

		/* The kernel makes room for as many as it is told. */
		arg.vec_len = most < REGIONS ? most : REGIONS;
		n = ioctl(fd, KPAGEMAP_SCAN, &arg);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			*ret_errno = errno;
			return NULL;
		}
		for (int i = 0; i < n; i++)
			TRY(tell(f, &regions[i]));
		if (arg.walk_end <= arg.start)
			break;
		arg.start = arg.walk_end;
	}
	return NULL;
}

/* The same from the entries of pagemap: those with all bits of SET, any of ANY and none of CLEAR. */
static struct kage_err *read_entries(int fd, uint64_t start, uint64_t end, uint64_t any,
				     uint64_t clear, kage_pagemap_fn *fn, void *user)
{
	_cleanup_free_ uint64_t *entries = malloc(ENTRIES * sizeof(*entries));
	uint64_t run = 0, page = start / KAGE_PAGE_BYTES, last = end / KAGE_PAGE_BYTES;

	if (!entries)
		return kage_err_nomem();
	while (page < last) {
		size_t want = last - page < ENTRIES ? last - page : ENTRIES, got;

		TRY(kage_file_read(fd, entries, want * 8, (off_t)(page * 8), "pagemap", &got));
		if (got < 8)
			break;
		for (size_t i = 0; i < got / 8; i++, page++) {
			bool in = (entries[i] & any) && !(entries[i] & clear);

			if (in && !run)
				run = page;
			if (!in && run) {
				TRY(fn(user, run << KAGE_PAGE_SHIFT, page << KAGE_PAGE_SHIFT));
				run = 0;
			}
		}
	}
	return run ? fn(user, run << KAGE_PAGE_SHIFT, page << KAGE_PAGE_SHIFT) : NULL;
}

bool kage_pagemap_can_scan(int pagemap_fd)
{
	struct kpage_region region;
	struct kpm_scan_arg arg = { .size = sizeof(arg),
				    .end = KAGE_PAGE_BYTES,
				    .vec = (uint64_t)(uintptr_t)&region,
				    .vec_len = 1,
				    .category_mask = KPAGE_IS_PRESENT,
				    .return_mask = KPAGE_IS_PRESENT };

	return ioctl(pagemap_fd, KPAGEMAP_SCAN, &arg) >= 0;
}

bool kage_pagemap_is_tracked(int pagemap_fd, uint64_t start, uint64_t end)
{
	struct kpage_region region;
	struct kpm_scan_arg arg = { .size = sizeof(arg),
				    .flags = KPM_SCAN_CHECK_WPASYNC,
				    .start = start,
				    .end = end,
				    .vec = (uint64_t)(uintptr_t)&region,
				    .vec_len = 1,
				    .max_pages = 1,
				    .category_mask = KPAGE_IS_PRESENT,
				    .return_mask = KPAGE_IS_PRESENT };

	return ioctl(pagemap_fd, KPAGEMAP_SCAN, &arg) >= 0;
}

/* What no page of the process's own is. Whether one is a file's stands in its struct page: far more to read than all the
 * rest, 4 ms for 512 MiB beside 0.2. */
static uint64_t never_private(bool file)
{
	return KPAGE_IS_PFNZERO | (file ? KPAGE_IS_FILE : 0);
}

/* A scan for private pages. */
static struct kage_err *scan_private(int fd, struct kpm_scan_arg arg, bool file,
				     const struct finder *f, int *ret_errno)
{
	const uint64_t never = never_private(file);

	/* Guards look like swapped pages. */
	arg.category_anyof_mask = KPAGE_IS_PRESENT | KPAGE_IS_SWAPPED;
	arg.category_mask = never | KPAGE_IS_GUARD;
	arg.category_inverted = arg.category_mask;
	TRY(scan(fd, arg, f, ret_errno));
	if (*ret_errno != EINVAL)
		return NULL;
	/* Kernels that do not know guards do not know the category. */
	arg.category_mask = arg.category_inverted = never;
	return scan(fd, arg, f, ret_errno);
}

struct kage_err *kage_pagemap_private(int pagemap_fd, uint64_t start, uint64_t end,
				      kage_pagemap_fn *fn, void *user)
{
	const struct finder f = { .fn = fn, .user = user };
	int num;

	TRY(scan_private(pagemap_fd, (struct kpm_scan_arg){ .start = start, .end = end }, true, &f,
			 &num));
	if (num == 0)
		return NULL;
	if (num != ENOTTY && num != EINVAL)
		return kage_err_sys(num, "scan the page map");
	return read_entries(pagemap_fd, start, end, ENTRY_PRESENT | ENTRY_SWAPPED,
			    ENTRY_FILE | ENTRY_GUARD, fn, user);
}

struct kage_err *kage_pagemap_guards(int pagemap_fd, uint64_t start, uint64_t end,
				     kage_pagemap_fn *fn, void *user)
{
	const struct finder f = { .fn = fn, .user = user };
	int num;

	return scan(pagemap_fd,
		    (struct kpm_scan_arg){
			    .start = start,
			    .end = end,
			    .category_mask = KPAGE_IS_GUARD,
		    },
		    &f, &num);
}

/*
 * What was written is found in two steps. A scan for nothing but "written" is several times faster than any
 * other, and what it does not mention is protected, hence there and unchanged. But it takes
 * holes for written, and protecting those would make page tables for them. So only what it mentions is looked at
 * closely.
 *
 * Mappings of files are looked at closely throughout: there the protection outlives the page.
 */
struct changes {
	int fd;
	bool file;
	uint64_t at;                   /* told up to here */
	uint64_t near_start, near_end; /* mentioned, and to be looked at closely */
	uint64_t found_bytes;          /* in there */
	kage_pagemap_changes_fn *fn;
	void *user;
	int num; /* errno value of a close look */
};

/* Regions so near to each other are looked at in one go: a system call, and telling the processors that run the target,
 * take as long as some hundred pages. */
enum { NEAR_BYTES = 1024 * 1024 };

static struct kage_err *found(void *user, uint64_t start, uint64_t end, enum kage_page_state state)
{
	struct changes *c = user;

	c->found_bytes += end - start;
	return c->fn(c->user, start, end, state);
}

static struct kage_err *found_guard(void *user, uint64_t start, uint64_t end)
{
	struct changes *c = user;

	return c->fn(c->user, start, end, KAGE_PAGE_GUARD);
}

static struct kage_err *look_closely(struct changes *c)
{
	const struct finder f = { .changes = found, .user = c };
	const struct kpm_scan_arg arg = {
		.start = c->near_start,
		.end = c->near_end,
		.flags = KPM_SCAN_CHECK_WPASYNC | KPM_SCAN_WP_MATCHING,
		.return_mask = KPAGE_IS_WRITTEN | (c->file ? KPAGE_IS_SWAPPED : 0),
	};

	if (c->near_start == c->near_end || c->num)
		return NULL;
	if (c->near_start > c->at)
		TRY(c->fn(c->user, c->at, c->near_start, KAGE_PAGE_SAME));
	c->at = c->near_end;
	c->found_bytes = 0;
	TRY(scan_private(c->fd, arg, c->file, &f, &c->num));
	if (c->num || c->found_bytes == c->near_end - c->near_start)
		return NULL;
	/* By a scan of its own: a protected guard would not be mentioned again. */
	return kage_pagemap_guards(c->fd, c->near_start, c->near_end, found_guard, c);
}

static struct kage_err *mentioned(void *user, uint64_t start, uint64_t end)
{
	struct changes *c = user;

	if (c->near_start != c->near_end && start - c->near_end <= NEAR_BYTES) {
		c->near_end = end;
		return NULL;
	}
	TRY(look_closely(c));
	c->near_start = start;
	c->near_end = end;
	return NULL;
}

/* The scan for nothing but "written". A large mapping is scanned in slices, by all processors: half a millisecond a
 * GiB for one. */
enum { SLICE_BYTES = 128 << 20, FEW_SLICES = 4, MOST_SLICES = 64 };

struct slice {
	struct kpage_region *v; /* what it mentions */
	size_t n, room;
	int num; /* errno value */
};

struct slicing {
	int fd;
	uint64_t start, end, bytes; /* of each slice, but the last */
	struct slice slices[MOST_SLICES];
};

static struct kage_err *keep(void *user, uint64_t start, uint64_t end)
{
	struct slice *s = user;
	struct kpage_region *grown;

	if (s->n == s->room) {
		s->room = s->room ? 2 * s->room : REGIONS;
		grown = reallocarray(s->v, s->room, sizeof(*s->v));
		if (!grown)
			return kage_err_nomem();
		s->v = grown;
	}
	s->v[s->n++] = (struct kpage_region){ .start = start, .end = end };
	return NULL;
}

static struct kage_err *scan_written(int fd, uint64_t start, uint64_t end, kage_pagemap_fn *fn,
				     void *user, int *ret_errno)
{
	const struct finder f = { .fn = fn, .user = user };
	const struct kpm_scan_arg arg = { .start = start,
					  .end = end,
					  .flags = KPM_SCAN_CHECK_WPASYNC,
					  .category_mask = KPAGE_IS_WRITTEN,
					  .return_mask = KPAGE_IS_WRITTEN };

	return scan(fd, arg, &f, ret_errno);
}

static struct kage_err *scan_slice(void *user, size_t thread, size_t i)
{
	struct slicing *s = user;
	uint64_t start = s->start + i * s->bytes;
	uint64_t end = s->end - start < s->bytes ? s->end : start + s->bytes;

	(void)thread;
	return scan_written(s->fd, start, end, keep, &s->slices[i], &s->slices[i].num);
}

static struct kage_err *tell_slices(const struct slicing *s, size_t n, struct changes *c,
				    int *ret_errno)
{
	for (size_t i = 0; i < n && !*ret_errno; i++) {
		for (size_t k = 0; k < s->slices[i].n; k++)
			TRY(mentioned(c, s->slices[i].v[k].start, s->slices[i].v[k].end));
		*ret_errno = s->slices[i].num;
	}
	return NULL;
}

static struct kage_err *scan_quickly(struct changes *c, uint64_t start, uint64_t end,
				     int *ret_errno)
{
	struct slicing s = { .fd = c->fd, .start = start, .end = end, .bytes = SLICE_BYTES };
	struct kage_err *e;
	size_t n;

	while ((end - start) / s.bytes >= MOST_SLICES)
		s.bytes *= 2;
	n = (end - start + s.bytes - 1) / s.bytes;
	if (n < FEW_SLICES)
		return scan_written(c->fd, start, end, mentioned, c, ret_errno);
	*ret_errno = 0;
	e = kage_workers_run(scan_slice, &s, n, true);
	if (!e)
		e = tell_slices(&s, n, c, ret_errno);
	for (size_t i = 0; i < n; i++)
		free(s.slices[i].v);
	return e;
}

struct kage_err *kage_pagemap_changes(int pagemap_fd, uint64_t start, uint64_t end, bool file,
				      kage_pagemap_changes_fn *fn, void *user, bool *ret_tracked)
{
	struct changes c = { .fd = pagemap_fd, .file = file, .at = start, .fn = fn, .user = user };
	int num = 0;

	if (file)
		TRY(mentioned(&c, start, end));
	else
		TRY(scan_quickly(&c, start, end, &num));
	if (!num)
		TRY(look_closely(&c));
	num = num ? num : c.num;
	*ret_tracked = num == 0;
	if (num == 0 && c.at < end)
		return fn(user, c.at, end, KAGE_PAGE_SAME);
	if (num == 0 || num == EPERM || num == ENOTTY || num == EINVAL)
		return NULL;
	return kage_err_sys(num, "scan the page map");
}

struct kage_err *kage_pagemap_survey(int pagemap_fd, uint64_t start, uint64_t end, bool file,
				     struct kage_page_region *regions, size_t max, size_t *ret_n,
				     bool *ret_known)
{
	struct kpage_region found[REGIONS];
	struct kpm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = KPM_SCAN_CHECK_WPASYNC,
		.start = start,
		.end = end,
		.vec = (uint64_t)(uintptr_t)found,
		.vec_len = max < REGIONS ? max : REGIONS,
		.category_anyof_mask = KPAGE_IS_PRESENT | KPAGE_IS_SWAPPED,
		.category_mask = never_private(file),
		.category_inverted = never_private(file),
		.return_mask = KPAGE_IS_WRITTEN | KPAGE_IS_SWAPPED | KPAGE_IS_GUARD,
	};
	int n;

	*ret_known = false;
	do
		n = ioctl(pagemap_fd, KPAGEMAP_SCAN, &arg);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EPERM && errno != ENOTTY && errno != EINVAL)
		return kage_err_sys(errno, "scan the page map");
	if (n < 0 || arg.walk_end < end)
		return NULL;
	for (int i = 0; i < n; i++)
		regions[i] = (struct kage_page_region){ found[i].start, found[i].end,
							state_of(found[i].categories) };
	*ret_n = (size_t)n;
	*ret_known = true;
	return NULL;
}
