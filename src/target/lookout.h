/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process of ours that watches us while a target makes a call that may block (target/call.h). Should we die at whatever
 * instant, nobody would end that call: the thread would stay in it, and not in its program. The lookout ends
 * it then (EINTR), and the thread goes back by itself.
 *
 * It is not seen by whoever waits for children (its exit signal is none), and takes no signal but SIGKILL, in a process group of
 * its own, so that what ends us does not end it.
 */
#ifndef TARGET_LOOKOUT_H
#define TARGET_LOOKOUT_H

#include "target/target.h"

struct lookout {
	pid_t pid; /* 0: none */
};

/** Posts one for T. To be called before anything in T stands: it takes some time. */
struct kage_err *kage_lookout_post(struct kage_target *t, struct lookout *ret_lookout) _must_check_;

/** Ends it. */
void kage_lookout_end(struct lookout *lookout);

#endif
