/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors of a program that goes back in place: what is still the same object stays, and gets its offset and
 * flags; what is another one by now, or has contents that changed, is made anew, as for a restore.
 *
 *	look	  the program is frozen: what it has now, and what of it stays
 *	make	  in our own process: the others
 *	settle	  offsets and flags of all
 *	place	  in the program: all to their numbers, everything else closed
 */
#ifndef KIND_FDS_BACK_H
#define KIND_FDS_BACK_H

#include "kind/kind.h"

/* What a description was of, as long as the same kernel runs. */
struct kage_fd_id {
	uint64_t dev, ino;
	uint32_t mode;
	char *link; /* as /proc/PID/fd shows it */
	char *info; /* of /proc/PID/fdinfo: of what has no inode of its own the state */
};

/** After a capture: what each of C's descriptions is, in their order. */
struct kage_err *kage_fds_ids(struct kage_capture *c, struct kage_fd_id **ret_ids, size_t *ret_n)
	_must_check_;
void kage_fds_ids_free(struct kage_fd_id *ids, size_t n);

struct kage_fds_back;

/** Looks at the descriptors of R->stub, which is frozen, and finds those that are what IDS say. */
struct kage_err *kage_fds_back_look(struct kage_restore *r, const struct kage_fd_id *ids, size_t n,
				    struct kage_fds_back **ret_back) _must_check_;
void kage_fds_back_destroy(struct kage_fds_back *back);

/** A number above all that the program has or had. */
int kage_fds_back_floor(const struct kage_fds_back *back);

/** Makes what is not kept. Nothing of the program is changed. */
struct kage_err *kage_fds_back_make(struct kage_restore *r, const struct kage_fds_back *back)
	_must_check_;

/** The descriptor of ours (borrowed) that description I is to get in the program; -1: it has it. */
int kage_fds_back_ours(const struct kage_restore *r, const struct kage_fds_back *back, size_t i);

/** Gives all their offsets and flags. */
struct kage_err *kage_fds_back_settle(struct kage_restore *r) _must_check_;

/** Calls for the program. THERE[i]: under which number it has what kage_fds_back_ours() told. */
struct kage_err *kage_fds_back_place(struct kage_restore *r, const struct kage_fds_back *back,
				     const int *there, struct kage_batch *b) _must_check_;

/** Starts what was made. */
struct kage_err *kage_fds_back_start(struct kage_restore *r, const struct kage_fds_back *back)
	_must_check_;

#endif
