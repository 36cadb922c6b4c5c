/* SPDX-License-Identifier: Apache-2.0 */
/*
 * userfaultfd(2). Of it, tracking of writes needs this: mappings are registered for asynchronous
 * write protection (UFFD_FEATURE_WP_ASYNC, Linux 6.7). A write to a protected page takes the
 * protection away by itself; nobody is told and nobody waits. Filling needs this: mappings are
 * registered for missing pages, and pages are put in their places, which costs neither zeroing
 * nor a fault.
 */
#ifndef SYS_UFFD_H
#define SYS_UFFD_H

#include <stdbool.h>

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

/** The same for UFFD, fresh, that is for missing pages; FEATURES as in userfaultfd(2). */
struct kage_err *kage_uffd_begin_missing(int uffd, uint64_t features) _must_check_;

/** Registers the pages from START to END for missing pages, false where that cannot be. */
bool kage_uffd_register_missing(int uffd, uint64_t start, uint64_t end);

/** Puts BYTES (a multiple of pages) to address TO, where pages are missing. Returns 0 or an errno value, and in
 *  *RET_DONE how many bytes are there: EEXIST: the next page is there; EAGAIN: the address space is being
 *  changed; ENOENT: no mapping that is registered; ESRCH: no address space any more. */
int kage_uffd_copy(int uffd, uint64_t to, const void *from, uint64_t bytes, uint64_t *ret_done);

/** Puts a page of zeros to address AT; errors as above. Whoever waits for a page there looks again, in any
 *  case. */
int kage_uffd_zero(int uffd, uint64_t at);

/** Whether the address space of UFFD, which is for missing pages, is there still. Changes nothing. */
bool kage_uffd_is_alive(int uffd);

#endif
