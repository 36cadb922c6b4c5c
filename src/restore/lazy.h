/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lazy restore: the program runs before its memory is there. See lazy.c.
 */
#ifndef RESTORE_LAZY_H
#define RESTORE_LAZY_H

#include "restore/restore.h"

struct lazy;

/** The stub's memory is mapped: chooses what is filled later, and makes faults there wait. NULL in *ret_lazy
 *  when the options do not want it, or nothing is worth it. KAGE_PERM, KAGE_UNSUPPORTED: it cannot
 *  be done here. */
struct kage_err *lazy_prepare(struct kage_restore *r, struct lazy **ret_lazy) _must_check_;

/** By index of the mappings: whether it is filled later. */
const uint8_t *lazy_later(const struct lazy *lazy);

/** Starts the process that fills it. It ends with the stub, or when all is filled. NULL: nothing to do. */
struct kage_err *lazy_start(struct lazy *lazy) _must_check_;

/** The program runs, or it came to nothing: releases what the caller's process needs of it; NULL is fine. The
 *  pager goes on, and begins with the pages that nobody waits for. */
void lazy_destroy(struct lazy *lazy);

#endif
