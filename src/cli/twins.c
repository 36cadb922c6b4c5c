/* SPDX-License-Identifier: Apache-2.0 */
/* kage twins: lists the twins that are kept. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <kage/twins.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/table.h"
#include "cli/text.h"

struct twins_values {
	const char *be_keeper_of;
	bool stay;
};

static const struct cli_option options[] = {
	{ "be-keeper-of", 0, "NAME", NULL, CLI_TEXT,
	  .offset = offsetof(struct twins_values, be_keeper_of) },
	{ "stay", 0, NULL, NULL, CLI_FLAG, .offset = offsetof(struct twins_values, stay) },
	{ 0 },
};

static const struct cli_column columns[] = {
	{ .title = "TWIN" },
	{ .title = "OF", .right = true },
	{ .title = "PROGRAM", .stretch = true },
	{ .title = "TAKEN", .spare = 1 },
	{ .title = "OWN", .right = true },
	{ .title = "THREADS", .right = true, .spare = 3 },
	{ .title = "PAUSE", .right = true, .spare = 4 },
	{ .title = "LIVES", .right = true, .spare = 2 },
};

static void print_json(const struct kage_twin_list *list)
{
	json_t *a = json_array();

	for (size_t i = 0; i < list->n; i++) {
		const struct kage_twin_entry *t = &list->entries[i];
		_cleanup_free_ char *label = cli_printf("%s@%" PRIu64, t->name, t->number);

		json_array_append_new(
			a,
			json_pack(
				"{s:o, s:o, s:o, s:i, s:b, s:o, s:i, s:i, s:o, s:o, s:o, s:i, s:i}",
				"twin", cli_json_text(label), "name", cli_json_text(t->name),
				"number", cli_json_number(t->number), "pid", (int)t->pid, "alive",
				(int)t->alive, "comm", cli_json_text(t->comm), "twin_pid",
				(int)t->twin_pid, "keeper_pid", (int)t->keeper_pid, "realtime_ns",
				cli_json_number(t->realtime_ns), "pause_ns",
				cli_json_number(t->pause_ns), "own_bytes",
				cli_json_number(t->own_bytes), "threads", (int)t->n_threads,
				"lives", (int)t->n_lives));
	}
	cli_json_print_take(json_pack("{s:o}", "twins", a));
}

static void add(struct cli_table *table, const struct kage_twin_entry *t)
{
	_cleanup_free_ char *label = cli_printf("%s@%" PRIu64, t->name, t->number);
	_cleanup_free_ char *comm = cli_printf("%s%s", t->comm, t->alive ? "" : " (ended)");
	char text[CLI_TEXT_BYTES];
	_cleanup_free_ char *pid = cli_printf("%d", (int)t->pid);
	_cleanup_free_ char *threads = cli_printf("%u", t->n_threads);
	_cleanup_free_ char *lives = cli_printf("%u", t->n_lives);

	cli_table_add(table, label);
	cli_table_add(table, pid);
	cli_table_add(table, comm);
	cli_table_add(table, cli_text_time(text, t->realtime_ns));
	cli_table_add(table, cli_text_size(text, t->own_bytes));
	cli_table_add(table, threads);
	cli_table_add(table, cli_text_duration(text, t->pause_ns));
	cli_table_add(table, lives);
}

static void print(const struct cli *cli, const struct kage_twin_list *list)
{
	_cleanup_table_ struct cli_table table = { .columns = columns,
						   .n_columns = ARRAY_SIZE(columns) };

	if (!list->n) {
		cli_note(cli, "there are no twins; 'kage clone PID' makes one");
		return;
	}
	for (size_t i = 0; i < list->n; i++)
		add(&table, &list->entries[i]);
	cli_table_print(&table, stdout, cli->columns, cli->colour);
}

/* No session of its own: with that comes a group of the scheduler (sched(7), autogroup), in which on Linux 6.18 it has been
 * seen not to run for twenty seconds while the program that it keeps was busy. */
static void leave_terminal(void)
{
	int terminal = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);

	setpgid(0, 0);
	if (terminal < 0)
		return;
	ioctl(terminal, TIOCNOTTY);
	close(terminal);
}

/* kage_clone() has started us: what it waits for ends, and a child of it goes on (with --stay it does itself). */
static int be_keeper(struct cli *cli, const struct twins_values *v)
{
	enum { CONNECTION = 3 };
	struct kage_err *e;
	pid_t pid = v->stay ? 0 : fork();

	if (pid < 0)
		return cli_fail_own(cli, KAGE_SYS, errno, "make a process");
	if (pid > 0)
		_exit(CLI_DONE);
	leave_terminal();
	prctl(PR_SET_NAME, "kage-keeper");
	if (chdir("/") < 0)
		return CLI_FAILED;
	fcntl(CONNECTION, F_SETFD, FD_CLOEXEC);
	e = kage_twins_keep(cli->ctx, v->be_keeper_of, CONNECTION);
	return e ? cli_fail(cli, e) : CLI_DONE;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct twins_values *v = data;
	struct kage_twin_list list;
	struct kage_err *e;

	if (v->be_keeper_of)
		return be_keeper(cli, v);
	e = kage_twins(cli->ctx, argc ? argv[0] : NULL, &list);
	if (e)
		return cli_fail(cli, e);
	if (cli->json)
		print_json(&list);
	else
		print(cli, &list);
	kage_twins_free(&list);
	return CLI_DONE;
}

const struct cli_command cli_twins = {
	.name = "twins",
	.arguments = "[NAME]",
	.summary = "list the frozen copies of programs that are kept",
	.details =
		"  Lists all twins, or those called NAME: of which process, since when, and how much memory\n"
		"  each has of its own by now, which dropping it would give back.",
	.options = options,
	.min_args = 0,
	.max_args = 1,
	.run = run,
};
