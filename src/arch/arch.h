/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What differs between processors. One folder each below this one implements these functions; the
 * rest of the tree knows no register by name.
 *
 * Porting guide: a new architecture brings its runner (the code that performs a batch), the
 * conversion of registers to and from image.proto, the rules by which an interrupted system call is
 * made again, and what its vDSO looks like.
 */
#ifndef ARCH_ARCH_H
#define ARCH_ARCH_H

#include <stddef.h>
#include <sys/types.h>
#include <sys/user.h>

#include "base/arena.h"
#include "base/types.h"
#include "image.pb-c.h"
#include "sys/taskread.h"

/** "x86_64": Source.arch of images made here. */
extern const char *const kage_arch_name;

enum { KAGE_ARCH_XSTATE_MAX = 16384 }; /* bytes; AMX tiles take 8,192 of 11,008 */

/* The end of the addresses that every program can have: with 4-level page tables. */
#define KAGE_ARCH_USER_CEILING 0x7ffffffff000ull

/* Which calling convention a seccomp filter is told of (linux/audit.h: AUDIT_ARCH_X86_64). */
#define KAGE_ARCH_AUDIT 0xc000003eu

/* Everything that ptrace gives and takes of one thread's processor state. */
struct kage_regs {
	struct user_regs_struct gp; /* general registers */
	size_t xstate_size;         /* 0: not read */
	_Alignas(64) uint8_t xstate[KAGE_ARCH_XSTATE_MAX];
};

/** Reads or writes the registers of the stopped thread TID; the extended state only if WITH_XSTATE. */
struct kage_err *kage_arch_get_regs(pid_t tid, bool with_xstate, struct kage_regs *ret_regs)
	_must_check_;
struct kage_err *kage_arch_set_regs(pid_t tid, bool with_xstate, const struct kage_regs *regs)
	_must_check_;

/** Whether the thread is inside a system call, and which. */
bool kage_arch_in_syscall(const struct kage_regs *regs, uint64_t *ret_number);

/** The name of system call NUMBER, or NULL. */
const char *kage_arch_syscall_name(uint64_t number);

/** The stack pointer and the instruction pointer. */
uint64_t kage_arch_sp(const struct kage_regs *regs);
void kage_arch_set_sp(struct kage_regs *regs, uint64_t sp);
uint64_t kage_arch_ip(const struct kage_regs *regs);
void kage_arch_set_ip(struct kage_regs *regs, uint64_t ip);

/* --- threads that sleep in a system call and are not stopped (sys/taskread.h) ------------------- */

enum kage_sleep {
	KAGE_SLEEP_OTHER,    /* nothing is known of it: such a thread is stopped */
	KAGE_SLEEP_AGAIN,    /* nothing happens before the sleep ends: the call can be made again */
	KAGE_SLEEP_TRANSFER, /* a part of the bytes may have been moved already */
};

/** What kind of sleep the call NUMBER with ARGS has. */
enum kage_sleep kage_arch_sleep(uint64_t number, const uint64_t args[6]);

/** Whether a program can feel that a thread of it was stopped while it slept in the call NUMBER with ARGS, in a
 *  sleep that a timer may end or not: it ends with EINTR, or short. */
bool kage_arch_stop_is_felt(uint64_t number, const uint64_t args[6], bool timed);

struct kage_taskthread;

/** The registers of T, which sleeps in a system call, as a stop would show them: the call returns what it
 *  has transferred, or is made again. */
struct kage_err *kage_arch_task_regs(const struct kage_taskthread *t, struct kage_regs *ret_regs)
	_must_check_;

/** Changes REGS of a thread stopped on its way out of a system call into what the kernel would make
 *  of them before the program goes on, and says in STATE how the call continues. */
void kage_arch_settle_syscall(struct kage_regs *regs, Kage__SyscallState *state);

/** The way back: changes REGS, which are about to make the call of STATE again, into those of a thread
 *  that was interrupted in it. The kernel makes the call again, unless a handler runs first: then it
 *  ends, or goes on, as it would have for the program. False when there is nothing to change. */
bool kage_arch_interrupt_call(const Kage__SyscallState *state, struct kage_regs *regs);

/** A stop makes some waiting calls end with EINTR. Changes REGS of such a thread so that the kernel makes
 *  the call again, unless a handler runs first: then it is EINTR, as it would have been. False
 *  when there is nothing to change. */
bool kage_arch_undo_eintr(struct kage_regs *regs);

/** Changes REGS of a thread that was interrupted in a call so that the call has failed with EINTR, and is not made again.
 *  False when it is over already. */
bool kage_arch_end_call(struct kage_regs *regs);

/** What calls of a thread itself have changed of its registers (arch_prctl(2)) goes from NOW, as it stands in the runner,
 *  to REGS, with which it will go on. */
void kage_arch_keep_bases(const struct kage_regs *now, struct kage_regs *regs);

/** Of a call that is to be made again and has its timeout in a register: makes it LEFT_NS, if that is less.
 *  Nobody looks at the arguments of a call that he has made. */
void kage_arch_shorten_wait(struct kage_regs *regs, uint64_t left_ns);

/* Where a system call has the relative time that it waits at most. */
struct kage_timed_call {
	enum {
		KAGE_TIME_NONE,     /* it waits for ever, until an instant, or not at all */
		KAGE_TIME_MS,       /* argument `arg` is an int, in milliseconds */
		KAGE_TIME_TIMESPEC, /* argument `arg` points to a timespec */
		KAGE_TIME_TIMEVAL,  /* argument `arg` points to a timeval */
		KAGE_TIME_SOCKET,   /* if argument `arg` is a socket: its option `option` */
	} kind;
	int arg;
	int option;         /* SO_RCVTIMEO or SO_SNDTIMEO */
	bool restart_block; /* interrupted, the kernel itself notes when the call ends */
	bool written_back;  /* ending, it writes what is left of the time to where it stands */
};

/** How the call NUMBER with ARGS gets its time. */
struct kage_timed_call kage_arch_timed_call(uint64_t number, const uint64_t args[6]);

/** Argument I of the system call that REGS make. */
uint64_t kage_arch_arg(const struct kage_regs *regs, int i);
void kage_arch_set_arg(struct kage_regs *regs, int i, uint64_t value);

void kage_arch_set_number(struct kage_regs *regs, uint64_t number);

enum { KAGE_ARCH_CODE_BEFORE = 32, KAGE_ARCH_SYSCALL_BYTES = 2 /* of the instruction itself */ };

/** The number of the call, made with ARGS, that restart_syscall goes on with: its registers have lost
 *  it. KIND is what the kernel notes of it, KAGE_RESTART_NONE when that is not known; then the CODE that
 *  ends where its instruction begins may tell, zeros where there is none. False when it cannot be
 *  told. */
bool kage_arch_restart_number(enum kage_restart kind, const uint64_t args[6],
			      const uint8_t code[KAGE_ARCH_CODE_BEFORE], uint64_t *ret_number);

/** Registers to a message in arena A, and back. */
struct kage_err *kage_arch_encode_regs(struct arena *a, const struct kage_regs *regs,
				       Kage__Registers *msg) _must_check_;
struct kage_err *kage_arch_decode_regs(const Kage__Registers *msg, struct kage_regs *ret_regs)
	_must_check_;

/* --- the runner: performs a batch ------------------------------------------------------------ */

/* One call of a batch as the runner reads it. Lives in the target. */
struct kage_call {
	uint64_t number;
	uint64_t args[6];
	uint32_t from_memory; /* bit i: args[i] is the address of the value, not the value */
	uint32_t go_on;       /* 1: a failure does not end the batch */
	int64_t result;       /* written by the runner: as the kernel returned it */
	uint64_t
		child; /* where it returns 0, that is a new process: goes on with the struct kage_run at
	                       * this address; 0: it goes on here */
};

/* The head of the area in the target that the runner works in. The runner performs calls from
 * `next` until `left` is 0, counting it down. */
struct kage_run {
	uint64_t next; /* address of the next struct kage_call */
	uint64_t left;
};

/* What is laid down for a thread of a live target, so that it comes back by itself. */
struct kage_return {
	struct kage_regs *regs; /* as they were when the thread was stopped */
	uint64_t sigmask;       /* to be set before it goes back */
	uint64_t area;          /* to be unmapped before it goes back, with its size */
	uint64_t area_bytes;
};

/** The code of the runner; position independent, uses no stack. */
const void *kage_arch_runner(size_t *ret_size);

/** Fills CODE (a copy of the runner of SIZE bytes, for the address AT) with what it needs to leave:
 *  the registers of RET. */
void kage_arch_runner_prepare(void *code, const struct kage_return *ret);

/** Registers that enter the runner at address AT for the run at RUN_ADDR, from REGS. */
void kage_arch_enter_runner(const struct kage_regs *regs, uint64_t at, uint64_t run_addr,
			    struct kage_regs *ret_regs);

/** The same for the runner's first part, which maps the area (AREA_BYTES at AREA) before it goes on:
 *  for live targets in which there is no area yet. */
void kage_arch_enter_mapper(const struct kage_regs *regs, uint64_t at, uint64_t area,
			    uint64_t area_bytes, struct kage_regs *ret_regs);

/** The same for the runner's part that makes a new process sharing all memory (clone(2) with
 *  CLONE_FLAGS), waits for its end and goes back. */
void kage_arch_enter_split(const struct kage_regs *regs, uint64_t at, uint64_t clone_flags,
			   struct kage_regs *ret_regs);

/** Registers that perform one system call with the `syscall` instruction at address AT. */
void kage_arch_enter_syscall(const struct kage_regs *regs, uint64_t at, uint64_t number,
			     const uint64_t args[6], struct kage_regs *ret_regs);

/** The offset of a system call instruction in CODE, -1 when there is none. */
long kage_arch_find_syscall(const void *code, size_t size);

/** The value that a system call left in REGS. */
int64_t kage_arch_result(const struct kage_regs *regs);

/* --- core files -------------------------------------------------------------------------------- */

enum {
	KAGE_ARCH_CORE_GENERAL_MAX = 272, /* bytes; of aarch64 */
	KAGE_ARCH_CORE_FP_MAX = 528,
	KAGE_ARCH_CORE_XSTATE_MAX = 2696,
};

/* The registers of a thread as the notes of a core file have them. */
struct kage_core_regs {
	uint16_t machine; /* EM_* of elf.h */
	size_t general_bytes;
	uint8_t general[KAGE_ARCH_CORE_GENERAL_MAX]; /* the end of NT_PRSTATUS */
	size_t fp_bytes;                             /* 0: not known */
	uint8_t fp[KAGE_ARCH_CORE_FP_MAX];           /* NT_FPREGSET */
	uint32_t xstate_note;                        /* type of the note for what follows */
	size_t xstate_bytes;                         /* 0: none */
	uint8_t xstate[KAGE_ARCH_CORE_XSTATE_MAX];
};

/** Registers of THREAD as a debugger sees them in a live process: a system call in progress is not
 *  stepped back. XCR0 is CpuFeatures.xcr0. Needs no particular machine to run on. KAGE_UNSUPPORTED
 *  when they are of an unknown architecture. */
struct kage_err *kage_arch_core_regs(const Kage__Thread *thread, uint64_t xcr0,
				     struct kage_core_regs *ret_regs) _must_check_;

#endif
