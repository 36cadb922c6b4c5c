/* SPDX-License-Identifier: Apache-2.0 */
/* The code of differences, the list of changed pages, and sets of pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "lib/sample_image.h"
#include "store/dirty.h"
#include "store/xor.h"

static unsigned char a[KAGE_PAGE_BYTES], b[KAGE_PAGE_BYTES];

/* Encodes the difference of A and B, and goes both ways by it. Returns the size of the code. */
static size_t both_ways(void)
{
	unsigned char to[KAGE_PAGE_BYTES], code[XOR_PAGE_MAX + XOR_SLACK];
	size_t n = kage_xor_encode(a, b, code);

	assert_true(n <= XOR_PAGE_MAX);
	if (n == 0) {
		assert_memory_equal(a, b, sizeof(a));
		return 0;
	}
	memcpy(to, a, sizeof(to));
	assert_int_equal(kage_xor_apply(code, n, to), n);
	assert_memory_equal(to, b, sizeof(to));
	assert_int_equal(kage_xor_apply(code, n, to), n);
	assert_memory_equal(to, a, sizeof(to));
	assert_int_equal(kage_xor_apply(code, n, NULL), n);
	for (size_t cut = 0; cut < n; cut += 1 + n / 50)
		assert_int_equal(kage_xor_apply(code, cut, to), 0);
	return n;
}

static void test_borders(void **state)
{
	static const size_t places[] = { 0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 4088, 4094, 4095 };

	(void)state;
	memset(a, 0x33, sizeof(a));
	memcpy(b, a, sizeof(b));
	assert_int_equal(both_ways(), 0);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		memcpy(b, a, sizeof(b));
		b[places[i]] ^= 1;
		assert_true(both_ways() <= 2 + 1 + 1 + 2);
		for (size_t j = i + 1; j < ARRAY_SIZE(places); j++) {
			b[places[j]] ^= 0x80;
			assert_in_range(both_ways(), 4, 160);
			b[places[j]] ^= 0x80;
		}
	}
	for (size_t i = 0; i < sizeof(b); i++)
		b[i] = (unsigned char)~a[i];
	assert_int_equal(both_ways(), 1 + 2 + KAGE_PAGE_BYTES);
}

/* Every other word differs: what makes the code longest, beside a page that differs as a whole. */
static void test_longest(void **state)
{
	(void)state;
	for (size_t step = 8; step <= 64; step += 8) {
		memset(a, 0, sizeof(a));
		memset(b, 0, sizeof(b));
		for (size_t i = 0; i + step <= sizeof(b); i += step)
			memset(b + i, 0xee, step / 2);
		both_ways();
	}
}

static void test_random_pages(void **state)
{
	struct random_state r = { kage_clock_real_ns() };

	(void)state;
	print_message("# seed %llu\n", (unsigned long long)r.v);
	for (int i = 0; i < 3000; i++) {
		sample_page(a, (unsigned)(random_next(&r) % 4), random_next(&r));
		memcpy(b, a, sizeof(b));
		for (uint64_t n = random_next(&r) % (i % 7 ? 12 : 600); n > 0; n--)
			b[random_next(&r) % sizeof(b)] ^= (unsigned char)random_next(&r);
		both_ways();
	}
}

static void test_no_code(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
	} bad[] = {
		{ "", 0 },
		{ "\x81\x20", 2 },                 /* 4,097 zeros */
		{ "\x80\x80\x80\x80\x80\x20", 6 }, /* many more */
		{ "\x01\x00", 2 },                 /* no literals */
		{ "\xff\x1f\x02\xaa\xbb", 5 },     /* one byte too many */
		{ "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10 },
	};
	unsigned char page[KAGE_PAGE_BYTES];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(kage_xor_apply((const uint8_t *)bad[i].bytes, bad[i].n, page), 0);
	assert_int_equal(kage_xor_apply((const uint8_t *)"\x80\x20", 2, page), 2);
	assert_int_equal(kage_xor_apply((const uint8_t *)"\xff\x1f\x01\xaa", 4, page), 4);
}

static void test_numbers(void **state)
{
	static const uint64_t numbers[] = { 0, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX };
	uint8_t bytes[10];
	uint64_t v;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		size_t n = kage_leb_put(bytes, numbers[i]);

		assert_int_equal(kage_leb_get(bytes, n, &v), n);
		assert_true(v == numbers[i]);
		assert_int_equal(kage_leb_get(bytes, n - 1, &v), 0);
	}
}

/* --- DIRTY ------------------------------------------------------------------------------------ */

static const struct page_run some_runs[] = {
	{ 1, 0, 300 }, { 1, 300, 1 }, { 1, 5000, 2 }, { 7, 9, 1 }
};
static const uint64_t some_bytes[] = { 1000, 44 };

static void test_dirty(void **state)
{
	uint64_t end = 5000 + 1000 + 44 + 2 * RECORD_BYTES;
	struct dirty d;
	uint8_t *bytes;
	size_t size;

	(void)state;
	must(kage_dirty_encode(some_runs, 4, some_bytes, 2, &bytes, &size));
	must(kage_dirty_parse(bytes, size, end, 5000, &d));
	assert_int_equal(d.n_pages, 304);
	assert_int_equal(d.n_runs, 4);
	assert_memory_equal(d.runs, some_runs, sizeof(some_runs));
	assert_int_equal(d.at[3], 303);
	assert_int_equal(d.groups[1].offset, 5000 + RECORD_BYTES + 1000);
	assert_int_equal(d.groups[1].n_pages, 48);
	kage_dirty_deinit(&d);
	must_fail(kage_dirty_parse(bytes, size, end + 1, 5000, &d), KAGE_CORRUPT, "fill");
	must_fail(kage_dirty_parse(bytes, size, end - 1, 5000, &d), KAGE_CORRUPT,
		  "not in the pack");
	for (size_t n = 0; n < size; n++)
		must_fail(kage_dirty_parse(bytes, n, end, 5000, &d), KAGE_CORRUPT, "");
	for (size_t i = 0; i < size; i++) { /* whatever it says, it is within bounds */
		struct kage_err *e;

		bytes[i] ^= 0x41;
		e = kage_dirty_parse(bytes, size, end, 5000, &d);
		if (!e)
			kage_dirty_deinit(&d);
		kage_err_free(e);
		bytes[i] ^= 0x41;
	}
	free(bytes);
}

enum { SET_PAGES = 64 };

/* A set of pages as bits, and as runs, some of which touch. */
static size_t runs_of(uint64_t set, struct random_state *r, struct page_run *runs)
{
	size_t n = 0;

	for (uint64_t i = 0; i < SET_PAGES; i++) {
		uint32_t space = i < 32 ? 1 : 3;
		struct page_run *last = n ? &runs[n - 1] : NULL;

		if (!(set >> i & 1))
			continue;
		if (last && last->space == space && last->first + last->count == i &&
		    random_next(r) % 4)
			last->count++;
		else
			runs[n++] = (struct page_run){ space, i, 1 };
	}
	return n;
}

static uint64_t set_of(const struct page_run *runs, size_t n)
{
	uint64_t set = 0;

	for (size_t i = 0; i < n; i++)
		for (uint64_t p = 0; p < runs[i].count; p++) {
			assert_false(set >> (runs[i].first + p) & 1);
			set |= (uint64_t)1 << (runs[i].first + p);
		}
	return set;
}

static void test_sets(void **state)
{
	struct random_state r = { 4 };

	(void)state;
	for (int i = 0; i < 2000; i++) {
		uint64_t x = random_next(&r) & random_next(&r), y = random_next(&r);
		struct page_run xs[SET_PAGES], ys[SET_PAGES], *got;
		size_t n_x = runs_of(x, &r, xs), n_y = runs_of(y, &r, ys), n;

		must(kage_dirty_union(xs, n_x, ys, n_y, &got, &n));
		assert_true(set_of(got, n) == (x | y));
		free(got);
		must(kage_dirty_common(xs, n_x, ys, n_y, &got, &n));
		assert_true(set_of(got, n) == (x & y));
		free(got);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_borders),      cmocka_unit_test(test_longest),
		cmocka_unit_test(test_random_pages), cmocka_unit_test(test_no_code),
		cmocka_unit_test(test_numbers),      cmocka_unit_test(test_dirty),
		cmocka_unit_test(test_sets),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
