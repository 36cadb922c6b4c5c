/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session and the process group of a process, and its controlling terminal.
 *
 * A program that is restored on the terminal of the caller's session is a job of that session, as a
 * shell starts one: it leads a process group, because nothing else of its old group is in the
 * image, and gets the foreground if the caller has it. On any other terminal it leads a session of
 * its own, whose controlling terminal that one becomes where it is free. The numbers of groups and
 * sessions that it did not lead are not given back: they were those of other processes.
 */
#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/terminal.h"

/* /proc/PID/stat says -1 where there is no controlling terminal (proc_pid_stat(5)). */
static bool had_terminal(const Kage__Process *p)
{
	return p->tty_pgid >= 0;
}

static bool on_our_terminal(const struct kage_restore *r)
{
	return r->tty_fd >= 0 && r->tty_own && !r->options->detached;
}

static bool wants_session(const struct kage_restore *r)
{
	const Kage__Process *p = r->process;

	if (r->options->detached)
		return true;
	if (!had_terminal(p))
		return p->sid == p->pid;
	return r->tty_fd >= 0 && !r->tty_own;
}

static bool has_terminal(const struct kage_image *image)
{
	for (size_t i = 0; i < image->msg->n_descriptions; i++) {
		const Kage__Description *d = image->msg->descriptions[i];

		if (d->kind_case == KAGE__DESCRIPTION__KIND_TERMINAL && !d->terminal->line)
			return true;
	}
	return false;
}

/* Who sets a terminal from the background is stopped by the kernel until it is in the foreground
 * (termios(3), SIGTTOU). So are we, before there is anything half made. */
static struct kage_err *prepare(struct kage_restore *r)
{
	struct termios t;

	kage_terminal_find(r);
	if (r->tty_fd < 0 && !r->options->detached && has_terminal(r->image))
		kage_ctx_notice(r->ctx, "there is no terminal for the program; /dev/null takes its "
					"place");
	if (on_our_terminal(r) && kage_terminal_takes_keys(r) && !kage_terminal_may_set(r) &&
	    tcgetattr(r->tty_fd, &t) == 0)
		tcsetattr(r->tty_fd, TCSANOW, &t);
	return NULL;
}

static struct kage_err *build(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Process *p = r->process;

	if (r->in_place)
		return NULL;
	if (!wants_session(r)) {
		if (p->pgid == p->pid || (on_our_terminal(r) && had_terminal(p)))
			BATCH(b, "lead a process group", SYS_setpgid, V(0), V(0));
		return NULL;
	}
	BATCH_TRY(b, "begin a session", SYS_setsid);
	/* Refused where it is another session's; then it is a terminal like any other. */
	if (r->tty_fd >= 0 && had_terminal(p))
		BATCH_TRY(b, "take the terminal", SYS_ioctl, V(r->tty_fd), V(TIOCSCTTY), V(0));
	return NULL;
}

static struct kage_err *check_back(struct kage_restore *r)
{
	if (getsid(r->stub->pid) != r->process->sid)
		return kage_err_new(
			KAGE_UNSUPPORTED,
			"it has begun a session since, which cannot be undone; wake the twin "
			"instead");
	return NULL;
}

/* It may have got a process group of its own. */
static struct kage_err *reset(struct kage_restore *r, struct kage_batch *b)
{
	if (getpgid(r->stub->pid) != r->process->pgid)
		BATCH_TRY(b, "return to its process group", SYS_setpgid, V(0), V(r->process->pgid));
	return NULL;
}

/* From the background too: SIGTTOU must not stop us. */
static int set_foreground(int tty, pid_t group)
{
	sigset_t block, before;
	int r;

	sigemptyset(&block);
	sigaddset(&block, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &block, &before);
	r = tcsetpgrp(tty, group);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

/* Its terminal shows something else than it believes. Who takes keys has a caller who sees to it, unless
 * that goes away; the signal waits until the process goes on. */
static void ask_to_draw(struct kage_restore *r)
{
	if (r->process->stopped || r->options->stopped || !kage_terminal_was_foreground(r->process))
		return;
	r->redraw = kage_terminal_takes_keys(r) && !r->options->detached;
	if (!r->redraw)
		kill(r->stub->pid, SIGWINCH);
}

struct kage_err *kage_session_begin(struct kage_restore *r)
{
	pid_t group = getpgid(r->stub->pid);

	if (r->tty_fd < 0 || !had_terminal(r->process))
		return NULL;
	if (on_our_terminal(r)) {
		if (!kage_terminal_may_set(r))
			return NULL;
		if (group != getpgrp() && set_foreground(r->tty_fd, group) < 0)
			return kage_err_sys(errno, "give the terminal to the restored process");
		r->tty_given = group != getpgrp();
	}
	ask_to_draw(r);
	return NULL;
}

void kage_session_undo(struct kage_restore *r)
{
	if (r->tty_given)
		set_foreground(r->tty_fd, getpgrp());
	r->tty_given = false;
	kage_terminal_undo(r);
}

const struct kage_kind kage_kind_session = {
	.name = "session",
	.check_back = check_back,
	.reset = reset,
	.prepare = prepare,
	.build = build,
};
