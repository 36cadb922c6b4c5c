/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of the image are still owed to which addresses, while a program that was restored lazily
 * moves, drops and copies its memory. Pure: it changes by what userfaultfd(2) tells, and the same
 * messages make the same map again.
 */
#ifndef RESTORE_PAGER_MAP_H
#define RESTORE_PAGER_MAP_H

#include <linux/userfaultfd.h>
#include <stdbool.h>

#include "base/err.h"
#include "base/types.h"

/* Pages from PAGE of the image belong to the addresses from START. */
struct owed {
	uint64_t page, count;
	uint64_t start;
};

/* An event of our own: the space is gone, and its descriptor, which is closed next, may come again for another. */
enum { PAGER_EVENT_GONE = 0xff };

/* One address space: the program's, or one that it has forked. */
struct pager_space {
	int uffd; /* -1: it is gone, and the number free for another */
	bool gone;
	struct owed *owed; /* ascending by page, without overlap in pages or addresses */
	size_t n, max;
};

struct pager_map {
	struct pager_space *spaces; /* the program's is the first */
	size_t n;
};

/** What has owed nothing so far owes pages to UFFD, under the first number that is free. */
struct kage_err *pager_map_add_space(struct pager_map *m, int uffd, size_t *ret_space) _must_check_;
void pager_map_deinit(struct pager_map *m);

/** The addresses START to END of S are owed the pages of the same numbers. */
struct kage_err *pager_map_owe(struct pager_space *s, uint64_t start, uint64_t end) _must_check_;

/** Space number SPACE has told MSG, which is no fault; or it is PAGER_EVENT_GONE. */
struct kage_err *pager_map_apply(struct pager_map *m, size_t space, const struct uffd_msg *msg)
	_must_check_;

/** The first entry of S that ends behind PAGE, S->n if none. */
size_t pager_map_find(const struct pager_space *s, uint64_t page);

/** The page that address AT of S is owed; false for none: zeros. */
bool pager_map_page(const struct pager_space *s, uint64_t at, uint64_t *ret_page);

#endif
