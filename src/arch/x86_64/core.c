/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registers of x86-64 as core files have them.
 *
 * Works on the image's message alone and stores byte by byte, so that every machine can write the
 * core of an x86-64 image. A thread is shown as a debugger sees it while it waits: behind its
 * system call instruction, although the image has it on the instruction, to make the call again.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/x86_64/x86_64.h"

enum {
	SYSCALL_INSN_BYTES = 2,
	FXSAVE_BYTES = 512,
	SW_XCR0_AT = 464, /* where the kernel tells XCR0 (struct _fpx_sw_bytes) */
	SW_BYTES = 48,
	HEADER_AT = 512, /* XSTATE_BV, XCOMP_BV and zeros */
	HEADER_BYTES = 64,
	XSTATE_MIN_BYTES = HEADER_AT + HEADER_BYTES,
};

/* --- extended state --------------------------------------------------------------------------- */

enum { BIT_AVX = 2, BIT_BNDREGS, BIT_BNDCSR, BIT_K, BIT_ZMM_HIGH, BIT_ZMM, BIT_PKRU = 9, BITS };

/* Offsets of the components 2 to 9, 0 for one that a processor of that make does not have. They are
 * CPUID's to tell (leaf 13) and not in the image, but only these are in use, and the size of the
 * area tells them apart. */
struct layout {
	uint16_t at[BITS];
};

/* Intel's, which is also the only one that debuggers find their way in whatever the processor: gdb
 * before 14 knows no other. */
static const struct layout intel = { {
	[BIT_AVX] = 576,
	[BIT_BNDREGS] = 960,
	[BIT_BNDCSR] = 1024,
	[BIT_K] = 1088,
	[BIT_ZMM_HIGH] = 1152,
	[BIT_ZMM] = 1664,
	[BIT_PKRU] = 2688,
} };

/* AMD's leaves no room for the bounds registers that it never had. */
static const struct layout amd = { {
	[BIT_AVX] = 576,
	[BIT_K] = 832,
	[BIT_ZMM_HIGH] = 896,
	[BIT_ZMM] = 1408,
	[BIT_PKRU] = 2432,
} };

/* AMD's before AVX-512. */
static const struct layout amd_without_zmm = { {
	[BIT_AVX] = 576,
	[BIT_PKRU] = 832,
} };

/* What every processor has at the same place. */
static const struct layout common = { {
	[BIT_AVX] = 576,
} };

static const uint16_t component_bytes[BITS] = {
	[BIT_AVX] = 256,      [BIT_BNDREGS] = 64, [BIT_BNDCSR] = 64, [BIT_K] = 64,
	[BIT_ZMM_HIGH] = 512, [BIT_ZMM] = 1024,   [BIT_PKRU] = 8,
};

static bool has_bit(uint64_t mask, int bit)
{
	return mask >> bit & 1;
}

/* The end of what MASK enables in layout L; 0 when L lacks one of them. */
static size_t layout_end(const struct layout *l, uint64_t mask)
{
	size_t end = XSTATE_MIN_BYTES;

	for (int bit = BIT_AVX; bit < BITS; bit++) {
		if (!has_bit(mask, bit) || !component_bytes[bit])
			continue;
		if (!l->at[bit])
			return 0;
		if (l->at[bit] + (size_t)component_bytes[bit] > end)
			end = l->at[bit] + (size_t)component_bytes[bit];
	}
	return end;
}

static const struct layout *guess_layout(uint64_t xcr0, size_t size)
{
	static const struct layout *const known[] = { &intel, &amd, &amd_without_zmm };

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (layout_end(known[i], xcr0) == size)
			return known[i];
	/* More behind these, such as tiles: only Intel has that. */
	return xcr0 >> BITS && layout_end(&intel, xcr0) <= size ? &intel : &common;
}

static uint64_t load64(const uint8_t *p)
{
	le64 v;

	memcpy(&v, p, sizeof(v));
	return le64_get(v);
}

static void store64(uint8_t *p, uint64_t v)
{
	le64 stored = le64_of(v);

	memcpy(p, &stored, sizeof(stored));
}

/* What of XCR0 a debugger can be shown: the components that L has, all within SIZE bytes. */
static uint64_t shown_components(const struct layout *l, uint64_t xcr0, size_t size)
{
	uint64_t mask = 3; /* x87 and SSE are always there */

	for (int bit = BIT_AVX; bit < BITS; bit++)
		if (has_bit(xcr0, bit) && l->at[bit] &&
		    l->at[bit] + (size_t)component_bytes[bit] <= size)
			mask |= (uint64_t)1 << bit;
	return mask;
}

/* Lays XSAVE out as debuggers expect it: Intel's offsets, XCR0 in the bytes left to software, and no
 * more behind than XCR0 asks for. */
static void fill_xstate(const ProtobufCBinaryData *xsave, uint64_t cpu_xcr0,
			struct kage_core_regs *r)
{
	uint64_t xcr0 = load64(xsave->data + SW_XCR0_AT);
	const struct layout *l;

	if (!(xcr0 & 1)) /* x87 cannot be switched off: nobody wrote it there */
		xcr0 = cpu_xcr0 & 1 ? cpu_xcr0 : load64(xsave->data + HEADER_AT) | 3;
	l = guess_layout(xcr0, xsave->len);
	xcr0 = shown_components(l, xcr0, xsave->len);
	memcpy(r->xstate, xsave->data, HEADER_AT);
	memset(r->xstate + SW_XCR0_AT, 0, SW_BYTES);
	store64(r->xstate + SW_XCR0_AT, xcr0);
	store64(r->xstate + HEADER_AT, load64(xsave->data + HEADER_AT) & xcr0);
	for (int bit = BIT_AVX; bit < BITS; bit++)
		if (has_bit(xcr0, bit))
			memcpy(r->xstate + intel.at[bit], xsave->data + l->at[bit],
			       component_bytes[bit]);
	r->xstate_bytes = layout_end(&intel, xcr0);
	r->xstate_note = NT_X86_XSTATE;
}

/* --- general registers ------------------------------------------------------------------------ */

/* Numbers that only tracers see in rax (x86_64.h), and rip and orig_rax to go with them. */
struct waiting {
	uint64_t rax, rip, orig_rax;
};

/* Which of the restartable errors it was is not in the image, nor does it matter. */
static struct waiting show_waiting(const Kage__RegistersX8664 *m, const Kage__SyscallState *call)
{
	struct waiting w = { m->rax, m->rip, UINT64_MAX };
	int64_t error;

	if (!call || !call->in_progress)
		return w;
	w.orig_rax = call->number;
	if (call->restart == KAGE__SYSCALL_STATE__RESTART__NONE)
		return w;
	w.rip += SYSCALL_INSN_BYTES;
	error = call->restart == KAGE__SYSCALL_STATE__RESTART__TIME_LEFT ? ERESTART_RESTARTBLOCK
									 : ERESTARTSYS;
	if (kage_x86_ends_with_eintr(call->number))
		error = EINTR; /* as any stop makes of it */
	w.rax = (uint64_t)-error;
	return w;
}

/* In the order of struct user_regs_struct (sys/user.h). */
static void fill_general(const Kage__Thread *t, struct kage_core_regs *r)
{
	const Kage__RegistersX8664 *m = t->registers->x86_64;
	struct waiting w = show_waiting(m, t->syscall);
	const uint64_t order[] = {
		m->r15,     m->r14,     m->r13, m->r12, m->rbp,    m->rbx, m->r11,
		m->r10,     m->r9,      m->r8,  w.rax,  m->rcx,    m->rdx, m->rsi,
		m->rdi,     w.orig_rax, w.rip,  m->cs,  m->rflags, m->rsp, m->ss,
		m->fs_base, m->gs_base, m->ds,  m->es,  m->fs,     m->gs,
	};

	_Static_assert(sizeof(order) <= sizeof(r->general), "room for the general registers");
	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		store64(r->general + i * 8, order[i]);
	r->general_bytes = sizeof(order);
}

struct kage_err *kage_arch_core_regs(const Kage__Thread *thread, uint64_t xcr0,
				     struct kage_core_regs *ret_regs)
{
	const ProtobufCBinaryData *xsave;

	if (!thread->registers || thread->registers->arch_case != KAGE__REGISTERS__ARCH_X86_64)
		return kage_err_new(KAGE_UNSUPPORTED,
				    "the registers of thread %d are of a processor "
				    "that this kage does not know",
				    thread->tid);
	xsave = &thread->registers->x86_64->xsave;
	memset(ret_regs, 0, sizeof(*ret_regs));
	ret_regs->machine = EM_X86_64;
	fill_general(thread, ret_regs);
	if (xsave->len >= FXSAVE_BYTES) {
		memcpy(ret_regs->fp, xsave->data, FXSAVE_BYTES - SW_BYTES);
		ret_regs->fp_bytes = FXSAVE_BYTES;
	}
	if (xsave->len >= XSTATE_MIN_BYTES)
		fill_xstate(xsave, xcr0, ret_regs);
	return NULL;
}
