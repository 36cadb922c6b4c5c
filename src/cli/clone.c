/* SPDX-License-Identifier: Apache-2.0 */
/* kage clone: makes a frozen copy of a running program. */
#include <inttypes.h>
#include <string.h>

#include <kage/twins.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/size.h"
#include "cli/text.h"

struct clone_values {
	const char *name;
	const char *max_memory;
	int keep;
};

enum { MOST_KEPT = 100000 };

static const struct cli_option options[] = {
	{ "name", 'n', "NAME", "call its twins NAME, not like the program", CLI_TEXT,
	  .offset = offsetof(struct clone_values, name) },
	{ "keep", 0, "N", "keep N twins of it at most; the oldest go", CLI_NUMBER,
	  .offset = offsetof(struct clone_values, keep), 1, MOST_KEPT },
	{ "max-memory", 0, "SIZE", "let its twins have SIZE of their own, e.g. 512M; the oldest go",
	  CLI_TEXT, .offset = offsetof(struct clone_values, max_memory) },
	{ 0 },
};

static void print_json(const struct kage_clone_result *r, const char *label, pid_t pid)
{
	cli_json_print_take(json_pack(
		"{s:o, s:o, s:o, s:i, s:i, s:i, s:o, s:o, s:o}", "twin", cli_json_text(label),
		"name", cli_json_text(r->name), "number", cli_json_number(r->number), "pid",
		(int)pid, "twin_pid", (int)r->twin_pid, "keeper_pid", (int)r->keeper_pid,
		"pause_ns", cli_json_number(r->pause_ns), "total_ns", cli_json_number(r->total_ns),
		"dropped", cli_json_number(r->n_dropped)));
}

static void print(struct cli *cli, const struct kage_clone_result *r, pid_t pid)
{
	_cleanup_free_ char *label = cli_printf("%s@%" PRIu64, r->name, r->number);
	char pause[CLI_TEXT_BYTES], total[CLI_TEXT_BYTES];

	if (cli->json) {
		print_json(r, label, pid);
		return;
	}
	printf("%s  paused %s, %s in all\n", label, cli_text_duration(pause, r->pause_ns),
	       cli_text_duration(total, r->total_ns));
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct clone_values *v = data;
	struct kage_clone_options how = { .name = v->name,
					  .keep = (unsigned)v->keep,
					  .program = "/proc/self/exe" };
	_cleanup_free_ char *own_name = NULL;
	struct kage_clone_result result;
	struct kage_err *e;
	pid_t pid = cli_pid_parse(argv[0]);

	(void)argc;
	if (pid == 0)
		return cli_fail_usage(cli, "'%s' is not a PID; 'pgrep %s' finds those of a name",
				      argv[0], argv[0]);
	if (v->max_memory && !cli_size_parse(v->max_memory, &how.max_memory))
		return cli_fail_usage(cli, "--max-memory: '%s' is no size such as 512M or 2G",
				      v->max_memory);
	own_name = v->name ? NULL : cli_pid_own_name(pid);
	if (own_name && strlen(own_name) < KAGE_TWINS_NAME_BYTES - 8)
		how.name = own_name;
	e = kage_clone(cli->ctx, pid, &how, &result);
	if (e)
		return cli_fail(cli, e);
	print(cli, &result, pid);
	return CLI_DONE;
}

const struct cli_command cli_clone = {
	.name = "clone",
	.arguments = "PID",
	.summary = "make a frozen copy of a running program, a twin",
	.details =
		"  Makes a copy of process PID that stands still, and keeps it in memory: a twin, which 'kage\n"
		"  wake' brings to life any number of times, from this instant on. The program goes on after\n"
		"  about the time of a fork. A twin costs the memory that differs since.\n"
		"\n"
		"  Twins of one program are NAME@1, NAME@2 and so on. A process of kage's keeps them, until\n"
		"  they are dropped ('kage drop') or the machine stops.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.run = run,
};
