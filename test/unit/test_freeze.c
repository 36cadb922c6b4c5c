/* SPDX-License-Identifier: Apache-2.0 */
/* target/freeze.c: how threads are brought to stand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/taskread.h"
#include "target/target.h"

static struct kage_taskread *reader;
static struct kage_target *target;
static volatile unsigned long *count; /* of what the child has done, and of signals that it took */

static void must(struct kage_err *e)
{
	if (e)
		fail_msg("%s", kage_err_message(e));
}

static void note(int sig)
{
	(void)sig;
	++count[1];
}

static void handle_one(void)
{
	signal(SIGURG, note);
}

static void handle_other(void)
{
	signal(SIGWINCH, note);
}

static void block_all(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
}

/* The target is a child that counts, after PREPARE. */
static void begin(void (*prepare)(void))
{
	pid_t pid;

	count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(count, MAP_FAILED);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (prepare)
			prepare();
		for (;;)
			++*count;
	}
	while (!*count)
		usleep(100);
	must(kage_target_open(NULL, pid, &target));
}

static void end(void)
{
	pid_t pid = target->pid;

	kage_target_close(target);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	munmap((void *)count, 4096);
}

/* The signal by which the only thread of the target stands. */
static int freeze(const struct kage_taskread *with)
{
	struct kage_freeze how = { .reader = with };
	siginfo_t info = { 0 };

	must(kage_target_freeze(target, &how));
	assert_int_equal(target->n_threads, 1);
	assert_true(target->threads[0]->stopped);
	assert_int_equal(ptrace(PTRACE_GETSIGINFO, target->pid, NULL, &info), 0);
	return info.si_signo;
}

static void goes_on(void)
{
	unsigned long stood = *count;

	usleep(1000);
	assert_int_equal(*count, stood);
	kage_target_thaw(target, false);
	while (*count == stood)
		usleep(100);
}

/* One that finds no processor for some milliseconds is interrupted after all: not always, then. */
static void expect(void (*prepare)(void), const struct kage_taskread *with, int signal)
{
	int met = 0;

	begin(prepare);
	for (int i = 0; i < 20 && met != signal; i++) {
		met = freeze(with);
		goes_on();
	}
	assert_int_equal(met, signal);
	end();
}

static void test_in_its_program(void **state)
{
	(void)state;
	if (!reader)
		skip();
	expect(NULL, reader, SIGURG);
	expect(handle_one, reader, SIGWINCH);
}

static void test_interrupted(void **state)
{
	(void)state;
	expect(NULL, NULL, SIGTRAP);
	if (reader)
		expect(block_all, reader, SIGTRAP);
}

/* Signals of the program's own come through, whenever they come. */
static void test_signals(void **state)
{
	enum { SIGNALS = 300 };

	(void)state;
	begin(handle_other);
	for (unsigned long i = 1; i <= SIGNALS; i++) {
		struct kage_freeze how = { .reader = i % 4 ? reader : NULL };

		assert_int_equal(kill(target->pid, SIGWINCH), 0);
		must(kage_target_freeze(target, &how));
		kage_target_thaw(target, false);
		for (int waited_ms = 0; count[1] < i && waited_ms < 20000; waited_ms++)
			usleep(1000);
		assert_int_equal(count[1], i);
	}
	end();
}

static void test_again(void **state)
{
	(void)state;
	begin(NULL);
	for (int i = 0; i < 20; i++) {
		(void)freeze(i % 3 ? reader : NULL);
		goes_on();
	}
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_in_its_program),
		cmocka_unit_test(test_interrupted),
		cmocka_unit_test(test_signals),
		cmocka_unit_test(test_again),
	};
	struct kage_err *e = kage_taskread_open(NULL, &reader);
	int failed;

	if (e)
		printf("# %s\n", kage_err_message(e));
	err_drop(e);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	kage_taskread_close(reader);
	return failed;
}
