/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that were waiting for a time to pass: made again with what was left of it. How, depends on
 * where the call has its time (kage_arch_timed_call()):
 *
 *	nanosleep, poll, futex …    The kernel notes by itself when an interrupted one ends (the restart block).
 *				    The call is entered with a time of our own, interrupted before it waits, and
 *				    the registers are put right: they and the program's memory say the whole
 *				    time, as they must when the call returns. The time runs from here on.
 *	select, pselect6, ppoll	    What is left is written to where the program has the time, which is what the
 *				    kernel does itself when the call ends.
 *	other timespecs		    The register points to a slot (target/batch.h) that has what is left.
 *	epoll_wait, epoll_pwait	    The register holds what is left, in milliseconds.
 *	sockets			    waits_socket.c
 *
 * A register that was changed stays so when the call returns. Compilers and C libraries do not look at the
 * arguments of a call that they have made, and functions need not preserve these registers (System V ABI:
 * rdx, r8, r10). What is changed is good for this one call: these end with EINTR when a handler runs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>

#include "base/cleanup.h"
#include "restore/restore.h"

enum { WAIT_TIMEOUT_MS = 10000 };

/* A timespec or, if the call has that, a timeval. Rounded up: nothing may end too early. */
static void encode(struct kage_timed_call call, uint64_t left_ns, int64_t ret_time[2])
{
	uint64_t unit_ns = call.kind == KAGE_TIME_TIMEVAL ? 1000 : 1, per_s = 1000000000 / unit_ns;
	uint64_t units = left_ns / unit_ns + (left_ns % unit_ns != 0);

	ret_time[0] = (int64_t)(units / per_s);
	ret_time[1] = (int64_t)(units % per_s);
}

/* Never more than the program asked for, which is below 2^31. */
static void set_ms(struct kage_timed_call call, uint64_t left_ns, struct kage_regs *regs)
{
	uint64_t ms = left_ns / 1000000 + (left_ns % 1000000 != 0);

	if (ms < (uint32_t)kage_arch_arg(regs, call.arg))
		kage_arch_set_arg(regs, call.arg, ms);
}

/* --- with a restart block ------------------------------------------------------------------------- */

/* Puts the time left where REGS, which are about to make the call, have it: beside the program's memory. */
static struct kage_err *set_time(struct kage_restore *r, struct kage_timed_call call,
				 uint64_t left_ns, struct kage_regs *regs)
{
	int64_t time[2];

	if (call.kind == KAGE_TIME_MS) {
		set_ms(call, left_ns, regs);
		return NULL;
	}
	encode(call, left_ns, time);
	kage_arch_set_arg(regs, call.arg, r->stub->site->area);
	return kage_target_write(r->stub, addr(r->stub->site->area), time, sizeof(time));
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

static struct kage_err *begin(struct kage_restore *r, struct kage_thread *thread,
			      struct kage_timed_call call, uint64_t left_ns, struct kage_regs *regs)
{
	uint64_t asked = kage_arch_arg(regs, call.arg);

	TRY(set_time(r, call, left_ns, regs));
	TRY(kage_arch_set_regs(thread->tid, true, regs));
	TRY(enter_and_interrupt(r, thread));
	TRY(kage_arch_get_regs(thread->tid, false, regs));
	kage_arch_set_arg(regs, call.arg, asked);
	return kage_arch_set_regs(thread->tid, false, regs);
}

/* --- without --------------------------------------------------------------------------------------- */

/* Whether the program may write all of SIZE bytes at AT. */
static bool is_writable(const struct kage_restore *r, uint64_t at, uint64_t size)
{
	const Kage__Memory *m = r->process->memory;

	for (size_t i = 0; i < m->n_mappings; i++)
		if (at >= m->mappings[i]->start && at < m->mappings[i]->end)
			return (m->mappings[i]->prot & PROT_WRITE) &&
			       m->mappings[i]->end - at >= size;
	return false;
}

static struct kage_err *give_slot(struct kage_restore *r, struct waits *w, uint64_t *ret_slot)
{
	if (!w->looked)
		TRY(kage_site_find_zone(r->stub));
	w->looked = true;
	*ret_slot = kage_site_slot(r->stub, w->n_slots);
	w->n_slots += *ret_slot != 0;
	return NULL;
}

/* The kernel does not write to a program's time that is read-only either: it goes to a slot, too. Without
 * room for one more slot the thread waits the whole time again, rather than not long enough. */
static struct kage_err *point_at_time(struct kage_restore *r, struct waits *w,
				      struct kage_timed_call call, uint64_t left_ns,
				      struct kage_regs *regs)
{
	uint64_t at = kage_arch_arg(regs, call.arg), slot;
	int64_t time[2];

	encode(call, left_ns, time);
	if (call.written_back && is_writable(r, at, sizeof(time)))
		return kage_target_write(r->stub, addr(at), time, sizeof(time));
	TRY(give_slot(r, w, &slot));
	if (!slot)
		return NULL;
	TRY(kage_target_write_forced(r->stub, addr(slot), time, sizeof(time)));
	kage_arch_set_arg(regs, call.arg, slot);
	return NULL;
}

struct kage_err *waits_begin(struct kage_restore *r, struct waits *w, size_t i,
			     struct kage_regs *regs, bool *ret_begun)
{
	const Kage__SyscallState *state = r->process->threads[i]->syscall;
	struct kage_timed_call call;
	uint64_t args[6];

	*ret_begun = false;
	if (!state || state->restart != KAGE__SYSCALL_STATE__RESTART__TIME_LEFT)
		return NULL;
	for (int k = 0; k < 6; k++)
		args[k] = kage_arch_arg(regs, k);
	call = kage_arch_timed_call(state->number, args);
	*ret_begun = call.restart_block;
	if (call.restart_block)
		return begin(r, r->stub->threads[i], call, state->left_ns, regs);
	if (call.kind == KAGE_TIME_MS)
		set_ms(call, state->left_ns, regs);
	else if (call.kind == KAGE_TIME_TIMESPEC || call.kind == KAGE_TIME_TIMEVAL)
		return point_at_time(r, w, call, state->left_ns, regs);
	return NULL;
}
