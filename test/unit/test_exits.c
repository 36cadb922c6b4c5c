/* SPDX-License-Identifier: Apache-2.0 */
/* The table of triggers in the kernel: who is stopped behind which calls, and what is told of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sys/exits.h"

static struct kage_exits table;

static void must(struct kage_err *e)
{
	if (e)
		fail_msg("%s", kage_err_message(e));
}

static int gate = -1; /* what waits for its rules is behind it */

/* A traced child that does WORK as soon as it is asked for hits. */
static pid_t start(void (*work)(void))
{
	int go[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(go[1]);
		(void)!read(go[0], &byte, 1);
		work();
		_exit(0);
	}
	close(go[0]);
	assert_int_equal(ptrace(PTRACE_SEIZE, pid, NULL, NULL), 0);
	gate = go[1];
	return pid;
}

/* The next call for which it is stopped. False: it has ended. */
static bool next_hit(pid_t pid, struct kage_exit_hit *ret)
{
	int status;

	close_fd(gate);
	gate = -1;
	for (;;) {
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSTOPPED(status)) {
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
			return false;
		}
		if (kage_exits_take(&table, pid, WSTOPSIG(status), ret))
			return true;
		ptrace(PTRACE_CONT, pid, NULL, (void *)(uintptr_t)WSTOPSIG(status));
	}
}

static void go_on(pid_t pid)
{
	assert_int_equal(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
}

static void opens(void)
{
	(void)!open("/etc/passwd", O_RDONLY);
	(void)!open("/dev/null", O_RDONLY);
	(void)!open("/etc/nonsense", O_RDONLY);
	getppid();
	getppid();
}

static void test_call(void **state)
{
	const struct kage_exit_rule any = { 0 };
	struct kage_exit_hit hit;
	struct timespec now;
	pid_t pid = start(opens);

	(void)state;
	must(kage_exits_set(&table, pid, SYS_getppid, &any));
	for (int i = 0; i < 2; i++) {
		assert_true(next_hit(pid, &hit));
		assert_int_equal(hit.number, SYS_getppid);
		assert_int_equal(hit.result, getpid());
		clock_gettime(CLOCK_MONOTONIC, &now);
		assert_true(hit.time_ns <=
			    (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec);
		go_on(pid);
	}
	assert_false(next_hit(pid, &hit));
	kage_exits_unset(&table, pid, SYS_getppid);
}

static void test_prefix(void **state)
{
	const struct kage_exit_rule etc = { .prefix_argument = 1,
					    .prefix_bytes = 5,
					    .prefix = "/etc/" };
	struct kage_exit_hit hit;
	pid_t pid = start(opens);

	(void)state;
	must(kage_exits_set(&table, pid, SYS_openat, &etc));
	assert_true(next_hit(pid, &hit));
	assert_true(hit.result >= 0);
	go_on(pid);
	assert_true(next_hit(pid, &hit));
	assert_int_equal(hit.result, -ENOENT);
	go_on(pid);
	assert_false(next_hit(pid, &hit));
	kage_exits_unset(&table, pid, SYS_openat);
}

static void test_conditions(void **state)
{
	const struct kage_exit_rule failed = { .n = 2,
					       .conditions = {
						       { EXIT_RESULT, EXIT_LT, 0, 0 },
						       { 0, EXIT_EQ, 1, (uint64_t)AT_FDCWD } } };
	struct kage_exit_hit hit;
	pid_t pid = start(opens);

	(void)state;
	must(kage_exits_set(&table, pid, SYS_openat, &failed));
	assert_true(next_hit(pid, &hit));
	assert_int_equal(hit.result, -ENOENT);
	go_on(pid);
	assert_false(next_hit(pid, &hit));
	kage_exits_unset(&table, pid, SYS_openat);
}

/* A call made with all signals blocked, as the C library does, is told when they no longer are. */
static void blocks(void)
{
	sigset_t all, before;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	getppid();
	getpgid(0);
	sigprocmask(SIG_SETMASK, &before, NULL);
	getpgid(0);
}

static void test_blocked(void **state)
{
	const struct kage_exit_rule any = { 0 }, helps = { .helps = 1 };
	struct kage_exit_hit hit;
	pid_t pid = start(blocks);

	(void)state;
	must(kage_exits_set(&table, pid, SYS_getppid, &any));
	must(kage_exits_set(&table, pid, SYS_rt_sigprocmask, &helps));
	assert_true(next_hit(pid, &hit));
	assert_int_equal(hit.number, SYS_getppid);
	assert_int_equal(hit.result, getpid());
	go_on(pid);
	assert_false(next_hit(pid, &hit));
	kage_exits_unset(&table, pid, SYS_getppid);
	kage_exits_unset(&table, pid, SYS_rt_sigprocmask);
}

/* A sleep that a stop interrupts goes on as another call. */
static void sleeps(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 200 * 1000 * 1000 }, NULL);
}

static void test_resumed(void **state)
{
	const struct kage_exit_rule any = { 0 }, helps = { .helps = 1 };
	struct kage_exit_hit hit;
	pid_t pid = start(sleeps);
	int status;

	(void)state;
	must(kage_exits_set(&table, pid, SYS_clock_nanosleep, &any));
	must(kage_exits_set(&table, pid, SYS_restart_syscall, &helps));
	close_fd(gate);
	gate = -1;
	nanosleep(&(struct timespec){ .tv_nsec = 20 * 1000 * 1000 }, NULL);
	ptrace(PTRACE_INTERRUPT, pid, NULL, NULL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status >> 16, PTRACE_EVENT_STOP);
	go_on(pid);
	assert_true(next_hit(pid, &hit));
	assert_int_equal(hit.number, SYS_clock_nanosleep);
	assert_int_equal(hit.result, 0);
	go_on(pid);
	assert_false(next_hit(pid, &hit));
	kage_exits_unset(&table, pid, SYS_clock_nanosleep);
	kage_exits_unset(&table, pid, SYS_restart_syscall);
}

/* Nobody who is not traced is sent anything. */
static void test_untraced(void **state)
{
	const struct kage_exit_rule any = { 0 };
	struct kage_exit_hit hit;

	(void)state;
	must(kage_exits_set(&table, getpid(), SYS_getppid, &any));
	syscall(SYS_getppid);
	kage_exits_unset(&table, getpid(), SYS_getppid);
	for (int signal = 1; signal < NSIG; signal++)
		assert_false(kage_exits_take(&table, getpid(), signal, &hit));
}

static void test_shared(void **state)
{
	const struct kage_exit_rule any = { 0 };
	struct kage_exits other;
	struct kage_exit_hit hit;
	pid_t pid = start(opens);

	(void)state;
	must(kage_exits_open(&other));
	must(kage_exits_set(&other, pid, SYS_getppid, &any));
	assert_true(next_hit(pid, &hit));
	kage_exits_unset(&table, pid, SYS_getppid);
	kage_exits_close(&other);
	go_on(pid);
	assert_false(next_hit(pid, &hit));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_call),       cmocka_unit_test(test_prefix),
		cmocka_unit_test(test_conditions), cmocka_unit_test(test_blocked),
		cmocka_unit_test(test_resumed),    cmocka_unit_test(test_untraced),
		cmocka_unit_test(test_shared),
	};
	struct kage_err *e = kage_exits_open(&table);
	int failed;

	if (e && (kage_err_code(e) == KAGE_PERM || kage_err_code(e) == KAGE_UNSUPPORTED)) {
		printf("1..0 # SKIP machine: %s\n", kage_err_message(e));
		err_drop(e);
		return 0;
	}
	if (e)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	kage_exits_close(&table);
	return failed;
}
