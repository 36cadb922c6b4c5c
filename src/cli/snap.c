/* SPDX-License-Identifier: Apache-2.0 */
/* kage snap: takes one image of a running program. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <kage/twins.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/text.h"

struct snap_values {
	const char *name;
	const char *message;
	const char *git;
	const char *recipient;
	bool kill;
	bool carry;
	bool tree;
	bool twin;
	int level;
};

static const struct cli_option options[] = {
	{ "name", 'n', "NAME", "add to history NAME, not the one called like the program", CLI_TEXT,
	  .offset = offsetof(struct snap_values, name) },
	{ "message", 'm', "TEXT", "keep TEXT with the image", CLI_TEXT,
	  .offset = offsetof(struct snap_values, message) },
	{ "kill", 'k', NULL, "end the program once its image is safe on disk", CLI_FLAG,
	  .offset = offsetof(struct snap_values, kill) },
	{ "carry", 0, NULL, "put the executable and its libraries into the image", CLI_FLAG,
	  .offset = offsetof(struct snap_values, carry) },
	{ "git", 0, "DIR", "commit the files that it writes to the git repository DIR", CLI_TEXT,
	  .offset = offsetof(struct snap_values, git) },
	{ "level", 0, "N", "compress at zstd level N, 1 to 19", CLI_NUMBER,
	  .offset = offsetof(struct snap_values, level), 1, 19 },
	{ "recipient", 0, "KEY", "encrypt for the public KEY, or the one in a file KEY", CLI_TEXT,
	  .offset = offsetof(struct snap_values, recipient) },
	{ "twin", 0, NULL, "of the twin that is named instead of a PID (see 'kage clone')",
	  CLI_FLAG, .offset = offsetof(struct snap_values, twin) },
	{ "tree", 0, NULL, NULL, CLI_FLAG, .offset = offsetof(struct snap_values, tree) },
	{ 0 },
};

static void print_json(const struct kage_snap_result *result, bool killed)
{
	_cleanup_free_ char *label =
		cli_printf("%s@%llu", result->name, (unsigned long long)result->number);

	cli_json_print_take(json_pack(
		"{s:o, s:o, s:o, s:i, s:i, s:i, s:s, s:o, s:o, s:o, s:o, s:b, s:o*}", "image",
		cli_json_text(label), "name", cli_json_text(result->name), "number",
		cli_json_number(result->number), "pid", (int)result->pid, "threads",
		(int)result->n_threads, "rung", (int)result->rung, "tracking", result->tracking,
		"pause_ns", cli_json_number(result->pause_ns), "total_ns",
		cli_json_number(result->total_ns), "memory_bytes",
		cli_json_number(result->memory_bytes), "stored_bytes",
		cli_json_number(result->stored_bytes), "killed", (int)killed, "git_commit",
		result->git_commit[0] ? cli_json_text(result->git_commit) : NULL));
}

static void print_line(const struct kage_snap_result *result, bool killed)
{
	char memory[CLI_TEXT_BYTES], stored[CLI_TEXT_BYTES];
	char pause[CLI_TEXT_BYTES], total[CLI_TEXT_BYTES];

	/* All of its threads slept: nothing had to be stopped. */
	printf("%s@%llu  %s in %s, %s%s, %s in all%s\n", result->name,
	       (unsigned long long)result->number, cli_text_size(memory, result->memory_bytes),
	       cli_text_size(stored, result->stored_bytes),
	       result->pause_ns ? "paused " : "not stopped",
	       result->pause_ns ? cli_text_duration(pause, result->pause_ns) : "",
	       cli_text_duration(total, result->total_ns), killed ? ", killed" : "");
}

static struct kage_err *snap(struct cli *cli, const struct snap_values *values, pid_t pid,
			     struct kage_snap_result *ret_result)
{
	_cleanup_free_ char *own_name = values->name ? NULL : cli_pid_own_name(pid);
	_cleanup_store_ struct kage_store *store = NULL;
	struct kage_snap_options how = {
		.name = values->name ? values->name : own_name,
		.message = values->message,
		.kill = values->kill,
		.carry = values->carry,
		.compression = values->level,
		.git = values->git,
		.recipient = values->recipient,
	};
	struct kage_err *e = cli_store_open(cli, KAGE_STORE_CREATE, &store);

	return e ? e : kage_snap(cli->ctx, store, pid, &how, ret_result);
}

/* The keeper that stores the image is elsewhere. */
static char *absolute(const char *path)
{
	_cleanup_free_ char *cwd = path && path[0] != '/' ? getcwd(NULL, 0) : NULL;

	if (!path)
		return NULL;
	return cwd ? cli_printf("%s/%s", cwd, path) : cli_printf("%s", path);
}

static int snap_twin(struct cli *cli, const struct snap_values *values, const char *twin)
{
	bool in_file = values->recipient && access(values->recipient, F_OK) == 0;
	_cleanup_free_ char *git = absolute(values->git);
	_cleanup_free_ char *key = in_file ? absolute(values->recipient) : NULL;
	_cleanup_store_ struct kage_store *store = NULL;
	const struct kage_snap_options how = {
		.name = values->name,
		.message = values->message,
		.compression = values->level,
		.git = git,
		.recipient = in_file ? key : values->recipient,
	};
	struct kage_snap_result result;
	struct kage_err *e = cli_store_open(cli, KAGE_STORE_CREATE, &store);

	if (!e)
		e = kage_twin_snap(cli->ctx, store, twin, &how, &result);
	if (e)
		return cli_fail(cli, e);
	if (cli->json)
		print_json(&result, false);
	else
		print_line(&result, false);
	return CLI_DONE;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct snap_values *values = data;
	struct kage_snap_result result;
	struct kage_err *e;
	pid_t pid = cli_pid_parse(argv[0]);

	(void)argc;
	if (values->twin && (values->kill || values->carry || values->tree))
		return cli_fail_usage(cli, "--twin goes with none of --kill, --carry, --tree");
	if (values->twin)
		return snap_twin(cli, values, argv[0]);
	if (pid == 0 && argv[0][strspn(argv[0], "-+0123456789")] == '\0')
		return cli_fail_usage(cli, "'%s' is not a PID that a process can have", argv[0]);
	if (pid == 0)
		return cli_fail_usage(cli, "'%s' is not a PID; 'pgrep %s' finds those of a name",
				      argv[0], argv[0]);
	if (values->tree)
		return cli_fail_own(cli, KAGE_UNSUPPORTED, 0,
				    "process trees come with a later version; without --tree, an "
				    "image holds one process with all of its threads");
	e = snap(cli, values, pid, &result);
	cli_progress_clear(cli->progress);
	if (e)
		return cli_fail(cli, e);
	if (cli->json)
		print_json(&result, values->kill);
	else
		print_line(&result, values->kill);
	return CLI_DONE;
}

const struct cli_command cli_snap = {
	.name = "snap",
	.arguments = "PID|TWIN",
	.summary = "take one image of a running program, which goes on",
	.details =
		"  Stores the complete image of process PID as the next one of its history, and prints which\n"
		"  it became, what it takes, and for how long the program stood still. With --twin it is an\n"
		"  image of a frozen copy that 'kage clone' has made, and the program is not touched.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.interrupted = "no image was stored, the program goes on",
	.run = run,
};
