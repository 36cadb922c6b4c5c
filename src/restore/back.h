/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rollback: a running program goes back, in place, to the instant of a twin of it. Process, parent and numbers stay;
 * what is still as it was stays as it is.
 *
 *	freeze	  all threads stand
 *	look	  what differs; what cannot be taken back refuses
 *	make	  descriptors that the program has no longer are made in our own process
 *	hand	  memory for batches is mapped into the program
 *		  --- from here on it ends with us, and after an error ---
 *	reset	  threads that are newer end; signals that wait, timers, actions go
 *	memory	  mappings, then pages
 *	build	  as for a restore
 *	release	  the hand goes; registers, masks, go
 */
#ifndef RESTORE_BACK_H
#define RESTORE_BACK_H

#include "capture/cloned.h"
#include "restore/restore.h"
#include "sys/vmaread.h"
#include "target/tracker.h"
#include "twin/hold.h"

struct back_options {
	struct kage_restore_options restore;
	bool end_children; /* that it has started since; else they are refused */
};

struct back_result {
	uint64_t pause_ns; /* that the program stood */
	uint64_t pages;    /* written back */
	uint64_t n_made;   /* descriptors made anew */
	uint64_t total_ns;
};

/* What is known from one rollback to the next: which pages the program has written since. */
struct back_tracking {
	struct kage_tracker *tracker; /* of the program; NULL: none */
	const struct kage_twin *
		twin; /* to which the program was taken back when all was protected; NULL: to none */
	struct kage_vmaread
		*vmas; /* tells which mappings have no page of its own; NULL: all are looked at */
	bool sought;   /* VMAS was */
};

/** Forgets it, and takes the tracking away; the program may run. */
void kage_back_untrack(struct back_tracking *tracking);

/** Takes PROGRAM back to TWIN, which is of it and held by the calling thread; IMAGE and INSTANT are of the same clone.
 *  TRACKING is all zeros at first, and wants kage_back_untrack() in the end. A refusal leaves the program as it was; an error
 *  in the middle ends it. */
struct kage_err *kage_back(struct kage_ctx *ctx, struct kage_target *program,
			   struct kage_image *image, struct kage_twin *twin,
			   struct cloned_instant *instant, struct back_tracking *tracking,
			   const struct back_options *options, struct back_result *ret_result)
	_must_check_;

/* --- for the files of rollback ---------------------------------------------------------------- */

enum { BACK_CALLS_AT_ONCE = 1000 };

/* One rollback. */
struct back {
	struct kage_restore *r;
	struct kage_target *program;
	struct cloned_instant *then;
	struct back_tracking *tracking;
	struct kage_maps now;      /* without the hand */
	struct stub_area hand;     /* in the program only */
	uint64_t syscall_at;       /* an instruction in its vDSO */
	uint64_t *masks;           /* signal masks of its threads as of the freeze */
	struct kage_fds_back *fds; /* what becomes of its descriptors */
	bool *has_space;           /* of each object of shared memory: the program has it still */
	uint64_t max_fds;          /* its hard limit of open files */
	int floor;                 /* a number above all of its descriptors */
	int here;    /* our end of a socket to it; its own has number `floor`; -1: none yet */
	int n_there; /* descriptors that it has received, from `floor` + 1 on */
	bool waits_for_calls;    /* what was gathered must have been run before pages are written */
	struct kage_batch calls; /* for the leader, gathered until there is a need to run them */
	struct back_result result;
};

/** Runs what K->calls has gathered; the second one only if that is much. */
struct kage_err *back_flush(struct back *k) _must_check_;
struct kage_err *back_flush_long(struct back *k) _must_check_;

/** Gives the program our N descriptors FDS; *RET_FIRST is the number of the first, the others follow. */
struct kage_err *back_give(struct back *k, const int *fds, size_t n, int *ret_first) _must_check_;

/** Ends the threads that are newer; makes those that are gone; all in the order of the image. */
struct kage_err *back_end_threads(struct back *k) _must_check_;
struct kage_err *back_make_threads(struct back *k) _must_check_;

/** Reads the map of the program. */
struct kage_err *back_read_maps(struct back *k, struct kage_maps *ret_maps) _must_check_;

/** Refuses mappings that can neither be changed nor taken away. */
struct kage_err *back_check_seals(const struct back *k) _must_check_;

/** Whether VMA is ours, in the program for a while. */
bool back_is_hand(const struct back *k, const struct kage_vma *vma);

/** Mappings and their contents. */
struct kage_err *back_memory(struct back *k) _must_check_;

/** Guards (MADV_GUARD_INSTALL): those of the instant instead of those that the program has NOW. */
struct kage_err *back_guards(struct back *k, const struct page_runs *now) _must_check_;

/** Finds the objects of shared memory that the program has still; their contents. */
struct kage_err *back_find_spaces(struct back *k) _must_check_;
struct kage_err *back_spaces(struct back *k) _must_check_;

#endif
