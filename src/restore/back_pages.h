/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of a program that goes back; see back_memory.c. */
#ifndef RESTORE_BACK_PAGES_H
#define RESTORE_BACK_PAGES_H

#include "image/runs.h"
#include "restore/back.h"

/** Makes the private pages of the program those of the instant. KEPT: where it is mapped as it was; all else that it has
 *  of private memory is fresh. SAME_MAP: its map is K->now still. */
struct kage_err *back_pages(struct back *k, const struct page_runs *kept, bool same_map)
	_must_check_;

#endif
