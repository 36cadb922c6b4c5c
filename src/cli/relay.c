/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
	LOOK_AGAIN_MS = 300, /* for whether we have come to the foreground: no signal tells */
	LAST_WORDS = 256,    /* portions of 4 KiB; more than a pty holds */
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* The first of our standard descriptors that is a terminal, or -1. */
static int own_terminal(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (isatty(fd))
			return fd;
	return -1;
}

static void dress_slave(struct cli_relay *relay)
{
	struct winsize size = { 0 };
	int own = own_terminal();
	struct termios modes;

	if (own >= 0 && tcgetattr(own, &modes) == 0)
		tcsetattr(relay->slave, TCSANOW, &modes);
	if (own >= 0)
		ioctl(own, TIOCGWINSZ, &size);
	ioctl(relay->slave, TIOCSWINSZ, &size);
}

int cli_relay_open(struct cli_relay *relay)
{
	*relay = (struct cli_relay){ .slave = -1 };
	relay->master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (relay->master < 0 || grantpt(relay->master) || unlockpt(relay->master) ||
	    ptsname_r(relay->master, relay->path, sizeof(relay->path)) ||
	    (relay->slave = open(relay->path, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) {
		int num = errno;

		close_fd(&relay->master);
		return num;
	}
	dress_slave(relay);
	return 0;
}

void cli_relay_default_size(struct cli_relay *relay)
{
	struct winsize size;

	if (ioctl(relay->slave, TIOCGWINSZ, &size) || size.ws_row || size.ws_col)
		return;
	size = (struct winsize){ .ws_row = 24, .ws_col = 80 };
	ioctl(relay->slave, TIOCSWINSZ, &size);
}

/* Raw mode belongs to whoever is in the foreground: from the background, it would spoil the shell's
 * terminal, and a read would stop us. A terminal that does not control us knows no such thing. */
static bool foreground(void)
{
	pid_t group = tcgetpgrp(STDIN_FILENO);

	return group == getpgrp() || (group < 0 && errno == ENOTTY);
}

void cli_relay_resume(struct cli_relay *relay)
{
	struct termios modes;

	if (relay->raw || !isatty(STDIN_FILENO) || !foreground() ||
	    tcgetattr(STDIN_FILENO, &relay->saved))
		return;
	modes = relay->saved;
	cfmakeraw(&modes);
	relay->raw = tcsetattr(STDIN_FILENO, TCSADRAIN, &modes) == 0;
}

void cli_relay_pause(struct cli_relay *relay)
{
	if (relay->raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &relay->saved);
	relay->raw = false;
}

void cli_relay_begin(struct cli_relay *relay)
{
	close_fd(&relay->slave);
	relay->input = true;
	/* Our terminal must not stay in raw mode because nobody reads what the program says. */
	signal(SIGPIPE, SIG_IGN);
	cli_relay_resume(relay);
	cli_relay_resize(relay);
}

void cli_relay_resize(struct cli_relay *relay)
{
	struct winsize size;
	int own = own_terminal();

	if (own >= 0 && ioctl(own, TIOCGWINSZ, &size) == 0 && (size.ws_row || size.ws_col))
		ioctl(relay->master, TIOCSWINSZ, &size);
}

int cli_relay_prepare(struct cli_relay *relay, struct pollfd fds[static CLI_RELAY_FDS])
{
	bool behind = isatty(STDIN_FILENO) && !foreground();
	bool read = relay->input && relay->n_pending == 0 && !behind;

	if (!behind)
		cli_relay_resume(relay);
	fds[0] = (struct pollfd){ .fd = read ? STDIN_FILENO : -1, .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = relay->master,
				  .events = POLLIN | (relay->n_pending ? POLLOUT : 0) };
	return behind && relay->input ? LOOK_AGAIN_MS : -1;
}

static void write_all(int fd, const char *bytes, size_t n)
{
	while (n > 0) {
		ssize_t written = write(fd, bytes, n);

		if (written < 0 && errno == EAGAIN)
			poll(&(struct pollfd){ .fd = fd, .events = POLLOUT }, 1, -1);
		else if (written < 0 && errno != EINTR)
			return; /* nobody reads us: the program goes on all the same */
		else if (written > 0) {
			bytes += written;
			n -= (size_t)written;
		}
	}
}

/* Carries one portion of the program's output. Returns false when there is none now, or will be
 * none ever. */
static bool carry_output(struct cli_relay *relay)
{
	char bytes[4096];
	ssize_t n = read(relay->master, bytes, sizeof(bytes));

	if (n <= 0) {
		/* EIO: the slave has been closed everywhere. poll() would tell so for ever. */
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			close_fd(&relay->master);
		return false;
	}
	write_all(STDOUT_FILENO, bytes, (size_t)n);
	return true;
}

static void push_pending(struct cli_relay *relay)
{
	ssize_t n = write(relay->master, relay->pending, relay->n_pending);

	if (n <= 0)
		return;
	relay->n_pending -= (size_t)n;
	memmove(relay->pending, relay->pending + n, relay->n_pending);
}

/* The end of a pipe or file is the end of input for a program that reads lines; one that reads keys
 * knows no such thing. */
static void end_input(struct cli_relay *relay)
{
	struct termios modes;

	relay->input = false;
	if (tcgetattr(relay->master, &modes) == 0 && (modes.c_lflag & ICANON))
		relay->pending[relay->n_pending++] = (char)modes.c_cc[VEOF];
}

static void take_input(struct cli_relay *relay)
{
	ssize_t n = read(STDIN_FILENO, relay->pending, sizeof(relay->pending));

	if (n > 0)
		relay->n_pending = (size_t)n;
	else if (n == 0 || (errno != EINTR && errno != EAGAIN))
		end_input(relay);
}

void cli_relay_serve(struct cli_relay *relay, const struct pollfd fds[static CLI_RELAY_FDS])
{
	if (fds[1].revents & (POLLIN | POLLHUP | POLLERR))
		carry_output(relay);
	if (fds[0].revents && relay->n_pending == 0)
		take_input(relay);
	if (relay->n_pending && relay->master >= 0)
		push_pending(relay);
}

void cli_relay_close(struct cli_relay *relay)
{
	close_fd(&relay->slave);
	for (int i = 0; i < LAST_WORDS && relay->master >= 0 && carry_output(relay); i++)
		;
	close_fd(&relay->master);
	cli_relay_pause(relay);
}
