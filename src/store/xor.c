/* SPDX-License-Identifier: Apache-2.0 */
#include "store/xor.h"

#include <endian.h>

enum { WORD = 8, BLOCK = 64 };

/* --- numbers ---------------------------------------------------------------------------------- */

size_t kage_leb_put(uint8_t *out, uint64_t v)
{
	size_t n = 0;

	for (; v >= 0x80; v >>= 7)
		out[n++] = (uint8_t)(v | 0x80);
	out[n++] = (uint8_t)v;
	return n;
}

size_t kage_leb_get(const uint8_t *in, size_t size, uint64_t *ret_v)
{
	uint64_t v = 0;

	for (size_t n = 0; n < size && n < 10; n++) {
		if (n == 9 && in[n] > 1)
			return 0; /* more than 64 bits */
		v |= (uint64_t)(in[n] & 0x7f) << (7 * n);
		if (in[n] < 0x80) {
			*ret_v = v;
			return n + 1;
		}
	}
	return 0;
}

/* The same; most numbers in a code are one byte or two. */
static inline size_t get_count(const uint8_t *in, size_t size, uint64_t *ret_v)
{
	if (size >= 2 && in[0] < 0x80) {
		*ret_v = in[0];
		return 1;
	}
	if (size >= 2 && in[1] < 0x80) {
		*ret_v = (uint64_t)(in[0] & 0x7f) | (uint64_t)in[1] << 7;
		return 2;
	}
	return kage_leb_get(in, size, ret_v);
}

/* --- words ------------------------------------------------------------------------------------ */

/* Byte 0 of the difference at A and B is the lowest. */
static inline uint64_t difference(const uint8_t *a, const uint8_t *b)
{
	uint64_t x, y = 0;

	memcpy(&x, a, WORD);
	if (b)
		memcpy(&y, b, WORD);
	return le64toh(x ^ y);
}

static inline uint64_t block_difference(const uint8_t *a, const uint8_t *b)
{
	uint64_t all = 0;

	for (size_t i = 0; i < BLOCK; i += WORD)
		all |= difference(a + i, b ? b + i : NULL);
	return all;
}

/* The first word from AT on (a multiple of WORD) in which the pages differ, or the page's end. */
static size_t find_difference(const uint8_t *a, const uint8_t *b, size_t at)
{
	for (; at % BLOCK && at < KAGE_PAGE_BYTES; at += WORD)
		if (difference(a + at, b ? b + at : NULL))
			return at;
	while (at < KAGE_PAGE_BYTES && !block_difference(a + at, b ? b + at : NULL))
		at += BLOCK;
	while (at < KAGE_PAGE_BYTES && !difference(a + at, b ? b + at : NULL))
		at += WORD;
	return at;
}

/* The first word behind AT that is equal in both, or the page's end. */
static size_t find_equal(const uint8_t *a, const uint8_t *b, size_t at)
{
	while (at < KAGE_PAGE_BYTES && difference(a + at, b ? b + at : NULL))
		at += WORD;
	return at;
}

/* Bytes FROM to TO of the difference, and up to XOR_SLACK more. */
static void put_bytes(const uint8_t *a, const uint8_t *b, size_t from, size_t to, uint8_t *out)
{
	for (size_t at = from; at < to; at += WORD, out += WORD) {
		uint64_t v = 0;

		if (at + WORD <= KAGE_PAGE_BYTES)
			v = difference(a + at, b ? b + at : NULL);
		else
			for (size_t i = 0; i < to - at; i++)
				v |= (uint64_t)(a[at + i] ^ (b ? b[at + i] : 0)) << (8 * i);
		v = htole64(v);
		memcpy(out, &v, WORD);
	}
}

/* --- pages ------------------------------------------------------------------------------------ */

size_t kage_xor_encode(const void *a, const void *b, uint8_t *out)
{
	const uint8_t *x = a, *y = b;
	size_t told = 0, n = 0, at = find_difference(x, y, 0);

	if (at == KAGE_PAGE_BYTES)
		return 0;
	while (at < KAGE_PAGE_BYTES) {
		size_t end = find_equal(x, y, at);
		size_t from =
			at + (size_t)__builtin_ctzll(difference(x + at, y ? y + at : NULL)) / 8;
		size_t last = end - WORD;
		size_t to = end -
			    (size_t)__builtin_clzll(difference(x + last, y ? y + last : NULL)) / 8;

		n += kage_leb_put(out + n, from - told);
		n += kage_leb_put(out + n, to - from);
		put_bytes(x, y, from, to, out + n);
		n += to - from;
		told = to;
		at = find_difference(x, y, end);
	}
	if (told < KAGE_PAGE_BYTES)
		n += kage_leb_put(out + n, KAGE_PAGE_BYTES - told);
	return n;
}

static void xor_bytes(uint8_t *to, const uint8_t *from, size_t n)
{
	size_t at = 0;

	for (; at + WORD <= n; at += WORD) {
		uint64_t x, y;

		memcpy(&x, to + at, WORD);
		memcpy(&y, from + at, WORD);
		x ^= y;
		memcpy(to + at, &x, WORD);
	}
	for (; at < n; at++)
		to[at] ^= from[at];
}

size_t kage_xor_apply(const uint8_t *code, size_t size, void *page)
{
	uint8_t *to = page;
	size_t at = 0, told = 0;

	while (told < KAGE_PAGE_BYTES) {
		uint64_t zeros, literals;
		size_t n = get_count(code + at, size - at, &zeros);

		if (!n || zeros > KAGE_PAGE_BYTES - told)
			return 0;
		at += n;
		told += zeros;
		if (told == KAGE_PAGE_BYTES)
			break;
		n = get_count(code + at, size - at, &literals);
		at += n;
		if (!n || literals == 0 || literals > KAGE_PAGE_BYTES - told ||
		    literals > size - at)
			return 0;
		if (to)
			xor_bytes(to + told, code + at, literals);
		at += literals;
		told += literals;
	}
	return at;
}

void kage_xor_pages(void *to, const void *from, size_t pages)
{
	xor_bytes(to, from, pages * KAGE_PAGE_BYTES);
}
