/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that wait in a call on a socket as long as the socket's option says (SO_RCVTIMEO, SO_SNDTIMEO).
 *
 * The kernel looks at the option once, when the call begins. So it is set to what is left of the time
 * through our own descriptor, the one thread is let go, and once it sleeps in its call the option is put
 * back. All other threads stand meanwhile: nobody else can see it.
 *
 * Putting back is the work of a process of its own, which does so too when we are killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "restore/restore.h"

enum { ASLEEP_WITHIN_MS = 200, LOOK_EVERY_NS = 20000 };

struct timeout {
	int fd, option; /* ours */
	struct timeval whole, left;
};

/* --- what there is to do ----------------------------------------------------------------------- */

/* Our descriptor to what the program has at number FD, -1 for none. */
static int our_fd(const struct kage_restore *r, uint64_t fd)
{
	const Kage__Process *p = r->process;
	const Kage__Image *m = r->image->msg;

	for (size_t i = 0; i < p->n_descriptors; i++) {
		if ((uint64_t)p->descriptors[i]->fd != (uint32_t)fd)
			continue;
		for (size_t k = 0; k < m->n_descriptions; k++)
			if (m->descriptions[k]->id == p->descriptors[i]->description)
				return r->fds[k];
	}
	return -1;
}

/* Zero would mean for ever. */
static struct timeval as_timeval(uint64_t ns)
{
	uint64_t us = ns / 1000 + 1;

	return (struct timeval){ (time_t)(us / 1000000), (suseconds_t)(us % 1000000) };
}

/* Whether thread I waits for less than what its socket says. */
static bool find_timeout(const struct kage_restore *r, size_t i, struct timeout *ret_timeout)
{
	const Kage__SyscallState *state = r->process->threads[i]->syscall;
	struct timeout t = { .fd = -1 };
	struct kage_timed_call call;
	socklen_t size = sizeof(t.whole);

	if (!state || state->restart != KAGE__SYSCALL_STATE__RESTART__TIME_LEFT ||
	    state->n_args != 6)
		return false;
	call = kage_arch_timed_call(state->number, state->args);
	if (call.kind != KAGE_TIME_SOCKET)
		return false;
	t.fd = our_fd(r, state->args[call.arg]);
	t.option = call.option;
	t.left = as_timeval(state->left_ns);
	if (t.fd < 0 || getsockopt(t.fd, SOL_SOCKET, t.option, &t.whole, &size) < 0 ||
	    size != sizeof(t.whole) || !timercmp(&t.left, &t.whole, <))
		return false;
	*ret_timeout = t;
	return true;
}

/* --- the option --------------------------------------------------------------------------------- */

/* The process that puts the option back as soon as we say so, or are no more. The C library must not be used here: our
 * other threads may have held its locks. All signals are blocked. */
static _Noreturn void put_back(const struct timeout *t, const int pipe_fds[2])
{
	char c;

	syscall(SYS_close, pipe_fds[1]);
	syscall(SYS_read, pipe_fds[0], &c, 1);
	syscall(SYS_setsockopt, t->fd, SOL_SOCKET, t->option, &t->whole, sizeof(t->whole));
	syscall(SYS_exit_group, 1);
	__builtin_unreachable();
}

static struct kage_err *fork_put_back(const struct timeout *t, const int pipe_fds[2],
				      pid_t *ret_pid)
{
	/* Who traces us must not be able to hold it. */
	struct clone_args args = { .flags = CLONE_UNTRACED };
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0)
		put_back(t, pipe_fds);
	if (pid < 0)
		return kage_err_sys(errno, "make a process");
	*ret_pid = (pid_t)pid;
	return NULL;
}

/* --- letting go --------------------------------------------------------------------------------- */

/* The letter of proc_pid_stat(5); 'X' when it is no more. */
static char state_of(const struct kage_restore *r, pid_t tid)
{
	_cleanup_free_ char *text = NULL;
	struct kage_err *e;
	const char *name_end;
	char path[64];
	size_t size;

	snprintf(path, sizeof(path), "task/%d/stat", tid);
	e = kage_file_slurp(r->stub->proc_fd, path, 4096, &text, &size);
	name_end = e ? NULL : strrchr(text, ')');
	err_drop(e);
	return name_end && name_end[1] == ' ' ? name_end[2] : 'X';
}

/* Running, or about to: 't' until it has noticed that it was let go, 'D' while a page is brought in. One
 * that will not sleep in time has got a longer timeout than it should have, which harms less than waiting
 * for it. */
static void wait_asleep(const struct kage_restore *r, pid_t tid)
{
	const struct timespec moment = { 0, LOOK_EVERY_NS };
	uint64_t begin = kage_clock_mono_ns();

	while (strchr("RtD", state_of(r, tid)) &&
	       kage_clock_mono_ns() - begin < ASLEEP_WITHIN_MS * 1000000ull)
		nanosleep(&moment, NULL);
}

static void let_go(struct kage_restore *r, struct kage_thread *thread, const struct timeout *t)
{
	if (setsockopt(t->fd, SOL_SOCKET, t->option, &t->left, sizeof(t->left)) < 0 ||
	    ptrace(PTRACE_DETACH, thread->tid, NULL, NULL) < 0)
		return;
	thread->attached = false;
	wait_asleep(r, thread->tid);
}

static struct kage_err *release_with(struct kage_restore *r, struct kage_thread *thread,
				     const struct timeout *t)
{
	_cleanup_fd_ int theirs = -1, ours = -1;
	int fds[2];
	pid_t pid = 0;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return kage_err_sys(errno, "make a pipe");
	theirs = fds[0];
	ours = fds[1];
	TRY(fork_put_back(t, fds, &pid));
	let_go(r, thread, t);
	while (write(ours, "", 1) < 0 && errno == EINTR)
		;
	waitpid(pid, NULL, __WALL);
	return NULL;
}

void waits_release_on_sockets(struct kage_restore *r)
{
	for (size_t i = 0; i < r->stub->n_threads; i++) {
		struct timeout t;

		/* What fails here costs a thread some time, nothing else: all are let go in the end. */
		if (find_timeout(r, i, &t))
			err_drop(release_with(r, r->stub->threads[i], &t));
	}
}
