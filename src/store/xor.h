/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The code of a difference between two pages (kage-pack(5), DELTA): their exclusive-or, where runs of
 * zeros are told by their length. Pure.
 *
 *	page := { zeros literals bytes } [ zeros ]      until 4,096 bytes are told
 *
 * Both counts are LEB128. A decoder takes any such sequence; the encoder makes runs of at least eight
 * zeros, so that what it writes is never longer than XOR_PAGE_MAX.
 */
#ifndef STORE_XOR_H
#define STORE_XOR_H

#include <stddef.h>
#include <stdint.h>

#include "base/types.h"

enum {
	XOR_PAGE_MAX = KAGE_PAGE_BYTES + 4,
	XOR_SLACK = 8, /* what the encoder may scribble behind its result */
};

/** Writes the difference of the pages A and B (NULL: zeros) to OUT, which has room for XOR_PAGE_MAX +
 *  XOR_SLACK bytes. The size of the code; 0 when the pages are equal. */
size_t kage_xor_encode(const void *a, const void *b, uint8_t *out);

/** Applies the code of one page at the beginning of SIZE bytes to PAGE (NULL: only passes over it). The
 *  bytes that it took, 0 when they are no code. PAGE is then half changed. */
size_t kage_xor_apply(const uint8_t *code, size_t size, void *page);

/** PAGES pages: TO ^= FROM. */
void kage_xor_pages(void *to, const void *from, size_t pages);

/** LEB128: writes V, at most 10 bytes; the bytes written. */
size_t kage_leb_put(uint8_t *out, uint64_t v);

/** Reads a number of at most 10 bytes; the bytes read, 0 when there is none. */
size_t kage_leb_get(const uint8_t *in, size_t size, uint64_t *ret_v);

#endif
