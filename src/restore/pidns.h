/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PID namespace for one restored process, in which all its old numbers are free.
 *
 * Programs keep their own numbers in memory (the C library in every thread, for locks), so a
 * restored one must see the numbers that it had. Its namespace's first process is a small one of
 * ours that waits for the restored one's end, and then ends too.
 */
#ifndef RESTORE_PIDNS_H
#define RESTORE_PIDNS_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct pidns {
	int pidfd;   /* of its first process */
	int tell_fd; /* a pipe to it: the number of the process to wait for; its end means: end */
	int own_fd;  /* our own namespace */
};

#define PIDNS_NONE ((struct pidns){ -1, -1, -1 })

/** Makes the namespace; its first process waits to be told. That is a child of ours, or of our own parent (ORPHAN), who
 *  has to take note of its end. */
struct kage_err *pidns_create(bool orphan, struct pidns *ret_ns) _must_check_;

/** From now on children of this thread are born in NS; and in our own again. */
struct kage_err *pidns_enter(const struct pidns *ns) _must_check_;
struct kage_err *pidns_leave(const struct pidns *ns) _must_check_;

/** Ties the life of NS to the process that has number INNER in it. */
struct kage_err *pidns_tie(struct pidns *ns, pid_t inner) _must_check_;

/** Lets go of NS; one that was not tied ends. */
void pidns_deinit(struct pidns *ns);

#endif
