/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a target's own seccomp filters permit what a batch would do. They are asked beforehand and
 * never suspended: a tracer that dies re-arms them, and the target would die of SIGSYS.
 */
#ifndef TARGET_PERMITS_H
#define TARGET_PERMITS_H

#include "target/target.h"

/** KAGE_UNSUPPORTED naming the first of the N system CALLS that a filter of the stopped THREAD would not
 *  simply allow. */
struct kage_err *kage_target_permits(struct kage_target *t, struct kage_thread *thread,
				     const struct kage_call *calls, size_t n) _must_check_;

#endif
