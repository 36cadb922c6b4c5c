/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of a mapping have contents of their own: PAGEMAP_SCAN of /proc/PID/pagemap (Linux
 * 6.7), else its entries one by one.
 */
#ifndef SYS_PAGEMAP_H
#define SYS_PAGEMAP_H

#include <stddef.h>

#include "base/err.h"
#include "base/types.h"

/* Called with each run of pages, ascending; addresses. */
typedef struct kage_err *kage_pagemap_fn(void *user, uint64_t start, uint64_t end);

/** Whether the kernel has PAGEMAP_SCAN: only then a scan may span unmapped ranges. */
bool kage_pagemap_can_scan(int pagemap_fd);

/** Whether the mapping from START to END, which is one, is registered for asynchronous write protection. */
bool kage_pagemap_is_tracked(int pagemap_fd, uint64_t start, uint64_t end);

/** Finds the pages from START to END that are in memory or in swap and belong to the process alone:
 *  neither pages of a file, nor the kernel's zero page. PAGEMAP_FD is /proc/PID/pagemap. */
struct kage_err *kage_pagemap_private(int pagemap_fd, uint64_t start, uint64_t end,
				      kage_pagemap_fn *fn, void *user) _must_check_;

/** Finds the guard regions (MADV_GUARD_INSTALL) from START to END; none where the kernel cannot
 *  tell. */
struct kage_err *kage_pagemap_guards(int pagemap_fd, uint64_t start, uint64_t end,
				     kage_pagemap_fn *fn, void *user) _must_check_;

enum kage_page_state {
	KAGE_PAGE_SAME,    /* private, as it was when it was protected the last time */
	KAGE_PAGE_WRITTEN, /* private, written since, or never protected */
	KAGE_PAGE_UNSURE, /* of a file: private and in swap, or none any more, where only its protection
			      stayed behind. It can be told once the page was read */
	KAGE_PAGE_GUARD, /* a guard (MADV_GUARD_INSTALL) */
};

/* Called with each run of pages in one state, ascending. */
typedef struct kage_err *kage_pagemap_changes_fn(void *user, uint64_t start, uint64_t end,
						 enum kage_page_state state);

/** Finds the private pages from START to END, as kage_pagemap_private() does, and guards; tells whether pages were
 *  written since they were protected the last time, and protects them again in the same step. FILE: the mapping is
 *  of a file, whose own pages are none of these. The range must be registered for asynchronous write protection (sys/uffd.h). *RET_TRACKED is false when a part of it is
 *  not, or the kernel has no such scan: then what was found before is worth nothing. */
struct kage_err *kage_pagemap_changes(int pagemap_fd, uint64_t start, uint64_t end, bool file,
				      kage_pagemap_changes_fn *fn, void *user, bool *ret_tracked)
	_must_check_;

struct kage_page_region {
	uint64_t start, end;
	enum kage_page_state state;
};

/** The same for several mappings in one call, all of files (FILE) or none, protecting nothing: from START to END all that is mapped must be
 *  registered. At most MAX of them, ascending; *RET_KNOWN is false when there are more, or it cannot be told. Cheap only
 *  where few pages are in memory. */
struct kage_err *kage_pagemap_survey(int pagemap_fd, uint64_t start, uint64_t end, bool file,
				     struct kage_page_region *regions, size_t max, size_t *ret_n,
				     bool *ret_known) _must_check_;

#endif
