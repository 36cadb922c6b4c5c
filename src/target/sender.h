/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For freeze.c and ambush.c: stopping a thread at an instruction of its own program, never inside a system
 * call.
 *
 * PTRACE_INTERRUPT ends some system calls with EINTR, and a long write short. We could put that right in the
 * stopped thread, but should we be killed just before, it would stay wrong. So whatever may be in such a
 * call, or soon in the next, is stopped like this:
 *
 *	1. an event that belongs to the thread, and happens while it executes its program, runs a BPF program
 *	   of four instructions (perf_event_open(2)), which sends the thread a signal that it would ignore;
 *	2. the thread is traced, which it does not feel (PTRACE_SEIZE);
 *	3. being traced, it does not get that signal but stops, and we drop the signal.
 *
 * If we are killed at any instant, the event is gone with its descriptor, and a signal that was sent is
 * ignored.
 */
#ifndef TARGET_SENDER_H
#define TARGET_SENDER_H

#include "target/target.h"

struct kage_taskinfo;
struct kage_taskthread;

void kage_sender_init(struct kage_sender *s);
void kage_sender_deinit(struct kage_sender *s);

/** Does what takes long for those threads of T that run, as INFO tells them. What is missing is done when it is
 *  needed, if no thread stands yet. */
void kage_sender_get_ready(struct kage_target *t, const struct kage_taskinfo *info);

/** Gives THREAD, which T->info tells as SEEN, an event: it has come to the instruction at IP. False where that cannot be
 *  had: rights, kernel, or the program has use for all such signals, or it would take long now that threads stand. */
bool kage_sender_at(struct kage_target *t, struct kage_thread *thread,
		    const struct kage_taskthread *seen, uint64_t ip);

/** The same: it executes its own program. That is looked at while it runs, every 20 µs. */
bool kage_sender_in_program(struct kage_target *t, struct kage_thread *thread,
			    const struct kage_taskthread *seen);

/** Whether STOP, of THREAD, is by its event, which may be gone by now; never if it was interrupted since. One by the same
 *  signal of somebody else's is as good: the thread would have ignored it. */
bool kage_sender_sent(const struct kage_thread *thread, const struct kage_stop *stop);

/** Takes the event of THREAD away, at once, so that nothing of it comes afterwards. */
void kage_sender_end(struct kage_thread *thread);

#endif
