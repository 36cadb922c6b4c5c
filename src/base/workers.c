/* SPDX-License-Identifier: Apache-2.0 */
#include "base/workers.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include "base/cleanup.h"

unsigned kage_processors(void)
{
	cpu_set_t set;

	/* Of a machine with more than fit in the set, which are over a thousand. */
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		return (unsigned)CPU_COUNT(&set);
	return errno == EINVAL ? CPU_SETSIZE : 1;
}

/* Each takes the next of N items that nobody has taken, until one fails. */
struct work {
	kage_worker_fn *fn;
	void *user;
	size_t n;
	pthread_mutex_t lock; /* of those below */
	size_t n_taken;
	size_t n_numbered; /* threads */
	struct kage_err *e;
};

/* The next item; false at the end or after an error. E is that of the last one. */
static bool take_next(struct work *w, struct kage_err *e, size_t *ret_i)
{
	bool more;

	pthread_mutex_lock(&w->lock);
	if (!w->e)
		w->e = e;
	else
		err_drop(e);
	more = !w->e && w->n_taken < w->n;
	if (more)
		*ret_i = w->n_taken++;
	pthread_mutex_unlock(&w->lock);
	return more;
}

static void *thread_main(void *arg)
{
	struct work *w = arg;
	struct kage_err *e = NULL;
	size_t i, number;

	pthread_mutex_lock(&w->lock);
	number = w->n_numbered++;
	pthread_mutex_unlock(&w->lock);
	while (take_next(w, e, &i))
		e = w->fn(w->user, number, i);
	return NULL;
}

struct kage_err *kage_workers_run(kage_worker_fn *fn, void *user, size_t n, bool many)
{
	unsigned n_processors = many ? kage_processors() : 1;
	struct work w = { .fn = fn, .user = user, .n = n };
	pthread_t threads[WORKERS_MAX - 1];
	size_t n_threads = 0;
	sigset_t all, old;

	pthread_mutex_init(&w.lock, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (n_threads < WORKERS_MAX - 1 && n_threads + 1 < n_processors &&
	       pthread_create(&threads[n_threads], NULL, thread_main, &w) == 0)
		n_threads++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	thread_main(&w);
	for (size_t i = 0; i < n_threads; i++)
		pthread_join(threads[i], NULL);
	pthread_mutex_destroy(&w.lock);
	return w.e;
}
