/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors: what is common to all kinds of them. Which numbers there are, which of them share one
 * open file description, flags, offset and owner stand here; what is behind them in one file a kind.
 *
 * Capture never touches the target: every descriptor is duplicated into this process
 * (pidfd_getfd(2)). A duplicate shares its description, so nothing here seeks, sets flags or reads
 * in a way that consumes; what needs an offset of its own opens the file once more.
 *
 *	scan	  target frozen: numbers, duplicates, descriptions, every kind's capture
 *	finish	  target running again: what needs no instant (build-ids, hashes, carried files)
 *	free
 *
 *	check	  restore: all obstacles
 *	make	  in our own process: every description, at numbers above all that the image uses
 *	place	  in the stub: to their numbers, everything else closed
 *	start	  what runs with time
 */
#ifndef KIND_FDS_H
#define KIND_FDS_H

#include "kind/kind.h"

/** Fills C->fds and the image's descriptors and descriptions. */
struct kage_err *kage_fds_scan(struct kage_capture *c) _must_check_;

/** After the thaw, before the pages are finished. Obstacles noted here are never fatal. */
struct kage_err *kage_fds_finish(struct kage_capture *c) _must_check_;

/** Closes our duplicates and frees what the scan made; the image stays. */
void kage_fds_free(struct kage_capture *c);

struct kage_err *kage_fds_check(struct kage_restore *r) _must_check_;

/** Makes all descriptions; R->fds has them afterwards. */
struct kage_err *kage_fds_make(struct kage_restore *r) _must_check_;

/** Adds to B the calls that put them in place. No call of B after these can use a descriptor that was
 *  inherited from us. */
struct kage_err *kage_fds_place(struct kage_restore *r, struct kage_batch *b) _must_check_;

struct kage_err *kage_fds_start(struct kage_restore *r) _must_check_;

/* The same for one description, the I-th or D. */
struct kage_err *kage_fds_make_one(struct kage_restore *r, size_t i) _must_check_;
struct kage_err *kage_fds_place_one(struct kage_restore *r, const Kage__Description *d,
				    struct kage_batch *b) _must_check_;
void kage_fds_place_owner(struct kage_restore *r, const Kage__Description *d, struct kage_batch *b);
struct kage_err *kage_fds_start_one(struct kage_restore *r, size_t i) _must_check_;

/** Whether D has an offset that can be set. */
bool kage_fds_has_offset(const Kage__Description *d);

/** Gives what our descriptor FD refers to offset and flags of D. */
struct kage_err *kage_fds_set_state(const Kage__Description *d, int fd) _must_check_;

/** Fills C, all zeros, with the descriptors of T and what they share; nothing is captured. kage_fds_unsee() frees it, also
 *  after an error. */
struct kage_err *kage_fds_see(struct kage_ctx *ctx, struct kage_target *t, struct kage_capture *c)
	_must_check_;
void kage_fds_unsee(struct kage_capture *c);

void kage_fds_print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full);

/* --- for the kinds --------------------------------------------------------------------------- */

/** The open flags in the fdinfo text of FD, O_CLOEXEC of the descriptor included. */
uint32_t kage_fds_flags(const struct kage_fd_seen *fd);

/** Whether FD's link begins with PREFIX. */
bool kage_fds_link_is(const struct kage_fd_seen *fd, const char *prefix);

/** "fd 7 (socket:[1234])" in C's arena, for obstacles. Never NULL. */
const char *kage_fds_label(struct kage_capture *c, const struct kage_fd_seen *fd);

/** The same on restore: "fd 7" or "fd 7, fd 9". Never NULL. */
const char *kage_fds_label_of(struct kage_restore *r, const Kage__Description *d);

/** The index of D in the image's list. */
size_t kage_fds_index(const struct kage_restore *r, const Kage__Description *d);

/** Raises our own soft limit of open files to the hard one: we hold a duplicate of every descriptor of
 *  a target, or make all of an image's. */
void kage_fds_raise_limit(void);

/** Opens what our descriptor FD refers to once more, with an offset and flags of its own. -1 and
 *  errno on failure. */
int kage_fds_reopen(int fd, int flags);

#endif
