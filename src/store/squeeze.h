/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compressing groups of pages, by several threads when there is enough to do.
 *
 * Jobs are given and taken in one order by one thread, the owner; what happens between is none of
 * its business. The states of a job, and who moves it on:
 *
 *	free → filled     the owner: raw(), then submit()
 *	filled → claimed  a thread
 *	claimed → done    the same thread
 *	done → free       the owner: take(), until its next call
 *
 * Without threads take() does the work itself.
 */
#ifndef STORE_SQUEEZE_H
#define STORE_SQUEEZE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zstd.h>

#include "base/err.h"

enum { SQUEEZE_THREADS = 4, SQUEEZE_JOBS = 3 * SQUEEZE_THREADS };

struct squeeze_job {
	unsigned char *raw, *room; /* each of job_bytes */
	size_t raw_bytes, stored_bytes;
	const unsigned char *stored; /* raw or room */
	uint64_t checksum;           /* XXH3-64 of what is stored */
	bool done;
};

struct squeeze {
	int level;
	size_t job_bytes;
	ZSTD_CCtx *zstd; /* the owner's */
	struct squeeze_job jobs[SQUEEZE_JOBS];
	size_t n_jobs;
	uint64_t n_submitted, n_claimed, n_taken; /* jobs by number; modulo n_jobs their place */
	pthread_t threads[SQUEEZE_THREADS];
	size_t n_threads;
	pthread_mutex_t lock; /* of the counts but n_taken, and of done */
	pthread_cond_t filled, finished;
	bool stop;
};

/** Prepares for jobs of at most JOB_BYTES with up to N_THREADS threads, 0 for none. LEVEL is zstd's.
 *  Fewer threads than asked for are no error. S must not move afterwards. Deinit also after failure.
 */
struct kage_err *kage_squeeze_init(struct squeeze *s, int level, size_t job_bytes,
				   unsigned n_threads) _must_check_;
void kage_squeeze_deinit(struct squeeze *s);

/** Whether a job has to be taken before another one can be filled. */
bool kage_squeeze_full(const struct squeeze *s);

/** Where the bytes of the next job go. Not while full. */
unsigned char *kage_squeeze_raw(struct squeeze *s);

/** The next job has its first SIZE bytes. */
void kage_squeeze_submit(struct squeeze *s, size_t size);

/** The oldest job, done; waits for it. NULL when none is there. Valid until the next call. */
const struct squeeze_job *kage_squeeze_take(struct squeeze *s);

/** Compresses SIZE bytes at RAW into ROOM, which has as many. The size of the result, or 0 when it would
 *  not be smaller. */
size_t kage_squeeze_now(ZSTD_CCtx *zstd, const void *raw, size_t size, void *room);

#endif
