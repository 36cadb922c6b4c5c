/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target whose threads stay traced between freezes, so that what they meet can be seen by the one that holds it: signals,
 * system calls, births, exec, their end. It runs at full speed but for that.
 *
 *	opened --kage_target_hold--> held, running --kage_target_freeze--> frozen --kage_target_thaw--> held, running
 *
 * The calling thread is the tracer, and nobody else can do anything with the target from then on. Should it end at any
 * instant, the kernel lets all threads go on, without a stop.
 *
 * A thread that has met something stands (`kept`), through any number of freezes and thaws, until it is let go by
 * kage_target_let().
 */
#ifndef TARGET_HELD_H
#define TARGET_HELD_H

#include "target/target.h"

/* What the kernel says of a thread that is held. */
struct kage_held_stop {
	enum {
		HELD_NOTHING, /* that needs to be known; it goes on */
		HELD_SIGNAL,  /* about to receive `signal` */
		HELD_CALL,    /* at the end of a system call (held_calls, or after HELD_BIRTH) */
		HELD_BIRTH,   /* in a system call that has made the thread or process `born` */
		HELD_EXEC, /* at the end of execve(2): another program; all other threads are gone */
		HELD_EXIT,  /* about to end */
		HELD_ENDED, /* the thread is no more; `thread` is not valid any longer */
	} what;
	int signal;
	pid_t born;
};

/** Traces all threads of T, opened and not frozen, and those to come, without stopping any. On failure the end of the calling
 *  thread lets go of those that are traced. */
struct kage_err *kage_target_hold(struct kage_target *t) _must_check_;

/** The same for a process that is traced already, since its birth, by the calling thread. */
struct kage_err *kage_target_hold_born(struct kage_target *t) _must_check_;

/** From now on each system call is met at its beginning and its end, which is slow; all threads are stopped for that. */
struct kage_err *kage_target_hold_calls(struct kage_target *t) _must_check_;

/** Lets go of all threads, but for such as sleep in a call that would feel a stop: those are let go when they stop next
 *  (kage_target_held_next()). READER: tells who sleeps; NULL: all are stopped. */
void kage_target_unhold(struct kage_target *t, const struct kage_taskread *reader);

/** Takes the next that the kernel has to say of a thread of T, without waiting. False: nothing. THREAD of *RET is kept unless
 *  it is HELD_NOTHING or HELD_ENDED. */
bool kage_target_held_next(struct kage_target *t, struct kage_thread *thread,
			   struct kage_held_stop *ret);

/** A thread that is kept goes on, and receives SIGNAL unless that is 0. */
void kage_target_let(struct kage_target *t, struct kage_thread *thread, int signal);

/** The same, to the end of the system call in which it is. */
void kage_target_let_to_end(struct kage_thread *thread);

/** Lets go of process PID, traced from birth by the calling thread, of which nothing is wanted. It stops first of all. */
void kage_held_let_born(pid_t pid);

/* --- for freeze.c ------------------------------------------------------------------------------ */

/** With these threads are held (PTRACE_O_…). */
extern const uintptr_t kage_held_options;

/** THREAD of T, held, has stopped on its own account while it was asked to: it stands, kept, and kage_target_held_next() tells
 *  of it later. False: it goes on. */
bool kage_held_meets(struct kage_target *t, struct kage_thread *thread,
		     const struct kage_stop *stop);

/** Of what THREAD, which stands, makes for us nobody is to hear. */
void kage_held_quiet(const struct kage_target *t, const struct kage_thread *thread);

/** Whether a thread stands already. */
bool kage_held_any_kept(const struct kage_target *t);

/** It goes on from a stop that was asked for. */
void kage_held_release(struct kage_target *t, struct kage_thread *thread);

#endif
