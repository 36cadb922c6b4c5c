/* SPDX-License-Identifier: Apache-2.0 */
#include "store/squeeze.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <xxhash.h>

/* Threads give way to the program whose image is stored, which is running again. */
enum { NICENESS = 5 };

size_t kage_squeeze_now(ZSTD_CCtx *zstd, const void *raw, size_t size, void *room)
{
	size_t n;

	if (!zstd || size < 2)
		return 0;
	n = ZSTD_compress2(zstd, room, size - 1, raw, size);
	return ZSTD_isError(n) ? 0 : n; /* it did not fit */
}

static void work(ZSTD_CCtx *zstd, struct squeeze_job *job)
{
	size_t n = kage_squeeze_now(zstd, job->raw, job->raw_bytes, job->room);

	job->stored = n ? job->room : job->raw;
	job->stored_bytes = n ? n : job->raw_bytes;
	job->checksum = XXH3_64bits(job->stored, job->stored_bytes);
}

static ZSTD_CCtx *new_zstd(int level)
{
	ZSTD_CCtx *zstd = ZSTD_createCCtx();

	if (zstd)
		ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, level);
	return zstd;
}

static void *thread_main(void *arg)
{
	struct squeeze *s = arg;
	ZSTD_CCtx *zstd = new_zstd(s->level); /* without one, jobs stay as they are */

	setpriority(PRIO_PROCESS, 0, NICENESS); /* on Linux, of this thread */
	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct squeeze_job *job;

		while (!s->stop && s->n_claimed == s->n_submitted)
			pthread_cond_wait(&s->filled, &s->lock);
		if (s->stop)
			break;
		job = &s->jobs[s->n_claimed++ % s->n_jobs];
		pthread_mutex_unlock(&s->lock);
		work(zstd, job);
		pthread_mutex_lock(&s->lock);
		job->done = true;
		pthread_cond_signal(&s->finished);
	}
	pthread_mutex_unlock(&s->lock);
	ZSTD_freeCCtx(zstd);
	return NULL;
}

/* Signals are for the threads that were there before. */
static void start_threads(struct squeeze *s, unsigned n)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (s->n_threads < n &&
	       pthread_create(&s->threads[s->n_threads], NULL, thread_main, s) == 0)
		s->n_threads++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

struct kage_err *kage_squeeze_init(struct squeeze *s, int level, size_t job_bytes,
				   unsigned n_threads)
{
	n_threads = n_threads < SQUEEZE_THREADS ? n_threads : SQUEEZE_THREADS;
	*s = (struct squeeze){
		.level = level,
		.job_bytes = job_bytes,
		.n_jobs = n_threads ? 3 * (size_t)n_threads : 1,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.filled = PTHREAD_COND_INITIALIZER,
		.finished = PTHREAD_COND_INITIALIZER,
	};
	s->zstd = new_zstd(level);
	if (!s->zstd)
		return kage_err_nomem();
	for (size_t i = 0; i < s->n_jobs; i++) {
		s->jobs[i].raw = malloc(job_bytes);
		s->jobs[i].room = malloc(job_bytes);
		if (!s->jobs[i].raw || !s->jobs[i].room)
			return kage_err_nomem();
	}
	start_threads(s, n_threads);
	return NULL;
}

void kage_squeeze_deinit(struct squeeze *s)
{
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_broadcast(&s->filled);
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < s->n_threads; i++)
		pthread_join(s->threads[i], NULL);
	for (size_t i = 0; i < s->n_jobs; i++) {
		free(s->jobs[i].raw);
		free(s->jobs[i].room);
	}
	ZSTD_freeCCtx(s->zstd);
	pthread_cond_destroy(&s->filled);
	pthread_cond_destroy(&s->finished);
	pthread_mutex_destroy(&s->lock);
	*s = (struct squeeze){ 0 };
}

bool kage_squeeze_full(const struct squeeze *s)
{
	return s->n_submitted - s->n_taken == s->n_jobs;
}

unsigned char *kage_squeeze_raw(struct squeeze *s)
{
	return s->jobs[s->n_submitted % s->n_jobs].raw;
}

void kage_squeeze_submit(struct squeeze *s, size_t size)
{
	struct squeeze_job *job = &s->jobs[s->n_submitted % s->n_jobs];

	pthread_mutex_lock(&s->lock);
	job->raw_bytes = size;
	job->done = false;
	s->n_submitted++;
	pthread_cond_signal(&s->filled);
	pthread_mutex_unlock(&s->lock);
}

const struct squeeze_job *kage_squeeze_take(struct squeeze *s)
{
	struct squeeze_job *job = &s->jobs[s->n_taken % s->n_jobs];

	if (s->n_taken == s->n_submitted)
		return NULL;
	s->n_taken++;
	if (s->n_threads == 0) {
		work(s->zstd, job);
		return job;
	}
	pthread_mutex_lock(&s->lock);
	while (!job->done)
		pthread_cond_wait(&s->finished, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return job;
}
