/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a traced thread stops, and how it is waited for.
 */
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "base/file.h"
#include "target/target.h"

enum { STEP_TIMEOUT_MS = 10000 };

static struct kage_stop describe(int status)
{
	struct kage_stop s = { .what = STOP_ENDED, .status = status };
	int event = status >> 16;

	if (!WIFSTOPPED(status))
		return s;
	s.signal = WSTOPSIG(status);
	if (event == PTRACE_EVENT_STOP)
		s.what = STOP_EVENT;
	else if (event)
		s.what = STOP_CLONE;
	else if (s.signal == (SIGTRAP | 0x80))
		s.what = STOP_SYSCALL;
	else
		s.what = STOP_SIGNAL;
	return s;
}

/* All signals are blocked here, so the one that tells of a change is taken from the queue. */
void kage_target_nap(struct kage_target *t, long ns)
{
	const struct timespec slice = { 0, ns };
	sigset_t chld;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	if (sigtimedwait(&chld, NULL, &slice) == SIGCHLD)
		t->chld_eaten = true;
}

struct kage_err *kage_target_poll(pid_t tid, struct kage_stop *ret_stop, bool *ret_changed)
{
	int status;
	pid_t r = waitpid(tid, &status, __WALL | WNOHANG);

	*ret_changed = r == tid || (r < 0 && errno == ECHILD);
	if (r == tid)
		*ret_stop = describe(status);
	else if (*ret_changed)
		*ret_stop = (struct kage_stop){ .what = STOP_ENDED };
	else if (r < 0 && errno != EINTR)
		return kage_err_sys(errno, "wait for thread %d", tid);
	return NULL;
}

struct kage_err *kage_target_wait(struct kage_target *t, pid_t tid, uint64_t timeout_ns,
				  struct kage_stop *ret_stop)
{
	uint64_t begin = kage_clock_mono_ns(), waited;
	bool changed;

	for (;;) {
		TRY(kage_target_poll(tid, ret_stop, &changed));
		if (changed)
			return NULL;
		waited = kage_clock_mono_ns() - begin;
		if (waited > timeout_ns)
			return kage_err_new(KAGE_LIMIT, "thread %d did not stop within %d ms", tid,
					    (int)(timeout_ns / 1000000));
		/* A stop usually takes a few microseconds: look often at first. */
		if (waited > KAGE_STOP_SPIN_NS)
			kage_target_nap(t, KAGE_STOP_NAP_NS);
	}
}

struct kage_err *kage_target_step_syscall(struct kage_target *t, struct kage_thread *thread)
{
	struct kage_stop stop;

	do {
		thread->stopped = false;
		if (ptrace(PTRACE_SYSCALL, thread->tid, NULL, NULL) < 0)
			return kage_err_sys(errno, "step thread %d", thread->tid);
		TRY(kage_target_wait(t, thread->tid, STEP_TIMEOUT_MS * 1000000ull, &stop));
		if (stop.what == STOP_ENDED) {
			thread->attached = false;
			return kage_err_new(KAGE_GONE, "process %d ended", t->pid);
		}
		thread->stopped = true;
		t->stop_again |= stop.what == STOP_SIGNAL && stop.signal == SIGSTOP;
	} while (stop.what != STOP_SYSCALL && stop.what != STOP_CLONE);
	return NULL;
}

struct kage_err *kage_target_settle(struct kage_target *t, struct kage_thread *thread)
{
	struct kage_stop stop = { .what = STOP_SYSCALL };

	if (ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL) < 0)
		return kage_err_sys(errno, "interrupt thread %d", thread->tid);
	while (stop.what != STOP_EVENT) {
		thread->stopped = false;
		ptrace(PTRACE_CONT, thread->tid, NULL, NULL);
		TRY(kage_target_wait(t, thread->tid, STEP_TIMEOUT_MS * 1000000ull, &stop));
		if (stop.what == STOP_ENDED)
			return kage_err_new(KAGE_GONE, "process %d ended", t->pid);
		thread->stopped = true;
	}
	return NULL;
}
