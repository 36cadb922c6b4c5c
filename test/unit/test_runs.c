/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of pages as runs, against a plain table of pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "image/runs.h"

enum { SPACES = 3, PAGES = 64, ROUNDS = 3000 };

struct model {
	bool has[SPACES][PAGES];
};

static void must(struct kage_err *e)
{
	if (e)
		fail_msg("%s", kage_err_message(e));
}

static void make(struct page_runs *s, struct model *m)
{
	for (int n = rand() % 20; n > 0; n--) {
		uint32_t space = (uint32_t)(rand() % SPACES);
		uint64_t first = (uint64_t)rand() % PAGES;
		uint64_t count = 1 + (uint64_t)rand() % (PAGES - first);

		count = rand() % 2 && count > 4 ? 4 : count;
		must(kage_runs_add(s, space, first, count));
		for (uint64_t i = first; i < first + count; i++)
			m->has[space][i] = true;
	}
	kage_runs_sort(s);
}

/* The same pages, in order, and no runs that could be one. */
static void same(const struct page_runs *s, const struct model *m)
{
	struct model found = { 0 };

	for (size_t i = 0; i < s->n; i++) {
		const struct page_run *r = &s->v[i], *before = i ? r - 1 : NULL;

		assert_true(r->count > 0);
		if (before && before->space == r->space)
			assert_true(before->first + before->count < r->first);
		else if (before)
			assert_true(before->space < r->space);
		for (uint64_t k = r->first; k < r->first + r->count; k++)
			found.has[r->space][k] = true;
	}
	assert_memory_equal(&found, m, sizeof(found));
}

static void test_sets(void **state)
{
	(void)state;
	srand(1);
	for (int round = 0; round < ROUNDS; round++) {
		struct page_runs a = { 0 }, b = { 0 }, minus = { 0 }, common = { 0 };
		struct model m_a = { 0 }, m_b = { 0 }, m_minus = { 0 }, m_common = { 0 };

		make(&a, &m_a);
		make(&b, &m_b);
		for (int i = 0; i < SPACES * PAGES; i++) {
			bool in_a = m_a.has[i / PAGES][i % PAGES];
			bool in_b = m_b.has[i / PAGES][i % PAGES];

			m_minus.has[i / PAGES][i % PAGES] = in_a && !in_b;
			m_common.has[i / PAGES][i % PAGES] = in_a && in_b;
		}
		must(kage_runs_minus(a.v, a.n, b.v, b.n, &minus));
		must(kage_runs_common(&a, &b, &common));
		same(&a, &m_a);
		same(&minus, &m_minus);
		same(&common, &m_common);
		kage_runs_deinit(&a);
		kage_runs_deinit(&b);
		kage_runs_deinit(&minus);
		kage_runs_deinit(&common);
	}
}

/* Pieces, each full but the last, are the whole. */
static void test_pieces(void **state)
{
	(void)state;
	srand(2);
	for (int round = 0; round < ROUNDS; round++) {
		struct page_runs a = { 0 }, piece = { 0 }, all = { 0 };
		uint64_t most = 1 + (uint64_t)rand() % 20, done = 0, left;
		struct model m = { 0 };
		size_t i = 0;

		make(&a, &m);
		for (left = kage_runs_total(&a); i < a.n; left -= kage_runs_total(&piece)) {
			must(kage_runs_take(&a, &i, &done, most, &piece));
			assert_int_equal(kage_runs_total(&piece), left < most ? left : most);
			must(kage_runs_add_all(&all, piece.v, piece.n));
		}
		assert_int_equal(left, 0);
		same(&all, &m);
		kage_runs_deinit(&a);
		kage_runs_deinit(&piece);
		kage_runs_deinit(&all);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_sets),
					    cmocka_unit_test(test_pieces) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
