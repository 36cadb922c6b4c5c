/* SPDX-License-Identifier: Apache-2.0 */
/* kage check: names every obstacle to taking an image of a process, or to restoring one. */
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/relay.h"
#include "cli/table.h"
#include "cli/text.h"

/* The words of --pid and --files, in the order of their options' arguments; 0: not given. */
enum { PID_SAME = 1, PID_NEW };
enum { FILES_KEEP = 1, FILES_RESTORE };

struct check_values {
	int pid;
	int files;
	bool detach;
	const char *tty;
};

static const struct cli_option options[] = {
	{ "pid", 0, "same|new", "of an image: restored with its PID (default), or another",
	  CLI_CHOICE, .offset = offsetof(struct check_values, pid) },
	{ "files", 0, "keep|restore",
	  "of an image: what it wrote since is kept (default), or put back", CLI_CHOICE,
	  .offset = offsetof(struct check_values, files) },
	{ "detach", 'd', NULL, "of an image: restored without this terminal", CLI_FLAG,
	  .offset = offsetof(struct check_values, detach) },
	{ "tty", 0, "PATH|new", "of an image: restored with that terminal", CLI_TEXT,
	  .offset = offsetof(struct check_values, tty) },
	{ 0 },
};

static const struct cli_column columns[] = {
	{ .title = "" },
	{ .title = "OBJECT" },
	{ .title = "WHY" },
	{ .title = "CURE" },
};

static void print_json(const struct kage_report *report, const char *what)
{
	json_t *obstacles = json_array();

	for (size_t i = 0; i < report->n_obstacles; i++) {
		const struct kage_obstacle *o = &report->obstacles[i];

		json_array_append_new(obstacles,
				      json_pack("{s:o, s:o, s:o, s:b}", "object",
						cli_json_text(o->object), "why",
						cli_json_text(o->why), "cure",
						cli_json_text(o->cure), "fatal", (int)o->fatal));
	}
	cli_json_print_take(json_pack("{s:o, s:b, s:o, s:o}", "target", cli_json_text(what),
				      "possible", report->n_fatal == 0, "fatal",
				      cli_json_number(report->n_fatal), "obstacles", obstacles));
}

static const char *mark(const struct kage_obstacle *o)
{
	return o->fatal ? "✗" : "!";
}

/* Where three sentences do not fit side by side, they stand one below the other. */
static void print_stacked(const struct cli *cli, const struct kage_report *report)
{
	for (size_t i = 0; i < report->n_obstacles; i++) {
		const struct kage_obstacle *o = &report->obstacles[i];
		_cleanup_free_ char *object = cli_text_clean(o->object ? o->object : "");
		_cleanup_free_ char *why = cli_text_clean(o->why ? o->why : "");
		_cleanup_free_ char *cure = cli_text_clean(o->cure ? o->cure : "");

		printf("%s%s %s%s\n", cli->colour ? "\033[1m" : "", mark(o), object,
		       cli->colour ? "\033[0m" : "");
		if (*why)
			printf("    %s\n", why);
		if (*cure)
			printf("    → %s\n", cure);
	}
}

static void print_obstacles(const struct cli *cli, const struct kage_report *report)
{
	struct cli_table table = { .columns = columns, .n_columns = ARRAY_SIZE(columns) };

	for (size_t i = 0; i < report->n_obstacles; i++) {
		const struct kage_obstacle *o = &report->obstacles[i];

		cli_table_add(&table, mark(o));
		cli_table_add(&table, o->object ? o->object : "");
		cli_table_add(&table, o->why ? o->why : "");
		cli_table_add(&table, o->cure ? o->cure : "");
	}
	if (cli_table_fits(&table, cli->columns))
		cli_table_print(&table, stdout, cli->columns, cli->colour);
	else
		print_stacked(cli, report);
	cli_table_deinit(&table);
}

/* WHAT can or cannot be done. */
static void print_text(const struct cli *cli, const struct kage_report *report, const char *what)
{
	size_t n = report->n_fatal;

	if (report->n_obstacles > 0)
		print_obstacles(cli, report);
	if (n > 0)
		printf("%s cannot be done: %zu %s\n", what, n, n == 1 ? "obstacle" : "obstacles");
	else
		printf("%s can be done\n", what);
}

static struct kage_err *check_image(struct cli *cli, const struct check_values *values,
				    const char *tty, const char *spec,
				    struct kage_report *ret_report)
{
	const struct kage_restore_options how = {
		.pid = values->pid == PID_NEW ? KAGE_PID_NEW : KAGE_PID_SAME,
		.files = values->files == FILES_RESTORE ? KAGE_FILES_RESTORE : KAGE_FILES_KEEP,
		.detached = values->detach,
		.tty = tty,
	};
	_cleanup_store_ struct kage_store *store = NULL;
	_cleanup_image_ struct kage_image *image = NULL;
	struct kage_err *e = cli_image_open(cli, spec, &store, &image);

	return e ? e : kage_check_image(cli->ctx, image, &how, ret_report);
}

/* The new terminal lasts as long as the check. */
static struct kage_err *check_with_terminal(struct cli *cli, const struct check_values *values,
					    const char *spec, struct kage_report *ret_report)
{
	struct cli_relay relay;
	struct kage_err *e;

	if (!values->tty || strcmp(values->tty, "new") != 0 || cli_relay_open(&relay) != 0)
		return check_image(cli, values, values->tty, spec, ret_report);
	e = check_image(cli, values, relay.path, spec, ret_report);
	cli_relay_close(&relay);
	return e;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct check_values *values = data;
	_cleanup_free_ char *what = NULL;
	struct kage_report report = { 0 };
	pid_t pid = cli_pid_parse(argv[0]);
	struct kage_err *e;
	size_t n_fatal;

	(void)argc;
	if (pid && (values->pid || values->files || values->detach || values->tty))
		return cli_fail_usage(cli,
				      "--pid, --files, --detach and --tty are for images, %s is a "
				      "process",
				      argv[0]);
	if (pid)
		e = kage_check_process(cli->ctx, pid, &report);
	else
		e = check_with_terminal(cli, values, argv[0], &report);
	if (e)
		return cli_fail(cli, e);
	cli_progress_clear(cli->progress);
	what = cli_printf(pid ? "an image of %s" : "restoring %s", argv[0]);
	if (cli->json)
		print_json(&report, argv[0]);
	else
		print_text(cli, &report, what);
	n_fatal = report.n_fatal;
	kage_report_free(&report);
	return n_fatal ? CLI_FAILED : CLI_DONE;
}

const struct cli_command cli_check = {
	.name = "check",
	.arguments = "PID|IMAGE",
	.summary = "name every obstacle to taking or restoring an image",
	.details =
		"  Tells whether an image of process PID can be taken and restored, or IMAGE be restored here:\n"
		"  every obstacle at once, each with why it is one and what helps. Touches nothing.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.interrupted = "nothing was changed",
	.reads_images = true,
	.run = run,
};
