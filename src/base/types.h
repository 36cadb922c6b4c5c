/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Types that keep what is ours apart from what is a target's, and stored bytes apart from numbers.
 */
#ifndef BASE_TYPES_H
#define BASE_TYPES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/** An address in a target: cannot be dereferenced nor mixed up with a pointer of ours. */
struct kage_addr {
	uint64_t v;
};
typedef struct kage_addr kage_addr;

static inline kage_addr addr(uint64_t v)
{
	return (kage_addr){ v };
}

static inline kage_addr addr_add(kage_addr a, uint64_t n)
{
	return (kage_addr){ a.v + n };
}

/* The unit in which images count memory, on every architecture. */
enum { KAGE_PAGE_BYTES = 4096, KAGE_PAGE_SHIFT = 12 };

static inline uint64_t page_floor(uint64_t v)
{
	return v & ~(uint64_t)(KAGE_PAGE_BYTES - 1);
}

static inline uint64_t page_ceil(uint64_t v)
{
	return page_floor(v + KAGE_PAGE_BYTES - 1);
}

/* Little-endian integers as they stand in files. */
typedef struct {
	uint8_t b[2];
} le16;
typedef struct {
	uint8_t b[4];
} le32;
typedef struct {
	uint8_t b[8];
} le64;

static inline uint64_t le_load_(const uint8_t *b, int n)
{
	uint64_t v = 0;

	for (int i = n - 1; i >= 0; i--)
		v = v << 8 | b[i];
	return v;
}

static inline void le_store_(uint8_t *b, int n, uint64_t v)
{
	for (int i = 0; i < n; i++, v >>= 8)
		b[i] = (uint8_t)v;
}

static inline uint16_t le16_get(le16 x)
{
	return (uint16_t)le_load_(x.b, 2);
}

static inline uint32_t le32_get(le32 x)
{
	return (uint32_t)le_load_(x.b, 4);
}

static inline uint64_t le64_get(le64 x)
{
	return le_load_(x.b, 8);
}

static inline le16 le16_of(uint16_t v)
{
	le16 x;
	le_store_(x.b, 2, v);
	return x;
}

static inline le32 le32_of(uint32_t v)
{
	le32 x;
	le_store_(x.b, 4, v);
	return x;
}

static inline le64 le64_of(uint64_t v)
{
	le64 x;
	le_store_(x.b, 8, v);
	return x;
}

#endif
