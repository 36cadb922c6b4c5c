/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this folder share. */
#ifndef ARCH_X86_64_X86_64_H
#define ARCH_X86_64_X86_64_H

#include "arch/arch.h"

#define X86_FLAGS_TF (1u << 8)
#define X86_FLAGS_DF (1u << 10)
#define X86_FLAGS_AC (1u << 18)

/* What the kernel returns inside itself for an interrupted system call, seen only by tracers
 * (include/linux/errno.h). */
enum {
	ERESTARTSYS = 512,
	ERESTARTNOINTR = 513,
	ERESTARTNOHAND = 514,
	ERESTART_RESTARTBLOCK = 516,
};

/** Does to REGS what the kernel does to an interrupted call when no handler runs: steps back onto
 *  the system call instruction. A call with a restart block becomes restart_syscall when
 *  SAME_THREAD (which still has that block), and the call itself otherwise. Returns whether the
 *  call is made again. */
bool kage_x86_settle(struct kage_regs *regs, bool same_thread);

/** Whether a stop ends the waiting call NUMBER with EINTR though it could simply be made again. */
bool kage_x86_ends_with_eintr(uint64_t number);

#endif
