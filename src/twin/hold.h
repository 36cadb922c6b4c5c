/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A twin in hand: it can be made to split off *lives*, which go on where the target stood.
 *
 * Held, a twin is traced by the calling thread and stands; should that thread end at whatever instant, the twin ends,
 * and so does a life that was not let go yet (PTRACE_O_EXITKILL). Batches reach both through memory that the twin
 * shares with us. What a fork takes along of what is not the twin's own is given up: shared mappings, and the
 * vDSO's page in which the batch lay that made the twin.
 */
#ifndef TWIN_HOLD_H
#define TWIN_HOLD_H

#include "twin/forkx.h"

/** Takes TWIN, which was made wakeable, in hand, with room for batches of AREA_BYTES. Only the calling thread can do
 *  anything with it from here on. After an error it is to be ended. */
struct kage_err *kage_twin_hold(struct kage_twin *twin, size_t area_bytes) _must_check_;

struct kage_twin_birth {
	pid_t number; /* its PID, in the namespace if there is one; 0: any */
	int pidns,
		own_ns; /* the PID namespace that it is born into, and the twin's own; descriptors of ours, or -1 */
};

/** Splits a life off: a process that stands, with the memory of TWIN, one thread, one descriptor (0, on which
 *  kage_twin_give() arrives), no signal actions changed, parent as the twin's. It dies with us until it is let go.
 *  KAGE_PERM where the twin may not have the birth so, KAGE_BUSY where the number is taken. */
struct kage_err *kage_twin_split(struct kage_twin *twin, const struct kage_twin_birth *birth,
				 struct kage_target **ret_life) _must_check_;

enum { KAGE_TWIN_GIVE_MOST = 250 }; /* in one message: SCM_MAX_FD is 253 */

/** Takes back what was sent and has not been received, so that the next life does not get it: to be called when the
 *  making of a life has failed. */
void kage_twin_take_back(struct kage_twin *twin);

/** Sends descriptors FDS (at most KAGE_TWIN_GIVE_MOST) to whoever receives from TWIN's socket next. */
struct kage_err *kage_twin_give(const struct kage_twin *twin, const int *fds, size_t n)
	_must_check_;

/** The same through a SOCKET of ours. */
struct kage_err *kage_twin_send(int socket, const int *fds, size_t n) _must_check_;

/** Says in B that N descriptors are received from descriptor SOCKET, which is 0 in twins and lives. *RET_AT: the offset in
 *  B's data of their numbers, one int each. */
void kage_twin_say_receive(struct kage_batch *b, int socket, size_t n, size_t *ret_at);

/** What is left to do when it has been killed; for kage_twin_end(). */
void kage_twin_release(struct kage_twin *twin);

#endif
