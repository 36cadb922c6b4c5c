/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for keys: locked so that it is never swapped out, where the limit of locked memory allows it
 * (mlock(2)), left out of core dumps, between guard pages, and zeroed when it is freed.
 */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include <stddef.h>

#include "base/err.h"

/** Makes libsodium choose what this processor does best. Any thread, any number of times; before any
 *  other call of it. */
struct kage_err *kage_secret_init(void) _must_check_;

/** SIZE bytes of such memory, zeroed. */
struct kage_err *kage_secret_alloc(size_t size, void *ret_memory) _must_check_;

/** Zeroes and frees it; NULL is fine. */
void kage_secret_free(void *memory);

/** Zeroes SIZE bytes at P, whatever the compiler thinks of it. */
void kage_secret_wipe(void *p, size_t size);

#endif
