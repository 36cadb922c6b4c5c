/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stopping all threads of a target, and letting them go.
 *
 * PTRACE_SEIZE attaches without a stop. A thread that runs is then stopped in its own program, by an event
 * (target/sender.h), so that no system call ends early; where that cannot be had, and for threads that
 * sleep but must stand, PTRACE_INTERRUPT stops without a signal (ptrace(2)). A signal that is on its way to
 * a thread at that moment is delivered first: the thread then stands at the first instruction of the
 * handler. Threads born meanwhile are found by listing again until a pass finds none: a thread can only be
 * born of one that still runs.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/taskread.h"
#include "sys/text.h"
#include "target/ambush.h"
#include "target/asleep.h"
#include "target/batch.h"
#include "target/held.h"
#include "target/sender.h"
#include "target/target.h"

void kage_target_block_signals(struct kage_target *t)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &t->caller_mask);
}

void kage_target_unblock_signals(struct kage_target *t)
{
	/* A SIGCHLD that was consumed while waiting for stops may have been for the caller. */
	if (t->chld_eaten)
		kill(getpid(), SIGCHLD);
	t->chld_eaten = false;
	pthread_sigmask(SIG_SETMASK, &t->caller_mask, NULL);
}

/* Forgets a thread that is no more. */
static void drop_thread(struct kage_target *t, pid_t tid)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		if (t->threads[i]->tid != tid)
			continue;
		kage_thread_free(t->threads[i]);
		memmove(&t->threads[i], &t->threads[i + 1],
			(t->n_threads - i - 1) * sizeof(*t->threads));
		t->n_threads--;
		return;
	}
}

enum {
	ENDING_MS = 200,
	EVENT_NS = 500 * 1000, /* so long a thread is awaited before it is looked where it is now */
	MAX_EVENTS = 8,        /* and so often */
};

/* Whether the process is on its way out: then it ends in a moment. */
static bool is_ending(const struct kage_target *t)
{
	struct pollfd p = { .fd = t->pidfd, .events = POLLIN };

	return poll(&p, 1, ENDING_MS) > 0;
}

/* Made by a thread that is held; ptrace(2) says of clone events who traces it. */
static bool is_ours_from_birth(const struct kage_target *t, const struct kage_thread *thread)
{
	_cleanup_free_ char *text = NULL;
	uint64_t tracer = 0;
	char path[64];
	size_t size;

	snprintf(path, sizeof(path), "task/%d/status", thread->tid);
	err_drop(kage_file_slurp(t->proc_fd, path, 1 << 20, &text, &size));
	return text && kage_text_u64(text, "TracerPid", 10, &tracer) &&
	       tracer == (uint64_t)gettid();
}

struct kage_err *kage_target_seize(struct kage_target *t, struct kage_thread *thread)
{
	uintptr_t options = t->held ? kage_held_options : PTRACE_O_TRACESYSGOOD;

	if (ptrace(PTRACE_SEIZE, thread->tid, NULL, (void *)options) < 0) {
		int num = errno;

		if (num == ESRCH)
			return NULL;
		if (num == EPERM && t->held && is_ours_from_birth(t, thread)) {
			thread->attached = true;
			return NULL;
		}
		/* A thread on its way out cannot be attached either. */
		if (num == EPERM && (thread->tid != t->pid || is_ending(t)))
			return NULL;
		return kage_err_sys(num, "attach to thread %d of process %d", thread->tid, t->pid);
	}
	thread->attached = true;
	return NULL;
}

/* Who slept through the first attempt, which failed because of others, is left alone in the second as well; in later ones
 * only who would feel it to be stopped. */
static bool may_sleep_on(struct kage_target *t, struct kage_thread *thread,
			 const struct kage_taskthread *seen)
{
	bool slept = thread->asleep && !thread->restless && t->attempts == 2;

	if (!seen || t->stop_all)
		return false;
	if ((t->stop_resumed || (t->attempts > 1 && !slept)) && !kage_asleep_would_feel(seen))
		return false;
	return kage_asleep_take(t, seen, thread);
}

/* Whether THREAD, which runs or is about to fall asleep or to wake, will be stopped by an event. If it fell asleep before,
 * it sleeps on. */
static bool is_awaited(struct kage_target *t, struct kage_thread *thread)
{
	const struct kage_taskthread *seen = thread->seen;

	if (!seen || !kage_asleep_may_run(seen) || !seen->regs.ip || thread->n_events == MAX_EVENTS)
		return false;
	thread->n_events++;
	return kage_sender_in_program(t, thread, seen);
}

/* Has the thread TID stopped unless it stands already, or sleeps (SEEN, if known) and may do so. */
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
	if (thread->stopped)
		return NULL;
	thread->asleep = may_sleep_on(t, thread, seen);
	if (thread->asleep)
		return NULL;
	if (!thread->attached)
		TRY(kage_target_seize(t, thread));
	if (!thread->attached) {
		drop_thread(t, tid);
		return NULL;
	}
	*ret_new = true;
	if (is_awaited(t, thread))
		return NULL;
	kage_target_note_stop(t);
	thread->interrupted = true;
	if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0 && errno != ESRCH)
		return kage_err_sys(errno, "interrupt thread %d", tid);
	return NULL;
}

static struct kage_err *hold_those(struct kage_target *t, bool asleep, bool *ret_any_new)
{
	for (size_t i = 0; i < t->info->n_threads; i++) {
		const struct kage_taskthread *seen = &t->info->threads[i];
		bool new;

		if (seen->asleep != asleep)
			continue;
		TRY(hold(t, seen->task.tid, seen, &new));
		*ret_any_new |= new;
	}
	return NULL;
}

/* First those that run, before they fall asleep in a call that would feel the stop. */
static struct kage_err *hold_seen(struct kage_target *t, bool *ret_any_new)
{
	*ret_any_new = false;
	TRY(hold_those(t, false, ret_any_new));
	return hold_those(t, true, ret_any_new);
}

static struct kage_err *hold_listed(struct kage_target *t, bool *ret_any_new)
{
	_cleanup_dir_ DIR *dir = kage_file_opendir(t->proc_fd, "task");
	struct dirent *d;

	*ret_any_new = false;
	if (!dir)
		return kage_err_sys(errno == ENOENT ? ESRCH : errno, "list threads of process %d",
				    t->pid);
	while ((d = readdir(dir))) {
		bool new;

		if (!isdigit((unsigned char)d->d_name[0]))
			continue;
		TRY(hold(t, (pid_t)atoi(d->d_name), NULL, &new));
		*ret_any_new |= new;
	}
	return NULL;
}

static struct kage_err *does_not_stop(struct kage_target *t, pid_t tid)
{
	_cleanup_free_ char *text = NULL, *path = NULL;
	size_t size;

	if (asprintf(&path, "task/%d/wchan", tid) < 0)
		return kage_err_nomem();
	err_drop(kage_file_slurp(t->proc_fd, path, 4096, &text, &size));
	return kage_err_new(
		KAGE_LIMIT,
		"process %d cannot be stopped now (thread %d did not stop within %d ms, "
		"it is in the kernel, in %s); it goes on, try again later",
		t->pid, tid, KAGE_STOP_TIMEOUT_MS, text ? text : "?");
}

/* The kernel's own, as io_uring(7) makes them in a process that reads or writes by it, never were in the program and
 * have no registers there: copy_thread() (arch/x86/kernel/process.c) clears two of them so that debuggers see it. They are
 * held like all others, since they write to memory, but are not part of an image. */
static bool is_of_kernel(const struct kage_thread *thread)
{
	return kage_arch_ip(&thread->regs) == 0 && kage_arch_sp(&thread->regs) == 0;
}

/* Of the time that the call of THREAD, when it was seen asleep, still had; all of it for one that has no end. */
static uint64_t time_left(const struct kage_thread *thread)
{
	const struct kage_taskthread *seen = thread->seen;
	uint64_t now;

	if (!seen || !seen->asleep || !seen->sleep.timed ||
	    seen->regs.ip != kage_arch_ip(&thread->regs))
		return UINT64_MAX;
	now = kage_clock_ns(seen->sleep.clock);
	return seen->sleep.deadline_ns > now ? seen->sleep.deadline_ns - now : 0;
}

/* A stop ends some waiting calls with EINTR: that is put right at once, so that it is right whatever
 * becomes of us. */
static struct kage_err *stands(struct kage_target *t, struct kage_thread *thread,
			       const struct kage_stop *stop)
{
	kage_target_note_stop(t);
	kage_sender_end(thread);
	thread->stopped = true;
	thread->interrupted = false;
	thread->job_stopped = stop->what == STOP_EVENT && stop->signal != SIGTRAP;
	kage_held_quiet(t, thread);
	TRY(kage_arch_get_regs(thread->tid, false, &thread->regs));
	if (!is_of_kernel(thread) && kage_arch_undo_eintr(&thread->regs)) {
		kage_arch_shorten_wait(&thread->regs, time_left(thread));
		TRY(kage_arch_set_regs(thread->tid, false, &thread->regs));
	}
	return NULL;
}

/* Looks what has become of THREAD, which was asked to stop. *RET_ENDED: it is no more. */
static struct kage_err *look_whether_stands(struct kage_target *t, struct kage_thread *thread,
					    bool *ret_changed, bool *ret_ended)
{
	struct kage_stop stop;

	*ret_ended = false;
	TRY(kage_target_poll(thread->tid, &stop, ret_changed));
	if (!*ret_changed)
		return NULL;
	if (stop.what == STOP_ENDED)
		*ret_ended = true;
	else if (stop.what == STOP_EVENT || kage_sender_sent(thread, &stop))
		return stands(t, thread, &stop);
	else if (kage_held_meets(t, thread, &stop))
		return NULL;
	else
		/* A signal was on its way: deliver it. The interrupt is still pending and stops the
		 * thread at the handler's first instruction. */
		ptrace(PTRACE_CONT, thread->tid, NULL,
		       stop.what == STOP_SIGNAL ? (void *)(uintptr_t)stop.signal : NULL);
	return NULL;
}

/* One look at each thread that is to stop. *RET_LATE is one that does not stand yet, 0 for none;
 * *RET_AWAITED: there are some of which it is not sure that they will. */
static struct kage_err *look_whether_all_stand(struct kage_target *t, bool *ret_any,
					       pid_t *ret_late, bool *ret_awaited)
{
	*ret_any = *ret_awaited = false;
	*ret_late = 0;
	for (size_t i = t->n_threads; i-- > 0;) {
		struct kage_thread *thread = t->threads[i];
		bool changed, ended;

		if (thread->stopped || thread->asleep)
			continue;
		TRY(look_whether_stands(t, thread, &changed, &ended));
		*ret_any |= changed;
		if (ended)
			drop_thread(t, thread->tid);
		else if (!thread->stopped && thread->event >= 0)
			*ret_awaited = true;
		else if (!thread->stopped)
			*ret_late = thread->tid;
	}
	return NULL;
}

/* Who was awaited and did not come has fallen asleep, works in the kernel or finds no processor: the next
 * round looks. A signal that was sent just now is let through, and ignored. */
static void end_events(struct kage_target *t)
{
	for (size_t i = 0; i < t->n_threads; i++)
		kage_sender_end(t->threads[i]);
}

static struct kage_err *wait_all(struct kage_target *t)
{
	uint64_t begin = kage_clock_mono_ns();
	bool any, awaited;
	pid_t late;

	for (;;) {
		uint64_t waited;

		TRY(look_whether_all_stand(t, &any, &late, &awaited));
		waited = kage_clock_mono_ns() - begin;
		if (!late && (!awaited || waited > EVENT_NS)) {
			end_events(t);
			return NULL;
		}
		if (waited > KAGE_STOP_TIMEOUT_MS * 1000000ull)
			return does_not_stop(t, late);
		if (!any && waited > KAGE_STOP_SPIN_NS)
			kage_target_nap(t, late ? KAGE_STOP_NAP_NS : EVENT_NS);
	}
}

/* Forgets threads that were not stopped and are no more. */
static void drop_unseen(struct kage_target *t)
{
	for (size_t i = t->n_threads; i-- > 0;)
		if (!t->threads[i]->stopped && !t->threads[i]->seen && !t->held)
			drop_thread(t, t->threads[i]->tid);
}

/* In the order of the kernel's list, in which they were made, whoever of them was met first. */
static void order(struct kage_target *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->info->n_threads; i++)
		for (size_t k = n; k < t->n_threads; k++) {
			struct kage_thread *thread = t->threads[k];

			if (thread->tid != t->info->threads[i].task.tid)
				continue;
			t->threads[k] = t->threads[n];
			t->threads[n++] = thread;
			break;
		}
}

/* To the end with those of the kernel; the others stay in their order. */
static struct kage_err *set_own_apart(struct kage_target *t)
{
	t->n_own = 0;
	for (size_t i = 0; i < t->n_threads; i++) {
		struct kage_thread *thread = t->threads[i];

		/* Of those that were met in their sleep (ambush.c) nothing was read yet. */
		if (thread->stopped)
			TRY(kage_arch_get_regs(thread->tid, false, &thread->regs));
		if (is_of_kernel(thread))
			continue;
		memmove(&t->threads[t->n_own + 1], &t->threads[t->n_own],
			(i - t->n_own) * sizeof(*t->threads));
		t->threads[t->n_own++] = thread;
	}
	return NULL;
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
	if (t->info) {
		drop_unseen(t);
		order(t);
	}
	TRY(set_own_apart(t));
	if (!t->n_own)
		return kage_err_new(KAGE_GONE, "process %d has ended", t->pid);
	if (t->threads[0]->tid != t->pid)
		return kage_err_new(KAGE_UNSUPPORTED,
				    "the first thread of process %d has ended; an image of the "
				    "others alone cannot be restored yet",
				    t->pid);
	return NULL;
}

/* One thread goes on. One that has not stopped yet is made to, because only a stopped one can be
 * detached from; if it will not, the end of this process detaches it, which is as harmless. */
static void release(struct kage_target *t, struct kage_thread *thread)
{
	struct kage_stop stop;
	struct kage_err *e;
	void *sig = NULL;

	if (t->held) {
		kage_held_release(t, thread);
		return;
	}
	/* It is traced but does not stop (ambush.c): the end of our own thread lets it go. */
	if (thread->asleep)
		return;
	/* It was awaited when something else failed. */
	if (!thread->stopped && !thread->interrupted) {
		kage_sender_end(thread);
		ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL);
	}
	if (!thread->stopped) {
		e = kage_target_wait(t, thread->tid, KAGE_STOP_TIMEOUT_MS * 1000000ull, &stop);
		if (e || stop.what == STOP_ENDED) {
			err_drop(e);
			return;
		}
		if (stop.what == STOP_SIGNAL)
			sig = (void *)(uintptr_t)stop.signal;
		if (stop.what == STOP_EVENT)
			err_drop(stands(t, thread, &stop));
	}
	/* One that is being killed waits for us to take notice of its end; so does its whole process. */
	if (ptrace(PTRACE_DETACH, thread->tid, NULL, sig) < 0 && errno == ESRCH &&
	    !(t->ours &&
	      thread->tid == t->pid)) /* the end of our own child is for who waits for it */
		err_drop(
			kage_target_wait(t, thread->tid, KAGE_STOP_TIMEOUT_MS * 1000000ull, &stop));
}

void kage_target_note_stop(struct kage_target *t)
{
	if (!t->stopped_at_ns)
		t->stopped_at_ns = kage_clock_mono_ns();
}

uint64_t kage_target_pause_ns(const struct kage_target *t)
{
	uint64_t since = t->stopped_at_ns ? kage_clock_mono_ns() - t->stopped_at_ns : 0;

	return t->paused_ns + since;
}

static void begin(struct kage_target *t)
{
	t->paused_ns = 0;
	t->stopped_at_ns = 0;
	t->attempts = 0;
	kage_target_block_signals(t);
	t->frozen = true;
}

static void let_one_run(struct kage_target *t, struct kage_thread *thread)
{
	if (!thread->stopped)
		return;
	release(t, thread);
	if (!t->held)
		thread->attached = thread->stopped = false;
}

static void count_pause(struct kage_target *t)
{
	t->paused_ns = kage_target_pause_ns(t);
	t->stopped_at_ns = 0;
}

/* Before another attempt: who stands goes on meanwhile, what is known of the threads is kept. */
static void let_run(struct kage_target *t)
{
	for (size_t i = 0; i < t->n_threads; i++)
		let_one_run(t, t->threads[i]);
	count_pause(t);
}

void kage_target_let_others_run(struct kage_target *t, const struct kage_thread *thread)
{
	for (size_t i = 0; i < t->n_threads; i++)
		if (t->threads[i] != thread)
			let_one_run(t, t->threads[i]);
	count_pause(t);
}

struct kage_err *kage_target_hold_others(struct kage_target *t)
{
	return freeze(t);
}

struct kage_err *kage_target_freeze(struct kage_target *t, const struct kage_freeze *how)
{
	struct kage_err *e = NULL;

	t->reader = how->reader;
	t->stop_all = how->stop_all;
	t->stop_resumed = how->stop_resumed;
	if (t->frozen)
		let_run(t);
	else
		begin(t);
	t->attempts++;
	if (t->held && kage_held_any_kept(t))
		kage_target_note_stop(t);
	if (!t->stop_all)
		e = kage_asleep_choose_instant(t, how->span_ns);
	if (!e && !t->stop_all)
		e = kage_ambush(t);
	if (!e)
		e = freeze(t);
	if (!e)
		e = kage_target_alive(t);
	if (!e)
		return NULL;
	kage_target_thaw(t, false);
	/* Of a process that is being killed the first thread may be gone before the others. */
	if (kage_err_code(e) == KAGE_UNSUPPORTED && is_ending(t)) {
		err_drop(e);
		return kage_err_new(KAGE_GONE, "process %d has ended", t->pid);
	}
	return e;
}

/* A kage that was killed may have left the thread in its runner, on the way back: that takes it some
 * microseconds, and the runner's place must not be touched before. */
static struct kage_err *read_outside_runner(struct kage_target *t, struct kage_thread *thread)
{
	uint64_t begin = kage_clock_mono_ns(), ip;
	pid_t tid = thread->tid;

	for (;;) {
		TRY(kage_arch_get_regs(thread->tid, true, &thread->regs));
		ip = kage_arch_ip(&thread->regs);
		if (ip < t->zone_start || ip >= t->zone_end)
			return NULL;
		if (kage_clock_mono_ns() - begin > KAGE_STOP_TIMEOUT_MS * 1000000ull)
			return kage_err_new(KAGE_LIMIT,
					    "thread %d executes behind the vDSO and does not leave",
					    thread->tid);
		thread->stopped = false;
		thread->interrupted = true;
		ptrace(PTRACE_CONT, tid, NULL, NULL);
		ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
		TRY(wait_all(t));
		if (!kage_target_thread(t, tid))
			return kage_err_new(KAGE_GONE, "thread %d ended", tid);
	}
}

struct kage_err *kage_target_read_threads(struct kage_target *t)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		struct kage_thread *thread = t->threads[i];

		if (thread->asleep)
			continue;
		TRY(read_outside_runner(t, thread));
		if (ptrace(PTRACE_GETSIGMASK, thread->tid, (void *)sizeof(thread->sigmask),
			   &thread->sigmask) < 0)
			return kage_err_sys(errno, "read signal mask of thread %d", thread->tid);
	}
	return NULL;
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

static void forget_threads(struct kage_target *t)
{
	while (t->n_threads)
		kage_thread_free(t->threads[--t->n_threads]);
}

/* Of threads that are held only that is kept. */
static void forget_freeze(struct kage_target *t)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		struct kage_thread *thread = t->threads[i];

		thread->asleep = thread->restless = false;
		thread->n_events = 0;
		thread->seen = NULL;
	}
}

void kage_target_thaw(struct kage_target *t, bool kill)
{
	if (!t->frozen)
		return;
	if (kill)
		reap(t);
	else
		kage_site_leave(t);
	/* The end of a leader is told only when all others have been waited for. */
	for (size_t i = t->n_threads; i-- > 0;)
		if (t->threads[i]->attached && !kill)
			release(t, t->threads[i]);
	if (t->held && !kill)
		forget_freeze(t);
	else
		forget_threads(t);
	if (t->stop_again && !kill)
		pidfd_send_signal(t->pidfd, SIGSTOP, NULL, 0);
	t->stop_again = false;
	kage_asleep_forget(t);
	t->frozen = false;
	kage_target_unblock_signals(t);
}

/* --- one thread, for a batch ------------------------------------------------------------------ */

/* TID, or with 0 any, if it stands. */
static struct kage_thread *find_standing(const struct kage_target *t, pid_t tid)
{
	for (size_t i = 0; i < t->n_own; i++) {
		struct kage_thread *thread = t->threads[i];

		if (thread->stopped && !thread->asleep && (!tid || thread->tid == tid))
			return thread;
	}
	return NULL;
}

struct kage_thread *kage_target_who_stands(const struct kage_target *t)
{
	return find_standing(t, 0);
}

struct kage_err *kage_target_stop_one(struct kage_target *t, const struct kage_taskread *reader,
				      pid_t tid, bool stop_all, uint64_t span_ns,
				      struct kage_thread **ret_thread)
{
	struct kage_freeze how = { .reader = reader, .span_ns = span_ns };
	struct kage_thread *thread = NULL;

	for (int attempt = 0; attempt < 3 && !thread; attempt++) {
		how.stop_all = !reader || stop_all || attempt == 2;
		how.stop_resumed = attempt == 1;
		TRY(kage_target_freeze(t, &how));
		thread = find_standing(t, tid);
	}
	if (!thread && tid)
		return kage_err_new(KAGE_NOTFOUND, "process %d has no thread %d", t->pid, tid);
	if (!thread)
		return kage_err_new(KAGE_GONE, "process %d has no thread", t->pid);
	*ret_thread = thread;
	return kage_target_read_threads(t);
}
