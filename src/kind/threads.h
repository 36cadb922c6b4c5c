/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads: what capture and restore do with all of them, beyond the callbacks of kinds.
 */
#ifndef KIND_THREADS_H
#define KIND_THREADS_H

#include "kind/kind.h"

/** Registers with which the thread of MSG has to go on in the stub: those of the image, moved to the
 *  abort handler when it stood in a restartable sequence. */
struct kage_err *kage_threads_final_regs(struct kage_restore *r, const Kage__Thread *msg,
					 struct kage_regs *ret_regs) _must_check_;

extern const struct kage_kind kage_kind_threads;

#endif
