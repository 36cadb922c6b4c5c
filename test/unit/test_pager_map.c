/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a lazy restore owes to which address, against a plain table of pages that is changed in the same way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "restore/pager_map.h"

enum { PAGES = 256, ROUNDS = 4000, SPACES = 4 };

/* By page number of the address: the page that is owed, 0 for none. */
struct model {
	uint64_t page[SPACES][PAGES];
	size_t n;
};

static uint64_t at(uint64_t page)
{
	return page << KAGE_PAGE_SHIFT;
}

static void compare(const struct pager_map *m, const struct model *model)
{
	assert_int_equal(m->n, model->n);
	for (size_t s = 0; s < m->n; s++) {
		for (uint64_t i = 1; i < PAGES; i++) {
			uint64_t page = 0;

			if (!pager_map_page(&m->spaces[s], at(i), &page))
				page = 0;
			assert_int_equal(page, model->page[s][i]);
		}
		for (size_t i = 1; i < m->spaces[s].n; i++)
			assert_true(m->spaces[s].owed[i - 1].page +
					    m->spaces[s].owed[i - 1].count <=
				    m->spaces[s].owed[i].page);
	}
}

static struct uffd_msg cut_one(uint64_t first, uint64_t count, size_t s, struct model *model)
{
	struct uffd_msg msg = { .event = rand() % 2 ? UFFD_EVENT_REMOVE : UFFD_EVENT_UNMAP };

	msg.arg.remove.start = at(first);
	msg.arg.remove.end = at(first + count);
	for (uint64_t i = first; i < first + count; i++)
		model->page[s][i] = 0;
	return msg;
}

static struct uffd_msg move_one(uint64_t from, uint64_t count, uint64_t to, size_t s,
				struct model *model)
{
	struct uffd_msg msg = { .event = UFFD_EVENT_REMAP };

	msg.arg.remap.from = at(from);
	msg.arg.remap.to = at(to);
	msg.arg.remap.len = at(count);
	for (uint64_t i = 0; i < count; i++) {
		model->page[s][to + i] = model->page[s][from + i];
		model->page[s][from + i] = 0;
	}
	return msg;
}

static struct uffd_msg fork_one(size_t s, struct model *model)
{
	struct uffd_msg msg = { .event = UFFD_EVENT_FORK };

	msg.arg.fork.ufd = (uint32_t)model->n + 10;
	for (uint64_t i = 0; i < PAGES; i++)
		model->page[model->n][i] = model->page[s][i];
	model->n++;
	return msg;
}

static struct uffd_msg random_message(size_t s, struct model *model)
{
	uint64_t count = 1 + (uint64_t)rand() % 20, half = PAGES / 2;
	uint64_t from = 1 + (uint64_t)rand() % (half - 21),
		 to = half + (uint64_t)rand() % (half - 21);

	if (model->n < SPACES && rand() % 100 == 0)
		return fork_one(s, model);
	if (rand() % 4 == 0)
		return cut_one(rand() % 2 ? from : to, count, s, model);
	return rand() % 2 ? move_one(from, count, to, s, model)
			  : move_one(to, count, from, s, model);
}

static void test_random(void **state)
{
	const char *given = getenv("KAGE_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : 1;
	struct pager_map m = { 0 };
	size_t first;
	struct model model = { .n = 1 };

	(void)state;
	srand(seed);
	assert_null(pager_map_add_space(&m, 3, &first));
	assert_null(pager_map_owe(&m.spaces[0], at(1), at(60)));
	assert_null(pager_map_owe(&m.spaces[0], at(70), at(100)));
	for (uint64_t i = 1; i < 100; i++)
		model.page[0][i] = i < 60 || i >= 70 ? i : 0;
	compare(&m, &model);
	for (int i = 0; i < ROUNDS; i++) {
		size_t s = (size_t)rand() % model.n;
		struct uffd_msg msg = random_message(s, &model);

		assert_null(pager_map_apply(&m, s, &msg));
		compare(&m, &model);
	}
	assert_int_equal(m.spaces[1].uffd, 11);
	pager_map_deinit(&m);
}

static void test_unknown(void **state)
{
	const struct uffd_msg msg = { .event = 0x77 };
	struct pager_map m = { 0 };
	size_t first;
	struct kage_err *e;

	(void)state;
	assert_null(pager_map_add_space(&m, 3, &first));
	e = pager_map_apply(&m, 0, &msg);
	assert_int_equal(kage_err_code(e), KAGE_UNSUPPORTED);
	kage_err_free(e);
	pager_map_deinit(&m);
}

/* The number of a space that is gone is the next one's. */
static void test_gone(void **state)
{
	struct uffd_msg fork = { .event = UFFD_EVENT_FORK };
	const struct uffd_msg gone = { .event = PAGER_EVENT_GONE };
	struct pager_map m = { 0 };
	uint64_t page;
	size_t first;

	(void)state;
	assert_null(pager_map_add_space(&m, 3, &first));
	assert_null(pager_map_owe(&m.spaces[first], at(1), at(60)));
	for (fork.arg.fork.ufd = 4; fork.arg.fork.ufd < 6; fork.arg.fork.ufd++)
		assert_null(pager_map_apply(&m, 0, &fork));
	assert_null(pager_map_apply(&m, 1, &gone));
	assert_int_equal(m.n, 3);
	assert_true(m.spaces[1].gone);
	assert_false(pager_map_page(&m.spaces[1], at(1), &page));
	fork.arg.fork.ufd = 4;
	assert_null(pager_map_apply(&m, 2, &fork));
	assert_int_equal(m.n, 3);
	assert_int_equal(m.spaces[1].uffd, 4);
	assert_false(m.spaces[1].gone);
	assert_true(pager_map_page(&m.spaces[1], at(59), &page));
	assert_true(pager_map_page(&m.spaces[2], at(59), &page));
	pager_map_deinit(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
