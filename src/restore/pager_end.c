/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The descriptor is closed by a batch of one call, in the program and in those that it has forked meanwhile. When
 * the pager and its watcher end with theirs, nothing is registered any more.
 */
#include "restore/pager_end.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/iter.h"
#include "sys/taskread.h"
#include "sys/text.h"
#include "sys/uffd.h"
#include "target/batch.h"

enum {
	SPAN_NS = 1000 * 1000,
	AGAIN_NS = 20 * 1000 * 1000,
	AGAIN_MAX_NS = 32 * AGAIN_NS,
	STATUS_MAX = 1 << 16,
};

/* --- who has it ------------------------------------------------------------------------------- */

/* 0: it has; above: not; -1 and errno: not to be told. */
static long compare(const struct pager_job *job, pid_t pid)
{
	return syscall(SYS_kcmp, getpid(), pid, KCMP_FILE, job->uffd, job->kept_fd);
}

static bool has_it(const struct pager_job *job, pid_t pid)
{
	return compare(job, pid) == 0;
}

static bool has_ended(const struct pager_job *job)
{
	struct pollfd end = { .fd = job->pidfd, .events = POLLIN };

	return poll(&end, 1, 0) == 1;
}

static bool leader_has_ended(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char path[32];
	const char *state;
	struct kage_err *e;
	size_t size;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	e = kage_file_slurp(AT_FDCWD, path, STATUS_MAX, &text, &size);
	state = e ? NULL : kage_text_field(text, "State", &size);
	err_drop(e);
	return !state || *state == 'Z';
}

/*
 * Of the program itself, silence is no proof: if it has the descriptor still when we leave, its first touch of a
 * missing page hangs. EBADF is an answer (it has closed it), but not from a leader that has ended: that has no
 * descriptors, and other threads of the program run.
 */
static bool program_may_have_it(const struct pager_job *job)
{
	long r = compare(job, job->pid);
	int num = errno;

	if (r > 0 || (r < 0 && num == ESRCH) || has_ended(job))
		return false;
	return r == 0 || num != EBADF || leader_has_ended(job->pid);
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

	TRY(kage_target_stop_one(t, reader, 0, false, SPAN_NS, &thread));
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
		e = kage_target_get_ready(t, reader);
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

static void do_nothing(const struct pager_job *job, pid_t pid)
{
	(void)job;
	(void)pid;
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
	return program_may_have_it(job) || pager_holders(job, do_nothing);
}

void pager_end(const struct pager_job *job)
{
	struct timespec again = { .tv_nsec = AGAIN_NS };

	while (take_away_all(job)) {
		/* Somebody traces it, or it cannot be stopped just now: of that we are told by nobody. */
		nanosleep(&again, NULL);
		if (again.tv_nsec < AGAIN_MAX_NS)
			again.tv_nsec *= 2;
	}
}

/* --- instead of an end ------------------------------------------------------------------------ */

/* Also if that cannot be told just now. */
static bool anybody_lives(void)
{
	_cleanup_dir_ DIR *dir = opendir("/proc/self/fd");
	struct dirent *d;
	char what[64];

	while (dir && (d = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), d->d_name, what, sizeof(what) - 1);

		what[n > 0 ? n : 0] = '\0';
		if (strstr(what, "[userfaultfd]") && kage_uffd_is_alive(atoi(d->d_name)))
			return true;
	}
	return !dir;
}

void pager_outlive_all(const struct pager_job *job)
{
	const struct timespec again = { .tv_sec = 1 };
	struct pollfd end = { .fd = job->pidfd, .events = POLLIN };

	/* All is said: nobody has to wait for the end of our output. And a number is free, should they be used up. */
	dup2(STDIN_FILENO, STDERR_FILENO);
	close(STDIN_FILENO);
	while (poll(&end, 1, -1) < 0 && errno == EINTR)
		;
	/* Who reads its memory from outside, as restoring does, keeps it alive and waits for a page. */
	for (size_t i = 0; i < job->memory->n_mappings; i++)
		if (job->later[i])
			kage_uffd_unregister(job->uffd, job->memory->mappings[i]->start,
					     job->memory->mappings[i]->end);
	/* Nobody tells when the address space of a process that we do not know is gone. */
	while (anybody_lives())
		nanosleep(&again, NULL);
}
