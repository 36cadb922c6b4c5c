/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The C side of the runner (runner_code.S): entering it, and what it needs to leave by itself.
 */
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>

#include "arch/arch.h"
#include "arch/x86_64/x86_64.h"

extern const uint8_t kage_runner_start[], kage_runner_end[], kage_runner_map[];
extern const uint8_t kage_runner_saved[], kage_runner_split[];

/* The words behind kage_runner_saved, in order. */
struct saved {
	uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8;
	uint64_t rax, rcx, rdx, rsi, rdi, rip, rsp, flags;
	uint64_t mask, area, area_bytes;
};

_Static_assert(sizeof(struct kage_call) == 80, "runner_code.S knows this size");
_Static_assert(offsetof(struct kage_call, from_memory) == 56, "runner_code.S knows this offset");
_Static_assert(offsetof(struct kage_call, go_on) == 60, "runner_code.S knows this offset");
_Static_assert(offsetof(struct kage_call, result) == 64, "runner_code.S knows this offset");
_Static_assert(offsetof(struct kage_call, child) == 72, "runner_code.S knows this offset");

const void *kage_arch_runner(size_t *ret_size)
{
	*ret_size = (size_t)(kage_runner_end - kage_runner_start);
	return kage_runner_start;
}

void kage_arch_runner_prepare(void *code, const struct kage_return *ret)
{
	struct kage_regs settled = { .gp = ret->regs->gp };
	const struct user_regs_struct *r = &settled.gp;
	struct saved s;

	kage_x86_settle(&settled, true);
	s = (struct saved){
		.r15 = r->r15,
		.r14 = r->r14,
		.r13 = r->r13,
		.r12 = r->r12,
		.rbp = r->rbp,
		.rbx = r->rbx,
		.r11 = r->r11,
		.r10 = r->r10,
		.r9 = r->r9,
		.r8 = r->r8,
		.rax = r->rax,
		.rcx = r->rcx,
		.rdx = r->rdx,
		.rsi = r->rsi,
		.rdi = r->rdi,
		.rip = r->rip,
		.rsp = r->rsp,
		.flags = r->eflags,
		.mask = ret->sigmask,
		.area = ret->area,
		.area_bytes = ret->area_bytes,
	};
	memcpy((uint8_t *)code + (kage_runner_saved - kage_runner_start), &s, sizeof(s));
}

/* orig_rax -1: the kernel must not take what follows for the end of a system call. */
static void redirect(const struct kage_regs *from, uint64_t ip, struct kage_regs *to)
{
	to->gp = from->gp;
	to->xstate_size = 0;
	to->gp.orig_rax = (uint64_t)-1;
	to->gp.rip = ip;
	/* Direction and alignment-check flags would disturb; the runner needs neither. */
	to->gp.eflags &= ~(uint64_t)(X86_FLAGS_TF | X86_FLAGS_DF | X86_FLAGS_AC);
}

void kage_arch_enter_runner(const struct kage_regs *regs, uint64_t at, uint64_t run_addr,
			    struct kage_regs *ret_regs)
{
	redirect(regs, at, ret_regs);
	ret_regs->gp.r15 = run_addr;
	ret_regs->gp.r14 = run_addr + sizeof(struct kage_run);
}

void kage_arch_enter_mapper(const struct kage_regs *regs, uint64_t at, uint64_t area,
			    uint64_t area_bytes, struct kage_regs *ret_regs)
{
	const uint64_t args[6] = { area,
				   area_bytes,
				   3 /* PROT_READ | PROT_WRITE */,
				   0x100022 /* MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE */,
				   (uint64_t)-1,
				   0 };

	kage_arch_enter_syscall(regs, at + (uint64_t)(kage_runner_map - kage_runner_start),
				SYS_mmap, args, ret_regs);
}

void kage_arch_enter_split(const struct kage_regs *regs, uint64_t at, uint64_t clone_flags,
			   struct kage_regs *ret_regs)
{
	const uint64_t args[6] = { clone_flags };

	kage_arch_enter_syscall(regs, at + (uint64_t)(kage_runner_split - kage_runner_start),
				SYS_clone, args, ret_regs);
}

void kage_arch_enter_syscall(const struct kage_regs *regs, uint64_t at, uint64_t number,
			     const uint64_t args[6], struct kage_regs *ret_regs)
{
	struct user_regs_struct *r = &ret_regs->gp;

	redirect(regs, at, ret_regs);
	r->rax = number;
	r->rdi = args[0];
	r->rsi = args[1];
	r->rdx = args[2];
	r->r10 = args[3];
	r->r8 = args[4];
	r->r9 = args[5];
}

long kage_arch_find_syscall(const void *code, size_t size)
{
	static const uint8_t insn[] = { 0x0f, 0x05 };
	const uint8_t *found = memmem(code, size, insn, sizeof(insn));

	return found ? (long)(found - (const uint8_t *)code) : -1;
}

int64_t kage_arch_result(const struct kage_regs *regs)
{
	return (int64_t)regs->gp.rax;
}
