/* SPDX-License-Identifier: Apache-2.0 */
/*
 * userfaultfd(2), as far as tracking of writes needs it: mappings are registered for asynchronous
 * write protection (UFFD_FEATURE_WP_ASYNC, Linux 6.7). A write to a protected page takes the
 * protection away by itself; nobody is told and nobody waits.
 */
#ifndef SYS_UFFD_H
#define SYS_UFFD_H

#include "base/err.h"
#include "base/types.h"

/* Flag of userfaultfd(2), since 5.11: no rights are needed, and faults of the kernel itself need not be
 * handled; with asynchronous protection they need not anyway. */
#define KUFFD_USER_MODE_ONLY 1

/** Agrees with the kernel on what UFFD, fresh, is for. KAGE_UNSUPPORTED when it cannot do that. */
struct kage_err *kage_uffd_begin(int uffd) _must_check_;

/** Registers the pages from START to END, of one mapping or more. *RET_ERRNO: 0; EBUSY: another
 *  userfaultfd has it; ENOMEM: the address space is gone; ENOENT, EINVAL: no such mapping, or none that
 *  can be tracked. */
void kage_uffd_register(int uffd, uint64_t start, uint64_t end, int *ret_errno);

/** Takes the protection of the pages from START to END away. */
void kage_uffd_unprotect(int uffd, uint64_t start, uint64_t end);

/** Undoes the registration of the mappings from START to END. */
void kage_uffd_unregister(int uffd, uint64_t start, uint64_t end);

#endif
