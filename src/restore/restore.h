/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving an image life: what the files of this folder share. See DESIGN.md, "life of a restore".
 */
#ifndef RESTORE_RESTORE_H
#define RESTORE_RESTORE_H

#include "kind/kind.h"

/* The memory through which batches reach the stub: mapped here and there at the same address. */
struct stub_area {
	uint8_t *base;  /* code page, then the area */
	size_t bytes;   /* of both */
	uint64_t spare; /* a free address behind it, for moving the vDSO by way of it */
};

enum { STUB_SPARE_BYTES = 256 * 1024 };

/** Maps the memory for batches of up to AREA_BYTES where neither the image nor we have anything. */
struct kage_err *stub_area_map(struct kage_restore *r, size_t area_bytes,
			       struct stub_area *ret_area) _must_check_;
void stub_area_unmap(struct stub_area *area);

/** Makes the process that becomes the image's: a child of ours, frozen, with one thread, all our
 *  memory and descriptors, no signal handlers. It ends when we do. It has the image's number, here
 *  or in a PID namespace of its own, as the options say. */
struct kage_err *stub_make(struct kage_restore *r, const struct stub_area *area,
			   struct kage_target **ret_stub) _must_check_;

/** Ends a stub that did not come to life, and reaps it; NULL is fine. */
void stub_destroy(struct kage_target *stub);

struct lazy;

/** Writes the contents of all private mappings into the stub, but for what LAZY (NULL: nothing) leaves for
 *  later. */
struct kage_err *restore_fill(struct kage_restore *r, const struct lazy *lazy) _must_check_;

/** Makes the image's other threads in the stub. */
struct kage_err *threads_make(struct kage_restore *r) _must_check_;

/** Gives each thread what is its own, the leader after the calls that B has gathered for it; takes rights away. */
struct kage_err *threads_build(struct kage_restore *r, struct kage_batch *b) _must_check_;

/* What is common to the waits of one restore. */
struct waits {
	bool looked;    /* for slots */
	size_t n_slots; /* given so far */
};

/** Lets thread I, which stands before the call that it waited in with registers REGS, wait no longer than
 *  what was left of its time. *RET_BEGUN: it has been made to enter the call, and is left interrupted in
 *  it, all registers in place. Else REGS may have changed, and have yet to be loaded. */
struct kage_err *waits_begin(struct kage_restore *r, struct waits *w, size_t i,
			     struct kage_regs *regs, bool *ret_begun) _must_check_;

/** Lets those threads go that waited in a call on a socket for a time that the socket says, so that they
 *  wait no longer than what was left of it. All have their final registers and masks; the others
 *  still stand. */
void waits_release_on_sockets(struct kage_restore *r);

/** Takes the batch's memory away, loads registers and masks, lets go. From here on the process runs
 *  (or stands stopped by SIGSTOP, with STOPPED). */
struct kage_err *threads_release(struct kage_restore *r, const struct stub_area *area, bool stopped)
	_must_check_;

/** Prepares R; restore_deinit() frees what it holds, also after an error. */
struct kage_err *restore_init(struct kage_restore *r, struct kage_ctx *ctx,
			      struct kage_image *image, const struct kage_restore_options *options)
	_must_check_;
void restore_deinit(struct kage_restore *r);

/** Gathers in B the calls of a step of all kinds: build or FINISH. */
struct kage_err *restore_say_step(struct kage_restore *r, bool finish, struct kage_batch *b)
	_must_check_;

/** Room that batches for IMAGE need. */
struct kage_err *restore_area_bytes(const struct kage_image *image, size_t *ret_bytes) _must_check_;

/** A system call instruction in the vDSO, where R's image has it. */
struct kage_err *restore_find_syscall(struct kage_restore *r, uint64_t *ret_address) _must_check_;

/* With a twin (wake.c): the process is split off, frozen; calls that bring our descriptors, and for the very end. */
struct kage_err *wake_make(struct kage_restore *r, struct kage_target **ret_life) _must_check_;
struct kage_err *wake_say_descriptors(struct kage_restore *r, struct kage_batch *b) _must_check_;
struct kage_err *wake_finish(struct kage_restore *r, struct kage_batch *b) _must_check_;

/** How R's program is told that it is a copy: as WISH says ("SIGUSR1", "fd:7", "none"), NULL: as KAGE_TWIN in its
 *  environment does. VALUE comes along. */
struct kage_err *wake_choose_event(struct kage_restore *r, const char *wish, uint32_t value)
	_must_check_;

/** The signal that tells of the end of batches in R's stub. */
struct kage_err *stub_choose_event(const struct kage_restore *r, int *ret_signal) _must_check_;

/** Whether there is nothing to be done for KIND, because the process is born with it. */
static inline bool restore_has(const struct kage_restore *r, const struct kage_kind *kind)
{
	return r->twin && !r->in_place && kind->carried;
}

/** Names every obstacle in R; restore_check() fails if one of them is fatal. */
struct kage_err *restore_look(struct kage_restore *r) _must_check_;
struct kage_err *restore_check(struct kage_restore *r) _must_check_;

#endif
