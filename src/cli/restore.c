/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kage restore: gives an image its life back, and by default stays with the program as the one who
 * started it.
 */
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/foreground.h"
#include "cli/interrupt.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/relay.h"

/* The words of --pid and --files, in the order of their options' arguments; 0: not given. */
enum { PID_SAME = 1, PID_NEW };
enum { FILES_KEEP = 1, FILES_RESTORE };
enum { CONNECTIONS_REFUSE = 1, CONNECTIONS_RESET };

struct restore_values {
	int pid;
	int files;
	int connections;
	int copies;
	bool stopped;
	bool detach;
	bool trust;
	bool lazy;
	const char *tty;
	const char *git;
};

enum { MOST_COPIES = 10000 };

static const struct cli_option options[] = {
	{ "detach", 'd', NULL, "let the program go, print its PID and end", CLI_FLAG,
	  .offset = offsetof(struct restore_values, detach) },
	{ "stopped", 0, NULL, "leave it stopped, for a debugger", CLI_FLAG,
	  .offset = offsetof(struct restore_values, stopped) },
	{ "pid", 0, "same|new", "with the PID of the image (default), or another", CLI_CHOICE,
	  .offset = offsetof(struct restore_values, pid) },
	{ "copies", 0, "N", "restore N programs from the image; implies --pid new", CLI_NUMBER,
	  .offset = offsetof(struct restore_values, copies), 1, MOST_COPIES },
	{ "files", 0, "keep|restore", "what it wrote since: keep (default), or put back",
	  CLI_CHOICE, .offset = offsetof(struct restore_values, files) },
	{ "git", 0, "DIR", "put back what it wrote, if its commit in DIR has the same", CLI_TEXT,
	  .offset = offsetof(struct restore_values, git) },
	{ "connections", 0, "refuse|reset",
	  "TCP connections: refuse (default), or reset by the peer", CLI_CHOICE,
	  .offset = offsetof(struct restore_values, connections) },
	{ "tty", 0, "PATH|new", "with the terminal PATH, or a new one, not with ours", CLI_TEXT,
	  .offset = offsetof(struct restore_values, tty) },
	{ "trust", 0, NULL, "even if other users could have written the image", CLI_FLAG,
	  .offset = offsetof(struct restore_values, trust) },
	{ "lazy", 0, NULL, "let it run at once; memory comes when it is needed, and meanwhile",
	  CLI_FLAG, .offset = offsetof(struct restore_values, lazy) },
	{ 0 },
};

/* The programs that came to life, for as long as they are ours to answer for. */
struct lives {
	pid_t *pids;
	uint64_t *total_ns;
	size_t n;
	bool redraw; /* the last one; see struct kage_life */
};

static void lives_deinit(struct lives *lives)
{
	free(lives->pids);
	free(lives->total_ns);
}

/* All copies or none. */
static void undo(const struct lives *lives)
{
	for (size_t i = 0; i < lives->n; i++)
		kill(lives->pids[i], SIGKILL);
	for (size_t i = 0; i < lives->n; i++)
		while (waitpid(lives->pids[i], NULL, 0) < 0 && errno == EINTR)
			;
}

static struct kage_err *restore_all(struct cli *cli, struct kage_image *image,
				    const struct kage_restore_options *how, size_t n,
				    struct lives *lives)
{
	lives->pids = cli_grow(NULL, n, sizeof(*lives->pids));
	lives->total_ns = cli_grow(NULL, n, sizeof(*lives->total_ns));
	while (lives->n < n) {
		struct kage_life life;
		struct kage_err *e = kage_restore(cli->ctx, image, how, &life);

		if (e) {
			undo(lives);
			lives->n = 0;
			return e;
		}
		close(life.pidfd);
		lives->pids[lives->n] = life.pid;
		lives->total_ns[lives->n++] = life.total_ns;
		lives->redraw = life.redraw;
	}
	return NULL;
}

static void print_json(const char *label, const struct lives *lives)
{
	json_t *list = json_array();

	for (size_t i = 0; i < lives->n; i++)
		json_array_append_new(list,
				      json_pack("{s:i, s:o}", "pid", (int)lives->pids[i],
						"total_ns", cli_json_number(lives->total_ns[i])));
	cli_json_print_take(json_pack("{s:o, s:o}", "image", cli_json_text(label), "lives", list));
}

/* Tells who lives: nothing in the foreground, where the output is the program's. */
static void tell(const struct cli *cli, const struct restore_values *values, const char *label,
		 const struct lives *lives)
{
	if (cli->json)
		print_json(label, lives);
	for (size_t i = 0; i < lives->n && !cli->json; i++) {
		if (values->detach)
			printf("%d\n", (int)lives->pids[i]);
		else if (values->stopped)
			cli_note(cli,
				 "%d is stopped: 'gdb -p %d' looks at it, 'kill -CONT %d' lets "
				 "it go on",
				 (int)lives->pids[i], (int)lives->pids[i], (int)lives->pids[i]);
	}
	fflush(stdout);
}

/* BEFORE is how our terminal was. */
static int stay(struct cli *cli, const struct restore_values *values, struct cli_relay *relay,
		const struct cli_modes *before, struct lives *lives)
{
	struct cli_foreground fg;
	int num = cli_foreground_open(&fg);

	if (num) {
		undo(lives);
		return cli_fail_own(cli, KAGE_SYS, num, "prepare to wait for the program");
	}
	fg.relay = relay;
	fg.left_stopped = values->stopped;
	fg.before = before;
	fg.redraw = lives->redraw;
	if (relay)
		cli_relay_begin(relay);
	/* What came when it was too late to undo was meant for the program. */
	if (cli_interrupt_signal())
		for (size_t i = 0; i < lives->n; i++)
			kill(lives->pids[i], cli_interrupt_signal());
	return cli_foreground_wait(&fg, lives->pids, lives->n);
}

/* In the process that brings pages. */
static void tell_lost(void *user, pid_t pid, const char *why)
{
	(void)user;
	fprintf(stderr, "kage restore: %d was ended, because its memory is lost: %s\n", (int)pid,
		why);
}

/* Opens the image, restores it, and stays with it or not. RELAY is NULL without a terminal of ours
 * to make. */
static int give_life(struct cli *cli, const struct restore_values *values, const char *spec,
		     struct cli_relay *relay)
{
	_cleanup_store_ struct kage_store *store = NULL;
	_cleanup_image_ struct kage_image *image = NULL;
	__attribute__((cleanup(lives_deinit))) struct lives lives = { 0 };
	struct kage_restore_options how = {
		.pid = values->pid == PID_NEW || values->copies > 1 ? KAGE_PID_NEW : KAGE_PID_SAME,
		.files = values->files == FILES_RESTORE ? KAGE_FILES_RESTORE : KAGE_FILES_KEEP,
		.connections = values->connections == CONNECTIONS_RESET ? KAGE_CONNECTIONS_RESET
									: KAGE_CONNECTIONS_REFUSE,
		.stopped = values->stopped,
		.trust = values->trust,
		.detached = values->detach,
		.tty = relay ? relay->path : values->tty,
		.git = values->git,
		.lazy = values->lazy,
		.lazy_lost = tell_lost,
	};
	struct kage_err *e = cli_image_open(cli, spec, &store, &image);
	struct cli_modes before;

	cli_modes_read(&before);
	if (!e)
		e = restore_all(cli, image, &how, values->copies ? (size_t)values->copies : 1,
				&lives);
	if (e)
		return cli_fail(cli, e);
	cli_progress_clear(cli->progress);
	tell(cli, values, kage_image_label(image), &lives);
	return values->detach ? CLI_DONE : stay(cli, values, relay, &before, &lives);
}

/* Options that cannot go together. Returns CLI_DONE when all is well. */
static int check_values(struct cli *cli, const struct restore_values *values)
{
	bool new_tty = values->tty && strcmp(values->tty, "new") == 0;

	if (values->lazy && values->copies > 1)
		return cli_fail_usage(cli, "--lazy is for one program; leave out --copies");
	if (values->copies > 1 && values->pid == PID_SAME)
		return cli_fail_usage(cli,
				      "%d copies cannot all have the same PID; "
				      "leave out --pid same",
				      values->copies);
	if (values->git && values->files == FILES_KEEP)
		return cli_fail_usage(cli, "--git puts files back; leave out --files keep");
	if (new_tty && values->detach)
		return cli_fail_usage(cli, "--tty new lasts only as long as kage stays; leave out "
					   "--detach, or name a terminal");
	if (new_tty && values->copies > 1)
		return cli_fail_usage(cli, "--tty new is for one program; leave out --copies");
	return CLI_DONE;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct restore_values *values = data;
	struct cli_relay relay;
	int status = check_values(cli, values), num;

	(void)argc;
	if (status != CLI_DONE)
		return status;
	/* Children of who ignores it vanish without a status, and we may have inherited that. */
	signal(SIGCHLD, SIG_DFL);
	if (!values->tty || strcmp(values->tty, "new") != 0)
		return give_life(cli, values, argv[0], NULL);
	num = cli_relay_open(&relay);
	if (num)
		return cli_fail_own(cli, KAGE_SYS, num, "make a terminal");
	status = give_life(cli, values, argv[0], &relay);
	cli_relay_close(&relay);
	return status;
}

const struct cli_command cli_restore = {
	.name = "restore",
	.arguments = "IMAGE",
	.summary = "give an image its life back",
	.details =
		"  Makes the program of IMAGE run again from that instant, any number of times. kage stays in\n"
		"  the foreground as its parent: signals, job control and the exit status pass through.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.interrupted = "everything was undone",
	.reads_images = true,
	.run = run,
};
