/* SPDX-License-Identifier: Apache-2.0 */
#include "target/held.h"

#include <dirent.h>
#include <errno.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "target/sender.h"

/* All that may ever be of interest: to change it later a thread would have to be stopped. */
const uintptr_t kage_held_options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE |
				    PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC |
				    PTRACE_O_TRACEEXIT;

static void set_options(const struct kage_thread *thread, uintptr_t o)
{
	ptrace(PTRACE_SETOPTIONS, thread->tid, NULL, (void *)o);
}

/* --- going on ------------------------------------------------------------------------------------ */

static void drop(struct kage_target *t, struct kage_thread *thread)
{
	size_t i = 0;

	while (t->threads[i] != thread)
		i++;
	memmove(&t->threads[i], &t->threads[i + 1], (--t->n_threads - i) * sizeof(*t->threads));
	kage_thread_free(thread);
}

/* THREAD is not valid any longer when all are leaving. */
static void go_on(struct kage_target *t, struct kage_thread *thread, int signal)
{
	void *sig = (void *)(uintptr_t)signal;

	if (t->leaving) {
		/* One that is being killed tells of its end, which only its tracer can take. */
		if (ptrace(PTRACE_DETACH, thread->tid, NULL, sig) == 0)
			drop(t, thread);
		return;
	}
	set_options(thread, kage_held_options);
	thread->stopped = thread->kept = thread->has_met = false;
	/* It stands by a signal, and is to stand on until SIGCONT. */
	if (thread->job_stopped)
		ptrace(PTRACE_LISTEN, thread->tid, NULL, NULL);
	else if (t->held_calls || thread->executing)
		ptrace(PTRACE_SYSCALL, thread->tid, NULL, sig);
	else
		ptrace(PTRACE_CONT, thread->tid, NULL, sig);
}

void kage_held_release(struct kage_target *t, struct kage_thread *thread)
{
	kage_sender_end(thread);
	/* If it has not stopped yet it will, and kage_target_held_next() lets it go on. */
	thread->interrupted = false;
	if (!thread->asleep && !thread->kept && thread->stopped)
		go_on(t, thread, 0);
}

void kage_target_let(struct kage_target *t, struct kage_thread *thread, int signal)
{
	go_on(t, thread, signal);
}

void kage_target_let_to_end(struct kage_thread *thread)
{
	set_options(thread, kage_held_options);
	thread->stopped = thread->kept = thread->has_met = false;
	ptrace(PTRACE_SYSCALL, thread->tid, NULL, NULL);
}

void kage_held_quiet(const struct kage_target *t, const struct kage_thread *thread)
{
	if (t->held)
		set_options(thread, PTRACE_O_TRACESYSGOOD);
}

bool kage_held_any_kept(const struct kage_target *t)
{
	for (size_t i = 0; i < t->n_threads; i++)
		if (t->threads[i]->kept)
			return true;
	return false;
}

/* --- what a thread has met ----------------------------------------------------------------------- */

static bool is_for_holder(const struct kage_target *t, const struct kage_thread *thread, int signal)
{
	siginfo_t si;

	if (t->held_signals >> (signal - 1) & 1)
		return true;
	/* What BPF programs send is from the kernel. */
	return (signal == SIGURG || signal == SIGWINCH || signal == SIGCHLD) &&
	       ptrace(PTRACE_GETSIGINFO, thread->tid, NULL, &si) == 0 && si.si_code == SI_KERNEL;
}

static bool at_end_of_call(const struct kage_thread *thread)
{
	struct __ptrace_syscall_info info = { 0 };

	return ptrace(PTRACE_GET_SYSCALL_INFO, thread->tid, sizeof(info), &info) > 0 &&
	       info.op == PTRACE_SYSCALL_INFO_EXIT;
}

/* What it makes for us while it is kept nobody is to hear of. */
static void keep(struct kage_thread *thread)
{
	thread->kept = thread->stopped = true;
	thread->job_stopped = false;
	set_options(thread, PTRACE_O_TRACESYSGOOD);
}

bool kage_held_meets(struct kage_target *t, struct kage_thread *thread,
		     const struct kage_stop *stop)
{
	if (!t->held || stop->what == STOP_EVENT || stop->what == STOP_ENDED)
		return false;
	if (stop->what == STOP_SIGNAL && !is_for_holder(t, thread, stop->signal))
		return false;
	keep(thread);
	thread->met = *stop;
	thread->has_met = true;
	return true;
}

static pid_t event_message(const struct kage_thread *thread)
{
	unsigned long message = 0;

	ptrace(PTRACE_GETEVENTMSG, thread->tid, NULL, &message);
	return (pid_t)message;
}

/* Of the others nobody is told; who has executed the program has the number of the first. */
static void forget_others(struct kage_target *t)
{
	while (t->n_threads > 1)
		kage_thread_free(t->threads[--t->n_threads]);
}

static void describe_event(struct kage_thread *thread, int event, struct kage_held_stop *ret)
{
	switch (event) {
	case PTRACE_EVENT_CLONE:
	case PTRACE_EVENT_FORK:
	case PTRACE_EVENT_VFORK:
		ret->what = HELD_BIRTH;
		ret->born = event_message(thread);
		break;
	case PTRACE_EVENT_EXEC:
		/* Not all of the old program is forgotten yet: rseq(2) is after this (bprm_execve() in fs/exec.c). */
		thread->executing = true;
		ret->what = HELD_NOTHING;
		break;
	case PTRACE_EVENT_EXIT:
		ret->what = HELD_EXIT;
		break;
	default:
		ret->what = HELD_NOTHING;
	}
}

static void describe(struct kage_thread *thread, const struct kage_stop *stop,
		     struct kage_held_stop *ret)
{
	ret->what = HELD_NOTHING;
	switch (stop->what) {
	case STOP_ENDED:
		ret->what = HELD_ENDED;
		break;
	case STOP_EVENT:
		thread->stopped = true;
		thread->job_stopped = stop->signal != SIGTRAP;
		break;
	case STOP_SIGNAL:
		ret->what = HELD_SIGNAL;
		ret->signal = stop->signal;
		break;
	case STOP_SYSCALL:
		thread->stopped = true;
		thread->job_stopped = false;
		if (at_end_of_call(thread))
			ret->what = thread->executing ? HELD_EXEC : HELD_CALL;
		break;
	case STOP_CLONE:
		thread->stopped = true;
		thread->job_stopped = false;
		describe_event(thread, stop->status >> 16, ret);
	}
}

static bool next_stop(struct kage_thread *thread, struct kage_stop *ret)
{
	bool changed = false;

	if (thread->has_met) {
		*ret = thread->met;
		thread->has_met = false;
		return true;
	}
	if (thread->kept)
		return false;
	err_drop(kage_target_poll(thread->tid, ret, &changed));
	return changed;
}

bool kage_target_held_next(struct kage_target *t, struct kage_thread *thread,
			   struct kage_held_stop *ret)
{
	struct kage_stop stop;

	*ret = (struct kage_held_stop){ .what = HELD_NOTHING };
	if (!next_stop(thread, &stop))
		return false;
	describe(thread, &stop, ret);
	if (thread->executing)
		forget_others(t);
	if (ret->what == HELD_EXEC)
		thread->executing = false;
	if (ret->what == HELD_NOTHING)
		go_on(t, thread, 0);
	else if (ret->what == HELD_ENDED)
		drop(t, thread);
	else
		keep(thread);
	return true;
}

/* --- taking hold and letting go ------------------------------------------------------------------ */

/* Traced since its birth, by us. */
static struct kage_err *add_born(struct kage_target *t, pid_t tid)
{
	struct kage_thread *thread = kage_target_add_thread(t, tid);

	if (!thread)
		return kage_err_nomem();
	thread->attached = true;
	return NULL;
}

static struct kage_err *seize(struct kage_target *t, pid_t tid)
{
	struct kage_thread *thread = kage_target_add_thread(t, tid);

	if (!thread)
		return kage_err_nomem();
	TRY(kage_target_seize(t, thread));
	if (!thread->attached)
		drop(t, thread);
	return NULL;
}

/* *RET_ANY: there were some of which nothing was known. */
static struct kage_err *seize_listed(struct kage_target *t, bool *ret_any)
{
	_cleanup_dir_ DIR *dir = kage_file_opendir(t->proc_fd, "task");
	struct dirent *d;

	*ret_any = false;
	if (!dir)
		return kage_err_sys(errno == ENOENT ? ESRCH : errno, "list threads of process %d",
				    t->pid);
	while ((d = readdir(dir))) {
		pid_t tid = (pid_t)atoi(d->d_name);

		if (tid <= 0 || kage_target_thread(t, tid))
			continue;
		TRY(seize(t, tid));
		*ret_any |= kage_target_thread(t, tid) != NULL;
	}
	return NULL;
}

struct kage_err *kage_target_hold(struct kage_target *t)
{
	bool any = true;

	t->held = true;
	t->leaving = false;
	/* Who was made by one that was not traced yet is found by the next round. */
	while (any)
		TRY(seize_listed(t, &any));
	return t->n_threads ? NULL : kage_err_new(KAGE_GONE, "process %d has ended", t->pid);
}

struct kage_err *kage_target_hold_born(struct kage_target *t)
{
	t->held = true;
	return add_born(t, t->pid);
}

struct kage_err *kage_target_hold_calls(struct kage_target *t)
{
	const struct kage_freeze all = { .stop_all = true };

	if (t->held_calls)
		return NULL;
	t->held_calls = true;
	TRY(kage_target_freeze(t, &all));
	kage_target_thaw(t, false);
	return NULL;
}

void kage_held_let_born(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
		;
	ptrace(PTRACE_DETACH, pid, NULL, NULL);
}

/* A process that THREAD has made just now is held by us as well, and stands; a thread has been met like all others. */
static void let_born_of(struct kage_target *t, struct kage_thread *thread)
{
	struct kage_held_stop stop;

	if (!thread->has_met)
		return;
	describe(thread, &thread->met, &stop);
	if (stop.what == HELD_BIRTH && !kage_target_thread(t, stop.born))
		kage_held_let_born(stop.born);
}

/* A signal that a thread was about to receive it receives, unless it was for the holder. */
static int signal_met(const struct kage_target *t, const struct kage_thread *thread)
{
	bool own = thread->has_met && thread->met.what == STOP_SIGNAL &&
		   !is_for_holder(t, thread, thread->met.signal);

	return own ? thread->met.signal : 0;
}

void kage_target_unhold(struct kage_target *t, const struct kage_taskread *reader)
{
	const struct kage_freeze some = { .reader = reader,
					  .stop_all = !reader,
					  .stop_resumed = true };
	struct kage_err *e;

	t->held_signals = 0;
	t->leaving = true;
	t->held_calls = false;
	e = kage_target_freeze(t, &some);
	for (size_t i = t->n_threads; i-- > 0;) {
		struct kage_thread *thread = t->threads[i];

		if (!thread->stopped)
			continue;
		let_born_of(t, thread);
		go_on(t, thread, signal_met(t, thread));
	}
	kage_target_thaw(t, false);
	err_drop(e);
}
