/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For freeze.c: stopping threads that sleep in a system call which would feel a stop, at the moment at
 * which they wake up by themselves.
 */
#ifndef TARGET_AMBUSH_H
#define TARGET_AMBUSH_H

#include "target/target.h"

/** Waits for the `restless` that would feel a stop (t->info is fresh). Each is stopped at an instruction of
 *  its own program, behind its call. Those that do not come within some milliseconds are restless no more.
 *  Where this cannot be done (rights, kernel) nothing happens. */
struct kage_err *kage_ambush(struct kage_target *t) _must_check_;

#endif
