/* SPDX-License-Identifier: Apache-2.0 */
/* Pages in memory: adding, joining, finding, reading. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "lib/sample_image.h"

static void test_empty(void **state)
{
	unsigned char buffer[2 * KAGE_PAGE_BYTES];
	struct kage_pages *p;
	struct mem_pages *m;

	(void)state;
	must(kage_mem_pages_create(&m));
	p = kage_mem_pages_finish(m);
	assert_int_equal(kage_pages_total(p), 0);
	assert_int_equal(kage_pages_find(p, 1, 0), 0);
	memset(buffer, 1, sizeof(buffer));
	must(kage_pages_read(p, 1, 7, 2, buffer));
	for (size_t i = 0; i < sizeof(buffer); i++)
		assert_int_equal(buffer[i], 0);
	kage_pages_destroy(p);
	kage_pages_destroy(NULL);
	kage_mem_pages_destroy(NULL);
}

static unsigned char *add(struct mem_pages *m, uint32_t space, uint64_t first, uint64_t count,
			  int c)
{
	void *bytes = NULL;

	must(kage_mem_pages_add(m, space, first, count, &bytes));
	memset(bytes, c, count * KAGE_PAGE_BYTES);
	return bytes;
}

static void test_sort_and_join(void **state)
{
	struct kage_pages *p;
	struct mem_pages *m;
	unsigned char page[KAGE_PAGE_BYTES];

	(void)state;
	must(kage_mem_pages_create(&m));
	add(m, 2, 5, 1, 'e');
	add(m, 1, 100, 2, 'a');
	add(m, 1, 102, 3, 'b'); /* meets the one before in both ways */
	add(m, 1, 50, 4, 'c');
	p = kage_mem_pages_finish(m);
	assert_int_equal(p->n_runs, 3);
	assert_int_equal(p->runs[0].first, 50);
	assert_int_equal(p->runs[1].first, 100);
	assert_int_equal(p->runs[1].count, 5);
	assert_int_equal(p->runs[2].space, 2);
	assert_int_equal(kage_pages_find(p, 1, 54), 1);
	assert_int_equal(kage_pages_find(p, 1, 53), 0);
	assert_int_equal(kage_pages_find(p, 1, 105), 2);
	assert_int_equal(kage_pages_find(p, 3, 0), 3);
	must(kage_pages_read(p, 1, 102, 1, page));
	assert_int_equal(page[0], 'b');
	kage_pages_destroy(p);
}

static void test_trim(void **state)
{
	struct kage_pages *p;
	struct mem_pages *m;
	unsigned char *first, *second;

	(void)state;
	must(kage_mem_pages_create(&m));
	kage_mem_pages_trim(m, 0); /* nothing there: nothing happens */
	must(kage_mem_pages_reserve(m, 64 * KAGE_PAGE_BYTES));
	first = add(m, 1, 10, 8, 'x');
	kage_mem_pages_trim(m, 3);
	second = add(m, 1, 20, 1, 'y');
	assert_ptr_equal(second, first + 3 * KAGE_PAGE_BYTES);
	add(m, 1, 30, 1, 'z');
	kage_mem_pages_trim(m, 0);
	p = kage_mem_pages_finish(m);
	assert_int_equal(kage_pages_total(p), 4);
	kage_pages_destroy(p);
}

static void test_bad_runs(void **state)
{
	struct mem_pages *m;
	void *bytes;

	(void)state;
	must(kage_mem_pages_create(&m));
	must_fail(kage_mem_pages_add(m, 0, 1, 1, &bytes), KAGE_INVALID, "no run");
	must_fail(kage_mem_pages_add(m, 1, 1, 0, &bytes), KAGE_INVALID, "no run");
	must_fail(kage_mem_pages_add(m, 1, UINT64_MAX, 2, &bytes), KAGE_INVALID, "no run");
	kage_mem_pages_destroy(m);
}

/* Within what was reserved, nothing is mapped any more: all goes to one chunk. */
static void test_reserve(void **state)
{
	struct mem_pages *m;
	unsigned char *start, *at;

	(void)state;
	must(kage_mem_pages_create(&m));
	add(m, 1, 1, 1, 'a');
	must(kage_mem_pages_reserve(m, 20 << 20));
	start = add(m, 1, 1000, 1, 'b');
	for (uint64_t i = 1; i < (20 << 20) / KAGE_PAGE_BYTES; i++) {
		at = add(m, 1, 1000 + 2 * i, 1, 'c');
		assert_ptr_equal(at, start + i * KAGE_PAGE_BYTES);
	}
	kage_mem_pages_destroy(m);
}

enum { MODEL_PAGES = 3000 };

struct model {
	unsigned char tag[3][MODEL_PAGES]; /* [space][page]: 0 in no run */
	uint64_t seen[3][MODEL_PAGES];
};

static struct kage_err *see(void *user, uint32_t space, uint64_t first, uint64_t count,
			    const void *bytes)
{
	struct model *m = user;

	assert_true(count <= KAGE_PAGES_PIECE);
	for (uint64_t i = 0; i < count; i++) {
		m->seen[space][first + i]++;
		assert_int_equal(((const unsigned char *)bytes)[i * KAGE_PAGE_BYTES],
				 m->tag[space][first + i]);
	}
	return NULL;
}

static void fill_model(struct model *model, struct mem_pages *m, struct random_state *r)
{
	for (int i = 0; i < 60; i++) {
		uint32_t space = 1 + (uint32_t)(random_next(r) % 2);
		uint64_t first = random_next(r) % MODEL_PAGES, count = 1 + random_next(r) % 300;
		int c = 1 + (int)(random_next(r) % 255);
		uint64_t n = 0;

		while (n < count && first + n < MODEL_PAGES && !model->tag[space][first + n])
			n++;
		if (n == 0)
			continue;
		add(m, space, first, n, c);
		memset(model->tag[space] + first, c, n);
	}
}

static void test_random(void **state)
{
	struct random_state r = { (uint64_t)time(NULL) };
	unsigned char *buffer = malloc((size_t)MODEL_PAGES * KAGE_PAGE_BYTES);
	struct model *model = calloc(1, sizeof(*model));
	struct kage_pages *p;
	struct mem_pages *m;

	(void)state;
	print_message("# seed %llu\n", (unsigned long long)r.v);
	must(kage_mem_pages_create(&m));
	fill_model(model, m, &r);
	p = kage_mem_pages_finish(m);
	for (int i = 0; i < 200; i++) {
		uint32_t space = 1 + (uint32_t)(random_next(&r) % 2);
		uint64_t first = random_next(&r) % MODEL_PAGES;
		uint64_t count = 1 + random_next(&r) % (MODEL_PAGES - first);

		must(kage_pages_read(p, space, first, count, buffer));
		for (uint64_t j = 0; j < count; j++)
			assert_int_equal(buffer[j * KAGE_PAGE_BYTES + 17],
					 model->tag[space][first + j]);
	}
	must(kage_pages_each(p, 0, see, model));
	must(kage_pages_each(p, 2, see, model));
	for (size_t i = 0; i < MODEL_PAGES; i++) {
		assert_int_equal(model->seen[1][i], model->tag[1][i] ? 1 : 0);
		assert_int_equal(model->seen[2][i], model->tag[2][i] ? 2 : 0);
	}
	kage_pages_destroy(p);
	free(model);
	free(buffer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty),   cmocka_unit_test(test_sort_and_join),
		cmocka_unit_test(test_trim),    cmocka_unit_test(test_bad_runs),
		cmocka_unit_test(test_reserve), cmocka_unit_test(test_random),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
