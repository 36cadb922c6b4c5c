/* SPDX-License-Identifier: Apache-2.0 */
/* What is read from maps and smaps, and that a process may change its map meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "sys/maps.h"

static void done(struct kage_err *e)
{
	if (e)
		fail_msg("%s", kage_err_message(e));
}

static void lines(void **state)
{
	_cleanup_(kage_maps_deinit) struct kage_maps m = { 0 };

	(void)state;
	done(kage_maps_parse("00400000-00452000 r-xp 00001000 08:02 173521 /usr/bin/a\\012b\\040c\n"
			     "00e03000-00e24000 rw-p 00000000 00:00 0 [heap]\n"
			     "Swap: 4 kB\n"
			     "VmFlags: rd wr dd \n"
			     "7f0000000000-7f0000001000 ---s 00000000 00:01 7 /memfd:x (deleted)\n",
			     &m));
	assert_int_equal(m.n, 3);
	assert_string_equal(m.vmas[0].path, "/usr/bin/a\nb\\040c");
	assert_int_equal(m.vmas[0].prot, PROT_READ | PROT_EXEC);
	assert_int_equal(m.vmas[0].offset, 0x1000);
	assert_int_equal(m.vmas[0].dev_major, 8);
	assert_int_equal(m.vmas[0].ino, 173521);
	assert_true(m.vmas[1].swapped);
	assert_true(kage_vma_has(&m.vmas[1], VMFLAG('d', 'd')));
	assert_false(kage_vma_has(&m.vmas[0], VMFLAG('d', 'd')));
	assert_true(m.vmas[2].shared);
	assert_int_equal(m.vmas[2].prot, 0);
	assert_ptr_equal(kage_maps_find(&m, 0xe23fff), &m.vmas[1]);
	assert_null(kage_maps_find(&m, 0xe24000));
}

static void rubbish(void **state)
{
	static const char *const texts[] = { "x\n", "Swap: 4 kB\n",
					     "00400000-00400000 r-xp 0 0:0 0\n",
					     "00400000-00401000 r-x" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct kage_maps m = { 0 };
		struct kage_err *e = kage_maps_parse(texts[i], &m);

		assert_non_null(e);
		assert_int_equal(kage_err_code(e), KAGE_CORRUPT);
		kage_err_free(e);
	}
}

/* Two mappings became one after they had been written. */
static void merged_meanwhile(void **state)
{
	_cleanup_(kage_maps_deinit) struct kage_maps m = { 0 };

	(void)state;
	done(kage_maps_parse("00001000-00002000 r--p 00000000 00:00 0 \n"
			     "VmFlags: rd\n"
			     "00002000-00003000 rw-p 00000000 00:00 0 \n"
			     "VmFlags: rd wr\n"
			     "00003000-00004000 rw-p 00000000 00:00 0 \n"
			     "VmFlags: rd wr dd\n"
			     "00002000-00006000 rw-p 00000000 00:00 0 \n"
			     "Rss: 0 kB\n"
			     "00007000-00008000 rw-p 00000000 00:00 0 \n",
			     &m));
	assert_int_equal(m.n, 3);
	assert_int_equal(m.vmas[0].end, 0x2000);
	assert_int_equal(m.vmas[1].start, 0x2000);
	assert_int_equal(m.vmas[1].end, 0x6000);
	assert_int_equal(m.vmas[1].n_flags, 0);
	assert_int_equal(m.vmas[2].start, 0x7000);
}

/* --- a process that never stands still ---------------------------------------------------------- */

enum { PIECES = 400, READS = 200 };

struct restless {
	char *memory;
	atomic_bool enough;
};

static void *split_and_merge(void *arg)
{
	struct restless *r = arg;

	for (unsigned i = 0; !r->enough; i++)
		for (size_t k = 0; k < PIECES; k += 2)
			mprotect(r->memory + k * KAGE_PAGE_BYTES, KAGE_PAGE_BYTES,
				 i % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
	return NULL;
}

static void restless_process(void **state)
{
	struct restless r = { .memory = mmap(NULL, PIECES * KAGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
					     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) };
	int self = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	pthread_t thread;

	(void)state;
	assert_ptr_not_equal(r.memory, MAP_FAILED);
	assert_int_equal(pthread_create(&thread, NULL, split_and_merge, &r), 0);
	for (int i = 0; i < READS; i++) {
		_cleanup_(kage_maps_deinit) struct kage_maps m = { 0 };

		done(kage_maps_read(self, i % 2, &m));
		for (size_t k = 1; k < m.n; k++)
			assert_true(m.vmas[k - 1].end <= m.vmas[k].start);
	}
	r.enough = true;
	pthread_join(thread, NULL);
	close_fd(self);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines),
		cmocka_unit_test(rubbish),
		cmocka_unit_test(merged_meanwhile),
		cmocka_unit_test(restless_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
