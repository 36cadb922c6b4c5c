/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory map of a process with the flags of its mappings, without the walk through all page tables that smaps
 * makes: a BPF iterator tells the flags (bpf/vma.bpf.c).
 */
#ifndef SYS_VMAREAD_H
#define SYS_VMAREAD_H

#include "sys/maps.h"

struct kage_vmaread;

/** Gets the program ready; PINS as for kage_iter_open(). KAGE_PERM without the rights, KAGE_UNSUPPORTED when the kernel
 *  cannot, or numbers its flags otherwise. */
struct kage_err *kage_vmaread_open(const char *pins, struct kage_vmaread **ret_reader) _must_check_;

void kage_vmaread_close(struct kage_vmaread *reader);

/** The map of process PID, whose /proc/PID is PROC_FD, with flags. What READER cannot tell (huge pages of hugetlbfs,
 *  protection keys, and all without one: NULL) comes from smaps. */
struct kage_err *kage_vmaread_maps(const struct kage_vmaread *reader, int proc_fd, pid_t pid,
				   struct kage_maps *ret_maps) _must_check_;

/** The flags that BITS stands for, as smaps orders them, in A. *RET_FLAGS is NULL if there is a bit that is not known. */
struct kage_err *kage_vmaread_flags(struct arena *a, uint64_t bits, const uint16_t **ret_flags,
				    size_t *ret_n) _must_check_;

#endif
