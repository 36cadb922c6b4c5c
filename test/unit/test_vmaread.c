/* SPDX-License-Identifier: Apache-2.0 */
/* The map of a process, with mappings of many kinds, by the iterator and by smaps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sys/iter.h"
#include "sys/vmaread.h"

enum { SIZE = 4 * 4096, GUARD_INSTALL = 102 /* MADV_GUARD_INSTALL */ };

static void must(struct kage_err *e)
{
	if (e)
		fail_msg("%s", kage_err_message(e));
}

static void *mapped(int flags, int advice)
{
	void *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	if (advice >= 0)
		assert_int_equal(madvise(p, SIZE, advice), 0);
	return p;
}

static void map_all_kinds(void)
{
	static const int advices[] = { MADV_DONTFORK,   MADV_WIPEONFORK, MADV_DONTDUMP,
				       MADV_SEQUENTIAL, MADV_RANDOM,     MADV_NOHUGEPAGE };

	for (size_t i = 0; i < sizeof(advices) / sizeof(*advices); i++)
		mapped(MAP_PRIVATE, advices[i]);
	mapped(MAP_PRIVATE | MAP_NORESERVE, -1);
	mapped(MAP_PRIVATE | MAP_GROWSDOWN, -1);
	mapped(MAP_SHARED, -1);
	assert_int_equal(mlock2(mapped(MAP_PRIVATE, -1), 4 * 4096, MLOCK_ONFAULT), 0);
	assert_int_equal(mprotect(mapped(MAP_PRIVATE, -1), 4096, PROT_EXEC), 0);
}

static struct kage_vmaread *reader;

/* Both readings of a child that has made mappings by MAKE and does nothing any more: what we read with changes our
 * own. */
static void read_both(void (*make)(void), struct kage_maps *ret_one, struct kage_maps *ret_other)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_fd_ int dir = -1;
	int ready[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		make();
		if (write(ready[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	assert_true(asprintf(&path, "/proc/%d", pid) > 0);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(kage_vmaread_maps(reader, dir, pid, ret_one));
	must(kage_maps_read(dir, true, ret_other));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static bool same(const struct kage_maps *a, const struct kage_maps *b)
{
	if (!kage_maps_equal(a, b))
		return false;
	for (size_t i = 0; i < a->n; i++) {
		const struct kage_vma *x = &a->vmas[i], *y = &b->vmas[i];

		if (x->n_flags != y->n_flags || memcmp(x->flags, y->flags, 2 * x->n_flags) != 0 ||
		    x->huge_bytes != y->huge_bytes)
			return false;
	}
	return true;
}

static void test_same(void **state)
{
	struct kage_maps a, b;

	(void)state;
	read_both(map_all_kinds, &a, &b);
	assert_true(a.has_flags);
	assert_true(a.n > 20);
	assert_true(same(&a, &b));
	kage_maps_deinit(&a);
	kage_maps_deinit(&b);
}

static void *read_only, *written, *guarded;

/* Files, mapped privately: what has never been the process's own there is told apart. */
static void map_files(void)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	volatile char *p;

	read_only = mmap(read_only, SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
	p = read_only;
	(void)*p;
	written = mmap(written, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0);
	p = written;
	*p = 1;
	guarded = mmap(guarded, SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
	(void)madvise(guarded, 4096, GUARD_INSTALL);
	close(fd);
}

static void test_untouched(void **state)
{
	char *room = mmap(NULL, 3 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool has_guards;
	struct kage_maps a, b;

	(void)state;
	assert_ptr_not_equal(room, MAP_FAILED);
	has_guards = madvise(room, 4096, GUARD_INSTALL) == 0;
	read_only = room;
	written = room + SIZE;
	guarded = room + 2 * SIZE;
	read_both(map_files, &a, &b);
	assert_true(kage_maps_find(&a, (uintptr_t)read_only)->untouched || !reader);
	assert_false(kage_maps_find(&a, (uintptr_t)written)->untouched);
	assert_false(has_guards && kage_maps_find(&a, (uintptr_t)guarded)->untouched);
	assert_false(kage_maps_find(&b, (uintptr_t)read_only)->untouched);
	kage_maps_deinit(&a);
	kage_maps_deinit(&b);
	munmap(room, 3 * SIZE);
}

static void *huge;

static void map_huge(void)
{
	huge = mmap(huge, 2 << 20, PROT_READ,
		    MAP_ANONYMOUS | MAP_PRIVATE | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
}

/* What the iterator cannot tell comes from smaps. */
static void test_huge(void **state)
{
	struct kage_maps a, b;

	(void)state;
	map_huge();
	if (huge == MAP_FAILED)
		skip();
	munmap(huge, 2 << 20);
	read_both(map_huge, &a, &b);
	assert_true(same(&a, &b));
	assert_int_equal(kage_maps_find(&a, (uintptr_t)huge)->huge_bytes, 2 << 20);
	kage_maps_deinit(&a);
	kage_maps_deinit(&b);
}

static void test_bits(void **state)
{
	struct arena a = { 0 };
	const uint16_t *flags;
	size_t n;

	(void)state;
	must(kage_vmaread_flags(&a, 0x8000000000000001, &flags, &n));
	assert_null(flags);
	must(kage_vmaread_flags(&a, 0x102, &flags, &n));
	assert_int_equal(n, 2);
	assert_int_equal(flags[0], VMFLAG('w', 'r'));
	assert_int_equal(flags[1], VMFLAG('g', 'd'));
	arena_deinit(&a);
}

static int open_reader(void **state)
{
	struct kage_err *e = kage_vmaread_open(NULL, &reader);

	(void)state;
	/* Then all comes from smaps. */
	if (e && kage_err_code(e) != KAGE_UNSUPPORTED && kage_err_code(e) != KAGE_PERM)
		return 1;
	err_drop(e);
	return 0;
}

static int close_reader(void **state)
{
	(void)state;
	kage_vmaread_close(reader);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same),
		cmocka_unit_test(test_untouched),
		cmocka_unit_test(test_huge),
		cmocka_unit_test(test_bits),
	};

	return cmocka_run_group_tests(tests, open_reader, close_reader);
}
