/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The twins of one program, held by the calling thread: made, woken, ended, counted.
 */
#ifndef KEEPER_BROOD_H
#define KEEPER_BROOD_H

#include <kage/twins.h>

#include "base/ctx.h"
#include "capture/cloned.h"
#include "image/image.h"
#include "restore/back.h"
#include "target/target.h"
#include "twin/hold.h"

struct brood_twin {
	uint64_t number;
	struct kage_twin *twin;
	struct kage_image *image; /* all but the memory that is in the twin */
	struct cloned_instant instant;
	uint64_t own_bytes; /* as of the last look */
	uint64_t total_ns;  /* that its making took */
	unsigned n_lives;
	pid_t reader; /* a child of ours that stores an image of it; 0: none */
	bool dropped; /* when the reader is done it ends */
};

struct brood {
	struct kage_ctx *ctx;
	const char *name;            /* borrowed */
	struct kage_target *program; /* NULL before the first twin */
	char comm[17];
	struct brood_twin **v; /* ascending */
	size_t n;
	uint64_t last_number;
	struct back_tracking tracking;
	uint64_t max_memory; /* 0: none */
	unsigned keep;       /* 0: all */
};

/** Opens process PID, which started at START_TICKS, as the one that all twins of B are of. KAGE_BUSY when that is another one. */
struct kage_err *brood_open(struct brood *b, pid_t pid, uint64_t start_ticks) _must_check_;

/** Makes a twin of process PID, which started at START_TICKS and is the one that all twins of B are of. *RET_DROPPED: how
 *  many older ones had to go. */
struct kage_err *brood_add(struct brood *b, pid_t pid, uint64_t start_ticks,
			   struct brood_twin **ret_twin, size_t *ret_dropped) _must_check_;

/** The twin that WHICH (behind the '@'; "": the latest) names. */
struct kage_err *brood_find(struct brood *b, const char *which, struct brood_twin **ret_twin)
	_must_check_;

/** Ends it, or as soon as nobody reads it. */
void brood_drop(struct brood *b, struct brood_twin *twin);

/** Its reader is done. */
void brood_unread(struct brood *b, pid_t reader);

/** Counts the memory of all. */
void brood_count(struct brood *b);

/** Ends the oldest as long as the limits are passed, or memory is short. Returns how many it was. */
size_t brood_fit(struct brood *b);

/** Ends those whose process somebody else has ended. */
void brood_bury(struct brood *b);

/** Whether the program lives. */
bool brood_program_lives(const struct brood *b);

void brood_deinit(struct brood *b);

#endif
