/* SPDX-License-Identifier: Apache-2.0 */
/* kage wake: gives a twin a life, or several. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include <kage/twins.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/relay.h"
#include "cli/watch.h"

/* The words of options, in the order of their arguments; 0: not given. */
enum { PID_OWN = 1, PID_SAME, PID_NEW };
enum { FILES_KEEP = 1, FILES_RESTORE };
enum { CONNECTIONS_REFUSE = 1, CONNECTIONS_RESET };

struct wake_values {
	int pid, files, connections, copies;
	bool stopped, detach;
	const char *tty, *log, *event;
};

enum { MOST_COPIES = 10000 };

static const struct cli_option options[] = {
	{ "copies", 0, "N", "wake N programs", CLI_NUMBER,
	  .offset = offsetof(struct wake_values, copies), 1, MOST_COPIES },
	{ "detach", 'd', NULL, "let them go, print their PIDs and end", CLI_FLAG,
	  .offset = offsetof(struct wake_values, detach) },
	{ "stopped", 0, NULL, "leave them stopped, for a debugger", CLI_FLAG,
	  .offset = offsetof(struct wake_values, stopped) },
	{ "pid", 0, "own|same|new", "PIDs: other than the program's, the same, or the same inside",
	  CLI_CHOICE, .offset = offsetof(struct wake_values, pid) },
	{ "log", 0, "FILE", "standard output and standard error are appended to FILE", CLI_TEXT,
	  .offset = offsetof(struct wake_values, log) },
	{ "tty", 0, "PATH", "with the terminal PATH", CLI_TEXT,
	  .offset = offsetof(struct wake_values, tty) },
	{ "event", 0, "SIGNAL|fd:N|none", "how a program is told that it is a copy", CLI_TEXT,
	  .offset = offsetof(struct wake_values, event) },
	{ "files", 0, "keep|restore", "what it wrote since: keep (default), or put back",
	  CLI_CHOICE, .offset = offsetof(struct wake_values, files) },
	{ "connections", 0, "refuse|reset",
	  "TCP connections: refuse (default), or reset by the peer", CLI_CHOICE,
	  .offset = offsetof(struct wake_values, connections) },
	{ 0 },
};

struct lives {
	struct kage_life *v;
	size_t n;
};

static void lives_deinit(struct lives *l)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].pidfd >= 0)
			close(l->v[i].pidfd);
	free(l->v);
}

/* All copies or none. */
static void undo(const struct lives *l)
{
	for (size_t i = 0; i < l->n; i++)
		pidfd_send_signal(l->v[i].pidfd, SIGKILL, NULL, 0);
}

static struct kage_err *wake_all(struct cli *cli, const char *spec,
				 const struct kage_wake_options *how, size_t n, struct lives *l)
{
	l->v = cli_grow(NULL, n, sizeof(*l->v));
	while (l->n < n) {
		struct kage_err *e = kage_twin_wake(cli->ctx, spec, how, &l->v[l->n]);

		if (e) {
			undo(l);
			return e;
		}
		l->n++;
	}
	return NULL;
}

static void print_json(const char *spec, const struct lives *l)
{
	json_t *list = json_array();

	for (size_t i = 0; i < l->n; i++)
		json_array_append_new(list,
				      json_pack("{s:i, s:o}", "pid", (int)l->v[i].pid, "total_ns",
						cli_json_number(l->v[i].total_ns)));
	cli_json_print_take(json_pack("{s:o, s:o}", "twin", cli_json_text(spec), "lives", list));
}

static void tell(const struct cli *cli, const struct wake_values *v, const char *spec,
		 const struct lives *l)
{
	if (cli->json)
		print_json(spec, l);
	for (size_t i = 0; i < l->n && !cli->json; i++) {
		if (v->detach)
			printf("%d\n", (int)l->v[i].pid);
		else if (v->stopped)
			cli_note(cli,
				 "%d is stopped: 'gdb -p %d' looks at it, 'kill -CONT %d' lets "
				 "it go on",
				 (int)l->v[i].pid, (int)l->v[i].pid, (int)l->v[i].pid);
	}
	fflush(stdout);
}

static const enum kage_wake_pid pid_modes[] = {
	[0] = KAGE_WAKE_PID_FITTING,
	[PID_OWN] = KAGE_WAKE_PID_OWN,
	[PID_SAME] = KAGE_WAKE_PID_SAME,
	[PID_NEW] = KAGE_WAKE_PID_NEW,
};

static int wake(struct cli *cli, const struct wake_values *v, const char *spec,
		struct cli_relay *relay, const struct kage_fd_given *instead, size_t n_instead)
{
	__attribute__((cleanup(lives_deinit))) struct lives lives = { 0 };
	/* The keeper is in another directory. */
	_cleanup_free_ char *tty = v->tty ? realpath(v->tty, NULL) : NULL;
	const struct kage_wake_options how = {
		.pid = pid_modes[v->pid],
		.files = v->files == FILES_RESTORE ? KAGE_FILES_RESTORE : KAGE_FILES_KEEP,
		.connections = v->connections == CONNECTIONS_RESET ? KAGE_CONNECTIONS_RESET
								   : KAGE_CONNECTIONS_REFUSE,
		.stopped = v->stopped,
		.tty = relay ? relay->path : tty,
		.event = v->event,
		.instead = instead,
		.n_instead = n_instead,
	};
	struct cli_watch w;
	struct kage_err *e;
	int status, num;

	if (v->tty && !tty)
		return cli_fail_own(cli, KAGE_SYS, errno, "find the terminal %s", v->tty);
	num = v->detach ? 0 : cli_watch_open(&w);
	if (num)
		return cli_fail_own(cli, KAGE_SYS, num, "prepare to wait for the program");
	e = wake_all(cli, spec, &how, v->copies ? (size_t)v->copies : 1, &lives);
	if (!e)
		tell(cli, v, spec, &lives);
	status = e ? cli_fail(cli, e) : CLI_DONE;
	if (!e && !v->detach)
		status = cli_watch_wait(cli, &w, lives.v, lives.n, relay);
	if (!v->detach)
		cli_watch_close(&w);
	return status;
}

/* On a terminal of its own, of which we carry the bytes, when we have one. */
static int wake_here(struct cli *cli, const struct wake_values *v, const char *spec)
{
	struct cli_relay relay;
	int status, num;

	if (v->tty || v->detach || v->copies > 1 || !isatty(STDIN_FILENO))
		return wake(cli, v, spec, NULL, NULL, 0);
	num = cli_relay_open(&relay);
	if (num)
		return cli_fail_own(cli, KAGE_SYS, num, "make a terminal");
	status = wake(cli, v, spec, &relay, NULL, 0);
	cli_relay_close(&relay);
	return status;
}

static int wake_with_log(struct cli *cli, const struct wake_values *v, const char *spec)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), status;
	int log = open(v->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	const struct kage_fd_given instead[] = { { STDIN_FILENO, null },
						 { STDOUT_FILENO, log },
						 { STDERR_FILENO, log } };

	if (null < 0 || log < 0)
		return cli_fail_own(cli, KAGE_SYS, errno, "open %s", v->log);
	status = wake(cli, v, spec, NULL, instead, ARRAY_SIZE(instead));
	close(log);
	close(null);
	return status;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct wake_values *v = data;

	(void)argc;
	if (v->copies > 1 && v->pid == PID_SAME)
		return cli_fail_usage(cli,
				      "%d copies cannot all have the same PID; "
				      "leave out --pid same",
				      v->copies);
	if (v->log && v->tty)
		return cli_fail_usage(cli, "--log and --tty do not go together");
	return v->log ? wake_with_log(cli, v, argv[0]) : wake_here(cli, v, argv[0]);
}

const struct cli_command cli_wake = {
	.name = "wake",
	.arguments = "TWIN",
	.summary = "bring a frozen copy of a program to life",
	.details =
		"  Makes a program that goes on where the twin NAME (the latest) or NAME@N stands: all\n"
		"  threads, descriptors and timers as they were when the twin was made. The twin stays, and\n"
		"  can be woken again. kage stays until the program has ended: signals and the exit status\n"
		"  pass through.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.run = run,
};
