/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each thread has for itself: registers, name, signal mask, and the addresses at which the
 * kernel and the C library meet (robust list, rseq, clear_child_tid, alternate stack).
 */
#include "kind/threads.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/kernel.h"
#include "sys/taskread.h"

/* --- capture ---------------------------------------------------------------------------------- */

static struct kage_err *capture_name(struct kage_capture *c, const struct kage_thread *thread,
				     Kage__Thread *msg)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	size_t size;

	if (thread->seen) {
		msg->comm =
			arena_printf(&c->image->arena, "%.*s", (int)sizeof(thread->seen->task.comm),
				     thread->seen->task.comm);
		return msg->comm ? NULL : kage_err_nomem();
	}
	snprintf(path, sizeof(path), "task/%d/comm", msg->tid);
	TRY(kage_file_slurp(c->target->proc_fd, path, 4096, &text, &size));
	if (size && text[size - 1] == '\n')
		text[size - 1] = '\0';
	msg->comm = arena_strdup(&c->image->arena, text);
	return msg->comm ? NULL : kage_err_nomem();
}

/* Of a thread that is left asleep the kernel's own record tells it, of a stopped one ptrace. A kernel
 * or a thread may be without it: then the address is 0. */
static void find_rseq(const struct kage_thread *thread, struct kptrace_rseq_configuration *ret_rseq)
{
	*ret_rseq = (struct kptrace_rseq_configuration){ 0 };
	if (thread->asleep) {
		ret_rseq->rseq_abi_pointer = thread->seen->task.rseq.v;
		ret_rseq->rseq_abi_size = thread->seen->task.rseq_bytes;
		ret_rseq->signature = thread->seen->task.rseq_signature;
	} else if (ptrace(KPTRACE_GET_RSEQ_CONFIGURATION, thread->tid, (void *)sizeof(*ret_rseq),
			  ret_rseq) < 0) {
		ret_rseq->rseq_abi_pointer = 0;
	}
}

static struct kage_err *capture_rseq(struct kage_capture *c, const struct kage_thread *thread,
				     Kage__Thread *msg)
{
	struct kptrace_rseq_configuration rseq;
	Kage__Rseq *m;

	find_rseq(thread, &rseq);
	if (!rseq.rseq_abi_pointer)
		return NULL;
	m = msg_new(&c->image->arena, Kage__Rseq, kage__rseq__init);
	if (!m)
		return kage_err_nomem();
	m->address = rseq.rseq_abi_pointer;
	m->size_bytes = rseq.rseq_abi_size;
	m->signature = rseq.signature;
	msg->rseq = m;
	return kage_target_read(c->target, addr(m->address + KRSEQ_CS_FIELD_BYTES),
				&m->critical_section, sizeof(m->critical_section));
}

static struct kage_err *capture_robust_list(const struct kage_thread *thread, Kage__Thread *msg)
{
	void *head = NULL;
	size_t size = sizeof(struct robust_list_head);

	if (thread->seen) {
		msg->robust_list = thread->seen->task.robust_list.v;
		msg->robust_list_bytes = size;
		return NULL;
	}
	if (syscall(SYS_get_robust_list, msg->tid, &head, &size) < 0)
		return kage_err_sys(errno, "read robust list of thread %d", msg->tid);
	msg->robust_list = (uint64_t)(uintptr_t)head;
	msg->robust_list_bytes = size;
	return NULL;
}

/* The code right before the system call instruction at AT, as much of it as lies in the same page. */
static struct kage_err *code_before(struct kage_capture *c, uint64_t at,
				    uint8_t ret_code[KAGE_ARCH_CODE_BEFORE])
{
	uint64_t bytes = at - page_floor(at);

	if (bytes > KAGE_ARCH_CODE_BEFORE)
		bytes = KAGE_ARCH_CODE_BEFORE;
	memset(ret_code, 0, KAGE_ARCH_CODE_BEFORE);
	return kage_target_read(c->target, addr(at - bytes),
				ret_code + KAGE_ARCH_CODE_BEFORE - bytes, bytes);
}

/* A thread that has been interrupted before waits in restart_syscall: which call that stands for, the
 * kernel tells, or its own code. */
static struct kage_err *name_restarted(struct kage_capture *c, const struct kage_inside_thread *in,
				       struct kage_regs *regs)
{
	uint8_t code[KAGE_ARCH_CODE_BEFORE];
	uint64_t number, real, args[6];

	if (!kage_arch_in_syscall(regs, &number) || number != SYS_restart_syscall)
		return NULL;
	TRY(code_before(c, kage_arch_ip(regs) - KAGE_ARCH_SYSCALL_BYTES, code));
	for (int i = 0; i < 6; i++)
		args[i] = kage_arch_arg(regs, i);
	if (kage_arch_restart_number(in->restart_kind, args, code, &real))
		kage_arch_set_number(regs, real);
	return NULL;
}

/* Whether the time of a restored thread lies where it will not be in the next life. */
static bool is_in_slot(const struct kage_capture *c, const struct kage_timed_call *call,
		       const Kage__SyscallState *state)
{
	uint64_t at = state->args[call->arg];

	return call->kind == KAGE_TIME_TIMESPEC && c->target->tail_start &&
	       at >= c->target->tail_start && at < c->target->zone_end;
}

/* How much of its time a waiting call has left: what the kernel has noted, else all of it. */
static struct kage_err *time_left(struct kage_capture *c, const struct kage_regs *regs,
				  const struct kage_inside_thread *in, Kage__SyscallState *state)
{
	struct kage_timed_call call;
	int64_t ts[2];
	uint64_t now;

	if (!state->in_progress || state->restart == KAGE__SYSCALL_STATE__RESTART__NONE)
		return NULL;
	call = kage_arch_timed_call(state->number, state->args);
	if (call.kind == KAGE_TIME_NONE) {
		state->restart = KAGE__SYSCALL_STATE__RESTART__AGAIN;
		return NULL;
	}
	if (in->has_left) {
		state->restart = KAGE__SYSCALL_STATE__RESTART__TIME_LEFT;
		state->left_ns = in->left_ns;
		return NULL;
	}
	if (is_in_slot(c, &call, state))
		state->restart = KAGE__SYSCALL_STATE__RESTART__TIME_LEFT;
	if (state->restart != KAGE__SYSCALL_STATE__RESTART__TIME_LEFT)
		return NULL;
	if (in->has_expiry && call.restart_block) {
		now = kage_clock_ns((clockid_t)in->expiry_clock);
		state->left_ns = in->expiry_ns > now ? in->expiry_ns - now : 0;
	} else if (call.kind == KAGE_TIME_MS) {
		state->left_ns = kage_arch_arg(regs, call.arg) * 1000000;
	} else if (call.kind == KAGE_TIME_TIMESPEC) {
		TRY(kage_target_read(c->target, addr(kage_arch_arg(regs, call.arg)), ts,
				     sizeof(ts)));
		state->left_ns = (uint64_t)ts[0] * 1000000000 + (uint64_t)ts[1];
	}
	return NULL;
}

static struct kage_err *capture_registers(struct kage_capture *c, struct kage_thread *thread,
					  const struct kage_inside_thread *in, Kage__Thread *msg)
{
	struct arena *a = &c->image->arena;
	_cleanup_free_ struct kage_regs *regs = malloc(sizeof(*regs));

	msg->registers = msg_new(a, Kage__Registers, kage__registers__init);
	msg->syscall = msg_new(a, Kage__SyscallState, kage__syscall_state__init);
	if (!regs || !msg->registers || !msg->syscall)
		return kage_err_nomem();
	msg->syscall->args = arena_alloc(a, 6 * sizeof(uint64_t));
	if (!msg->syscall->args)
		return kage_err_nomem();
	msg->syscall->n_args = 6;
	*regs = thread->regs;
	TRY(name_restarted(c, in, regs));
	kage_arch_settle_syscall(regs, msg->syscall);
	TRY(time_left(c, regs, in, msg->syscall));
	return kage_arch_encode_regs(a, regs, msg->registers);
}

static struct kage_err *capture_inside(struct kage_capture *c, size_t i, Kage__Thread *msg)
{
	const struct kage_inside_thread *in = &c->inside.threads[i];

	msg->clear_child_tid = in->tid_address;
	msg->pdeath_signal = in->pdeath_signal;
	msg->timer_slack_ns = in->timer_slack_ns;
	msg->altstack = msg_new(&c->image->arena, Kage__AltStack, kage__alt_stack__init);
	if (!msg->altstack)
		return kage_err_nomem();
	msg->altstack->sp = in->altstack_sp;
	msg->altstack->size_bytes = in->altstack_bytes;
	msg->altstack->flags = in->altstack_flags;
	return NULL;
}

static struct kage_err *capture_thread(struct kage_capture *c, size_t i)
{
	struct kage_thread *thread = c->target->threads[i];
	Kage__Thread *msg =
		msg_append(&c->image->arena, c->process, threads, Kage__Thread, kage__thread__init);

	if (!msg)
		return kage_err_nomem();
	msg->tid = thread->tid;
	msg->blocked = thread->sigmask;
	TRY(capture_registers(c, thread, &c->inside.threads[i], msg));
	TRY(capture_name(c, thread, msg));
	TRY(capture_rseq(c, thread, msg));
	TRY(capture_inside(c, i, msg));
	return capture_robust_list(thread, msg);
}

static struct kage_err *capture(struct kage_capture *c)
{
	for (size_t i = 0; i < c->target->n_own; i++)
		TRY_WRAP(capture_thread(c, i), "thread %d", c->target->threads[i]->tid);
	return NULL;
}

/* --- restore ---------------------------------------------------------------------------------- */

struct kernel_stack {
	uint64_t sp;
	uint32_t flags, pad;
	uint64_t size;
};

static void build_altstack(const Kage__AltStack *m, bool in_place, struct kage_batch *b)
{
	/* Whether the thread stands on it follows from its stack pointer; it cannot be set. */
	struct kernel_stack s = { .sp = m->sp,
				  .flags = m->flags & ~(uint32_t)SS_ONSTACK,
				  .size = m->size_bytes };

	if (!(m->flags & SS_DISABLE) || in_place)
		BATCH(b, "set the alternate stack", SYS_sigaltstack,
		      DATA(kage_batch_data(b, &s, sizeof(s))), V(0));
}

/* In place a thread has registered it long ago; once is all that the kernel allows. */
static bool has_rseq(const struct kage_restore *r, const Kage__Thread *msg)
{
	const struct kage_thread *thread = kage_target_thread(r->stub, msg->tid);

	return r->in_place && thread && kage_thread_rseq(thread) == msg->rseq->address;
}

static struct kage_err *build_thread(struct kage_restore *r, const Kage__Thread *msg,
				     struct kage_batch *b)
{
	if (msg->comm)
		BATCH(b, "name the thread", SYS_prctl, V(PR_SET_NAME),
		      DATA(kage_batch_string(b, msg->comm)));
	BATCH(b, "set the clear_child_tid address", SYS_set_tid_address, V(msg->clear_child_tid));
	if (msg->robust_list || r->in_place)
		BATCH(b, "set the robust list", SYS_set_robust_list, V(msg->robust_list),
		      V(sizeof(struct robust_list_head)));
	if (msg->altstack)
		build_altstack(msg->altstack, r->in_place, b);
	if (msg->rseq && msg->rseq->address && !has_rseq(r, msg))
		BATCH(b, "register restartable sequences", SYS_rseq, V(msg->rseq->address),
		      V(msg->rseq->size_bytes), V(0), V(msg->rseq->signature));
	if (msg->timer_slack_ns)
		BATCH(b, "set the timer slack", SYS_prctl, V(PR_SET_TIMERSLACK),
		      V(msg->timer_slack_ns));
	return NULL;
}

struct kage_err *kage_threads_final_regs(struct kage_restore *r, const Kage__Thread *msg,
					 struct kage_regs *ret_regs)
{
	struct krseq_cs cs;
	uint64_t ip;

	TRY(kage_arch_decode_regs(msg->registers, ret_regs));
	if (!msg->rseq || !msg->rseq->critical_section)
		return NULL;
	/* It was taken off its processor in the middle of the sequence, which means: abort it. */
	TRY(kage_target_read(r->stub, addr(msg->rseq->critical_section), &cs, sizeof(cs)));
	ip = kage_arch_ip(ret_regs);
	if (ip >= cs.start && ip - cs.start < cs.length)
		kage_arch_set_ip(ret_regs, cs.abort);
	return NULL;
}

static void print_call(uint64_t number, FILE *out)
{
	const char *name = kage_arch_syscall_name(number);

	if (name)
		fprintf(out, "  in %s", name);
	else
		fprintf(out, "  in system call %" PRIu64, number);
}

static void print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	(void)image;
	for (size_t i = 0; i < p->n_threads; i++) {
		const Kage__Thread *t = p->threads[i];
		const Kage__RegistersX8664 *regs =
			t->registers && t->registers->arch_case == KAGE__REGISTERS__ARCH_X86_64
				? t->registers->x86_64
				: NULL;

		if (!full && i >= 8) {
			fprintf(out, "  … and %zu more\n", p->n_threads - i);
			break;
		}
		fprintf(out, "  %-7d %-16s", t->tid, t->comm ? t->comm : "");
		if (regs)
			fprintf(out, " ip %#" PRIx64 "  sp %#" PRIx64, regs->rip, regs->rsp);
		if (t->syscall && t->syscall->in_progress)
			print_call(t->syscall->number, out);
		fputc('\n', out);
	}
}

const struct kage_kind kage_kind_threads = {
	.name = "threads",
	.capture = capture,
	.build_thread = build_thread,
	.print = print,
};
