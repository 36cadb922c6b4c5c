/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that would feel a stop where it sleeps, and does not sleep on, is awaited behind its call: by an
 * event (target/sender.h) that is a hardware breakpoint there. One that does not wake in time is left traced
 * without being stopped; it cannot be let go from that before it stops for another reason, but the end of
 * the thread of ours that traces it does it (ptrace(2)): see capture.c.
 */
#include "target/ambush.h"

#include <sys/ptrace.h>

#include "base/file.h"
#include "sys/taskread.h"
#include "target/asleep.h"
#include "target/held.h"
#include "target/sender.h"

enum {
	LONGEST_NS = 20 * 1000 * 1000,
	STANDING_NS = 2 * 1000 * 1000,
};

/* The event comes before the thread is traced: it does nothing to one that is not. */
static struct kage_err *await_one(struct kage_target *t, struct kage_thread *thread,
				  const struct kage_taskthread *seen)
{
	bool awaited = seen->asleep ? kage_sender_at(t, thread, seen, seen->regs.ip)
				    : kage_sender_in_program(t, thread, seen);

	return awaited && !thread->attached ? kage_target_seize(t, thread) : NULL;
}

/* The restless, where they sleep; and where they go on, if they are awake just now. */
static struct kage_err *take_places(struct kage_target *t)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		struct kage_thread *thread = t->threads[i];
		const struct kage_taskthread *seen = kage_taskinfo_thread(t->info, thread->tid);

		if (thread->restless && !thread->stopped && seen && kage_asleep_felt_call(seen))
			TRY(await_one(t, thread, seen));
	}
	return NULL;
}

/* --- waiting ------------------------------------------------------------------------------------- */

/* What became of THREAD, which has changed as S says. Whether it need not be awaited any more. */
static bool take_stop(struct kage_target *t, struct kage_thread *thread, const struct kage_stop *s)
{
	if (s->what == STOP_ENDED) {
		thread->attached = false; /* the next look will not find it */
	} else if (kage_sender_sent(thread, s) || s->what == STOP_EVENT) {
		thread->stopped = true;
		thread->asleep = false;
		thread->job_stopped = s->what == STOP_EVENT && s->signal != SIGTRAP;
		kage_held_quiet(t, thread);
		kage_target_note_stop(t);
	} else if (!kage_held_meets(t, thread, s)) {
		ptrace(PTRACE_CONT, thread->tid, NULL,
		       s->what == STOP_SIGNAL ? (void *)(uintptr_t)s->signal : NULL);
		return false;
	}
	return true;
}

/* *RET_ANY has changed, and *RET_AWAITED is still awaited. */
static struct kage_err *collect(struct kage_target *t, bool *ret_any, bool *ret_awaited)
{
	*ret_any = *ret_awaited = false;
	for (size_t i = 0; i < t->n_threads; i++) {
		struct kage_thread *thread = t->threads[i];
		struct kage_stop stop;
		bool changed = false;

		if (thread->event < 0)
			continue;
		TRY(kage_target_poll(thread->tid, &stop, &changed));
		if (changed && take_stop(t, thread, &stop))
			kage_sender_end(thread);
		*ret_any |= changed;
		*ret_awaited |= thread->event >= 0;
	}
	return NULL;
}

static struct kage_err *lie_in_wait(struct kage_target *t)
{
	uint64_t begin = kage_clock_mono_ns(), patience_ns = LONGEST_NS;
	bool any, awaited = true;

	TRY(take_places(t));
	while (awaited && kage_clock_mono_ns() - begin < patience_ns) {
		TRY(collect(t, &any, &awaited));
		/* Those who came first should not have to stand for long. */
		if (any && patience_ns > kage_clock_mono_ns() - begin + STANDING_NS)
			patience_ns = kage_clock_mono_ns() - begin + STANDING_NS;
		if (!any && awaited)
			kage_target_nap(t, LONGEST_NS);
	}
	return NULL;
}

/* Those that did not come sleep deeply enough to be left alone. One may have come just now. */
static struct kage_err *give_up_rest(struct kage_target *t)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		struct kage_thread *thread = t->threads[i];
		struct kage_stop stop;
		bool changed = false;

		if (thread->event < 0)
			continue;
		kage_sender_end(thread);
		thread->restless = false;
		TRY(kage_target_poll(thread->tid, &stop, &changed));
		if (changed)
			(void)take_stop(t, thread, &stop);
	}
	return NULL;
}

struct kage_err *kage_ambush(struct kage_target *t)
{
	struct kage_err *e;

	if (!t->info)
		return NULL;
	e = lie_in_wait(t);
	if (!e)
		e = give_up_rest(t);
	for (size_t i = 0; i < t->n_threads; i++)
		kage_sender_end(t->threads[i]);
	return e;
}
