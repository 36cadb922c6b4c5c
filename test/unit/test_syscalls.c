/* SPDX-License-Identifier: Apache-2.0 */
/* What each system call is like: where its time stands, which one restart_syscall goes on with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/futex.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#include "arch/arch.h"
#include "base/cleanup.h"

enum { AT = 0x7000 }; /* an address */

static const struct timed {
	uint64_t number;
	uint64_t args[6];
	struct kage_timed_call is;
} timed[] = {
	{ SYS_nanosleep, { AT, AT }, { KAGE_TIME_TIMESPEC, 0, 0, true, false } },
	{ SYS_clock_nanosleep, { 1, 0, AT }, { KAGE_TIME_TIMESPEC, 2, 0, true, false } },
	{ SYS_clock_nanosleep, { 1, TIMER_ABSTIME, AT }, { .kind = KAGE_TIME_NONE } },
	{ SYS_poll, { AT, 1, 500 }, { KAGE_TIME_MS, 2, 0, true, false } },
	{ SYS_poll, { AT, 1, 0 }, { KAGE_TIME_MS, 2, 0, true, false } },
	{ SYS_poll, { AT, 1, 0xffffffff }, { .kind = KAGE_TIME_NONE } },
	{ SYS_poll, { AT, 1, ~0ull }, { .kind = KAGE_TIME_NONE } },
	{ SYS_futex, { AT, FUTEX_WAIT, 0, AT }, { KAGE_TIME_TIMESPEC, 3, 0, true, false } },
	{ SYS_futex, { AT, FUTEX_WAIT_PRIVATE, 0, AT }, { KAGE_TIME_TIMESPEC, 3, 0, true, false } },
	{ SYS_futex, { AT, FUTEX_WAIT, 0, 0 }, { .kind = KAGE_TIME_NONE } },
	{ SYS_futex, { AT, FUTEX_WAIT_BITSET_PRIVATE, 0, AT }, { .kind = KAGE_TIME_NONE } },
	{ SYS_futex, { AT, FUTEX_LOCK_PI, 0, AT }, { .kind = KAGE_TIME_NONE } },
	{ SYS_ppoll, { AT, 1, AT }, { KAGE_TIME_TIMESPEC, 2, 0, false, true } },
	{ SYS_ppoll, { AT, 1, 0 }, { .kind = KAGE_TIME_NONE } },
	{ SYS_pselect6, { 3, AT, 0, 0, AT }, { KAGE_TIME_TIMESPEC, 4, 0, false, true } },
	{ SYS_pselect6, { 3, AT, 0, 0, 0 }, { .kind = KAGE_TIME_NONE } },
	{ SYS_select, { 3, AT, 0, 0, AT }, { KAGE_TIME_TIMEVAL, 4, 0, false, true } },
	{ SYS_select, { 3, AT, 0, 0, 0 }, { .kind = KAGE_TIME_NONE } },
	{ SYS_epoll_wait, { 4, AT, 1, 500 }, { KAGE_TIME_MS, 3, 0, false, false } },
	{ SYS_epoll_pwait, { 4, AT, 1, 500 }, { KAGE_TIME_MS, 3, 0, false, false } },
	{ SYS_epoll_wait, { 4, AT, 1, 0xffffffff }, { .kind = KAGE_TIME_NONE } },
	{ SYS_epoll_pwait2, { 4, AT, 1, AT }, { KAGE_TIME_TIMESPEC, 3, 0, false, false } },
	{ SYS_epoll_pwait2, { 4, AT, 1, 0 }, { .kind = KAGE_TIME_NONE } },
	{ SYS_rt_sigtimedwait, { AT, 0, AT, 8 }, { KAGE_TIME_TIMESPEC, 2, 0, false, false } },
	{ SYS_rt_sigtimedwait, { AT, 0, 0, 8 }, { .kind = KAGE_TIME_NONE } },
	{ SYS_semtimedop, { 1, AT, 1, AT }, { KAGE_TIME_TIMESPEC, 3, 0, false, false } },
	{ SYS_io_getevents, { 1, 1, 1, AT, AT }, { KAGE_TIME_TIMESPEC, 4, 0, false, false } },
	{ SYS_io_pgetevents, { 1, 1, 1, AT, AT }, { KAGE_TIME_TIMESPEC, 4, 0, false, false } },
	{ SYS_read, { 5, AT, 1 }, { KAGE_TIME_SOCKET, 0, SO_RCVTIMEO, false, false } },
	{ SYS_accept, { 5 }, { KAGE_TIME_SOCKET, 0, SO_RCVTIMEO, false, false } },
	{ SYS_recvmmsg, { 5, AT, 1, 0, AT }, { KAGE_TIME_SOCKET, 0, SO_RCVTIMEO, false, false } },
	{ SYS_write, { 5, AT, 1 }, { KAGE_TIME_SOCKET, 0, SO_SNDTIMEO, false, false } },
	{ SYS_connect, { 5, AT, 16 }, { KAGE_TIME_SOCKET, 0, SO_SNDTIMEO, false, false } },
	{ SYS_mq_timedreceive, { 5, AT, 8, 0, AT }, { .kind = KAGE_TIME_NONE } },
	{ SYS_semop, { 1, AT, 1, AT }, { .kind = KAGE_TIME_NONE } },
	{ SYS_pause, { 0 }, { .kind = KAGE_TIME_NONE } },
};

static void test_timed(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(timed); i++) {
		const struct timed *t = &timed[i];
		struct kage_timed_call is = kage_arch_timed_call(t->number, t->args);

		if (is.kind != t->is.kind || is.restart_block != t->is.restart_block ||
		    is.written_back != t->is.written_back || is.option != t->is.option ||
		    (is.kind != KAGE_TIME_NONE && is.arg != t->is.arg))
			fail_msg("row %zu (system call %d): kind %d, argument %d", i,
				 (int)t->number, is.kind, is.arg);
	}
}

static void test_restart_by_kind(void **state)
{
	static const struct {
		enum kage_restart kind;
		uint64_t first_arg, number;
	} rows[] = {
		{ KAGE_RESTART_NANOSLEEP, AT, SYS_nanosleep },
		{ KAGE_RESTART_NANOSLEEP, CLOCK_REALTIME, SYS_clock_nanosleep },
		{ KAGE_RESTART_NANOSLEEP, CLOCK_BOOTTIME, SYS_clock_nanosleep },
		{ KAGE_RESTART_CPU_NANOSLEEP, 0xfffffffa, SYS_clock_nanosleep },
		{ KAGE_RESTART_ALARM_NANOSLEEP, CLOCK_BOOTTIME_ALARM, SYS_clock_nanosleep },
		{ KAGE_RESTART_POLL, 0, SYS_poll },
		{ KAGE_RESTART_FUTEX, AT, SYS_futex },
	};
	/* What the kernel says counts, whatever the code. */
	static const uint8_t code[KAGE_ARCH_CODE_BEFORE] = { [27] = 0xb8, 0xdb, 0, 0, 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const uint64_t args[6] = { rows[i].first_arg };
		uint64_t number = 0;

		assert_true(kage_arch_restart_number(rows[i].kind, args, code, &number));
		assert_int_equal(number, rows[i].number);
	}
}

static bool by_code(const void *tail, size_t size, uint64_t *ret_number)
{
	static const uint64_t args[6];
	uint8_t code[KAGE_ARCH_CODE_BEFORE] = { 0 };

	memcpy(code + sizeof(code) - size, tail, size);
	return kage_arch_restart_number(KAGE_RESTART_NONE, args, code, ret_number);
}

static void test_restart_by_code(void **state)
{
	/* mov $0xca, %eax */
	static const uint8_t right_before[] = { 0xb8, 0xca, 0, 0, 0 };
	/* mov $7, %eax; mov %rcx, %r10; cmpb $0, 0x1234(%rip) */
	static const uint8_t before[] = { 0xb8, 7,    0,    0,    0, 0x49, 0x89, 0xca,
					  0x80, 0x3d, 0x34, 0x12, 0, 0,    0 };
	/* mov $0x23, %eax; mov $0xe6, %eax */
	static const uint8_t twice[] = { 0xb8, 0x23, 0, 0, 0, 0xb8, 0xe6, 0, 0, 0 };
	/* mov $1, %eax: write is never gone on with by restart_syscall */
	static const uint8_t other[] = { 0xb8, 1, 0, 0, 0 };
	uint8_t far[KAGE_ARCH_CODE_BEFORE] = { 0xb8, 0x23 };
	uint64_t number = 0;

	(void)state;
	assert_true(by_code(right_before, sizeof(right_before), &number));
	assert_int_equal(number, SYS_futex);
	assert_true(by_code(before, sizeof(before), &number));
	assert_int_equal(number, SYS_poll);
	assert_true(by_code(twice, sizeof(twice), &number));
	assert_int_equal(number, SYS_clock_nanosleep);
	assert_true(by_code(far, sizeof(far), &number));
	assert_int_equal(number, SYS_nanosleep);
	assert_false(by_code(other, sizeof(other), &number));
	assert_false(by_code("", 0, &number));
}

enum { SYS = 512, NOHAND = 514 }; /* ERESTARTSYS, ERESTARTNOHAND of the kernel's errno.h */

static void test_interrupted(void **state)
{
	static const struct {
		uint64_t number;
		uint64_t args[6];
		Kage__SyscallState__Restart restart;
		int error; /* 0: registers stay as they are */
	} rows[] = {
		{ SYS_read, { 5 }, KAGE__SYSCALL_STATE__RESTART__AGAIN, SYS },
		{ SYS_recvfrom, { 5 }, KAGE__SYSCALL_STATE__RESTART__AGAIN, SYS },
		{ SYS_recvfrom, { 5 }, KAGE__SYSCALL_STATE__RESTART__TIME_LEFT, NOHAND },
		{ SYS_pause, { 0 }, KAGE__SYSCALL_STATE__RESTART__AGAIN, NOHAND },
		{ SYS_epoll_wait, { 4 }, KAGE__SYSCALL_STATE__RESTART__TIME_LEFT, NOHAND },
		{ SYS_clock_nanosleep,
		  { 1, TIMER_ABSTIME, AT },
		  KAGE__SYSCALL_STATE__RESTART__AGAIN,
		  NOHAND },
		{ SYS_futex, { AT, FUTEX_WAIT }, KAGE__SYSCALL_STATE__RESTART__AGAIN, SYS },
		{ SYS_futex,
		  { AT, FUTEX_WAIT_BITSET_PRIVATE, 0, AT },
		  KAGE__SYSCALL_STATE__RESTART__AGAIN,
		  NOHAND },
		{ SYS_futex, { AT, FUTEX_LOCK_PI }, KAGE__SYSCALL_STATE__RESTART__AGAIN, 0 },
		{ SYS_read, { 5 }, KAGE__SYSCALL_STATE__RESTART__NONE, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		Kage__SyscallState call = KAGE__SYSCALL_STATE__INIT;
		struct kage_regs regs = { 0 };
		bool changed;

		call.in_progress = true;
		call.number = rows[i].number;
		call.restart = rows[i].restart;
		for (int k = 0; k < 6; k++)
			kage_arch_set_arg(&regs, k, rows[i].args[k]);
		regs.gp.rax = rows[i].number;
		regs.gp.orig_rax = ~0ull;
		regs.gp.rip = AT;
		changed = kage_arch_interrupt_call(&call, &regs);
		assert_int_equal(changed, rows[i].error != 0);
		assert_int_equal(regs.gp.rax, changed ? (uint64_t)-rows[i].error : rows[i].number);
		assert_int_equal(regs.gp.orig_rax, changed ? rows[i].number : ~0ull);
		assert_int_equal(regs.gp.rip, changed ? AT + KAGE_ARCH_SYSCALL_BYTES : AT);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_timed),
		cmocka_unit_test(test_restart_by_kind),
		cmocka_unit_test(test_restart_by_code),
		cmocka_unit_test(test_interrupted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
