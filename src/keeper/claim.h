/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One recorder a history: two would store each other's images in between, and the history would jump from one
 * program to the other.
 *
 * The claim is a lock on the file .recorder-NAME of the store, so it ends with whoever holds it; what the file says
 * is for the message that the second one gets.
 */
#ifndef KEEPER_CLAIM_H
#define KEEPER_CLAIM_H

#include <sys/types.h>

#include "store/dir.h"

struct claim {
	int fd; /* -1: none */
	char file[KAGE_NAME_BYTES + 16];
	const struct kage_store *store;
};

#define CLAIM_INIT ((struct claim){ .fd = -1 })

/** Claims the history NAME of STORE for the recording of process PID. KAGE_BUSY names who has it. */
struct kage_err *kage_claim_take(const struct kage_store *store, const char *name, pid_t pid,
				 struct claim *ret_claim) _must_check_;

void kage_claim_release(struct claim *c);

#endif
