/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the kernel's form of the extended state to ptrace's.
 */
#include <cpuid.h>
#include <pthread.h>
#include <string.h>

#include "arch/x86_64/xsave.h"
#include "base/cleanup.h"

/* Offsets in the legacy region and the header behind it (SDM volume 1, 13.4.1 and 13.4.2). */
enum {
	FCW = 0,
	MXCSR = 24,
	MXCSR_MASK = 28,
	ST = 32,
	XMM = 160,
	XMM_END = 416,
	SOFTWARE = 464, /* the kernel tells XCR0 here */
	HEADER = 512,
	HEADER_COMPACT = 520,
	EXTENDED = 576,

	INIT_FCW = 0x37f,
	INIT_MXCSR = 0x1f80,

	X87 = 0,
	SSE = 1,
	AVX = 2,
	PKRU = 9,
	LAST = 62,
};

#define BIT(n)  (1ull << (n))
#define COMPACT BIT(63)

static uint64_t load64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t read_xcr0(void)
{
	uint32_t low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

static uint32_t read_mxcsr_mask(void)
{
	_Alignas(16) uint8_t fx[512] = { 0 };
	uint32_t mask;

	__asm__ volatile("fxsave64 %0" : "+m"(fx));
	memcpy(&mask, fx + MXCSR_MASK, sizeof(mask));
	return mask;
}

/* What CPUID leaf 0xD tells: of each component, and how large the standard form is. It is asked once, because a virtual
 * machine asks its host, which takes microseconds. */
struct component {
	uint32_t size;
	uint32_t offset; /* in the standard form */
	bool aligned;    /* to 64 bytes, in the compacted form */
};

static struct component components[LAST + 1];
static uint32_t all_bytes; /* 0: no XSAVE */
static pthread_once_t asked = PTHREAD_ONCE_INIT;

static void ask_once(void)
{
	uint32_t a, c, d;

	if (!__get_cpuid_count(0xd, 0, &a, &all_bytes, &c, &d))
		all_bytes = 0;
	for (int i = 2; i <= LAST && all_bytes; i++) {
		struct component *k = &components[i];

		__cpuid_count(0xd, i, k->size, k->offset, c, d);
		k->aligned = c & 2;
	}
}

static struct component describe(int i)
{
	pthread_once(&asked, ask_once);
	return components[i];
}

/* Where component WANTED lies in an area whose header has COMPACT_BV. */
static size_t locate(uint64_t compact_bv, int wanted)
{
	size_t at = EXTENDED;

	if (!(compact_bv & COMPACT))
		return describe(wanted).offset;
	for (int i = 2; i <= wanted; i++) {
		struct component c;

		if (!(compact_bv & BIT(i)))
			continue;
		c = describe(i);
		if (c.aligned)
			at = (at + 63) & ~(size_t)63;
		if (i == wanted)
			return at;
		at += c.size;
	}
	return 0;
}

/* The region of x87 and SSE. MXCSR belongs to AVX as well, hence stands on its own. */
static void put_legacy(const uint8_t *area, uint64_t present, uint8_t *buf)
{
	const uint16_t fcw = INIT_FCW;
	const uint32_t mxcsr = INIT_MXCSR, mask = read_mxcsr_mask();
	const uint64_t xcr0 = read_xcr0();

	memcpy(buf + FCW, &fcw, sizeof(fcw));
	memcpy(buf + MXCSR, &mxcsr, sizeof(mxcsr));
	memcpy(buf + MXCSR_MASK, &mask, sizeof(mask));
	if (present & BIT(X87)) {
		memcpy(buf, area, MXCSR);
		memcpy(buf + ST, area + ST, XMM - ST);
	}
	if (present & (BIT(SSE) | BIT(AVX)))
		memcpy(buf + MXCSR, area + MXCSR, ST - MXCSR);
	if (present & BIT(SSE))
		memcpy(buf + XMM, area + XMM, XMM_END - XMM);
	memcpy(buf + SOFTWARE, &xcr0, sizeof(xcr0));
	memcpy(buf + HEADER, &present, sizeof(present));
}

static struct kage_err *put_component(const struct kage_task_xsave *x, const uint8_t *area, int i,
				      uint8_t *buf, size_t size)
{
	struct component c = describe(i);
	size_t at = locate(load64(area + HEADER_COMPACT), i);

	if (!c.size || c.offset < EXTENDED || c.offset > size || c.size > size - c.offset)
		return kage_err_new(KAGE_CORRUPT, "extended state %d has no place", i);
	if (at < EXTENDED || at > x->bytes || c.size > x->bytes - at)
		return kage_err_new(x->size > x->bytes ? KAGE_LIMIT : KAGE_CORRUPT,
				    "extended state %d lies outside of what was read", i);
	memcpy(buf + c.offset, area + at, c.size);
	return NULL;
}

/* The kernel switches the protection key register by itself: the area may be behind. */
static void put_pkru(const struct kage_task_xsave *x, uint8_t *buf, size_t size)
{
	struct component c = describe(PKRU);
	uint32_t pkru = (uint32_t)x->pkru;

	if (c.size >= sizeof(pkru) && c.offset >= EXTENDED && c.offset <= size - sizeof(pkru))
		memcpy(buf + c.offset, &pkru, sizeof(pkru));
}

static struct kage_err *standard_size(size_t *ret_size)
{
	pthread_once(&asked, ask_once);
	if (all_bytes < EXTENDED)
		return kage_err_new(KAGE_UNSUPPORTED, "this processor has no XSAVE");
	*ret_size = all_bytes;
	return NULL;
}

struct kage_err *kage_x86_xsave_standard(const struct kage_task_xsave *x, const uint8_t *area,
					 uint8_t *buf, size_t capacity, size_t *ret_size)
{
	uint64_t present;
	size_t size = 0;

	TRY(standard_size(&size));
	if (capacity < size)
		return kage_err_new(KAGE_LIMIT, "extended state has %zu bytes, room is for %zu",
				    size, capacity);
	if (x->bytes < EXTENDED)
		return kage_err_new(KAGE_CORRUPT, "extended state of %u bytes", x->bytes);
	present = load64(area + HEADER) & x->user_features;
	memset(buf, 0, size);
	put_legacy(area, present, buf);
	for (int i = 2; i <= LAST; i++)
		if (present & BIT(i))
			TRY(put_component(x, area, i, buf, size));
	if (x->user_features & BIT(PKRU))
		put_pkru(x, buf, size);
	*ret_size = size;
	return NULL;
}
