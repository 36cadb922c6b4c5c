/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The descriptor is closed by a batch of one call, in the program and in those that it has forked meanwhile. When
 * the pager and its watcher end with theirs, nothing is registered any more.
 */
#include "restore/pager_end.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sys/iter.h"
#include "sys/taskread.h"
#include "target/batch.h"

enum { SPAN_NS = 1000 * 1000, AGAIN_NS = 20 * 1000 * 1000 };

/* --- who has it ------------------------------------------------------------------------------- */

static bool has_it(const struct pager_job *job, pid_t pid)
{
	return syscall(SYS_kcmp, getpid(), pid, KCMP_FILE, job->uffd, job->kept_fd) == 0;
}

bool pager_holders(const struct pager_job *job, void (*fn)(const struct pager_job *job, pid_t pid))
{
	DIR *dir = opendir("/proc");
	struct dirent *d;
	bool any = false;

	while (dir && (d = readdir(dir))) {
		pid_t pid = (pid_t)atol(d->d_name);

		if (pid > 0 && pid != getpid() && has_it(job, pid)) {
			any = true;
			fn(job, pid);
		}
	}
	if (dir)
		closedir(dir);
	return any;
}

/* --- taking it away --------------------------------------------------------------------------- */

static struct kage_err *close_there(const struct pager_job *job, struct kage_target *t,
				    const struct kage_taskread *reader)
{
	struct kage_thread *thread = NULL;
	struct kage_batch b;
	struct kage_err *e;

	TRY(kage_target_stop_one(t, reader, false, SPAN_NS, &thread));
	/* What runs meanwhile may have closed it, and opened something else. */
	if (!has_it(job, t->pid))
		return NULL;
	kage_batch_init(&b);
	BATCH_TRY(&b, "close the userfaultfd", SYS_close, V(job->kept_fd));
	e = kage_batch_run(t, thread, &b);
	kage_batch_deinit(&b);
	kage_site_leave(t);
	return e;
}

/* A failure is no harm: it is tried again as long as the descriptor is there. */
static void take_away(const struct pager_job *job, pid_t pid)
{
	struct kage_taskread *reader = NULL;
	struct kage_target *t = NULL;
	struct kage_err *e;

	err_drop(kage_taskread_open(KAGE_ITER_PINS, &reader));
	e = kage_target_open(job->ctx, pid, &t);
	if (!e && reader)
		e = kage_target_survey(t, reader);
	if (!e) {
		e = close_there(job, t, reader);
		kage_target_thaw(t, false);
	}
	kage_target_close(t);
	kage_taskread_close(reader);
	err_drop(e);
}

static void *take_away_thread(void *arg)
{
	pager_holders(arg, take_away);
	return NULL;
}

/* In a thread of its own, whose end lets go of whom it traced (capture.c). Whether anybody may have it still. */
static bool take_away_all(const struct pager_job *job)
{
	sigset_t all, before;
	pthread_t thread;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&thread, NULL, take_away_thread, (void *)job);
	if (r == 0)
		pthread_join(thread, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return has_it(job, job->pid) || pager_holders(job, take_away);
}

void pager_end(const struct pager_job *job, const struct pager_map *map, pthread_rwlock_t *lock)
{
	const struct timespec again = { .tv_nsec = AGAIN_NS };
	bool gone = false;

	while (!gone && take_away_all(job)) {
		/* Somebody traces it, or it cannot be stopped just now: of that we are told by nobody. */
		nanosleep(&again, NULL);
		pthread_rwlock_rdlock(lock);
		gone = map->n == 1 && map->spaces[0].gone;
		pthread_rwlock_unlock(lock);
	}
}
