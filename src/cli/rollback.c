/* SPDX-License-Identifier: Apache-2.0 */
/* kage rollback: takes a running program back to its twin. */
#include <inttypes.h>
#include <string.h>

#include <kage/twins.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/text.h"

/* The words of options, in the order of their arguments; 0: not given. */
enum { FILES_KEEP = 1, FILES_RESTORE };
enum { CONNECTIONS_REFUSE = 1, CONNECTIONS_RESET };

struct rollback_values {
	int to, files, connections;
	bool end_children;
};

static const struct cli_option options[] = {
	{ "to", 0, "N", "to the twin with number N, not to the latest", CLI_NUMBER,
	  .offset = offsetof(struct rollback_values, to), 1, INT32_MAX },
	{ "files", 0, "keep|restore", "what it wrote since: keep (default), or put back",
	  CLI_CHOICE, .offset = offsetof(struct rollback_values, files) },
	{ "connections", 0, "refuse|reset",
	  "connections closed since: refuse (default), or reset by peer", CLI_CHOICE,
	  .offset = offsetof(struct rollback_values, connections) },
	{ "end-children", 0, NULL, "end processes that it has started since", CLI_FLAG,
	  .offset = offsetof(struct rollback_values, end_children) },
	{ 0 },
};

static void print(struct cli *cli, const struct kage_rollback_result *r)
{
	char pause[CLI_TEXT_BYTES], total[CLI_TEXT_BYTES];

	if (cli->json) {
		cli_json_print_take(json_pack("{s:i, s:o, s:o, s:o, s:o, s:o}", "pid", (int)r->pid,
					      "number", cli_json_number(r->number), "pause_ns",
					      cli_json_number(r->pause_ns), "total_ns",
					      cli_json_number(r->total_ns), "pages",
					      cli_json_number(r->pages), "descriptors",
					      cli_json_number(r->n_descriptors)));
		return;
	}
	printf("%d is back at twin %" PRIu64 "  %" PRIu64 " pages, paused %s, %s in all\n",
	       (int)r->pid, r->number, r->pages, cli_text_duration(pause, r->pause_ns),
	       cli_text_duration(total, r->total_ns));
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct rollback_values *v = data;
	const struct kage_rollback_options how = {
		.files = v->files == FILES_RESTORE ? KAGE_FILES_RESTORE : KAGE_FILES_KEEP,
		.connections = v->connections == CONNECTIONS_RESET ? KAGE_CONNECTIONS_RESET
								   : KAGE_CONNECTIONS_REFUSE,
		.end_children = v->end_children,
	};
	_cleanup_free_ char *spec = NULL;
	struct kage_rollback_result result;
	struct kage_err *e;

	(void)argc;
	if (v->to && strchr(argv[0], '@'))
		return cli_fail_usage(cli,
				      "--to and what stands behind the '@' of %s do not go "
				      "together",
				      argv[0]);
	spec = v->to ? cli_printf("%s@%d", argv[0], v->to) : cli_printf("%s", argv[0]);
	e = kage_rollback(cli->ctx, spec, &how, &result);
	if (e)
		return cli_fail(cli, e);
	print(cli, &result);
	return CLI_DONE;
}

const struct cli_command cli_rollback = {
	.name = "rollback",
	.arguments = "PID|TWIN",
	.summary = "take a running program back to its twin, in place",
	.details =
		"  Makes the program what it was when the twin was made: memory, threads, descriptors, timers.\n"
		"  It stays the same process, with the same parent and terminal; connections and pipes to\n"
		"  others stay open. Only what differs is written. Without --to, and given only a PID or a\n"
		"  NAME, to the latest twin.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.run = run,
};
