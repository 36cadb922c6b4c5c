/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /proc/PID/maps and smaps: the memory map of a process.
 */
#ifndef SYS_MAPS_H
#define SYS_MAPS_H

#include <sys/types.h>

#include "base/arena.h"
#include "base/types.h"

/* Two letters of a VmFlags line as a number: VMFLAG('g', 'd'). */
#define VMFLAG(a, b) ((uint16_t)((uint8_t)(a) << 8 | (uint8_t)(b)))

struct kage_vma {
	uint64_t start, end;
	uint32_t prot; /* PROT_* */
	bool shared;
	uint64_t offset;
	uint32_t dev_major, dev_minor;
	uint64_t ino;
	const char *path;      /* as shown, escaped line feeds undone; "" for none */
	uint64_t huge_bytes;   /* KernelPageSize where it is not the ordinary one; smaps only */
	uint32_t pkey;         /* smaps only */
	size_t n_flags;        /* smaps only */
	const uint16_t *flags; /* VMFLAG()s */
	bool untouched; /* private, and has no page of the process's own, nor a guard; iterator only */
	bool swapped; /* some pages are in swap; smaps only */
};

struct kage_maps {
	struct arena arena;
	struct kage_vma *vmas; /* ascending */
	size_t n;
	bool has_flags; /* came from smaps */
};

void kage_maps_deinit(struct kage_maps *maps);

/** Parses TEXT of either file. KAGE_CORRUPT when it is not what the kernel writes. */
struct kage_err *kage_maps_parse(const char *text, struct kage_maps *ret_maps) _must_check_;

/** Reads /proc/PID/maps or smaps through the open directory PROC_FD. */
struct kage_err *kage_maps_read(int proc_fd, bool with_flags, struct kage_maps *ret_maps)
	_must_check_;

/** Whether both have the same lines, flags aside. */
bool kage_maps_equal(const struct kage_maps *a, const struct kage_maps *b);

bool kage_vma_has(const struct kage_vma *vma, uint16_t flag);

/** The mapping that holds ADDRESS, or NULL. */
const struct kage_vma *kage_maps_find(const struct kage_maps *maps, uint64_t address);

/** The first mapping that is shown with PATH, or NULL. */
const struct kage_vma *kage_maps_named(const struct kage_maps *maps, const char *path);

/** The lowest address of a hole of BYTES, at least MARGIN away from every mapping of MAPS and within
 *  [FLOOR, CEILING); 0 when there is none. The highest such hole below CEILING is taken. */
uint64_t kage_maps_hole(const struct kage_maps *maps, uint64_t bytes, uint64_t margin,
			uint64_t floor, uint64_t ceiling);

/** The same, away from the mappings of both A and B. */
uint64_t kage_maps_common_hole(const struct kage_maps *a, const struct kage_maps *b, uint64_t bytes,
			       uint64_t margin, uint64_t floor, uint64_t ceiling);

#endif
