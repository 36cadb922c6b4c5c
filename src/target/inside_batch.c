/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking the target itself: calls that change nothing and tell what it would be told.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "base/cleanup.h"
#include "target/batch.h"
#include "target/inside.h"

#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif
#ifndef PR_GET_IO_FLUSHER
#define PR_GET_IO_FLUSHER 58
#endif

/* The kernel's struct sigaction of x86-64 and most others: mask last. */
struct kernel_action {
	uint64_t handler, flags, restorer, mask;
};

struct kernel_timeval_pair {
	int64_t interval_s, interval_us, left_s, left_us;
};

struct kernel_itimerspec {
	int64_t interval_s, interval_ns, left_s, left_ns;
};

struct kernel_stack {
	uint64_t sp;
	uint32_t flags, pad;
	uint64_t size;
};

/* Where the answers are in the batch: offsets of data, indices of calls. */
struct process_asked {
	size_t actions, itimers, timers, subreaper;
	size_t call_brk, call_dumpable, call_first_timer, call_io_flusher;
};

struct thread_asked {
	size_t tid_address, altstack, pdeath;
	size_t call_slack, call_securebits;
};

void kage_inside_deinit(struct kage_inside *inside)
{
	free(inside->timers);
	free(inside->threads);
	memset(inside, 0, sizeof(*inside));
}

static void ask_process(struct kage_batch *b, const struct kage_inside *in,
			struct process_asked *asked)
{
	asked->actions = kage_batch_data(b, NULL, KAGE_NSIG * sizeof(struct kernel_action));
	for (size_t i = 0; i < KAGE_NSIG; i++)
		BATCH(b, "ask for a signal action", SYS_rt_sigaction, V(i + 1), V(0),
		      DATA(asked->actions + i * sizeof(struct kernel_action)), V(8));
	asked->itimers = kage_batch_data(b, NULL, 3 * sizeof(struct kernel_timeval_pair));
	for (size_t i = 0; i < 3; i++)
		BATCH(b, "ask for an interval timer", SYS_getitimer, V(i),
		      DATA(asked->itimers + i * sizeof(struct kernel_timeval_pair)));
	asked->timers = kage_batch_data(b, NULL, in->n_timers * sizeof(struct kernel_itimerspec));
	for (size_t i = 0; i < in->n_timers; i++)
		BATCH(b, "ask for a POSIX timer", SYS_timer_gettime, V((int64_t)in->timers[i].id),
		      DATA(asked->timers + i * sizeof(struct kernel_itimerspec)));
	asked->call_first_timer = b->n;
	for (size_t i = 0; i < in->n_timers; i++)
		BATCH(b, "ask for a timer's overrun", SYS_timer_getoverrun,
		      V((int64_t)in->timers[i].id));
	asked->call_brk = BATCH(b, "ask for the end of the heap", SYS_brk, V(0));
	asked->call_dumpable =
		BATCH(b, "ask whether it is dumpable", SYS_prctl, V(PR_GET_DUMPABLE));
	asked->subreaper = kage_batch_data(b, NULL, sizeof(uint32_t));
	BATCH(b, "ask whether it is a subreaper", SYS_prctl, V(PR_GET_CHILD_SUBREAPER),
	      DATA(asked->subreaper));
	asked->call_io_flusher = BATCH_TRY(b, "ask whether it is an I/O flusher", SYS_prctl,
					   V(PR_GET_IO_FLUSHER), V(0), V(0), V(0), V(0));
}

static void answer_process(const struct kage_batch *b, const struct process_asked *asked,
			   struct kage_inside *in)
{
	const struct kernel_action *actions = kage_batch_bytes(b, asked->actions);
	const struct kernel_timeval_pair *itimers = kage_batch_bytes(b, asked->itimers);
	const struct kernel_itimerspec *timers = kage_batch_bytes(b, asked->timers);

	for (size_t i = 0; i < KAGE_NSIG; i++)
		in->actions[i] =
			(struct kage_inside_action){ actions[i].handler, actions[i].flags,
						     actions[i].restorer, actions[i].mask };
	for (size_t i = 0; i < 3; i++)
		in->itimers[i] = (struct kage_inside_interval){
			(uint64_t)(itimers[i].left_s * 1000000000 + itimers[i].left_us * 1000),
			(uint64_t)(itimers[i].interval_s * 1000000000 +
				   itimers[i].interval_us * 1000),
		};
	for (size_t i = 0; i < in->n_timers; i++) {
		int64_t overrun = kage_batch_result(b, asked->call_first_timer + i);

		in->timers[i].left_ns =
			(uint64_t)(timers[i].left_s * 1000000000 + timers[i].left_ns);
		in->timers[i].interval_ns =
			(uint64_t)(timers[i].interval_s * 1000000000 + timers[i].interval_ns);
		in->timers[i].overrun = overrun > 0 ? (uint32_t)overrun : 0;
	}
	in->brk = (uint64_t)kage_batch_result(b, asked->call_brk);
	in->dumpable = (uint32_t)kage_batch_result(b, asked->call_dumpable);
	in->child_subreaper = *(const uint32_t *)kage_batch_bytes(b, asked->subreaper) != 0;
	in->io_flusher = kage_batch_result(b, asked->call_io_flusher) == 1;
}

static void ask_thread(struct kage_batch *b, struct thread_asked *asked)
{
	asked->tid_address = kage_batch_data(b, NULL, sizeof(uint64_t));
	asked->altstack = kage_batch_data(b, NULL, sizeof(struct kernel_stack));
	asked->pdeath = kage_batch_data(b, NULL, sizeof(uint32_t));
	BATCH(b, "ask for the clear_child_tid address", SYS_prctl, V(PR_GET_TID_ADDRESS),
	      DATA(asked->tid_address));
	BATCH(b, "ask for the alternate stack", SYS_sigaltstack, V(0), DATA(asked->altstack));
	BATCH(b, "ask for the parent's death signal", SYS_prctl, V(PR_GET_PDEATHSIG),
	      DATA(asked->pdeath));
	asked->call_slack = BATCH(b, "ask for the timer slack", SYS_prctl, V(PR_GET_TIMERSLACK));
	asked->call_securebits =
		BATCH(b, "ask for the securebits", SYS_prctl, V(PR_GET_SECUREBITS));
}

static void answer_thread(const struct kage_batch *b, const struct thread_asked *asked,
			  struct kage_inside_thread *in)
{
	const struct kernel_stack *stack = kage_batch_bytes(b, asked->altstack);

	in->tid_address = *(const uint64_t *)kage_batch_bytes(b, asked->tid_address);
	in->altstack_sp = stack->sp;
	in->altstack_bytes = stack->size;
	in->altstack_flags = stack->flags;
	in->pdeath_signal = *(const uint32_t *)kage_batch_bytes(b, asked->pdeath);
	in->timer_slack_ns = (uint64_t)kage_batch_result(b, asked->call_slack);
	in->securebits = (uint32_t)kage_batch_result(b, asked->call_securebits);
}

static struct kage_err *ask_one(struct kage_target *t, size_t i, struct kage_inside *in)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;
	struct process_asked process = { 0 };
	struct thread_asked thread;

	kage_batch_init(&b);
	ask_thread(&b, &thread);
	if (i == 0)
		ask_process(&b, in, &process);
	TRY(kage_batch_run(t, t->threads[i], &b));
	answer_thread(&b, &thread, &in->threads[i]);
	if (i == 0)
		answer_process(&b, &process, in);
	in->threads[i].tid = t->threads[i]->tid;
	return NULL;
}

struct kage_err *kage_inside_ask(struct kage_target *t, const int32_t *timer_ids, size_t n_timers,
				 struct kage_inside *ret_inside)
{
	_cleanup_(kage_inside_deinit) struct kage_inside in = { .rung = 2 };

	in.threads = calloc(t->n_own, sizeof(*in.threads));
	in.timers = calloc(n_timers + 1, sizeof(*in.timers));
	if (!in.threads || !in.timers)
		return kage_err_nomem();
	in.n_threads = t->n_own;
	in.n_timers = n_timers;
	for (size_t i = 0; i < n_timers; i++)
		in.timers[i].id = timer_ids[i];
	for (size_t i = 0; i < t->n_own; i++)
		TRY_WRAP(ask_one(t, i, &in), "ask thread %d", t->threads[i]->tid);
	*ret_inside = in;
	in = (struct kage_inside){ 0 };
	return NULL;
}
