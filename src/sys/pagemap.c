/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/pagemap.h"

#include <errno.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/kernel.h"

enum { REGIONS = 512, ENTRIES = 4096 };

/* Bits of an entry of pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define ENTRY_PRESENT (1ull << 63)
#define ENTRY_SWAPPED (1ull << 62)
#define ENTRY_FILE    (1ull << 61)
#define ENTRY_GUARD   (1ull << 58)

/* Runs the scan that ARG describes over its range. ENOTTY or EINVAL in *ret_errno where the kernel
 * has no such scan, or not these categories. */
static struct kage_err *scan(int fd, struct kpm_scan_arg arg, kage_pagemap_fn *fn, void *user,
			     int *ret_errno)
{
	struct kpage_region regions[REGIONS];

	*ret_errno = 0;
	arg.size = sizeof(arg);
	arg.vec = (uint64_t)(uintptr_t)regions;
	arg.vec_len = REGIONS;
	while (arg.start < arg.end) {
		int n = ioctl(fd, KPAGEMAP_SCAN, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			*ret_errno = errno;
			return NULL;
		}
		for (int i = 0; i < n; i++)
			TRY(fn(user, regions[i].start, regions[i].end));
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

struct kage_err *kage_pagemap_private(int pagemap_fd, uint64_t start, uint64_t end,
				      kage_pagemap_fn *fn, void *user)
{
	/* Guards look like swapped pages; kernels that do not know guards do not know the category. */
	static const uint64_t never[] = { KPAGE_IS_FILE | KPAGE_IS_PFNZERO | KPAGE_IS_GUARD,
					  KPAGE_IS_FILE | KPAGE_IS_PFNZERO };
	int num = EINVAL;

	for (size_t i = 0; i < ARRAY_SIZE(never) && num == EINVAL; i++)
		TRY(scan(pagemap_fd,
			 (struct kpm_scan_arg){
				 .start = start,
				 .end = end,
				 .category_inverted = never[i],
				 .category_mask = never[i],
				 .category_anyof_mask = KPAGE_IS_PRESENT | KPAGE_IS_SWAPPED,
			 },
			 fn, user, &num));
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
	int num;

	return scan(pagemap_fd,
		    (struct kpm_scan_arg){
			    .start = start,
			    .end = end,
			    .category_mask = KPAGE_IS_GUARD,
		    },
		    fn, user, &num);
}
