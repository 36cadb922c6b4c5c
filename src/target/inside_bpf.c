/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only the kernel knows, read out of it: nothing is injected into the target.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "base/cleanup.h"
#include "sys/taskread.h"
#include "target/inside.h"

/* Bits of mm->def_flags (include/linux/mm.h). */
#define VM_LOCKED      0x00002000u
#define VM_LOCKONFAULT 0x00080000u

/* While a futex is waited for again the kernel's note says that nothing is to be gone on with; all other calls
 * leave it in place (kernel/futex/waitwake.c, futex_wait_restart()). */
static enum kage_restart restart_kind(const struct kage_taskthread *t)
{
	if (t->restart_kind == KAGE_RESTART_NONE && kage_taskthread_restarting(t))
		return KAGE_RESTART_FUTEX;
	return t->restart_kind;
}

static void fill_expiry(const struct kage_taskthread *t, struct kage_inside_thread *in)
{
	const struct kage_task_restart *r = &t->restart;

	in->restart_kind = restart_kind(t);
	in->expiry_clock = CLOCK_MONOTONIC;
	switch (t->restart_kind) {
	case KAGE_RESTART_NANOSLEEP:
		in->expiry_clock = (uint32_t)r->clock;
		in->expiry_ns = r->expires_ns;
		break;
	case KAGE_RESTART_POLL:
		in->expiry_ns = r->tv_sec * 1000000000u + r->tv_nsec;
		break;
	case KAGE_RESTART_FUTEX:
		in->expiry_ns = r->futex_time_ns;
		break;
	default:
		return;
	}
	in->has_expiry = true;
}

static void fill_thread(const struct kage_thread *thread, struct kage_inside_thread *in)
{
	const struct kage_taskthread *t = thread->seen;

	in->tid = t->task.tid;
	in->tid_address = t->task.clear_child_tid.v;
	in->altstack_sp = t->task.altstack.v;
	in->altstack_bytes = t->task.altstack_bytes;
	in->altstack_flags = (uint32_t)t->task.altstack_flags;
	/* The kernel keeps "none" as an address of 0; the system call shows it as a flag. */
	if (!in->altstack_bytes)
		in->altstack_flags |= SS_DISABLE;
	in->pdeath_signal = t->task.pdeath_signal;
	in->timer_slack_ns = t->task.timer_slack_ns;
	in->securebits = (uint32_t)t->creds.securebits;
	fill_expiry(t, in);
	in->has_left = thread->asleep && t->sleep.timed;
	in->left_ns = t->sleep.remaining_ns;
}

/* PR_SET_IO_FLUSHER sets these two of the calling thread's PF_… (include/linux/sched.h, the same since
 * 5.8), and nothing else sets both of a program's. */
static bool is_io_flusher(const struct kage_thread *leader)
{
	const uint32_t memalloc_noio = 0x80000, local_throttle = 0x100000;
	const uint32_t both = memalloc_noio | local_throttle;

	return leader->seen && (leader->seen->task.flags & both) == both;
}

static void fill_process(const struct kage_taskinfo *info, struct kage_inside *in)
{
	for (size_t i = 0; i < KAGE_NSIG; i++)
		in->actions[i] = (struct kage_inside_action){ info->actions[i].handler.v,
							      info->actions[i].flags,
							      info->actions[i].restorer.v,
							      info->actions[i].mask };
	for (size_t i = 0; i < ARRAY_SIZE(in->itimers); i++)
		in->itimers[i] = (struct kage_inside_interval){ info->itimers[i].remaining_ns,
								info->itimers[i].interval_ns };
	in->brk = info->mm.brk.v;
	in->dumpable = info->mm.flags & 3;
	in->child_subreaper = info->process.child_subreaper != 0;
	if (info->mm.def_flags & VM_LOCKED)
		in->lock_future =
			MCL_FUTURE | (info->mm.def_flags & VM_LOCKONFAULT ? MCL_ONFAULT : 0);
}

static struct kage_err *fill_timers(const struct kage_taskinfo *info, struct kage_inside *in)
{
	in->timers = calloc(info->n_timers + 1, sizeof(*in->timers));
	if (!in->timers)
		return kage_err_nomem();
	in->n_timers = info->n_timers;
	for (size_t i = 0; i < info->n_timers; i++) {
		const struct kage_tasktimer *t = &info->timers[i];

		in->timers[i] = (struct kage_inside_timer){ .id = t->id,
							    .left_ns = t->remaining_ns,
							    .interval_ns = t->interval_ns,
							    .overrun = (uint32_t)t->overrun_last };
	}
	return NULL;
}

/* What was cut or is of a form that this version does not know is not good enough. */
static bool complete(const struct kage_taskinfo *info)
{
	return info->has_mm && info->has_actions && !info->timers_cut && !info->torn;
}

/* Fills IN from T->info; *RET_ALL is false when a thread is missing there. */
static struct kage_err *fill(const struct kage_target *t, struct kage_inside *in, bool *ret_all)
{
	*ret_all = true;
	in->n_threads = t->n_own;
	in->threads = calloc(t->n_own, sizeof(*in->threads));
	if (!in->threads)
		return kage_err_nomem();
	for (size_t i = 0; i < t->n_own; i++) {
		const struct kage_thread *thread = t->threads[i];

		if (thread->seen)
			fill_thread(thread, &in->threads[i]);
		else
			*ret_all = false;
		/* At rung 0 some are left asleep. */
		if (thread->asleep)
			in->rung = 0;
	}
	fill_process(t->info, in);
	in->io_flusher = is_io_flusher(t->threads[0]);
	return fill_timers(t->info, in);
}

struct kage_err *kage_inside_read(struct kage_target *t, struct kage_inside *ret_inside,
				  bool *ret_complete)
{
	_cleanup_(kage_inside_deinit) struct kage_inside in = { .rung = 1 };

	*ret_complete = false;
	if (!t->info || !complete(t->info))
		return NULL;
	TRY(fill(t, &in, ret_complete));
	if (!*ret_complete)
		return NULL;
	*ret_inside = in;
	in = (struct kage_inside){ 0 };
	return NULL;
}
