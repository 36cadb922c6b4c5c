/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges that soft-dirty bits do not tell: how they are joined, against a plain table of pages; and that they are noted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/types.h"
#include "sys/blind.h"

enum { PAGES = 200, RANGES = 40, ROUNDS = 3000, BYTES = 8 * KAGE_PAGE_BYTES };

static void must(struct kage_err *e)
{
	if (e)
		fail_msg("%s", kage_err_message(e));
}

static bool has(const struct kage_range *ranges, size_t n, uint64_t page)
{
	size_t i = kage_ranges_find(ranges, n, page);

	return i < n && ranges[i].start <= page;
}

static void test_join(void **state)
{
	struct kage_range ranges[RANGES];

	(void)state;
	srand(1);
	for (int round = 0; round < ROUNDS; round++) {
		size_t n = (size_t)rand() % RANGES;
		bool model[PAGES] = { false };

		for (size_t i = 0; i < n; i++) {
			uint64_t start = (uint64_t)rand() % PAGES;
			uint64_t end = start + (uint64_t)rand() % 12;

			if (rand() % 8 == 0) /* half written */
				end = 0;
			ranges[i] = (struct kage_range){ start, end < PAGES ? end : PAGES };
			for (uint64_t k = start; k < ranges[i].end; k++)
				model[k] = true;
		}
		n = kage_ranges_join(ranges, n);
		for (uint64_t k = 0; k < PAGES; k++)
			assert_int_equal(has(ranges, n, k), model[k]);
		for (size_t i = 0; i < n; i++)
			assert_true(ranges[i].start < ranges[i].end &&
				    (!i || ranges[i - 1].end < ranges[i].start));
	}
}

/* --- of this process ---------------------------------------------------------------------------- */

static struct kage_blind *blind;

static void *mapped(void)
{
	void *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static bool is_noted(const void *start, size_t bytes)
{
	_cleanup_free_ struct kage_range *ranges = NULL;
	uint64_t at = (uintptr_t)start, end = at + bytes;
	bool all, noted = true;
	size_t n;

	must(kage_blind_read(blind, &ranges, &n, &all));
	assert_false(all);
	for (; at < end; at += KAGE_PAGE_BYTES)
		noted &= has(ranges, n, at);
	return noted;
}

static void test_moves(void **state)
{
	char *from = mapped(), *part = from + KAGE_PAGE_BYTES, *to = mapped(), *other = mapped();

	(void)state;
	memset(from, 1, BYTES);
	assert_ptr_equal(
		mremap(part, KAGE_PAGE_BYTES, KAGE_PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to),
		to);
	assert_true(is_noted(part, KAGE_PAGE_BYTES));
	assert_true(is_noted(to, KAGE_PAGE_BYTES));
	assert_false(is_noted(from, KAGE_PAGE_BYTES));
	assert_false(is_noted(other, KAGE_PAGE_BYTES));
	kage_blind_turn(blind);
	assert_true(is_noted(to, KAGE_PAGE_BYTES));
	kage_blind_turn(blind);
	assert_false(is_noted(to, KAGE_PAGE_BYTES));
}

static int write_from_outside(pid_t pid, char *to)
{
	char byte = 1;
	struct iovec here = { &byte, 1 }, there = { to, 1 };

	return process_vm_writev(pid, &here, 1, &there, 1, 0) == 1 ? 0 : 1;
}

static void test_written(void **state)
{
	char *at = mapped(), *read = mapped(), byte = 0;
	struct iovec here = { &byte, 1 }, there = { read, 1 };
	pid_t pid;
	int status;

	(void)state;
	pid = fork();
	if (pid == 0)
		_exit(write_from_outside(getppid(), at));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(process_vm_readv(getpid(), &here, 1, &there, 1, 0), 1);
	assert_true(is_noted(at, KAGE_PAGE_BYTES));
	assert_false(is_noted(read, KAGE_PAGE_BYTES));
}

/* More than a log holds: then it is told that some are missing. */
static void test_too_many(void **state)
{
	_cleanup_free_ struct kage_range *ranges = NULL;
	char *a = mapped(), *b = mapped();
	bool all = false;
	size_t n;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		char *from = i % 2 ? b : a, *to = i % 2 ? a : b;

		assert_ptr_equal(mremap(from, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	}
	must(kage_blind_read(blind, &ranges, &n, &all));
	assert_true(all);
	kage_blind_turn(blind);
	kage_blind_turn(blind);
	assert_false(is_noted(a, BYTES));
}

static int watch(void **state)
{
	bool new = false;

	(void)state;
	must(kage_blind_watch(blind, getpid(), &new));
	assert_true(new);
	must(kage_blind_watch(blind, getpid(), &new));
	assert_false(new);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_join),
	};
	const struct CMUnitTest watched[] = {
		cmocka_unit_test(test_moves),
		cmocka_unit_test(test_written),
		cmocka_unit_test(test_too_many),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	struct kage_err *e = kage_blind_open(&blind);

	if (e) { /* test/vm has a kernel where they can be loaded */
		printf("# %s\n", kage_err_message(e));
		err_drop(e);
		return failed;
	}
	failed |= cmocka_run_group_tests(watched, watch, NULL);
	kage_blind_close(blind);
	return failed;
}
