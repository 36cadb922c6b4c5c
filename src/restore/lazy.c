/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lazy restore. A userfaultfd of the stub makes whoever touches a missing page wait, the kernel on its behalf
 * included; the pager (pager.c) brings it. Three hold that userfaultfd:
 *
 *	the pager	reads it and fills memory
 *	the watcher	its parent, and an orphan: when the pager is killed it makes another at once. Both have the
 *			same table of descriptors (CLONE_FILES), so that what the kernel gives one (the
 *			userfaultfd of a forked child) is not lost with it, and the same log of what was told.
 *	the program	should both be killed, faults wait, where without it they would find zeros
 *
 * Filled at once are small things and those where it would not be right: what the program shares, locks, has guards
 * in, wipes in children, what grows down, what is a file's.
 */
#include "restore/lazy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "restore/pager.h"
#include "restore/pager_end.h"
#include "sys/uffd.h"

enum {
	KEPT_FLOOR = 1000, /* a number that programs rarely come to */
	MANY_PAGES = 1024, /* below that a restore is over before a pager has begun */
	SMALL_BYTES = 1 << 18,
};

struct lazy {
	struct kage_restore *r;
	struct pager_job job;
	uint8_t *later;
	int begin_fd; /* the end of job.begin_fd that we close */
};

/* --- what ------------------------------------------------------------------------------------- */

static bool can_wait(const Kage__Mapping *m)
{
	return m->backing == KAGE__MAPPING__BACKING__ANONYMOUS && !m->shared && !m->hugetlb_bytes &&
	       !m->locked && !m->lock_on_fault && !m->grows_down && !m->wipe_on_fork &&
	       !m->shadow_stack && !m->droppable && m->n_guards == 0 &&
	       m->end - m->start >= SMALL_BYTES;
}

static bool any_can_wait(const struct kage_restore *r)
{
	const Kage__Memory *m = r->process->memory;

	if (m->lock_future || kage_pages_total(r->image->pages) < MANY_PAGES)
		return false;
	for (size_t i = 0; i < m->n_mappings; i++)
		if (can_wait(m->mappings[i]))
			return true;
	return false;
}

static struct kage_err *explain(struct kage_err *e)
{
	if (kage_err_errno(e) == EPERM)
		return kage_err_advise(e, "restoring with --lazy needs CAP_SYS_PTRACE; leave out "
					  "--lazy");
	return kage_err_advise(e, "leave out --lazy");
}

/* Its own number must not be one that the program has, or is given. */
static int kept_floor(const struct kage_restore *r)
{
	int floor = KEPT_FLOOR;

	for (size_t i = 0; i < r->process->n_descriptors; i++)
		if ((int)r->process->descriptors[i]->fd >= floor)
			floor = (int)r->process->descriptors[i]->fd + 1;
	for (size_t i = 0; i < r->options->n_fds; i++)
		if (r->options->fds[i].fd >= floor)
			floor = r->options->fds[i].fd + 1;
	return floor;
}

static struct kage_err *make_uffd(struct lazy *l)
{
	struct kage_restore *r = l->r;
	struct kage_batch b;
	struct kage_err *e;
	size_t fd, kept;

	kage_batch_init(&b);
	fd = BATCH(&b, "make a userfaultfd", SYS_userfaultfd, V(O_CLOEXEC | O_NONBLOCK));
	kept = BATCH(&b, "keep it", SYS_fcntl, RESULT(fd), V(F_DUPFD_CLOEXEC), V(kept_floor(r)));
	BATCH(&b, "close it", SYS_close, RESULT(fd));
	e = kage_batch_run(r->stub, r->stub->threads[0], &b);
	r->kept_fd = e ? -1 : (int)kage_batch_result(&b, kept);
	kage_batch_deinit(&b);
	if (!e)
		e = kage_target_get_fd(r->stub, r->kept_fd, &l->job.uffd);
	if (!e)
		e = kage_uffd_begin_missing(
			l->job.uffd, UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
					     UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP);
	return e ? explain(e) : NULL;
}

static struct kage_err *make_log(struct lazy *l)
{
	void *p = mmap(NULL, sizeof(*l->job.log), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return kage_err_sys(errno, "map %zu bytes for a pager", sizeof(*l->job.log));
	l->job.log = p;
	return NULL;
}

static struct kage_err *prepare(struct lazy *l)
{
	const Kage__Memory *m = l->r->process->memory;

	l->later = calloc(m->n_mappings + 1, 1);
	if (!l->later)
		return kage_err_nomem();
	TRY(make_uffd(l));
	for (size_t i = 0; i < m->n_mappings; i++)
		l->later[i] = can_wait(m->mappings[i]) &&
			      kage_uffd_register_missing(l->job.uffd, m->mappings[i]->start,
							 m->mappings[i]->end);
	return make_log(l);
}

struct kage_err *lazy_prepare(struct kage_restore *r, struct lazy **ret_lazy)
{
	struct lazy *l;
	struct kage_err *e;

	*ret_lazy = NULL;
	if (!r->options->lazy || !any_can_wait(r))
		return NULL;
	l = calloc(1, sizeof(*l));
	if (!l)
		return kage_err_nomem();
	l->r = r;
	l->job.uffd = l->job.begin_fd = l->begin_fd = -1;
	e = prepare(l);
	if (e) {
		lazy_destroy(l);
		return e;
	}
	*ret_lazy = l;
	return NULL;
}

const uint8_t *lazy_later(const struct lazy *lazy)
{
	return lazy->later;
}

void lazy_destroy(struct lazy *l)
{
	if (!l)
		return;
	close_fd(l->job.uffd);
	close_fd(l->job.begin_fd);
	close_fd(l->begin_fd);
	if (l->job.log)
		munmap(l->job.log, sizeof(*l->job.log));
	free(l->later);
	free(l);
}

/* --- watcher and pager ------------------------------------------------------------------------ */

static void end_holder(const struct pager_job *job, pid_t pid)
{
	(void)job;
	kill(pid, SIGKILL);
}

void pager_give_up(const struct pager_job *job, struct kage_err *why)
{
	if (job->lost)
		job->lost(job->lost_user, job->pid, kage_err_message(why));
	/* Those that it has forked are owed pages, too. */
	pager_holders(job, end_holder);
	pidfd_send_signal(job->pidfd, SIGKILL, NULL, 0);
	err_drop(why);
	pager_outlive_all(job);
}

static void close_some(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		close_fd(fds[i]);
}

/* Each child that is forked meanwhile is one. */
static void allow_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* What belongs to the program, or to whoever waits for the end of our output. Keys and the end of a session
 * are for others. */
static void leave_all(const struct kage_restore *r)
{
	static const int ignored[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGTSTP };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	close_some(r->fds, r->image->msg->n_descriptions);
	close_some(r->given, r->options->n_fds);
	close_some(r->files, r->image->msg->n_files);
	close_some(r->spaces, r->image->msg->n_spaces);
	close_fd(r->tty_fd);
	allow_descriptors();
	setsid();
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
	}
	if (chdir("/") < 0)
		return; /* then a file system cannot be unmounted for a while */
}

static _Noreturn void watch(const struct lazy *l)
{
	int status = 0;
	pid_t pid;

	leave_all(l->r);
	close_fd(l->begin_fd);
	do {
		/* With our table of descriptors, and memory of its own. */
		pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
		if (pid == 0)
			pager_run(&l->job);
		while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	} while (pid > 0 && WIFSIGNALED(status));
	/* Without another process it brings them itself. */
	if (pid < 0)
		pager_run(&l->job);
	_exit(0);
}

/* --- what a thread's end needs ---------------------------------------------------------------- */

/* Whoever reads a page that is missing waits for it, we too. What cannot be read the kernel cannot either. */
static bool bring(const struct kage_restore *r, uint64_t at, void *to, size_t size)
{
	struct kage_err *e = kage_target_read(r->stub, addr(at), to, size);
	bool had = !e;

	err_drop(e);
	return had;
}

/* The words of a robust list and of the futexes that it names (kernel/futex/core.c: exit_robust_list()). */
static void bring_robust_list(const struct kage_restore *r, uint64_t list)
{
	struct robust_list_head head;
	uint64_t entry, next;
	uint32_t word;

	if (!bring(r, list, &head, sizeof(head)))
		return;
	if (head.list_op_pending)
		(void)bring(r,
			    ((uint64_t)(uintptr_t)head.list_op_pending & ~1ULL) +
				    (uint64_t)head.futex_offset,
			    &word, sizeof(word));
	entry = (uint64_t)(uintptr_t)head.list.next & ~1ULL;
	for (int i = 0; i < ROBUST_LIST_LIMIT && entry != list; i++, entry = next & ~1ULL)
		if (!bring(r, entry, &next, sizeof(next)) ||
		    !bring(r, entry + (uint64_t)head.futex_offset, &word, sizeof(word)))
			return;
}

/*
 * A thread that ends does not wait for a userfaultfd (fs/userfaultfd.c: handle_userfault(), PF_EXITING): who joins it
 * would wait for ever, and whoever waits for a robust mutex of it.
 */
static void bring_for_ends(const struct kage_restore *r)
{
	uint32_t word;

	for (size_t i = 0; i < r->process->n_threads; i++) {
		const Kage__Thread *t = r->process->threads[i];

		if (t->clear_child_tid)
			(void)bring(r, t->clear_child_tid, &word, sizeof(word));
		if (t->robust_list)
			bring_robust_list(r, t->robust_list);
	}
}

/* --- beginning -------------------------------------------------------------------------------- */

/* An orphan, so that its end is nobody's business. */
struct kage_err *lazy_start(struct lazy *l)
{
	struct kage_restore *r;
	int fds[2];
	pid_t pid;

	if (!l)
		return NULL;
	r = l->r;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return kage_err_sys(errno, "make a pipe");
	l->job.begin_fd = fds[0];
	l->begin_fd = fds[1];
	l->job.ctx = r->ctx;
	l->job.image = r->image;
	l->job.space = r->process->memory->space;
	l->job.pid = r->stub->pid;
	l->job.pidfd = r->stub->pidfd;
	l->job.kept_fd = r->kept_fd;
	l->job.memory = r->process->memory;
	l->job.later = l->later;
	l->job.lost = r->options->lazy_lost;
	l->job.lost_user = r->options->lazy_user;
	pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			watch(l);
		_exit(pid < 0);
	}
	if (pid < 0)
		return kage_err_sys(errno, "make a process that brings pages");
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	bring_for_ends(r);
	return NULL;
}
