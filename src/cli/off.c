/* SPDX-License-Identifier: Apache-2.0 */
/* kage off: takes triggers away. */
#include <kage/triggers.h>

#include "cli/cli.h"
#include "cli/json.h"

static const struct cli_option options[] = { { 0 } };

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	json_t *done = json_array();

	(void)data;
	for (int i = 0; i < argc; i++) {
		struct kage_err *e = kage_trigger_off(cli->ctx, argv[i]);

		if (e) {
			json_decref(done);
			return cli_fail(cli, e);
		}
		json_array_append_new(done, cli_json_text(argv[i]));
	}
	if (cli->json)
		cli_json_print_take(json_pack("{s:o}", "off", done));
	else
		json_decref(done);
	return CLI_DONE;
}

const struct cli_command cli_off = {
	.name = "off",
	.arguments = "TRIGGER…",
	.summary = "take triggers away",
	.details =
		"  Takes away each TRIGGER, such as redis:1, as 'kage on' has named it; redis stands for\n"
		"  all of that program.",
	.options = options,
	.min_args = 1,
	.max_args = -1,
	.run = run,
};
