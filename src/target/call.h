/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that somebody wants a program to make: of any kind, of any length. All threads stand while they are made, for
 * some milliseconds; then the others go on.
 */
#ifndef TARGET_CALL_H
#define TARGET_CALL_H

#include "target/batch.h"

/** What is done instead of a batch while THREAD stands. */
typedef struct kage_err *kage_call_instead_fn(void *user, struct kage_target *t,
					      struct kage_thread *thread);

struct target_call {
	const struct kage_taskread *reader; /* NULL: every thread is stopped */
	pid_t tid;                          /* in which thread; 0: any */
	bool execs;                         /* it may make it another program */
	uint64_t timeout_ns;                /* then it is given up; 0: never */
	struct kage_batch *batch;
	kage_call_instead_fn *instead; /* NULL: the batch is run */
	void *user;
	/* Results: */
	pid_t in_tid;
	bool gave_up;
	bool replaced;     /* it is another program now */
	uint64_t pause_ns; /* that all threads stood */
};

/** Makes T perform the calls of C. */
struct kage_err *kage_target_call(struct kage_target *t, struct target_call *c) _must_check_;

#endif
