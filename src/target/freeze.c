/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stopping all threads of a target, and letting them go.
 *
 * PTRACE_SEIZE attaches without a stop, PTRACE_INTERRUPT stops without a signal (ptrace(2)). A
 * signal that is on its way to a thread at that moment is delivered first: the thread then stands at
 * the first instruction of the handler. Threads born meanwhile are found by listing again until a
 * pass finds none: a thread can only be born of one that still runs.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/taskread.h"
#include "target/asleep.h"
#include "target/batch.h"
#include "target/target.h"

enum { WAIT_SPIN_NS = 200 * 1000, WAIT_SLICE_NS = 10 * 1000 * 1000, STEP_TIMEOUT_MS = 10000 };

void kage_target_block_signals(struct kage_target *t)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &t->caller_mask);
}

void kage_target_unblock_signals(struct kage_target *t)
{
	/* A SIGCHLD that was consumed while waiting for stops may have been for the caller. */
	if (t->chld_eaten && !sigismember(&t->caller_mask, SIGCHLD))
		raise(SIGCHLD);
	t->chld_eaten = false;
	pthread_sigmask(SIG_SETMASK, &t->caller_mask, NULL);
}

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

/* Sleeps until a child of ours changed, or a slice of time is over. All signals are blocked here, so
 * the one that tells of it is taken from the queue. */
static void sleep_until_change(struct kage_target *t)
{
	const struct timespec slice = { 0, WAIT_SLICE_NS };
	sigset_t chld;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	if (sigtimedwait(&chld, NULL, &slice) == SIGCHLD)
		t->chld_eaten = true;
}

struct kage_err *kage_target_wait(struct kage_target *t, pid_t tid, uint64_t timeout_ns,
				  struct kage_stop *ret_stop)
{
	uint64_t begin = kage_clock_mono_ns(), waited;
	int status;

	for (;;) {
		pid_t r = waitpid(tid, &status, __WALL | WNOHANG);

		if (r == tid) {
			*ret_stop = describe(status);
			return NULL;
		}
		if (r < 0 && errno == ECHILD) {
			*ret_stop = (struct kage_stop){ .what = STOP_ENDED };
			return NULL;
		}
		if (r < 0 && errno != EINTR)
			return kage_err_sys(errno, "wait for thread %d", tid);
		waited = kage_clock_mono_ns() - begin;
		if (waited > timeout_ns)
			return kage_err_new(KAGE_LIMIT, "thread %d did not stop within %d ms", tid,
					    (int)(timeout_ns / 1000000));
		/* A stop usually takes a few microseconds: look often at first. */
		if (waited > WAIT_SPIN_NS)
			sleep_until_change(t);
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

/* Forgets a thread that is no more. */
static void drop_thread(struct kage_target *t, pid_t tid)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		if (t->threads[i]->tid != tid)
			continue;
		free(t->threads[i]);
		memmove(&t->threads[i], &t->threads[i + 1],
			(t->n_threads - i - 1) * sizeof(*t->threads));
		t->n_threads--;
		return;
	}
}

/* Attaches to THREAD and asks it to stop; *ret_attached is false when it has ended. */
static struct kage_err *seize(struct kage_target *t, struct kage_thread *thread, bool *ret_attached)
{
	*ret_attached = false;
	if (ptrace(PTRACE_SEIZE, thread->tid, NULL, (void *)(uintptr_t)PTRACE_O_TRACESYSGOOD) < 0) {
		if (errno == ESRCH)
			return NULL;
		/* A thread on its way out cannot be attached either. */
		if (errno == EPERM && thread->tid != t->pid)
			return NULL;
		return kage_err_sys(errno, "attach to thread %d of process %d", thread->tid,
				    t->pid);
	}
	thread->attached = true;
	*ret_attached = true;
	if (!t->stopped_at_ns)
		t->stopped_at_ns = kage_clock_mono_ns();
	if (ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL) < 0 && errno != ESRCH)
		return kage_err_sys(errno, "interrupt thread %d", thread->tid);
	return NULL;
}

/* Stops the thread TID unless it stands already, or sleeps (SEEN, if known) and may do so. */
static struct kage_err *hold(struct kage_target *t, pid_t tid, const struct kage_taskthread *seen,
			     bool *ret_new)
{
	struct kage_thread *thread = kage_target_thread(t, tid);

	*ret_new = false;
	if (!thread)
		thread = kage_target_add_thread(t, tid);
	if (!thread)
		return kage_err_nomem();
	thread->seen = seen;
	if (thread->attached)
		return NULL;
	thread->asleep =
		seen && !t->stop_all && !thread->restless && kage_asleep_take(t, seen, thread);
	if (thread->asleep)
		return NULL;
	TRY(seize(t, thread, ret_new));
	if (!*ret_new)
		drop_thread(t, tid);
	return NULL;
}

static struct kage_err *hold_seen(struct kage_target *t, bool *ret_any_new)
{
	*ret_any_new = false;
	for (size_t i = 0; i < t->info->n_threads; i++) {
		const struct kage_taskthread *seen = &t->info->threads[i];
		bool new;

		TRY(hold(t, seen->task.tid, seen, &new));
		*ret_any_new |= new;
	}
	return NULL;
}

static struct kage_err *hold_listed(struct kage_target *t, bool *ret_any_new)
{
	_cleanup_dir_ DIR *dir = NULL;
	int fd = openat(t->proc_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *d;

	*ret_any_new = false;
	if (fd < 0)
		return kage_err_sys(errno == ENOENT ? ESRCH : errno, "list threads of process %d",
				    t->pid);
	dir = fdopendir(fd);
	if (!dir) {
		close_fd(fd);
		return kage_err_nomem();
	}
	while ((d = readdir(dir))) {
		bool new;

		if (!isdigit((unsigned char)d->d_name[0]))
			continue;
		TRY(hold(t, (pid_t)atoi(d->d_name), NULL, &new));
		*ret_any_new |= new;
	}
	return NULL;
}

static struct kage_err *why_it_does_not_stop(struct kage_target *t, pid_t tid, struct kage_err *e)
{
	_cleanup_free_ char *text = NULL, *path = NULL;
	const char *state = "?";
	size_t size;

	if (asprintf(&path, "task/%d/wchan", tid) < 0)
		path = NULL;
	if (path)
		err_drop(kage_file_slurp(t->proc_fd, path, 4096, &text, &size));
	if (text)
		state = text;
	return kage_err_wrap(
		e,
		"process %d cannot be stopped now (thread %d is in the kernel, in %s); "
		"it goes on, try again later",
		t->pid, tid, state);
}

/* Waits until THREAD stands. Sets *ret_ended when it ended instead. */
static struct kage_err *wait_standing(struct kage_target *t, struct kage_thread *thread,
				      bool *ret_ended)
{
	struct kage_stop stop;
	struct kage_err *e;

	*ret_ended = false;
	for (;;) {
		e = kage_target_wait(t, thread->tid, KAGE_STOP_TIMEOUT_MS * 1000000ull, &stop);
		if (e)
			return why_it_does_not_stop(t, thread->tid, e);
		if (stop.what == STOP_ENDED) {
			*ret_ended = true;
			return NULL;
		}
		if (stop.what == STOP_EVENT) {
			thread->stopped = true;
			thread->job_stopped = stop.signal != SIGTRAP;
			return NULL;
		}
		/* A signal was on its way: deliver it. The interrupt is still pending and stops the
		 * thread at the handler's first instruction. */
		ptrace(PTRACE_CONT, thread->tid, NULL,
		       stop.what == STOP_SIGNAL ? (void *)(uintptr_t)stop.signal : NULL);
	}
}

static struct kage_err *wait_all(struct kage_target *t)
{
	for (size_t i = 0; i < t->n_threads;) {
		struct kage_thread *thread = t->threads[i];
		bool ended = false;

		if (!thread->stopped && !thread->asleep)
			TRY(wait_standing(t, thread, &ended));
		if (ended)
			drop_thread(t, thread->tid);
		else
			i++;
	}
	return NULL;
}

/* Forgets threads that were left asleep and are no more. */
static void drop_unseen(struct kage_target *t)
{
	for (size_t i = t->n_threads; i-- > 0;)
		if (t->threads[i]->asleep && !t->threads[i]->seen)
			drop_thread(t, t->threads[i]->tid);
}

/* Rounds until one finds nobody who ran: then every thread stands or slept when the round looked. */
static struct kage_err *freeze(struct kage_target *t)
{
	bool any_new;

	do {
		TRY(kage_asleep_look(t));
		if (t->info)
			TRY(hold_seen(t, &any_new));
		else
			TRY(hold_listed(t, &any_new));
		TRY(wait_all(t));
	} while (any_new);
	drop_unseen(t);
	if (!t->n_threads)
		return kage_err_new(KAGE_GONE, "process %d has ended", t->pid);
	return NULL;
}

struct kage_err *kage_target_freeze(struct kage_target *t, const struct kage_freeze *how)
{
	struct kage_err *e = NULL;

	t->reader = how->reader;
	t->stop_all = how->stop_all;
	if (!t->frozen) {
		t->stopped_at_ns = 0;
		if (!t->stop_all)
			TRY(kage_asleep_choose_instant(t, how->span_ns));
		kage_target_block_signals(t);
		t->frozen = true;
	}
	e = freeze(t);
	if (!e)
		e = kage_target_alive(t);
	if (e)
		kage_target_thaw(t, false);
	return e;
}

/* A kage that was killed may have left the thread in its runner, on the way back: that takes it some
 * microseconds, and the runner's place must not be touched before. */
static struct kage_err *read_outside_runner(struct kage_target *t, struct kage_thread *thread)
{
	uint64_t begin = kage_clock_mono_ns(), ip;

	for (;;) {
		bool ended;

		TRY(kage_arch_get_regs(thread->tid, true, &thread->regs));
		ip = kage_arch_ip(&thread->regs);
		if (ip < t->zone_start || ip >= t->zone_end)
			return NULL;
		if (kage_clock_mono_ns() - begin > KAGE_STOP_TIMEOUT_MS * 1000000ull)
			return kage_err_new(KAGE_LIMIT,
					    "thread %d executes behind the vDSO and does not leave",
					    thread->tid);
		thread->stopped = false;
		ptrace(PTRACE_CONT, thread->tid, NULL, NULL);
		ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL);
		TRY(wait_standing(t, thread, &ended));
		if (ended)
			return kage_err_new(KAGE_GONE, "thread %d ended", thread->tid);
	}
}

struct kage_err *kage_target_read_threads(struct kage_target *t)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		struct kage_thread *thread = t->threads[i];

		if (thread->asleep)
			continue;
		TRY(read_outside_runner(t, thread));
		/* At once, so that it holds whatever becomes of us. */
		if (kage_arch_undo_eintr(&thread->regs))
			TRY(kage_arch_set_regs(thread->tid, false, &thread->regs));
		if (ptrace(PTRACE_GETSIGMASK, thread->tid, (void *)sizeof(thread->sigmask),
			   &thread->sigmask) < 0)
			return kage_err_sys(errno, "read signal mask of thread %d", thread->tid);
	}
	return NULL;
}

/* One thread goes on. One that has not stopped yet is made to, because only a stopped one can be
 * detached from; if it will not, the end of this process detaches it, which is as harmless. */
static void release(struct kage_target *t, struct kage_thread *thread)
{
	struct kage_stop stop;
	struct kage_err *e;
	void *sig = NULL;

	if (!thread->stopped) {
		e = kage_target_wait(t, thread->tid, KAGE_STOP_TIMEOUT_MS * 1000000ull, &stop);
		if (e || stop.what == STOP_ENDED) {
			err_drop(e);
			return;
		}
		if (stop.what == STOP_SIGNAL)
			sig = (void *)(uintptr_t)stop.signal;
	}
	/* One that is being killed waits for us to take notice of its end; so does its whole process. */
	if (ptrace(PTRACE_DETACH, thread->tid, NULL, sig) < 0 && errno == ESRCH)
		err_drop(
			kage_target_wait(t, thread->tid, KAGE_STOP_TIMEOUT_MS * 1000000ull, &stop));
}

/* Every thread that we trace reports its end to us, the leader last, before the parent can know. */
static void reap(struct kage_target *t)
{
	pidfd_send_signal(t->pidfd, SIGKILL, NULL, 0);
	for (size_t i = t->n_threads; i-- > 0;) {
		int status = 0;

		while (waitpid(t->threads[i]->tid, &status, __WALL) >= 0 || errno == EINTR)
			if (WIFEXITED(status) || WIFSIGNALED(status))
				break;
	}
	t->gone = true;
}

void kage_target_thaw(struct kage_target *t, bool kill)
{
	if (!t->frozen)
		return;
	if (kill)
		reap(t);
	else
		kage_site_leave(t);
	for (size_t i = 0; i < t->n_threads; i++) {
		if (t->threads[i]->attached && !kill)
			release(t, t->threads[i]);
		free(t->threads[i]);
	}
	t->n_threads = 0;
	kage_asleep_forget(t);
	t->frozen = false;
	kage_target_unblock_signals(t);
}
