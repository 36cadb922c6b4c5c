/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/procmap.h"

#include <errno.h>

#include "sys/kernel.h"

/* 0, or an errno value: ENOENT when there is none, ESRCH when the address space is gone. */
static int query(int maps_fd, uint64_t address, uint64_t how, struct kage_procmap *ret_map)
{
	struct kprocmap_query q = { .size = sizeof(q), .query_flags = how, .query_addr = address };
	int r;

	do
		r = ioctl(maps_fd, KPROCMAP_QUERY, &q);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno;
	*ret_map = (struct kage_procmap){ q.vma_start, q.vma_end, q.vma_flags };
	return 0;
}

bool kage_procmap_at(int maps_fd, uint64_t address, struct kage_procmap *ret_map)
{
	return query(maps_fd, address, 0, ret_map) == 0;
}

bool kage_procmap_from(int maps_fd, uint64_t address, struct kage_procmap *ret_map)
{
	return query(maps_fd, address, KPROCMAP_COVERING_OR_NEXT_VMA, ret_map) == 0;
}

bool kage_procmap_is_gone(int maps_fd)
{
	struct kage_procmap map;

	return query(maps_fd, 0, KPROCMAP_COVERING_OR_NEXT_VMA, &map) == ESRCH;
}

bool kage_procmap_works(int maps_fd)
{
	struct kage_procmap map;
	int num = query(maps_fd, 0, KPROCMAP_COVERING_OR_NEXT_VMA, &map);

	return num != ENOTTY && num != EINVAL;
}
