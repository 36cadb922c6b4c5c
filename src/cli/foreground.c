/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/foreground.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/relay.h"

/* What is passed on, what tells about the program, and SIGTTOU, which must not stop us while we
 * hand the terminal over. */
static void concerning(sigset_t *set)
{
	static const int signals[] = { SIGINT,  SIGTERM,  SIGHUP,  SIGQUIT, SIGUSR1, SIGUSR2,
				       SIGCONT, SIGWINCH, SIGTSTP, SIGTTOU, SIGCHLD };

	sigemptyset(set);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaddset(set, signals[i]);
}

int cli_foreground_open(struct cli_foreground *fg)
{
	/* Who ignores SIGCHLD never learns how a child ended, and we may have inherited that. */
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t set;

	*fg = (struct cli_foreground){ 0 };
	sigaction(SIGCHLD, &action, &fg->child_before);
	concerning(&set);
	sigprocmask(SIG_BLOCK, &set, &fg->mask_before);
	fg->tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
	fg->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fg->signals < 0) {
		int num = errno;

		cli_foreground_close(fg);
		return num;
	}
	return 0;
}

void cli_foreground_release(const struct cli_foreground *fg)
{
	sigaction(SIGCHLD, &fg->child_before, NULL);
	sigprocmask(SIG_SETMASK, &fg->mask_before, NULL);
}

void cli_foreground_close(struct cli_foreground *fg)
{
	if (fg->signals >= 0)
		close(fg->signals);
	if (fg->tty >= 0)
		close(fg->tty);
	cli_foreground_release(fg);
}

/* --- the terminal ---------------------------------------------------------------------------- */

/* A program that leads a process group of our session gets the terminal as a shell would give it;
 * one in our own group has it already, one in another session has another. */
static void give_tty(struct cli_foreground *fg, pid_t pid)
{
	pid_t group = getpgid(pid);

	if (fg->tty < 0 || group < 0 || group == getpgrp() || getsid(pid) != getsid(0) ||
	    tcgetpgrp(fg->tty) != getpgrp())
		return;
	fg->gave_tty = tcsetpgrp(fg->tty, group) == 0;
}

static void take_tty(struct cli_foreground *fg)
{
	if (fg->gave_tty)
		tcsetpgrp(fg->tty, getpgrp());
	fg->gave_tty = false;
}

/* --- signals for the program ----------------------------------------------------------------- */

static void send_to_all(const struct cli_foreground *fg, int signal_number)
{
	for (size_t i = 0; i < fg->n_pids; i++)
		if (fg->pids[i])
			kill(fg->pids[i], signal_number);
}

/* The terminal signals the whole foreground group at once: a program in ours has got it already. */
static bool has_it(const struct signalfd_siginfo *info, pid_t pid)
{
	return info->ssi_code == SI_KERNEL && getpgid(pid) == getpgrp();
}

static void pass_on(struct cli_foreground *fg, const struct signalfd_siginfo *info)
{
	int signal_number = (int)info->ssi_signo;

	for (size_t i = 0; i < fg->n_pids; i++) {
		pid_t pid = fg->pids[i];

		if (!pid || has_it(info, pid))
			continue;
		/* Nobody in another session could continue it, so SIGTSTP would have no effect
		 * there (setpgid(2) on orphaned groups). We do. */
		if (signal_number == SIGTSTP && getsid(pid) != getsid(0))
			kill(pid, SIGSTOP);
		else
			kill(pid, signal_number);
	}
}

static void go_on(struct cli_foreground *fg)
{
	if (fg->relay)
		cli_relay_resume(fg->relay);
	for (size_t i = 0; i < fg->n_pids; i++)
		if (fg->pids[i]) {
			give_tty(fg, fg->pids[i]);
			break;
		}
	send_to_all(fg, SIGCONT);
}

static void handle_signal(struct cli_foreground *fg, const struct signalfd_siginfo *info)
{
	switch ((int)info->ssi_signo) {
	case SIGCHLD:
	case SIGTTOU:
		return;
	case SIGCONT:
		go_on(fg);
		return;
	case SIGWINCH:
		if (fg->relay) /* the pty tells its program */
			cli_relay_resize(fg->relay);
		else
			pass_on(fg, info);
		return;
	default:
		pass_on(fg, info);
	}
}

static void read_signals(struct cli_foreground *fg)
{
	struct signalfd_siginfo info;

	while (read(fg->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
		handle_signal(fg, &info);
}

/* --- what became of the program -------------------------------------------------------------- */

/* Stops kage by SIGNAL_NUMBER as the program was. Returns when continued, or at once where the
 * kernel does not stop us since nobody could continue us. */
static void stop_self(int signal_number)
{
	struct sigaction action = { .sa_handler = SIG_DFL }, before;
	struct timespec no_time = { 0 };
	sigset_t set, mask, cont;

	sigemptyset(&set);
	sigaddset(&set, signal_number);
	sigemptyset(&cont);
	sigaddset(&cont, SIGCONT);
	sigaction(signal_number, &action, &before);
	raise(signal_number);
	sigprocmask(SIG_UNBLOCK, &set, &mask);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	sigaction(signal_number, &before, NULL);
	sigtimedwait(&cont, NULL, &no_time); /* what woke us: the caller sends it on, once */
}

/* The program PID was stopped. Without a terminal nobody does job control: who stopped it,
 * continues it, and we wait. */
static void mirror_stop(struct cli_foreground *fg, pid_t pid, int signal_number)
{
	bool wants_tty = signal_number == SIGTTIN || signal_number == SIGTTOU;

	if (fg->left_stopped) {
		fg->left_stopped = false;
		return;
	}
	if (fg->tty < 0)
		return;
	/* It reached for the terminal before we gave it, which we can still do. */
	if (wants_tty && !fg->gave_tty) {
		give_tty(fg, pid);
		if (fg->gave_tty) {
			kill(pid, SIGCONT);
			return;
		}
	}
	if (fg->relay)
		cli_relay_pause(fg->relay);
	take_tty(fg);
	stop_self(signal_number);
	go_on(fg);
}

static void ended(struct cli_foreground *fg, size_t i, const siginfo_t *info)
{
	fg->pids[i] = 0;
	if (fg->status != 0)
		return;
	fg->status = info->si_status;
	fg->killed = info->si_code != CLD_EXITED;
}

/* Returns how many programs are left. */
static size_t look_after(struct cli_foreground *fg)
{
	size_t left = 0;

	for (size_t i = 0; i < fg->n_pids; i++) {
		siginfo_t info = { 0 };
		int how = WEXITED | WSTOPPED | WNOHANG;

		if (!fg->pids[i])
			continue;
		if (waitid(P_PID, (id_t)fg->pids[i], &info, how) < 0 && errno == ECHILD)
			fg->pids[i] = 0; /* somebody took its status: nothing more to learn */
		else if (info.si_pid && info.si_code == CLD_STOPPED)
			mirror_stop(fg, fg->pids[i], info.si_status);
		else if (info.si_pid && info.si_code != CLD_TRAPPED)
			ended(fg, i, &info);
		left += fg->pids[i] != 0;
	}
	return left;
}

static void serve(struct cli_foreground *fg)
{
	struct pollfd fds[1 + CLI_RELAY_FDS] = { { .fd = fg->signals, .events = POLLIN } };
	nfds_t n = fg->relay ? 1 + CLI_RELAY_FDS : 1;

	if (fg->relay)
		cli_relay_prepare(fg->relay, fds + 1);
	if (poll(fds, n, -1) < 0)
		return;
	if (fg->relay)
		cli_relay_serve(fg->relay, fds + 1);
	read_signals(fg);
}

int cli_foreground_wait(struct cli_foreground *fg, pid_t *pids, size_t n)
{
	fg->pids = pids;
	fg->n_pids = n;
	if (n > 0)
		give_tty(fg, pids[0]);
	if (fg->redraw)
		send_to_all(fg, SIGWINCH);
	while (look_after(fg) > 0)
		serve(fg);
	if (fg->relay)
		cli_relay_close(fg->relay);
	take_tty(fg);
	if (fg->killed) {
		fflush(stdout);
		cli_interrupt_die(fg->status);
	}
	cli_foreground_close(fg);
	return fg->status;
}
