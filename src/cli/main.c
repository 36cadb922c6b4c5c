/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the command line to one command, and from its result to an exit status.
 *
 * Starting must cost next to nothing, since taking an image takes milliseconds: no locale is set,
 * nothing is read or opened before a command asks for it.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/help.h"
#include "cli/interrupt.h"
#include "cli/json.h"
#include "cli/parse.h"
#include "cli/progress.h"

static void note_from_library(void *user, const char *line)
{
	cli_note(user, "%s", line);
}

static void look_at_terminal(struct cli *cli)
{
	const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
	struct winsize size;

	if (!isatty(STDOUT_FILENO))
		return;
	cli->columns = 80;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		cli->columns = size.ws_col;
	cli->colour = !(no_colour && *no_colour) && term && *term && strcmp(term, "dumb") != 0;
}

static int print_version(const struct cli *cli)
{
	if (cli->json)
		cli_json_print_take(json_pack("{s:s}", "version", kage_version()));
	else
		printf("kage %s\n", kage_version());
	return CLI_DONE;
}

static int fail_unknown_command(struct cli *cli, const char *name)
{
	const char *nearest = cli_command_nearest(name);

	if (nearest)
		return cli_fail_usage(cli,
				      "unknown command '%s'; did you mean 'kage %s'? "
				      "'kage --help' lists all",
				      name, nearest);
	return cli_fail_usage(cli, "unknown command '%s'; 'kage --help' lists those there are",
			      name);
}

/* COMMAND NULL: all of them. */
static void print_help(const struct cli *cli, const struct cli_command *command)
{
	if (cli->json)
		cli_help_json(command);
	else if (command)
		cli_help_command(command, cli->colour);
	else
		cli_help_overview(cli->colour);
}

static int help(struct cli *cli, int argc, char **argv)
{
	const struct cli_command *command;

	if (argc < 2 || argv[1][0] == '-') {
		print_help(cli, NULL);
		return CLI_DONE;
	}
	command = cli_command_find(argv[1]);
	if (!command)
		return fail_unknown_command(cli, argv[1]);
	print_help(cli, command);
	return CLI_DONE;
}

static int run_command(struct cli *cli, int argc, char **argv)
{
	_Alignas(max_align_t) unsigned char values[CLI_VALUES_BYTES] = { 0 };
	struct cli_progress progress = { 0 };
	struct kage_err *e;
	int first, status;

	status = cli_parse(cli, values, argc, argv, &first);
	if (status != CLI_DONE)
		return status;
	if (cli->help) {
		print_help(cli, cli->command);
		return CLI_DONE;
	}
	e = kage_ctx_create(&cli->ctx);
	if (e)
		return cli_fail(cli, e);
	cli->progress = &progress;
	cli_progress_start(&progress, cli->ctx);
	kage_ctx_set_notice(cli->ctx, note_from_library, cli);
	kage_ctx_set_interrupt(cli->ctx, cli_interrupt_catch());
	status = cli->command->run(cli, values, argc - first, argv + first);
	cli_progress_clear(&progress);
	cli->progress = NULL;
	kage_ctx_destroy(cli->ctx);
	return status;
}

/* Options before the command: those that are for all of them. Returns the index of the command's
 * name, ARGC if there is none, or -1 after it told what is wrong. */
static int skip_options(struct cli *cli, int argc, char **argv, bool *ret_version)
{
	int i;

	*ret_version = false;
	for (i = 1; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "--json") == 0)
			cli->json = true;
		else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			cli->help = true;
		else if (strcmp(argv[i], "--version") == 0)
			*ret_version = true;
		else if (strncmp(argv[i], "--store=", 8) == 0)
			cli->store_path = argv[i] + 8;
		else if (strcmp(argv[i], "--store") == 0 && i + 1 < argc)
			cli->store_path = argv[++i];
		else if (strcmp(argv[i], "--store") == 0) {
			cli_fail_usage(cli, "option '--store' needs a value: --store DIR");
			return -1;
		} else {
			cli_fail_usage(cli, "unknown option '%s'; 'kage --help' tells how it goes",
				       argv[i]);
			return -1;
		}
	}
	return i;
}

static int dispatch(struct cli *cli, int argc, char **argv)
{
	bool version;
	int at = skip_options(cli, argc, argv, &version);

	if (at < 0)
		return CLI_USAGE;
	if (version)
		return print_version(cli);
	if (at == argc && cli->help) {
		print_help(cli, NULL);
		return CLI_DONE;
	}
	if (at == argc)
		return cli_fail_usage(cli, "which command? 'kage --help' lists all");
	if (strcmp(argv[at], "help") == 0) {
		cli->json = cli->json || cli_parse_wants_json(argc - at, argv + at);
		return help(cli, argc - at, argv + at);
	}
	cli->command = cli_command_find(argv[at]);
	if (!cli->command || !cli->command->first_ends_options)
		cli->json = cli->json || cli_parse_wants_json(argc - at, argv + at);
	if (!cli->command)
		return fail_unknown_command(cli, argv[at]);
	return run_command(cli, argc - at, argv + at);
}

/* What did not reach its reader is a failure, too. */
static int finish_output(struct cli *cli, int status)
{
	int failed = ferror(stdout);

	errno = 0;
	if ((fflush(stdout) == 0 && !failed) || status != CLI_DONE)
		return status;
	cli->json = false; /* it would go the same way */
	return cli_fail_own(cli, KAGE_SYS, errno ? errno : EIO, "write standard output");
}

int main(int argc, char **argv)
{
	struct cli cli = { 0 };
	int status;

	look_at_terminal(&cli);
	status = finish_output(&cli, dispatch(&cli, argc, argv));
	if (cli.interrupted && cli_interrupt_signal())
		cli_interrupt_die(cli_interrupt_signal());
	return status;
}
