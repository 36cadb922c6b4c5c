/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that would feel a stop where it sleeps, and does not sleep on, is awaited behind its call: by an
 * event (target/sender.h) that is a hardware breakpoint there. One that does not wake in time is left traced
 * without being stopped; it cannot be let go from that before it stops for another reason, but the end of
 * the thread of ours that traces it does it (ptrace(2)): see capture.c.
 */
#include "target/ambush.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ptrace.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/taskread.h"
#include "target/asleep.h"
#include "target/sender.h"

enum {
	LONGEST_NS = 20 * 1000 * 1000,
	STANDING_NS = 2 * 1000 * 1000,
};

struct ambush {
	struct kage_target *t;
	int *events; /* by thread; -1: it is not awaited */
	size_t n_awaited;
};

/* --- which threads ------------------------------------------------------------------------------- */

/* The event goes at once, so that nothing of it comes afterwards. */
static void end_waiting(struct ambush *a, size_t i)
{
	if (a->events[i] < 0)
		return;
	close_fd(a->events[i]);
	a->events[i] = -1;
	a->n_awaited--;
}

/* The event comes before the thread is traced: it does nothing to one that is not. */
static struct kage_err *await_one(struct ambush *a, size_t i, const struct kage_taskthread *seen)
{
	struct kage_thread *thread = a->t->threads[i];

	a->events[i] = seen->asleep ? kage_sender_at(a->t, seen, seen->regs.ip)
				    : kage_sender_in_program(a->t, seen);
	if (a->events[i] < 0)
		return NULL;
	a->n_awaited++;
	return thread->attached ? NULL : kage_target_seize(a->t, thread);
}

/* The restless, where they sleep; and where they go on, if they are awake just now. */
static struct kage_err *take_places(struct ambush *a)
{
	for (size_t i = 0; i < a->t->n_threads; i++) {
		struct kage_thread *thread = a->t->threads[i];
		const struct kage_taskthread *seen = kage_taskinfo_thread(a->t->info, thread->tid);

		if (thread->restless && !thread->stopped && seen && kage_asleep_felt_call(seen))
			TRY(await_one(a, i, seen));
	}
	return NULL;
}

/* --- waiting ------------------------------------------------------------------------------------- */

/* What became of THREAD, which has changed as S says. Whether it need not be awaited any more. */
static bool take_stop(struct kage_target *t, struct kage_thread *thread, const struct kage_stop *s)
{
	if (s->what == STOP_ENDED) {
		thread->attached = false; /* the next look will not find it */
	} else if (kage_sender_sent(s) || s->what == STOP_EVENT) {
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

		if (a->events[i] < 0)
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
	uint64_t begin = kage_clock_mono_ns(), patience_ns = LONGEST_NS;
	bool any;

	TRY(take_places(a));
	while (a->n_awaited && kage_clock_mono_ns() - begin < patience_ns) {
		TRY(collect(a, &any));
		/* Those who came first should not have to stand for long. */
		if (any && patience_ns > kage_clock_mono_ns() - begin + STANDING_NS)
			patience_ns = kage_clock_mono_ns() - begin + STANDING_NS;
		if (!any)
			kage_target_nap(a->t, LONGEST_NS);
	}
	return NULL;
}

/* Those that did not come sleep deeply enough to be left alone. One may have come just now. */
static struct kage_err *give_up_rest(struct ambush *a)
{
	for (size_t i = 0; i < a->t->n_threads; i++) {
		struct kage_stop stop;
		bool changed = false;

		if (a->events[i] < 0)
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
	struct ambush a = { .t = t };
	struct kage_err *e;

	if (!t->info)
		return NULL;
	a.events = malloc((t->n_threads + 1) * sizeof(*a.events));
	if (!a.events)
		return kage_err_nomem();
	for (size_t i = 0; i < t->n_threads; i++)
		a.events[i] = -1;
	e = lie_in_wait(&a);
	if (!e)
		e = give_up_rest(&a);
	for (size_t i = 0; i < t->n_threads; i++)
		close_fd(a.events[i]);
	free(a.events);
	return e;
}
