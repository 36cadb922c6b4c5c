/* SPDX-License-Identifier: Apache-2.0 */
/* kage drop: ends twins. */
#include <kage/twins.h>

#include "cli/cli.h"
#include "cli/json.h"

static const struct cli_option options[] = { { 0 } };

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	json_t *list = json_array();
	struct kage_err *e = NULL;

	(void)data;
	for (int i = 0; i < argc && !e; i++) {
		e = kage_twin_drop(cli->ctx, argv[i]);
		if (!e)
			json_array_append_new(list, cli_json_text(argv[i]));
	}
	if (e) {
		json_decref(list);
		return cli_fail(cli, e);
	}
	if (cli->json)
		cli_json_print_take(json_pack("{s:o}", "dropped", list));
	else
		json_decref(list);
	return CLI_DONE;
}

const struct cli_command cli_drop = {
	.name = "drop",
	.arguments = "TWIN…",
	.summary = "end twins",
	.details =
		"  Ends the twin NAME@N, or with only NAME all twins of that name. Programs that were woken\n"
		"  from them go on.",
	.options = options,
	.min_args = 1,
	.max_args = -1,
	.run = run,
};
