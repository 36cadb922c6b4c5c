/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that were waiting for a time to pass: begun again with what was left of it.
 *
 * The arguments in the program's registers and memory say the whole time, and must still do so when
 * the call returns. So the call is entered with a time of our own, interrupted before it waits, and
 * the registers are put right: the kernel has made its own note of when it ends (the restart block),
 * and goes by that when the thread is let go.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>

#include "base/cleanup.h"
#include "restore/restore.h"

enum { WAIT_TIMEOUT_MS = 10000 };

/* Puts the time left where REGS, which are about to make the call, have it. */
static void set_time(struct kage_restore *r, struct kage_timed_call call, uint64_t left_ns,
		     struct kage_regs *regs)
{
	const int64_t ts[2] = { (int64_t)(left_ns / 1000000000), (int64_t)(left_ns % 1000000000) };

	if (call.kind == KAGE_TIME_MS) {
		kage_arch_set_arg(regs, call.arg, (left_ns + 999999) / 1000000);
		return;
	}
	memcpy(r->stub->site->area_here, ts, sizeof(ts));
	kage_arch_set_arg(regs, call.arg, r->stub->site->area);
}

static struct kage_err *enter_and_interrupt(struct kage_restore *r, struct kage_thread *thread)
{
	struct kage_stop stop;

	TRY(kage_target_step_syscall(r->stub, thread));
	if (ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL) < 0 ||
	    ptrace(PTRACE_CONT, thread->tid, NULL, NULL) < 0)
		return kage_err_sys(errno, "begin the wait of thread %d again", thread->tid);
	TRY(kage_target_wait(r->stub, thread->tid, WAIT_TIMEOUT_MS * 1000000ull, &stop));
	if (stop.what != STOP_EVENT)
		return kage_err_new(KAGE_SYS, "thread %d did not stop in its wait", thread->tid);
	return NULL;
}

struct kage_err *waits_begin(struct kage_restore *r, size_t i, const struct kage_regs *final,
			     bool *ret_begun)
{
	const Kage__SyscallState *state = r->process->threads[i]->syscall;
	struct kage_thread *thread = r->stub->threads[i];
	_cleanup_free_ struct kage_regs *regs = NULL;
	struct kage_timed_call call;
	uint64_t args[6];

	*ret_begun = false;
	if (!state || state->restart != KAGE__SYSCALL_STATE__RESTART__TIME_LEFT)
		return NULL;
	for (int k = 0; k < 6; k++)
		args[k] = kage_arch_arg(final, k);
	call = kage_arch_timed_call(state->number, args);
	if (!call.restart_block)
		return NULL;
	regs = malloc(sizeof(*regs));
	if (!regs)
		return kage_err_nomem();
	*regs = *final;
	set_time(r, call, state->left_ns, regs);
	TRY(kage_arch_set_regs(thread->tid, true, regs));
	TRY(enter_and_interrupt(r, thread));
	TRY(kage_arch_get_regs(thread->tid, false, regs));
	kage_arch_set_arg(regs, call.arg, args[call.arg]);
	*ret_begun = true;
	return kage_arch_set_regs(thread->tid, false, regs);
}
