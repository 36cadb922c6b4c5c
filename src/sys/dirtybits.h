/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's soft-dirty bits: /proc/PID/clear_refs and bit 55 of /proc/PID/pagemap
 * (Documentation/admin-guide/mm/soft-dirty.rst).
 *
 * Not told by them: what blind.h names; pages of hugetlbfs; pages that KSM has made one (replace_page() in mm/ksm.c
 * drops the bit).
 */
#ifndef SYS_DIRTYBITS_H
#define SYS_DIRTYBITS_H

#include "sys/pagemap.h"

struct kage_dirtybits;

/** KAGE_UNSUPPORTED where the kernel has no such bits, KAGE_PERM where we may not know which page is the zero page. */
struct kage_err *kage_dirtybits_open(struct kage_dirtybits **ret_bits) _must_check_;
void kage_dirtybits_close(struct kage_dirtybits *bits);

/** Clears all bits of the process whose /proc/PID is PROC_FD. No thread of it can map, unmap or fault meanwhile:
 *  about 20 ns for each page that it has. */
struct kage_err *kage_dirtybits_clear(int proc_fd) _must_check_;

/** Finds the private pages from START to END, of the process behind PAGEMAP_FD, and tells whether they were written
 *  since their bits were cleared: KAGE_PAGE_SAME or KAGE_PAGE_WRITTEN. All entries of the range are read, holes too. */
struct kage_err *kage_dirtybits_look(struct kage_dirtybits *bits, int pagemap_fd, uint64_t start,
				     uint64_t end, kage_pagemap_changes_fn *fn, void *user)
	_must_check_;

#endif
