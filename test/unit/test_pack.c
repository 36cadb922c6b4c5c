/* SPDX-License-Identifier: Apache-2.0 */
/* Packs: what was written is read; what was damaged is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "lib/old_pack.h"
#include "lib/pack_bytes.h"
#include "lib/sample_image.h"
#include "store/pack_write.h"

static uint8_t *pack_of(const struct kage_image *image, size_t *ret_size)
{
	struct kage_ctx *ctx;
	int fd = memfd_create("pack", MFD_CLOEXEC);
	struct pack_written written;
	uint8_t *bytes;

	must(kage_ctx_create(&ctx));
	must(kage_pack_write(ctx, fd, "memory", image, &(struct pack_options){ .history = "sleep" },
			     &written));
	bytes = pack_slurp(fd, ret_size);
	assert_int_equal(written.bytes, *ret_size);
	close(fd);
	kage_ctx_destroy(ctx);
	return bytes;
}

/* One text page, its copy, zeros, and one that does not compress: every kind of thing in few bytes. */
static uint8_t *small_pack(size_t *ret_size)
{
	struct kage_image *image = sample_image();
	struct mem_pages *m;
	unsigned char *page;
	uint8_t *bytes;

	must(kage_mem_pages_create(&m));
	must(kage_mem_pages_add(m, SAMPLE_SPACE, 0x10000, 3, (void **)&page));
	sample_page(page, 3, 1);
	sample_page(page + KAGE_PAGE_BYTES, 3, 2);
	sample_page(page + 2 * KAGE_PAGE_BYTES, 0, 0);
	must(kage_mem_pages_add(m, SAMPLE_SHARED_SPACE, 3, 1, (void **)&page));
	sample_page(page, 3, 1);
	image->pages = kage_mem_pages_finish(m);
	bytes = pack_of(image, ret_size);
	kage_image_close(image);
	return bytes;
}

/* --- round trips ------------------------------------------------------------------------------ */

static void assert_same_pages(struct kage_pages *a, struct kage_pages *b)
{
	unsigned char *x = malloc(KAGE_PAGE_BYTES), *y = malloc(KAGE_PAGE_BYTES);

	assert_int_equal(a->n_runs, b->n_runs);
	for (size_t i = 0; i < a->n_runs; i++) {
		assert_int_equal(a->runs[i].space, b->runs[i].space);
		assert_int_equal(a->runs[i].first, b->runs[i].first);
		assert_int_equal(a->runs[i].count, b->runs[i].count);
		for (uint64_t j = 0; j < a->runs[i].count; j++) {
			must(kage_pages_read(a, a->runs[i].space, a->runs[i].first + j, 1, x));
			must(kage_pages_read(b, a->runs[i].space, a->runs[i].first + j, 1, y));
			assert_memory_equal(x, y, KAGE_PAGE_BYTES);
		}
	}
	free(x);
	free(y);
}

struct compare {
	struct kage_pages *expected;
	uint64_t n;
};

static struct kage_err *compare_piece(void *user, uint32_t space, uint64_t first, uint64_t count,
				      const void *bytes)
{
	static const unsigned char zeros[KAGE_PAGE_BYTES];
	unsigned char page[KAGE_PAGE_BYTES];
	struct compare *c = user;

	assert_in_range(count, 1, KAGE_PAGES_PIECE);
	for (uint64_t i = 0; i < count; i++) {
		must(kage_pages_read(c->expected, space, first + i, 1, page));
		assert_memory_equal(page,
				    bytes ? (const char *)bytes + i * KAGE_PAGE_BYTES
					  : (const void *)zeros,
				    KAGE_PAGE_BYTES);
	}
	c->n += count;
	return NULL;
}

static struct kage_image *random_image(struct random_state *r)
{
	struct kage_image *image = sample_image();
	struct mem_pages *m;
	uint64_t at = 0x10000, shared = 0;

	must(kage_mem_pages_create(&m));
	for (uint64_t n = random_next(r) % 20; n > 0; n--) {
		uint64_t count = 1 + random_next(r) % 400;

		sample_run(m, r, SAMPLE_SPACE, at, count);
		at += count + random_next(r) % 3;
	}
	while (shared < SAMPLE_SHARED_PAGES && random_next(r) % 4) {
		uint64_t count = 1 + random_next(r) % (SAMPLE_SHARED_PAGES - shared);

		sample_run(m, r, SAMPLE_SHARED_SPACE, shared, count);
		shared += count + 1;
	}
	image->pages = kage_mem_pages_finish(m);
	return image;
}

static void test_random_round_trips(void **state)
{
	struct random_state r = { (uint64_t)time(NULL) };

	(void)state;
	print_message("# seed %llu\n", (unsigned long long)r.v);
	for (int i = 0; i < 12; i++) {
		struct kage_image *image = random_image(&r), *back;
		size_t size;
		uint8_t *bytes = pack_of(image, &size);
		struct compare c = { image->pages, 0 };

		must(kage_pack_open(pack_file_of(bytes, size), "memory", NULL, &back, NULL));
		assert_same_pages(image->pages, back->pages);
		must(kage_pages_each(back->pages, 0, compare_piece, &c));
		assert_int_equal(c.n, kage_pages_total(image->pages));
		must(kage_pages_each(back->pages, SAMPLE_SHARED_SPACE, compare_piece, &c));
		must(pack_check_all(bytes, size));
		kage_image_close(back);
		kage_image_close(image);
		free(bytes);
	}
}

/* A pack of a pack: a source that lends nothing, in which equal pages are found all the same. */
static void test_pack_of_pack(void **state)
{
	struct random_state r = { 99 };
	struct kage_image *image = random_image(&r), *back, *again;
	size_t size, second_size;
	uint8_t *bytes = pack_of(image, &size), *second;

	(void)state;
	must(kage_pack_open(pack_file_of(bytes, size), "memory", NULL, &back, NULL));
	second = pack_of(back, &second_size);
	assert_int_equal(second_size, size);
	must(kage_pack_open(pack_file_of(second, second_size), "memory", NULL, &again, NULL));
	assert_same_pages(image->pages, again->pages);
	kage_image_close(again);
	kage_image_close(back);
	kage_image_close(image);
	free(second);
	free(bytes);
}

static uint64_t index_slots(const uint8_t *bytes, size_t size)
{
	struct footer_numbers f;
	struct record r;
	struct pack_index x;
	uint8_t *raw;
	uint64_t n;

	must(kage_format_footer(bytes + size - FOOTER_BYTES, size - FOOTER_RECORD_BYTES, size, &f));
	must(kage_format_record(bytes + f.index_offset, f.index_offset, size - f.index_offset, &r));
	raw = malloc(r.raw_bytes);
	if (r.compressed)
		assert_int_equal(ZSTD_decompress(raw, r.raw_bytes,
						 bytes + f.index_offset + RECORD_BYTES,
						 r.stored_bytes),
				 r.raw_bytes);
	else
		memcpy(raw, bytes + f.index_offset + RECORD_BYTES, r.raw_bytes);
	must(kage_format_index(raw, r.raw_bytes, f.index_offset, &x));
	n = x.n_slots;
	kage_format_index_deinit(&x);
	free(raw);
	return n;
}

static void test_stored_once(void **state)
{
	size_t size;
	uint8_t *bytes = small_pack(&size);

	(void)state;
	assert_int_equal(index_slots(bytes, size), 2); /* of four pages */
	assert_true(size < 1500);
	free(bytes);
}

/* Runs as a capture may hand them over wrongly are refused before anything is written. */
static void test_bad_runs(void **state)
{
	struct kage_image *image = sample_image();
	struct kage_ctx *ctx;
	struct mem_pages *m;
	struct random_state r = { 1 };
	struct pack_written n;

	(void)state;
	must(kage_ctx_create(&ctx));
	must(kage_mem_pages_create(&m));
	sample_run(m, &r, SAMPLE_SPACE, 10, 5);
	sample_run(m, &r, SAMPLE_SPACE, 14, 5);
	image->pages = kage_mem_pages_finish(m);
	must_fail(
		kage_pack_write(ctx, -1, "x", image, &(struct pack_options){ .history = "x" }, &n),
		KAGE_INVALID, "twice");
	kage_image_close(image);
	kage_ctx_destroy(ctx);
}

/* --- damage ----------------------------------------------------------------------------------- */

static void assert_corrupt(struct kage_err *e, const char *what, size_t at)
{
	if (!e)
		fail_msg("%s %zu was not noticed", what, at);
	if (kage_err_code(e) != KAGE_CORRUPT || !strstr(kage_err_message(e), "pack memory") ||
	    !strstr(kage_err_message(e), "offset"))
		fail_msg("%s %zu: %s: %s", what, at, kage_code_name(kage_err_code(e)),
			 kage_err_message(e));
	kage_err_free(e);
}

/* What a list shows of a pack. */
static struct kage_err *glance(const uint8_t *bytes, size_t size)
{
	struct pack_glance g = { 0 };
	int fd = pack_file_of(bytes, size);
	struct kage_err *e = kage_pack_glance(fd, "memory", &g);

	kage_pack_glance_deinit(&g);
	close(fd);
	return e;
}

static void test_cut_at_every_byte(void **state)
{
	size_t size;
	uint8_t *bytes = small_pack(&size);

	(void)state;
	must(pack_read_all(bytes, size));
	must(pack_check_all(bytes, size));
	for (size_t n = 0; n < size; n++) {
		assert_corrupt(pack_read_all(bytes, n), "cut at", n);
		assert_corrupt(pack_check_all(bytes, n), "cut at", n);
		assert_corrupt(glance(bytes, n), "cut at", n);
	}
	free(bytes);
}

static void test_flip_every_bit(void **state)
{
	size_t size;
	uint8_t *bytes = small_pack(&size);

	(void)state;
	for (size_t bit = 0; bit < size * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_corrupt(pack_read_all(bytes, size), "flipped bit", bit);
		assert_corrupt(pack_check_all(bytes, size), "flipped bit", bit);
		if (bit / 8 < PACK_HEADER_BYTES || bit / 8 >= size - FOOTER_RECORD_BYTES)
			assert_corrupt(glance(bytes, size), "flipped bit", bit);
		else
			kage_err_free(glance(bytes, size)); /* it does not look at all of it */
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	must(pack_read_all(bytes, size));
	free(bytes);
}

/* A piece behind the end, and a record moved to another place, are damage too. */
static void test_longer_and_moved(void **state)
{
	size_t size;
	uint8_t *bytes = small_pack(&size), *longer = calloc(1, size + 1);

	(void)state;
	memcpy(longer, bytes, size);
	assert_corrupt(pack_read_all(longer, size + 1), "one byte more than", size);
	memmove(longer + PACK_HEADER_BYTES + 1, bytes + PACK_HEADER_BYTES,
		size - PACK_HEADER_BYTES);
	assert_corrupt(pack_read_all(longer, size + 1), "moved to", 65);
	free(longer);
	free(bytes);
}

static void test_damage_stays_in_its_group(void **state)
{
	struct kage_image *image = sample_image(), *back;
	struct random_state r = { 5 };
	unsigned char page[KAGE_PAGE_BYTES];
	struct mem_pages *m;
	uint8_t *bytes, *at;
	size_t size;

	(void)state;
	must(kage_mem_pages_create(&m));
	must(kage_mem_pages_add(m, SAMPLE_SPACE, 0x10000, 600, (void **)&at));
	for (size_t i = 0; i < 600; i++)
		sample_page(at + i * KAGE_PAGE_BYTES, 2, random_next(&r));
	image->pages = kage_mem_pages_finish(m);
	bytes = pack_of(image, &size);
	bytes[size / 2] ^= 1; /* within the second of three groups */
	must(kage_pack_open(pack_file_of(bytes, size), "memory", NULL, &back, NULL));
	must(kage_pages_read(back->pages, SAMPLE_SPACE, 0x10000, 1, page));
	assert_corrupt(kage_pages_read(back->pages, SAMPLE_SPACE, 0x10000 + 300, 1, page), "page",
		       300);
	must(kage_pages_read(back->pages, SAMPLE_SPACE, 0x10000 + 599, 1, page));
	kage_image_close(back);
	kage_image_close(image);
	free(bytes);
}

/* Where record number N begins. */
static size_t record_at(const uint8_t *bytes, size_t n)
{
	size_t at = PACK_HEADER_BYTES;

	for (; n > 0; n--) {
		struct record_header h;

		memcpy(&h, bytes + at, sizeof(h));
		at += RECORD_BYTES + le64_get(h.stored_bytes);
	}
	return at;
}

struct found {
	size_t offsets[16], n;
};

static void note_offset(void *user, struct kage_err *e)
{
	const char *text = strstr(kage_err_message(e), "damaged at offset ");
	struct found *f = user;

	assert_int_equal(kage_err_code(e), KAGE_CORRUPT);
	assert_non_null(strstr(kage_err_message(e), "pack memory"));
	assert_non_null(text);
	assert_true(f->n < 16);
	f->offsets[f->n++] = strtoull(text + 18, NULL, 10);
	kage_err_free(e);
}

static int compare_offsets(const void *a, const void *b)
{
	size_t x = *(const size_t *)a, y = *(const size_t *)b;

	return x < y ? -1 : x > y;
}

/* Flips a bit at each of the N OFFSETS, ascending, and expects them all to be told and nothing else.
 * Damage of a payload is told at its beginning, so only such and heads are given. */
static void expect_damage(const uint8_t *bytes, size_t size, const size_t *offsets, size_t n)
{
	uint8_t *damaged = malloc(size);
	struct found found = { .n = 0 };
	int fd;

	memcpy(damaged, bytes, size);
	for (size_t i = 0; i < n; i++)
		damaged[offsets[i]] ^= 4;
	fd = pack_file_of(damaged, size);
	must(kage_pack_check(fd, "memory", NULL, note_offset, &found, NULL));
	qsort(found.offsets, found.n, sizeof(found.offsets[0]), compare_offsets);
	assert_int_equal(found.n, n);
	assert_memory_equal(found.offsets, offsets, n * sizeof(*offsets));
	close(fd);
	free(damaged);
}

static uint8_t *pack_of_groups(size_t *ret_size)
{
	struct kage_image *image = sample_image();
	struct random_state r = { 6 };
	struct mem_pages *m;
	uint8_t *bytes, *at;

	must(kage_mem_pages_create(&m));
	must(kage_mem_pages_add(m, SAMPLE_SPACE, 0x10000, 900, (void **)&at));
	for (size_t i = 0; i < 900; i++)
		sample_page(at + i * KAGE_PAGE_BYTES, 2, random_next(&r));
	image->pages = kage_mem_pages_finish(m);
	bytes = pack_of(image, ret_size);
	kage_image_close(image);
	return bytes;
}

/* A check goes on behind every damage, heads of records and the pack's own header included. */
static void test_all_damage_is_told(void **state)
{
	size_t size, at[8];
	uint8_t *bytes = pack_of_groups(&size);

	(void)state;
	for (size_t i = 0; i < 8; i++) /* SUMMARY, four groups, IMAGE, INDEX, FOOTER */
		at[i] = record_at(bytes, i);
	assert_int_equal(at[7] + FOOTER_RECORD_BYTES, size);
	for (size_t i = 0; i < 8; i++)
		expect_damage(bytes, size, &at[i], 1);
	expect_damage(bytes, size, (size_t[]){ at[0], at[2], at[4], at[6] }, 4);
	expect_damage(bytes, size, (size_t[]){ 0, at[1], at[3] + RECORD_BYTES, at[7] }, 4);
	expect_damage(bytes, size,
		      (size_t[]){ at[1], at[2] + RECORD_BYTES, at[3] + RECORD_BYTES, at[5],
				  at[7] + RECORD_BYTES },
		      5);
	free(bytes);
}

/* What is left of a pack that was cut is checked as well. */
static void test_damage_before_a_cut(void **state)
{
	size_t size, at, cut;
	uint8_t *bytes = pack_of_groups(&size);
	struct found found = { .n = 0 };
	int fd;

	(void)state;
	at = record_at(bytes, 1);
	cut = record_at(bytes, 3);
	size = cut + 1000;
	bytes[at] ^= 1;
	fd = pack_file_of(bytes, size);
	must(kage_pack_check(fd, "memory", NULL, note_offset, &found, NULL));
	assert_int_equal(found.n, 3);
	assert_int_equal(found.offsets[0], size - FOOTER_RECORD_BYTES);
	assert_int_equal(found.offsets[1], at);
	assert_int_equal(found.offsets[2], cut);
	close(fd);
	free(bytes);
}

/* --- features and records of a later version ---------------------------------------------------- */

static void test_newer_features(void **state)
{
	size_t size;
	uint8_t *bytes = small_pack(&size);
	struct pack_header h;

	(void)state;
	memcpy(&h, bytes, sizeof(h));
	h.compatible = le64_of(1u << 5);
	memcpy(bytes, &h, sizeof(h));
	pack_seal(bytes, size);
	must(pack_read_all(bytes, size));
	must(pack_check_all(bytes, size));
	h.incompatible = le64_of((uint64_t)1 << 40);
	memcpy(bytes, &h, sizeof(h));
	pack_seal(bytes, size);
	must_fail(pack_read_all(bytes, size), KAGE_VERSION, "newer kage");
	must_fail(pack_check_all(bytes, size), KAGE_VERSION, "newer kage");
	free(bytes);
}

/* The pack with a record of an unknown type between INDEX and FOOTER. */
static uint8_t *with_unknown_record(const uint8_t *bytes, size_t size, size_t extra)
{
	uint8_t *more = calloc(1, size + RECORD_BYTES + extra);
	size_t before = size - FOOTER_RECORD_BYTES;
	struct record_header r = {
		.type = le32_of(77),
		.flags = le32_of(0x30),
		.stored_bytes = le64_of(extra),
		.raw_bytes = le64_of(7),
		.argument = le64_of(8),
	};
	struct footer f;

	memcpy(more, bytes, before);
	memcpy(more + before, &r, sizeof(r));
	memset(more + before + sizeof(r), 0xaa, extra);
	memcpy(more + before + sizeof(r) + extra, bytes + before, FOOTER_RECORD_BYTES);
	memcpy(&f, bytes + size - sizeof(f), sizeof(f));
	f.total_bytes = le64_of(size + RECORD_BYTES + extra);
	f.n_records = le64_of(le64_get(f.n_records) + 1);
	memcpy(more + size + RECORD_BYTES + extra - sizeof(f), &f, sizeof(f));
	pack_seal(more, size + RECORD_BYTES + extra);
	return more;
}

static void test_unknown_record(void **state)
{
	size_t size;
	uint8_t *bytes = small_pack(&size), *more = with_unknown_record(bytes, size, 100);

	(void)state;
	must(pack_read_all(more, size + RECORD_BYTES + 100));
	must(pack_check_all(more, size + RECORD_BYTES + 100));
	/* Nobody needs that record, but a check reads all. */
	more[size - FOOTER_RECORD_BYTES + RECORD_BYTES + 3] ^= 1;
	must(pack_read_all(more, size + RECORD_BYTES + 100));
	assert_corrupt(pack_check_all(more, size + RECORD_BYTES + 100), "unknown record", 0);
	free(more);
	free(bytes);
}

/* --- right checksums, wrong numbers ------------------------------------------------------------- */

static void test_lying_index(void **state)
{
	static const struct {
		size_t at;
		uint64_t value;
		const char *text;
	} lies[] = {
		{ 0, 48 | (uint64_t)257 << 32, "groups" },
		{ 0, 40 | (uint64_t)256 << 32, "begin" },
		{ 8, 2, "fill" },
		{ 8, UINT64_MAX / 16, "fill" },
		{ 16, 3, "fill" },
		{ 24, 9, "fill" },
		{ 32, 257, "groups" },
		{ 32, 1, "leads nowhere" },
		{ 40, 5, "add up" },
		{ 48, 63, "not in the pack" },
		{ 48, UINT64_MAX, "not in" },
		{ 56, UINT64_MAX, "not in" },
		{ 64, (uint64_t)2 << 32, "makes no sense" },
		{ 72, UINT64_MAX, "makes no sense" },
		{ 80, 0, "makes no sense" },
		{ 80, 4, "add up" },
		{ 80, UINT64_MAX, "makes no sense" },
		{ 64, 3 | (uint64_t)2 << 32, "makes no sense" },
		{ 64, 1 | (uint64_t)9 << 32, "no sense" },
	};
	/* fixed, one group, one run of three pages: two stored, one of zeros */
	static const uint64_t good[] = {
		48 | (uint64_t)256 << 32,
		1,
		2,
		3,
		2,
		4, /* fixed */
		64,
		100, /* group */
		1 | (uint64_t)2 << 32,
		0x10000,
		3,
		2 | (uint64_t)1 << 32,
		3,
		1, /* runs */
		0,
		2,
		0,
		1 | (uint64_t)1 << 32,
		0,
		1, /* extents */
	};
	uint8_t bytes[sizeof(good)];
	struct pack_index x;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / 8; i++) {
		le64 v = le64_of(good[i]);
		memcpy(bytes + 8 * i, &v, 8);
	}
	must(kage_format_index(bytes, sizeof(bytes), 1000, &x));
	assert_int_equal(x.n_runs, 2);
	kage_format_index_deinit(&x);
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		uint8_t lying[sizeof(bytes)];
		le64 v = le64_of(lies[i].value);

		memcpy(lying, bytes, sizeof(bytes));
		memcpy(lying + lies[i].at, &v, 8);
		must_fail(kage_format_index(lying, sizeof(lying), 1000, &x), KAGE_CORRUPT,
			  lies[i].text);
	}
	for (size_t n = 0; n < sizeof(bytes); n++)
		must_fail(kage_format_index(bytes, n, 1000, &x), KAGE_CORRUPT, "an index");
}

/* The format itself: bytes of the version that is out there stay readable. */
static void test_layout(void **state)
{
	size_t size;
	uint8_t *bytes = small_pack(&size);

	(void)state;
	assert_memory_equal(bytes, "\x89KAGE\r\n\x1a\x40\0\0\0\0\0\0\0", 16);
	assert_memory_equal(bytes + PACK_HEADER_BYTES, "\1\0\0\0\0\0\0\0", 8);
	assert_memory_equal(bytes + PACK_HEADER_BYTES + RECORD_BYTES, "\x78\0\0\0\x92\x10\0\0", 8);
	assert_memory_equal(bytes + size - 8, "KAGEEND\n", 8);
	free(bytes);
}

static void test_old_pack(void **state)
{
	const uint8_t *bytes = (const uint8_t *)old_pack;
	size_t size = sizeof(old_pack) - 1;
	struct pack_glance g = { 0 };
	int fd = pack_file_of(bytes, size);

	(void)state;
	must(pack_read_all(bytes, size));
	must(pack_check_all(bytes, size));
	must(kage_pack_glance(fd, "memory", &g));
	assert_true(g.head.keyframe);
	assert_int_equal(g.summary.difference.offset, 0);
	assert_int_equal(g.summary.pid, 4242);
	kage_pack_glance_deinit(&g);
	close(fd);
}

static void test_glance(void **state)
{
	size_t size;
	uint8_t *bytes = small_pack(&size);
	int fd = pack_file_of(bytes, size);
	struct pack_glance g = { 0 };

	(void)state;
	must(kage_pack_glance(fd, "memory", &g));
	assert_int_equal(g.summary.pid, 4242);
	assert_int_equal(g.summary.memory_bytes, 4 * KAGE_PAGE_BYTES);
	assert_int_equal(g.file_bytes, size);
	assert_memory_equal(g.summary.command.bytes, "sleep 1000", 10);
	kage_pack_glance_deinit(&g);
	close(fd);
	free(bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_round_trips),
		cmocka_unit_test(test_pack_of_pack),
		cmocka_unit_test(test_stored_once),
		cmocka_unit_test(test_bad_runs),
		cmocka_unit_test(test_cut_at_every_byte),
		cmocka_unit_test(test_flip_every_bit),
		cmocka_unit_test(test_longer_and_moved),
		cmocka_unit_test(test_damage_stays_in_its_group),
		cmocka_unit_test(test_all_damage_is_told),
		cmocka_unit_test(test_damage_before_a_cut),
		cmocka_unit_test(test_newer_features),
		cmocka_unit_test(test_unknown_record),
		cmocka_unit_test(test_lying_index),
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_old_pack),
		cmocka_unit_test(test_glance),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
