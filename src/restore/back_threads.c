/* SPDX-License-Identifier: Apache-2.0 */
/* Threads of a program that goes back. */
#include <errno.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <stdlib.h>
#include <sys/ptrace.h>

#include "base/cleanup.h"
#include "restore/back.h"
#include "restore/restore.h"

static const uint64_t end_timeout_ns = 10ull * 1000 * 1000 * 1000;

static bool had(const struct back *k, pid_t tid)
{
	const Kage__Process *p = k->r->process;

	for (size_t i = 0; i < p->n_threads; i++)
		if (p->threads[i]->tid == tid)
			return true;
	return false;
}

/* Its end would write to memory, and tell who waits for it. */
static struct kage_err *say_nothing(struct back *k, struct kage_thread *thread)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;

	kage_batch_init(&b);
	BATCH(&b, "set the clear_child_tid address", SYS_set_tid_address, V(0));
	BATCH(&b, "set the robust list", SYS_set_robust_list, V(0),
	      V(sizeof(struct robust_list_head)));
	return kage_batch_run(k->program, thread, &b);
}

static struct kage_err *end_thread(struct back *k, struct kage_thread *thread)
{
	_cleanup_free_ struct kage_regs *regs = calloc(1, sizeof(*regs));
	const uint64_t args[6] = { 0 };
	struct kage_stop stop;

	if (!regs)
		return kage_err_nomem();
	TRY(say_nothing(k, thread));
	kage_arch_enter_syscall(&thread->regs, k->syscall_at, SYS_exit, args, regs);
	TRY(kage_arch_set_regs(thread->tid, false, regs));
	do {
		ptrace(PTRACE_CONT, thread->tid, NULL, NULL);
		TRY(kage_target_wait(k->program, thread->tid, end_timeout_ns, &stop));
	} while (stop.what != STOP_ENDED);
	return NULL;
}

struct kage_err *back_end_threads(struct back *k)
{
	struct kage_target *t = k->program;

	for (size_t i = t->n_threads; i-- > 0;) {
		struct kage_thread *thread = t->threads[i];

		if (had(k, thread->tid))
			continue;
		TRY_WRAP(end_thread(k, thread), "end thread %d", thread->tid);
		for (size_t n = i; n + 1 < t->n_threads; n++)
			t->threads[n] = t->threads[n + 1];
		t->n_own = --t->n_threads;
		kage_thread_free(thread);
	}
	return NULL;
}

/* As the image has them. */
static void order(struct back *k)
{
	struct kage_target *t = k->program;

	for (size_t i = 0; i < k->r->process->n_threads; i++)
		for (size_t n = i; n < t->n_threads; n++) {
			struct kage_thread *thread = t->threads[n];

			if (thread->tid != k->r->process->threads[i]->tid)
				continue;
			t->threads[n] = t->threads[i];
			t->threads[i] = thread;
			break;
		}
}

struct kage_err *back_make_threads(struct back *k)
{
	struct kage_target *t = k->program;

	if (t->n_threads != k->r->process->n_threads)
		TRY(threads_make(k->r));
	order(k);
	t->n_own = t->n_threads;
	return NULL;
}
