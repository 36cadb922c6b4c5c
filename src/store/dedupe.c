/* SPDX-License-Identifier: Apache-2.0 */
#include "store/dedupe.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

struct kage_err *kage_dedupe_init(struct dedupe *d, uint64_t n_pages)
{
	size_t capacity = 64;

	while (capacity < n_pages + n_pages / 2)
		capacity *= 2;
	/* Not calloc: a table of many megabytes is looked up at random, and huge pages halve that. */
	d->entries = mmap(NULL, capacity * sizeof(*d->entries), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (d->entries == MAP_FAILED) {
		d->entries = NULL;
		return kage_err_sys(errno, "map a table for %llu pages",
				    (unsigned long long)n_pages);
	}
	d->mask = capacity - 1;
	madvise(d->entries, capacity * sizeof(*d->entries), MADV_HUGEPAGE);
	return NULL;
}

void kage_dedupe_deinit(struct dedupe *d)
{
	if (d->entries)
		munmap(d->entries, (d->mask + 1) * sizeof(*d->entries));
	*d = (struct dedupe){ 0 };
}
