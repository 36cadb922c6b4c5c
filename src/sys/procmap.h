/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which mapping stands at an address just now: PROCMAP_QUERY of /proc/PID/maps (Linux 6.11), a microsecond where
 * reading the whole map takes as long a mapping.
 */
#ifndef SYS_PROCMAP_H
#define SYS_PROCMAP_H

#include <stdbool.h>
#include <stdint.h>

struct kage_procmap {
	uint64_t start, end;
	uint64_t flags; /* readable, writable and so on: to be compared */
};

/** The mapping at ADDRESS of the process behind MAPS_FD. False when there is none, or the kernel does not tell. */
bool kage_procmap_at(int maps_fd, uint64_t address, struct kage_procmap *ret_map);

/** The same, or the next one above. */
bool kage_procmap_from(int maps_fd, uint64_t address, struct kage_procmap *ret_map);

/** Whether they fail because the address space is gone (execve(2)). */
bool kage_procmap_is_gone(int maps_fd);

/** Whether the kernel can tell. */
bool kage_procmap_works(int maps_fd);

#endif
