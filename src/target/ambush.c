/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stop interrupts some system calls in a way that a program can feel: epoll_wait ends with EINTR, a long
 * write ends short. We could put that right in the stopped thread, but should we be killed just before,
 * it would stay wrong. So such a thread is awaited where its call ends:
 *
 *	1. it is traced, which it does not feel (PTRACE_SEIZE);
 *	2. a hardware breakpoint behind its call runs a BPF program of four instructions
 *	   (perf_event_open(2)), which sends the thread a signal that it would ignore;
 *	3. being traced, it does not get that signal but stops, and we drop the signal.
 *
 * If we are killed at any instant, the breakpoint is gone with its descriptor, and a signal that was sent
 * is ignored. A thread that does not wake in time is left traced without being stopped; it cannot be let
 * go from that before it stops for another reason, but the end of the thread of ours that traces it
 * does it (ptrace(2)): see capture.c.
 */
#include "target/ambush.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/taskread.h"
#include "target/asleep.h"

enum {
	LONGEST_NS = 20 * 1000 * 1000,
	RUNNING_NS = 3 * 1000 * 1000, /* the same for threads that run */
	STANDING_NS = 2 * 1000 * 1000,
	LOOK_NS = 100 * 1000, /* after this time, look where those are now */
	SIGNALS = 3,
};

static const int signals[SIGNALS] = { SIGURG, SIGWINCH, SIGCHLD }; /* ignored by default */

/* Where a thread is awaited. */
struct lair {
	int event; /* the breakpoint; -1: none */
	uint64_t ip;
};

struct ambush {
	struct kage_target *t;
	int programs[SIGNALS]; /* by which signal they send; -1: not loaded */
	struct lair *lairs;    /* by thread */
	size_t n_awaited;
	uint64_t patience_ns;
};

/* --- the breakpoint ------------------------------------------------------------------------------ */

/* A program that sends signal SIG to the thread in which it runs; -1 on failure. */
static int load_sender(int sig)
{
	static const char license[] = "GPL";
	const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_1, .imm = sig },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_send_signal_thread },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = { 0 };

	attr.prog_type = BPF_PROG_TYPE_PERF_EVENT;
	attr.insns = (uint64_t)(uintptr_t)insns;
	attr.insn_cnt = ARRAY_SIZE(insns);
	attr.license = (uint64_t)(uintptr_t)license;
	memcpy(attr.prog_name, "kage_ambush", sizeof("kage_ambush"));
	return (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
}

/* The signal that thread SEEN of T would not notice, as an index; -1 when there is none. */
static int unnoticed(const struct kage_target *t, const struct kage_taskthread *seen)
{
	uint64_t blocked = kage_taskthread_sigmask(seen) | seen->task.blocked;

	for (int i = 0; i < SIGNALS; i++) {
		uint64_t handler = t->info->actions[signals[i] - 1].handler.v;

		if (handler == (uint64_t)(uintptr_t)SIG_DFL && !(blocked >> (signals[i] - 1) & 1))
			return i;
	}
	return -1;
}

/* A breakpoint of thread TID at IP that runs PROGRAM; -1 on failure. */
static int set_breakpoint(pid_t tid, uint64_t ip, int program)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_BREAKPOINT,
		.size = sizeof(attr),
		.sample_period = 1,
		.bp_type = HW_BREAKPOINT_X,
		.bp_addr = ip,
		.bp_len = sizeof(long),
		.disabled = 1,
	};
	_cleanup_fd_ int fd = -1;

	fd = (int)syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0 || ioctl(fd, PERF_EVENT_IOC_SET_BPF, program) < 0 ||
	    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0) < 0)
		return -1;
	return take_fd(&fd);
}

/* The breakpoint goes at once, so that nothing of it comes afterwards. */
static void end_waiting(struct ambush *a, size_t i)
{
	if (a->lairs[i].event < 0)
		return;
	close_fd(a->lairs[i].event);
	a->lairs[i].event = -1;
	a->n_awaited--;
}

/* The breakpoint is set before the thread is traced: it does nothing to one that is not. */
static struct kage_err *await_one(struct ambush *a, size_t i, const struct kage_taskthread *seen)
{
	struct kage_thread *thread = a->t->threads[i];
	uint64_t patience = seen->asleep ? LONGEST_NS : RUNNING_NS;
	int which = unnoticed(a->t, seen);

	if (which < 0)
		return NULL;
	if (a->programs[which] < 0)
		a->programs[which] = load_sender(signals[which]);
	if (a->programs[which] < 0)
		return NULL;
	a->lairs[i].ip = seen->regs.ip;
	a->lairs[i].event = set_breakpoint(thread->tid, seen->regs.ip, a->programs[which]);
	if (a->lairs[i].event < 0)
		return NULL;
	a->n_awaited++;
	if (a->patience_ns < patience)
		a->patience_ns = patience;
	return thread->attached ? NULL : kage_target_seize(a->t, thread);
}

/* --- which threads ------------------------------------------------------------------------------- */

static bool slept_since(const struct kage_taskinfo *earlier, const struct kage_taskthread *seen)
{
	const struct kage_taskthread *then;

	then = earlier ? kage_taskinfo_thread((struct kage_taskinfo *)earlier, seen->task.tid)
		       : NULL;
	return !then || then->end.nvcsw != seen->task.pulse.nvcsw;
}

/* Threads that run now and then between such calls will soon be in the next one: they are awaited as
 * well. One that computes is not. */
static struct kage_err *find_runners(struct kage_target *t)
{
	for (size_t i = 0; i < t->info->n_threads; i++) {
		const struct kage_taskthread *seen = &t->info->threads[i];
		struct kage_thread *thread;

		if (seen->asleep || !kage_asleep_felt_call(seen) || !slept_since(t->earlier, seen))
			continue;
		thread = kage_target_thread(t, seen->task.tid);
		if (!thread)
			thread = kage_target_add_thread(t, seen->task.tid);
		if (!thread)
			return kage_err_nomem();
		thread->restless = true;
	}
	return NULL;
}

/* Lies in wait for the restless where they are now. *RET_RUNNING: some of them run, so that it may
 * soon be elsewhere. */
static struct kage_err *take_places(struct ambush *a, bool *ret_running)
{
	*ret_running = false;
	for (size_t i = 0; i < a->t->n_threads; i++) {
		struct kage_thread *thread = a->t->threads[i];
		const struct kage_taskthread *seen = kage_taskinfo_thread(a->t->info, thread->tid);

		if (!thread->restless || thread->stopped || !seen)
			continue;
		*ret_running |= !seen->asleep;
		if (a->lairs[i].event >= 0 && a->lairs[i].ip == seen->regs.ip)
			continue;
		end_waiting(a, i);
		if (kage_asleep_felt_call(seen))
			TRY(await_one(a, i, seen));
	}
	return NULL;
}

/* --- waiting ------------------------------------------------------------------------------------- */

/* What became of THREAD, which has changed as S says. Whether it need not be awaited any more. */
static bool take_stop(struct kage_target *t, struct kage_thread *thread, const struct kage_stop *s)
{
	bool ours = false;

	for (int k = 0; k < SIGNALS; k++)
		ours |= s->what == STOP_SIGNAL && s->signal == signals[k];
	if (s->what == STOP_ENDED) {
		thread->attached = false; /* the next look will not find it */
	} else if (ours || s->what == STOP_EVENT) {
		thread->stopped = true;
		thread->asleep = false;
		thread->job_stopped = s->what == STOP_EVENT && s->signal != SIGTRAP;
		kage_target_note_stop(t);
	} else {
		ptrace(PTRACE_CONT, thread->tid, NULL,
		       s->what == STOP_SIGNAL ? (void *)(uintptr_t)s->signal : NULL);
		return false;
	}
	return true;
}

static struct kage_err *collect(struct ambush *a, bool *ret_any)
{
	*ret_any = false;
	for (size_t i = 0; i < a->t->n_threads; i++) {
		struct kage_stop stop;
		bool changed = false;

		if (a->lairs[i].event < 0)
			continue;
		TRY(kage_target_poll(a->t->threads[i]->tid, &stop, &changed));
		if (changed && take_stop(a->t, a->t->threads[i], &stop))
			end_waiting(a, i);
		*ret_any |= changed;
	}
	return NULL;
}

static struct kage_err *lie_in_wait(struct ambush *a)
{
	uint64_t begin = kage_clock_mono_ns();
	bool any, running;

	TRY(take_places(a, &running));
	while (a->n_awaited && kage_clock_mono_ns() - begin < a->patience_ns) {
		TRY(collect(a, &any));
		/* Those who came first should not have to stand for long. */
		if (any && a->patience_ns > kage_clock_mono_ns() - begin + STANDING_NS)
			a->patience_ns = kage_clock_mono_ns() - begin + STANDING_NS;
		if (!any)
			kage_target_nap(a->t, running ? LOOK_NS : LONGEST_NS);
		if (!running)
			continue;
		TRY(kage_asleep_look(a->t));
		if (!a->t->info)
			break;
		TRY(take_places(a, &running));
	}
	return NULL;
}

/* Those that did not come sleep deeply enough to be left alone, or compute. One may have come just
 * now. */
static struct kage_err *give_up_rest(struct ambush *a)
{
	for (size_t i = 0; i < a->t->n_threads; i++) {
		struct kage_stop stop;
		bool changed = false;

		if (a->lairs[i].event < 0)
			continue;
		end_waiting(a, i);
		a->t->threads[i]->restless = false;
		TRY(kage_target_poll(a->t->threads[i]->tid, &stop, &changed));
		if (changed)
			(void)take_stop(a->t, a->t->threads[i], &stop);
	}
	return NULL;
}

struct kage_err *kage_ambush(struct kage_target *t)
{
	struct ambush a = { .t = t, .programs = { -1, -1, -1 } };
	struct kage_err *e;

	if (!t->info || !t->info->has_actions)
		return NULL;
	TRY(find_runners(t));
	a.lairs = calloc(t->n_threads + 1, sizeof(*a.lairs));
	if (!a.lairs)
		return kage_err_nomem();
	for (size_t i = 0; i < t->n_threads; i++)
		a.lairs[i].event = -1;
	e = lie_in_wait(&a);
	if (!e)
		e = give_up_rest(&a);
	for (size_t i = 0; i < t->n_threads; i++)
		close_fd(a.lairs[i].event);
	for (int i = 0; i < SIGNALS; i++)
		close_fd(a.programs[i]);
	free(a.lairs);
	return e;
}
