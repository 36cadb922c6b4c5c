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

/** Finds the pages from START to END that are in memory or in swap and belong to the process alone:
 *  neither pages of a file, nor the kernel's zero page. PAGEMAP_FD is /proc/PID/pagemap. */
struct kage_err *kage_pagemap_private(int pagemap_fd, uint64_t start, uint64_t end,
				      kage_pagemap_fn *fn, void *user) _must_check_;

/** Finds the guard regions (MADV_GUARD_INSTALL) from START to END; none where the kernel cannot
 *  tell. */
struct kage_err *kage_pagemap_guards(int pagemap_fd, uint64_t start, uint64_t end,
				     kage_pagemap_fn *fn, void *user) _must_check_;

#endif
