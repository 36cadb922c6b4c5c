/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registers of x86-64: by ptrace, in messages, and at the edge of a system call.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "arch/arch.h"
#include "arch/x86_64/x86_64.h"

const char *const kage_arch_name = "x86_64";

struct kage_err *kage_arch_get_regs(pid_t tid, bool with_xstate, struct kage_regs *ret_regs)
{
	struct iovec iov = { &ret_regs->gp, sizeof(ret_regs->gp) };

	if (ptrace(PTRACE_GETREGSET, tid, (void *)NT_PRSTATUS, &iov) < 0)
		return kage_err_sys(errno, "read registers of thread %d", tid);
	ret_regs->xstate_size = 0;
	if (!with_xstate)
		return NULL;
	iov = (struct iovec){ ret_regs->xstate, sizeof(ret_regs->xstate) };
	if (ptrace(PTRACE_GETREGSET, tid, (void *)NT_X86_XSTATE, &iov) < 0)
		return kage_err_sys(errno, "read extended state of thread %d", tid);
	ret_regs->xstate_size = iov.iov_len;
	return NULL;
}

struct kage_err *kage_arch_set_regs(pid_t tid, bool with_xstate, const struct kage_regs *regs)
{
	struct iovec iov;

	if (with_xstate && regs->xstate_size) {
		iov = (struct iovec){ (void *)regs->xstate, regs->xstate_size };
		if (ptrace(PTRACE_SETREGSET, tid, (void *)NT_X86_XSTATE, &iov) < 0)
			return kage_err_sys(errno, "set extended state of thread %d", tid);
	}
	iov = (struct iovec){ (void *)&regs->gp, sizeof(regs->gp) };
	if (ptrace(PTRACE_SETREGSET, tid, (void *)NT_PRSTATUS, &iov) < 0)
		return kage_err_sys(errno, "set registers of thread %d", tid);
	return NULL;
}

bool kage_arch_in_syscall(const struct kage_regs *regs, uint64_t *ret_number)
{
	if ((int64_t)regs->gp.orig_rax < 0)
		return false;
	*ret_number = regs->gp.orig_rax;
	return true;
}

void kage_arch_set_sp(struct kage_regs *regs, uint64_t sp)
{
	regs->gp.rsp = sp;
}

uint64_t kage_arch_sp(const struct kage_regs *regs)
{
	return regs->gp.rsp;
}

uint64_t kage_arch_ip(const struct kage_regs *regs)
{
	return regs->gp.rip;
}

void kage_arch_set_ip(struct kage_regs *regs, uint64_t ip)
{
	regs->gp.rip = ip;
}

bool kage_x86_settle(struct kage_regs *regs, bool same_thread)
{
	struct user_regs_struct *r = &regs->gp;
	uint64_t number;

	if (!kage_arch_in_syscall(regs, &number))
		return false;
	switch (-(int64_t)r->rax) {
	case ERESTARTSYS:
	case ERESTARTNOINTR:
	case ERESTARTNOHAND:
		r->rax = number;
		break;
	case ERESTART_RESTARTBLOCK:
		r->rax = same_thread ? (uint64_t)SYS_restart_syscall : number;
		break;
	default:
		r->orig_rax = (uint64_t)-1;
		return false;
	}
	r->rip -= KAGE_ARCH_SYSCALL_BYTES;
	r->orig_rax = (uint64_t)-1;
	return true;
}

bool kage_arch_end_call(struct kage_regs *regs)
{
	uint64_t number;

	if (!kage_arch_in_syscall(regs, &number) || !kage_x86_settle(regs, true))
		return false;
	regs->gp.rip += KAGE_ARCH_SYSCALL_BYTES;
	regs->gp.rax = (uint64_t)-EINTR;
	return true;
}

void kage_arch_keep_bases(const struct kage_regs *now, struct kage_regs *regs)
{
	regs->gp.fs_base = now->gp.fs_base;
	regs->gp.gs_base = now->gp.gs_base;
}

void kage_arch_settle_syscall(struct kage_regs *regs, Kage__SyscallState *state)
{
	uint64_t number, args[6] = { regs->gp.rdi, regs->gp.rsi, regs->gp.rdx,
				     regs->gp.r10, regs->gp.r8,  regs->gp.r9 };
	bool timed = -(int64_t)regs->gp.rax == ERESTART_RESTARTBLOCK;

	if (!kage_arch_in_syscall(regs, &number))
		return;
	state->in_progress = true;
	state->number = number;
	for (size_t i = 0; i < 6 && state->args; i++)
		state->args[i] = args[i];
	if (!kage_x86_settle(regs, false))
		state->restart = KAGE__SYSCALL_STATE__RESTART__NONE;
	else
		state->restart = timed ? KAGE__SYSCALL_STATE__RESTART__TIME_LEFT
				       : KAGE__SYSCALL_STATE__RESTART__AGAIN;
}

/* Both ways in one list, so that no register is forgotten in one of them. */
/* clang-format off */
#define EACH_REGISTER(X)                                                \
	X(r15, r15) X(r14, r14) X(r13, r13) X(r12, r12) X(rbp, rbp)     \
	X(rbx, rbx) X(r11, r11) X(r10, r10) X(r9, r9) X(r8, r8)         \
	X(rax, rax) X(rcx, rcx) X(rdx, rdx) X(rsi, rsi) X(rdi, rdi)     \
	X(rip, rip) X(rsp, rsp) X(eflags, rflags) X(fs_base, fs_base)   \
	X(gs_base, gs_base) X(cs, cs) X(ss, ss) X(ds, ds) X(es, es)     \
	X(fs, fs) X(gs, gs)
/* clang-format on */

struct kage_err *kage_arch_encode_regs(struct arena *a, const struct kage_regs *regs,
				       Kage__Registers *msg)
{
	Kage__RegistersX8664 *m = arena_new(a, Kage__RegistersX8664);

	if (!m)
		return kage_err_nomem();
	kage__registers_x86_64__init(m);
#define ENCODE(theirs, ours) m->ours = (__typeof__(m->ours))regs->gp.theirs;
	EACH_REGISTER(ENCODE)
#undef ENCODE
	if (regs->xstate_size) {
		m->xsave.data = arena_dup(a, regs->xstate, regs->xstate_size);
		m->xsave.len = regs->xstate_size;
		if (!m->xsave.data)
			return kage_err_nomem();
	}
	msg->arch_case = KAGE__REGISTERS__ARCH_X86_64;
	msg->x86_64 = m;
	return NULL;
}

struct kage_err *kage_arch_decode_regs(const Kage__Registers *msg, struct kage_regs *ret_regs)
{
	const Kage__RegistersX8664 *m;

	if (!msg || msg->arch_case != KAGE__REGISTERS__ARCH_X86_64)
		return kage_err_new(KAGE_UNSUPPORTED, "the image's registers are not x86-64's");
	m = msg->x86_64;
	if (m->xsave.len > sizeof(ret_regs->xstate))
		return kage_err_new(KAGE_CORRUPT, "the extended state has %zu bytes", m->xsave.len);
	memset(ret_regs, 0, sizeof(*ret_regs));
#define DECODE(theirs, ours) ret_regs->gp.theirs = m->ours;
	EACH_REGISTER(DECODE)
#undef DECODE
	ret_regs->gp.orig_rax = (uint64_t)-1;
	ret_regs->xstate_size = m->xsave.len;
	if (m->xsave.len)
		memcpy(ret_regs->xstate, m->xsave.data, m->xsave.len);
	return NULL;
}
