/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runner: performs a batch inside a target.
 *
 * Position independent; touches no stack, no extended state, and no memory but the batch's own
 * area. Enters with
 *	r15	address of struct kage_run
 *	r14	address of the first struct kage_call (kage_run.next)
 * and performs calls until none is left or one fails that must not. Then it leaves: unmaps the
 * area, sets the signal mask, loads every register as it was and jumps back. So a target goes on by
 * itself, should the one who started the batch be gone; if it is not, it takes the thread back in
 * the batch's last call, and nothing after that runs.
 *
 * No signal frame is used to go back: rt_sigreturn would reset the restart block, and with it what
 * is left of an interrupted sleep (kernel/signal.c: restore_altstack and sigreturn set
 * current->restart_block.fn = do_no_restart_syscall).
 *
 * A call that makes a process may name calls for that process (kage_call.child): it performs those, and the last of
 * them ends it. It may share the area, so it writes no result of the call that made it.
 *
 * Offsets in struct kage_call: number 0, args 8…48, from_memory 56, go_on 60, result 64, child 72; size 80.
 */
	.intel_syntax noprefix
	.section .rodata.kage_runner, "a", @progbits
	.balign 16
	.globl kage_runner_start, kage_runner_end, kage_runner_map, kage_runner_saved
	.globl kage_runner_split
	.hidden kage_runner_start, kage_runner_end, kage_runner_map, kage_runner_saved
	.hidden kage_runner_split

	.macro load_arg reg, index
	mov	\reg, [r14 + 8 + 8 * \index]
	bt	dword ptr [r14 + 56], \index
	jnc	9f
	mov	\reg, [\reg]
9:
	.endm

kage_runner_start:
next:
	cmp	qword ptr [r15 + 8], 0
	je	leave
	load_arg rdi, 0
	load_arg rsi, 1
	load_arg rdx, 2
	load_arg r10, 3
	load_arg r8, 4
	load_arg r9, 5
	mov	rax, [r14]
	syscall
	test	rax, rax
	jnz	3f
	mov	rcx, [r14 + 72]
	test	rcx, rcx
	jz	3f
	mov	r15, rcx
	mov	r14, [r15]
	jmp	next
3:	mov	[r14 + 64], rax
	dec	qword ptr [r15 + 8]
	cmp	rax, -4095
	jb	1f
	cmp	dword ptr [r14 + 60], 0
	jne	1f
	/* It failed and must not: the last call of every batch tells, so go on there. */
	mov	rcx, [r15 + 8]
	test	rcx, rcx
	jz	leave
	dec	rcx
	imul	rcx, rcx, 80
	add	r14, rcx
	mov	qword ptr [r15 + 8], 1
1:	add	r14, 80
	mov	[r15], r14
	jmp	next

	/* Enters with the arguments of clone in their registers. The new process is held by whoever
	   started this before its first instruction; if nobody does, it ends at once. The old one
	   waits for it, so that nothing of it is left. */
kage_runner_split:
	syscall
	test	rax, rax
	jz	2f
	js	leave
	mov	rdi, rax
	mov	esi, 0
	mov	edx, 0x40000000		/* __WALL */
	mov	r10d, 0
	mov	eax, 61			/* wait4 */
	syscall
	jmp	leave
2:	mov	edi, 0
	mov	eax, 60			/* exit */
	syscall
	ud2

	/* Enters with the arguments of mmap in their registers. Whoever started this takes the
	   thread back at the call's end; if nobody does, it leaves. */
kage_runner_map:
	syscall
	nop
leave:
	/* Signals are held back first: while rsp points to the flags no frame may be pushed. */
	mov	edi, 2			/* SIG_SETMASK */
	lea	rsi, all_signals[rip]
	mov	edx, 0
	mov	r10d, 8
	mov	eax, 14			/* rt_sigprocmask */
	syscall
	mov	rdi, saved_area[rip]
	mov	rsi, saved_area_bytes[rip]
	mov	eax, 11			/* munmap */
	syscall
	lea	rsp, saved_flags[rip]
	popfq
	/* From here on nothing may change the flags; system calls and moves do not. */
	mov	rsp, saved_rsp[rip]
	mov	edi, 2
	lea	rsi, saved_mask[rip]
	mov	edx, 0
	mov	r10d, 8
	mov	eax, 14
	syscall
	mov	r15, saved_r15[rip]
	mov	r14, saved_r14[rip]
	mov	r13, saved_r13[rip]
	mov	r12, saved_r12[rip]
	mov	rbp, saved_rbp[rip]
	mov	rbx, saved_rbx[rip]
	mov	r11, saved_r11[rip]
	mov	r10, saved_r10[rip]
	mov	r9, saved_r9[rip]
	mov	r8, saved_r8[rip]
	mov	rax, saved_rax[rip]
	mov	rcx, saved_rcx[rip]
	mov	rdx, saved_rdx[rip]
	mov	rsi, saved_rsi[rip]
	mov	rdi, saved_rdi[rip]
	jmp	qword ptr saved_rip[rip]

	.balign 8
kage_runner_saved:		/* the order of struct saved in runner.c */
saved_r15:		.quad 0
saved_r14:		.quad 0
saved_r13:		.quad 0
saved_r12:		.quad 0
saved_rbp:		.quad 0
saved_rbx:		.quad 0
saved_r11:		.quad 0
saved_r10:		.quad 0
saved_r9:		.quad 0
saved_r8:		.quad 0
saved_rax:		.quad 0
saved_rcx:		.quad 0
saved_rdx:		.quad 0
saved_rsi:		.quad 0
saved_rdi:		.quad 0
saved_rip:		.quad 0
saved_rsp:		.quad 0
saved_flags:		.quad 0
saved_mask:		.quad 0
saved_area:		.quad 0
saved_area_bytes:	.quad 0
all_signals:		.quad -1
kage_runner_end:

	.section .note.GNU-stack, "", @progbits
