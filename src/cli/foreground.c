/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/foreground.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/relay.h"
#include "cli/text.h"

enum { REDRAW_LOOK_MS = 2 };

static const uint64_t draw_anyway_ns = 300 * 1000000ull;

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

/* A program that leads a process group of our session gets the terminal as a shell would give it,
 * unless it came to life with it; one in our own group has it already, one in another session has
 * another. */
static void give_tty(struct cli_foreground *fg, pid_t pid)
{
	pid_t group = getpgid(pid), now = fg->tty < 0 ? -1 : tcgetpgrp(fg->tty);

	if (now < 0 || group < 0 || group == getpgrp() || getsid(pid) != getsid(0))
		return;
	if (now == group)
		fg->gave_tty = true;
	else if (now == getpgrp())
		fg->gave_tty = tcsetpgrp(fg->tty, group) == 0;
}

/* Unless the shell has done so before: we may have been stopped alone. */
static void take_tty(struct cli_foreground *fg)
{
	if (fg->gave_tty && tcgetpgrp(fg->tty) != getpgid(getsid(0)))
		tcsetpgrp(fg->tty, getpgrp());
	fg->gave_tty = false;
}

void cli_modes_read(struct cli_modes *ret_modes)
{
	int tty = open("/dev/tty", O_RDWR | O_CLOEXEC);

	ret_modes->known =
		tty >= 0 && tcgetpgrp(tty) == getpgrp() && tcgetattr(tty, &ret_modes->modes) == 0;
	if (tty >= 0)
		close(tty);
}

/* A program puts back what it had found when it was started: on another terminal, at another time. */
static void put_back_modes(const struct cli_foreground *fg)
{
	if (fg->before && fg->before->known && fg->tty >= 0 && tcgetpgrp(fg->tty) == getpgrp())
		tcsetattr(fg->tty, TCSANOW, &fg->before->modes);
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
	for (size_t i = 0; i < fg->n_pids; i++)
		if (fg->pids[i]) {
			give_tty(fg, fg->pids[i]);
			break;
		}
	send_to_all(fg, SIGCONT);
	if (!fg->relay)
		return;
	/* Its terminal was not set anew by anybody, but ours shows something else. */
	cli_relay_resume(fg->relay);
	cli_relay_resize(fg->relay);
	send_to_all(fg, SIGWINCH);
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

/* Stops kage by SIGNAL_NUMBER as the program was; with ALL, everything in our process group. Returns
 * when continued, or at once where the kernel does not stop us since nobody could continue us. */
static void stop_self(int signal_number, bool all)
{
	struct sigaction action = { .sa_handler = SIG_DFL }, before;
	struct timespec no_time = { 0 };
	sigset_t set, mask, cont;

	sigemptyset(&set);
	sigaddset(&set, signal_number);
	sigemptyset(&cont);
	sigaddset(&cont, SIGCONT);
	sigaction(signal_number, &action, &before);
	if (all)
		kill(0, signal_number);
	else
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
	bool had_tty = fg->gave_tty;

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
	stop_self(signal_number, had_tty && (wants_tty || signal_number == SIGTSTP));
	go_on(fg);
}

/* --- redrawing: see cli/foreground.h -------------------------------------------------------- */

/* What /proc/PID/NAME says after AFTER, in TEXT; NULL when it does not. */
static const char *look_up(pid_t pid, const char *name, const char *after, char text[static 4096])
{
	char path[48];
	const char *at;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, 4095);
	if (fd >= 0)
		close(fd);
	text[n < 0 ? 0 : n] = '\0';
	at = strstr(text, after);
	return at ? at + strlen(after) : NULL;
}

static bool sleeps(pid_t pid)
{
	char text[4096];
	const char *state = look_up(pid, "status", "\nState:\t", text);

	return state && *state == 'S';
}

static bool ignores(pid_t pid, int signal_number)
{
	char text[4096];
	const char *set = look_up(pid, "status", "\nSigIgn:\t", text);

	return set && (strtoull(set, NULL, 16) >> (signal_number - 1) & 1);
}

static void draw(struct cli_foreground *fg)
{
	send_to_all(fg, SIGWINCH);
	fg->redraw_winch_ns = UINT64_MAX;
}

static void begin_redraw(struct cli_foreground *fg)
{
	fg->redraw_winch_ns = cli_clock_mono_ns() + draw_anyway_ns;
	/* In our group, it might have all of it stop; several would do so in turn. */
	if (!fg->redraw || (fg->n_pids == 1 && getpgid(fg->pids[0]) != getpgrp() &&
			    !ignores(fg->pids[0], SIGTSTP)))
		return;
	draw(fg);
	fg->redraw = false;
}

/* Returns for how many milliseconds to wait at most. */
static int go_on_redrawing(struct cli_foreground *fg)
{
	if (!fg->redraw)
		return -1;
	if (!fg->redraw_asked && sleeps(fg->pids[0]))
		fg->redraw_asked = kill(fg->pids[0], SIGTSTP) == 0;
	if (cli_clock_mono_ns() >= fg->redraw_winch_ns)
		draw(fg);
	return fg->redraw_asked && fg->redraw_winch_ns == UINT64_MAX ? -1 : REDRAW_LOOK_MS;
}

static void stopped(struct cli_foreground *fg, pid_t pid, int signal_number)
{
	bool asked = fg->redraw && fg->redraw_asked &&
		     (signal_number == SIGTSTP || signal_number == SIGSTOP);

	fg->redraw = false;
	if (!asked) {
		mirror_stop(fg, pid, signal_number);
		return;
	}
	kill(pid, SIGCONT);
	kill(pid, SIGWINCH);
}

/* --- its end --------------------------------------------------------------------------------- */

static void ended(struct cli_foreground *fg, size_t i, const siginfo_t *info)
{
	fg->pids[i] = 0;
	if (fg->n_pids > 1)
		take_tty(fg);
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
			stopped(fg, fg->pids[i], info.si_status);
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
	int timeout_ms = fg->relay ? cli_relay_prepare(fg->relay, fds + 1) : -1;
	int redraw_ms = go_on_redrawing(fg);

	if (redraw_ms >= 0 && (timeout_ms < 0 || redraw_ms < timeout_ms))
		timeout_ms = redraw_ms;
	if (poll(fds, n, timeout_ms) < 0)
		return;
	if (fg->relay)
		cli_relay_serve(fg->relay, fds + 1);
	read_signals(fg);
}

/* The program died of what the terminal sent its group alone: ours gets it, too. */
static _Noreturn void die_like_it(const struct cli_foreground *fg, bool had_tty)
{
	fflush(stdout);
	if (had_tty && (fg->status == SIGINT || fg->status == SIGQUIT)) {
		signal(fg->status, SIG_IGN);
		kill(0, fg->status);
	}
	cli_interrupt_die(fg->status);
}

int cli_foreground_wait(struct cli_foreground *fg, pid_t *pids, size_t n)
{
	bool had_tty;

	fg->pids = pids;
	fg->n_pids = n;
	if (n > 0)
		give_tty(fg, pids[0]);
	if (n > 1) /* what is typed is for all of them: we pass signals on */
		take_tty(fg);
	begin_redraw(fg);
	while (look_after(fg) > 0)
		serve(fg);
	if (fg->relay)
		cli_relay_close(fg->relay);
	had_tty = fg->gave_tty;
	take_tty(fg);
	put_back_modes(fg);
	if (fg->killed)
		die_like_it(fg, had_tty);
	cli_foreground_close(fg);
	return fg->status;
}
