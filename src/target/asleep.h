/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For freeze.c: which threads need not be stopped because they sleep.
 */
#ifndef TARGET_ASLEEP_H
#define TARGET_ASLEEP_H

#include "target/target.h"

struct kage_taskthread;

/** Waits until none of the target's sleepers is about to end its sleep by itself within SPAN_NS, for an
 *  instant at which all of them sleep on; not for ever. Leaves t->info fresh. */
struct kage_err *kage_asleep_choose_instant(struct kage_target *t, uint64_t span_ns) _must_check_;

/** Reads the threads again into t->info; NULL when the kernel could not tell. */
struct kage_err *kage_asleep_look(struct kage_target *t) _must_check_;

/** Drops t->info and what points into it. */
void kage_asleep_forget(struct kage_target *t);

/** Whether the thread, as SEEN, runs, or is about to fall asleep or to wake. */
bool kage_asleep_may_run(const struct kage_taskthread *seen);

/** Whether the latest system call of the thread, as SEEN, is one that would feel a stop. */
bool kage_asleep_felt_call(const struct kage_taskthread *seen);

/** Whether the thread, as SEEN, sleeps in a call that would feel a stop. */
bool kage_asleep_would_feel(const struct kage_taskthread *seen);

/** Whether the thread, as SEEN, can be left asleep; fills THREAD with what a stop would have told. */
bool kage_asleep_take(const struct kage_target *t, const struct kage_taskthread *seen,
		      struct kage_thread *thread);

#endif
