/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children that say what they are about to do, fall asleep, and are read without a stop.
 */
#ifndef LIB_ASLEEP_H
#define LIB_ASLEEP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/taskread.h"

enum { MS = 1000000, FAR_S = 1000 };
#define S_NS 1000000000ull

static inline void must(struct kage_err *e)
{
	if (e)
		fail_msg("%s", kage_err_message(e));
}

static inline void must_fail(struct kage_err *e, enum kage_code code)
{
	assert_non_null(e);
	assert_int_equal(kage_err_code(e), code);
	kage_err_free(e);
}

/* What a child tells of itself. */
struct truth {
	volatile int ready;
	volatile int woken; /* times its call returned */
	volatile long result;
	uint64_t deadline_ns; /* of its sleep, CLOCK_MONOTONIC */
	pid_t tids[64];
	struct kage_task_action actions[64];
	uint64_t altstack, robust, rseq, fs_base, brk, set_tid;
	timer_t timers[8];
	uint64_t words[64];
};

static inline struct truth *share(void)
{
	struct truth *t =
		mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(t, MAP_FAILED);
	return t;
}

typedef void child_fn(struct truth *t);

static inline pid_t start(child_fn *f, struct truth *t)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	f(t);
	_exit(0);
}

static inline void stop(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static inline bool all_asleep(const struct kage_taskinfo *info)
{
	for (size_t i = 0; i < info->n_threads; i++)
		if (!info->threads[i].asleep)
			return false;
	return true;
}

/* Reads PID once it said that it is ready and all its threads sleep. */
static inline struct kage_taskinfo *read_asleep(struct kage_taskread *r, pid_t pid, struct truth *t)
{
	uint64_t end = kage_clock_mono_ns() + 5 * S_NS;
	struct kage_taskinfo *info = NULL;

	while (kage_clock_mono_ns() < end) {
		usleep(2000);
		if (!t->ready)
			continue;
		must(kage_taskread_read(r, pid, &info));
		if (all_asleep(info))
			return info;
		kage_taskinfo_free(info);
	}
	fail_msg("process %d does not fall asleep", pid);
	return NULL;
}

static inline void near(uint64_t a, uint64_t b, uint64_t by)
{
	if ((a > b ? a - b : b - a) > by)
		fail_msg("%llu is not near %llu", (unsigned long long)a, (unsigned long long)b);
}

static inline int open_reader(void **state)
{
	struct kage_taskread *r;

	must(kage_taskread_open(NULL, &r));
	*state = r;
	return 0;
}

static inline int close_reader(void **state)
{
	kage_taskread_close(*state);
	return 0;
}

/* Whether this machine lets us; says so when it does not. */
static inline bool can_read(void)
{
	struct kage_taskread *r;
	struct kage_err *e = kage_taskread_open(NULL, &r);
	enum kage_code code = e ? kage_err_code(e) : KAGE_SYS;

	kage_err_free(e);
	if (!e)
		kage_taskread_close(r);
	if (code != KAGE_UNSUPPORTED && code != KAGE_PERM)
		return true;
	printf("0 passed, 0 failed, 1 skipped: BPF task iterators\n");
	return false;
}

#endif
