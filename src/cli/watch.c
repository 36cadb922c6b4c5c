/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/watch.h"

#include <errno.h>
#include <poll.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIGNAL_STATUS = 128 };

int cli_watch_open(struct cli_watch *w)
{
	static const int passed[] = {
		SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH
	};
	sigset_t mine;

	sigemptyset(&mine);
	for (size_t i = 0; i < ARRAY_SIZE(passed); i++)
		sigaddset(&mine, passed[i]);
	sigprocmask(SIG_BLOCK, &mine, &w->mask_before);
	w->signals = signalfd(-1, &mine, SFD_CLOEXEC | SFD_NONBLOCK);
	return w->signals < 0 ? errno : 0;
}

void cli_watch_close(struct cli_watch *w)
{
	if (w->signals >= 0)
		close(w->signals);
	sigprocmask(SIG_SETMASK, &w->mask_before, NULL);
}

static void pass_on(const struct cli_watch *w, const struct kage_life *lives, size_t n,
		    struct cli_relay *relay)
{
	struct signalfd_siginfo si;

	while (read(w->signals, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo == SIGWINCH && relay) {
			cli_relay_resize(relay);
			continue;
		}
		for (size_t i = 0; i < n; i++)
			if (lives[i].pidfd >= 0)
				pidfd_send_signal(lives[i].pidfd, (int)si.ssi_signo, NULL, 0);
	}
}

/* As a shell tells it. */
static int status_of(struct cli *cli, const struct kage_life *life)
{
	int status = 0;
	struct kage_err *e = kage_life_status(life, &status);

	if (e) {
		cli_note(cli, "%s", kage_err_message(e));
		kage_err_free(e);
		return 0;
	}
	return WIFSIGNALED(status) ? SIGNAL_STATUS + WTERMSIG(status) : WEXITSTATUS(status);
}

int cli_watch_wait(struct cli *cli, struct cli_watch *w, struct kage_life *lives, size_t n,
		   struct cli_relay *relay)
{
	enum { FIRST = 1 + CLI_RELAY_FDS };
	struct pollfd *p = cli_grow(NULL, n + FIRST, sizeof(*p));
	int result = 0, timeout, status;
	size_t left = n;

	if (relay)
		cli_relay_begin(relay);
	while (left) {
		p[0] = (struct pollfd){ w->signals, POLLIN, 0 };
		p[1] = p[2] = (struct pollfd){ -1, 0, 0 };
		timeout = relay ? cli_relay_prepare(relay, p + 1) : -1;
		for (size_t i = 0; i < n; i++)
			p[FIRST + i] = (struct pollfd){ lives[i].pidfd, POLLIN, 0 };
		if (poll(p, FIRST + n, timeout) < 0)
			continue;
		if (relay)
			cli_relay_serve(relay, p + 1);
		if (p[0].revents)
			pass_on(w, lives, n, relay);
		for (size_t i = 0; i < n; i++) {
			if (lives[i].pidfd < 0 || !p[FIRST + i].revents)
				continue;
			status = status_of(cli, &lives[i]);
			result = result ? result : status;
			close(lives[i].pidfd);
			lives[i].pidfd = -1;
			left--;
		}
	}
	free(p);
	return result;
}
