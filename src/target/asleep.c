/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that sleep are not stopped: the kernel tells what a stop would (sys/taskread.h), and a stop
 * could be felt (DESIGN.md, "Rung 0"). A thread is left alone when it sleeps in a system call of which
 * we know what it is worth in another life. Whether one of them woke up meanwhile is seen by its count
 * of context switches.
 */
#include "target/asleep.h"

#include <time.h>

#include "sys/taskread.h"
#include "target/sender.h"

/* task_struct.__state (include/linux/sched.h); above these bits it only says how it may be frozen. */
enum {
	STATE_MASK = 0xff,
	STATE_INTERRUPTIBLE = 1,
	STATES_OTHER = STATE_MASK & ~STATE_INTERRUPTIBLE
};

/* What stays behind from stop signals, and from any signal that a tracer saw; it means nothing while the
 * thread sleeps (kernel/signal.c, ptrace_signal()). */
enum { JOBCTL_REMEMBERED = 0x1ffff };

enum { CHOICES = 3, BEHIND_NS = 100 * 1000 };

static bool sleeps_in_known_call(const struct kage_taskthread *seen)
{
	const uint64_t args[6] = { seen->regs.di,  seen->regs.si, seen->regs.dx,
				   seen->regs.r10, seen->regs.r8, seen->regs.r9 };
	uint64_t number;
	bool compat;

	if (!kage_taskthread_in_syscall(seen, &number, &compat) || compat)
		return false;
	switch (kage_arch_sleep(number, args)) {
	case KAGE_SLEEP_AGAIN:
		return true;
	case KAGE_SLEEP_TRANSFER:
		return seen->transfer.known;
	default:
		return false;
	}
}

bool kage_asleep_may_run(const struct kage_taskthread *seen)
{
	return !seen->asleep &&
	       !((seen->task.pulse.state | seen->end.state) & (uint64_t)STATES_OTHER);
}

bool kage_asleep_felt_call(const struct kage_taskthread *seen)
{
	const uint64_t args[6] = { seen->regs.di,  seen->regs.si, seen->regs.dx,
				   seen->regs.r10, seen->regs.r8, seen->regs.r9 };
	uint64_t number;
	bool compat;

	return !seen->task.exit_state && kage_taskthread_in_syscall(seen, &number, &compat) &&
	       !compat && kage_arch_stop_is_felt(number, args, seen->sleep.timed);
}

bool kage_asleep_would_feel(const struct kage_taskthread *seen)
{
	return seen->asleep && kage_asleep_felt_call(seen);
}

bool kage_asleep_take(const struct kage_target *t, const struct kage_taskthread *seen,
		      struct kage_thread *thread)
{
	struct kage_err *e;
	uint64_t ip;

	/* Filters (seccomp) can be read from stopped threads only. */
	if (!seen->asleep || (seen->task.pulse.state & STATE_MASK) != STATE_INTERRUPTIBLE ||
	    seen->task.exit_state || seen->task.jobctl & ~(uint64_t)JOBCTL_REMEMBERED ||
	    (seen->task.ptrace && !thread->attached) || seen->task.seccomp_mode ||
	    seen->signals_cut || t->info->signals_cut || !sleeps_in_known_call(seen))
		return false;
	e = kage_arch_task_regs(seen, &thread->regs);
	if (e) {
		err_drop(e);
		return false;
	}
	ip = kage_arch_ip(&thread->regs);
	if (ip >= t->zone_start && ip < t->zone_end)
		return false;
	thread->sigmask = kage_taskthread_sigmask(seen);
	return true;
}

/* The time until the last of those sleepers wakes that will do so within SPAN_NS; 0: none will. */
static uint64_t next_ends(const struct kage_taskinfo *info, uint64_t span_ns)
{
	uint64_t last = 0;

	for (size_t i = 0; i < info->n_threads; i++) {
		const struct kage_taskthread *seen = &info->threads[i];
		uint64_t left = seen->sleep.remaining_ns;

		if (seen->asleep && seen->sleep.timed && left < span_ns && left >= last)
			last = left + 1;
	}
	return last;
}

struct kage_err *kage_asleep_choose_instant(struct kage_target *t, uint64_t span_ns)
{
	for (int i = 0; i < CHOICES; i++) {
		uint64_t ns;

		TRY(kage_asleep_look(t));
		ns = t->info ? next_ends(t->info, span_ns) : 0;
		if (!ns)
			return NULL;
		ns += BEHIND_NS;
		nanosleep(&(struct timespec){ (time_t)(ns / 1000000000), (long)(ns % 1000000000) },
			  NULL);
	}
	return NULL;
}

struct kage_err *kage_asleep_look(struct kage_target *t)
{
	struct kage_taskinfo *info = NULL;
	struct kage_err *e;

	if (!t->reader)
		return NULL;
	e = kage_taskread_read(t->reader, t->pid, &info);
	if (e && kage_err_code(e) != KAGE_BUSY)
		return e;
	err_drop(e);
	kage_asleep_forget(t);
	t->info = info;
	return NULL;
}

struct kage_err *kage_target_get_ready(struct kage_target *t, const struct kage_taskread *reader)
{
	struct kage_taskinfo *info = NULL;
	struct kage_err *e = kage_taskread_read(reader, t->pid, &info);

	if (e && kage_err_code(e) != KAGE_BUSY)
		return e;
	err_drop(e);
	if (info)
		kage_sender_get_ready(t, info);
	kage_taskinfo_free(info);
	return NULL;
}

void kage_asleep_forget(struct kage_target *t)
{
	kage_taskinfo_free(t->info);
	t->info = NULL;
	for (size_t i = 0; i < t->n_threads; i++)
		t->threads[i]->seen = NULL;
}

struct kage_err *kage_target_still(struct kage_target *t, bool *ret_still)
{
	struct kage_taskinfo *now = NULL;
	bool any = false;

	*ret_still = true;
	for (size_t i = 0; i < t->n_threads; i++)
		any |= t->threads[i]->asleep;
	if (!any)
		return NULL;
	TRY(kage_taskread_read(t->reader, t->pid, &now));
	for (size_t i = 0; i < t->n_threads; i++) {
		struct kage_thread *thread = t->threads[i];
		const struct kage_taskthread *then = kage_taskinfo_thread(now, thread->tid);

		if (!thread->asleep ||
		    (then && thread->seen && kage_taskthread_slept_on(thread->seen, then)))
			continue;
		thread->restless = true;
		*ret_still = false;
	}
	kage_taskinfo_free(now);
	return NULL;
}
