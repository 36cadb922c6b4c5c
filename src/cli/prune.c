/* SPDX-License-Identifier: Apache-2.0 */
/* kage prune: thins a history. */
#include "cli/cli.h"
#include "cli/json.h"
#include "cli/keep.h"
#include "cli/progress.h"
#include "cli/text.h"

struct prune_values {
	struct cli_keep_values keep;
	bool dry_run;
};

static const struct cli_option options[] = {
	CLI_KEEP_OPTIONS(struct prune_values, keep),
	{ "dry-run", 0, NULL, "only tell how many would go", CLI_FLAG,
	  .offset = offsetof(struct prune_values, dry_run) },
	{ 0 },
};

static void print(const struct cli *cli, const char *name, const struct kage_prune_result *result,
		  bool dry_run)
{
	char before[CLI_TEXT_BYTES], after[CLI_TEXT_BYTES];

	if (cli->json)
		cli_json_print_take(json_pack("{s:o, s:b, s:o, s:o, s:o, s:o, s:o}", "name",
					      cli_json_text(name), "dry_run", (int)dry_run,
					      "removed", cli_json_number(result->n_removed), "kept",
					      cli_json_number(result->n_kept), "spared",
					      cli_json_number(result->n_spared), "bytes_before",
					      cli_json_number(result->bytes_before), "bytes_after",
					      cli_json_number(result->bytes_after)));
	else if (dry_run)
		printf("%zu images would go\n", result->n_removed);
	else
		printf("%zu images removed, %zu kept, %s now %s\n", result->n_removed,
		       result->n_kept, cli_text_size(before, result->bytes_before),
		       cli_text_size(after, result->bytes_after));
	if (result->n_spared)
		cli_note(
			cli,
			"%zu more would go, but images that stay are stored as differences from them "
			"and encrypted; --key FILE names the secret key that it takes",
			result->n_spared);
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct prune_values *values = data;
	_cleanup_store_ struct kage_store *store = NULL;
	struct kage_prune_result result;
	struct cli_keep keep;
	struct kage_err *e;

	(void)argc;
	if (cli_keep_parse(cli, &values->keep, &keep) != CLI_DONE)
		return CLI_USAGE;
	if (!cli_keep_any(&keep))
		return cli_fail_usage(cli, "say what is to be kept: --keep, --keep-last, "
					   "--keep-every or --max-size");
	keep.rules.dry_run = values->dry_run;
	e = cli_store_open(cli, 0, &store);
	if (!e)
		e = kage_store_prune(store, argv[0], &keep.rules, &result);
	cli_progress_clear(cli->progress);
	if (e)
		return cli_fail(cli, e);
	print(cli, argv[0], &result, values->dry_run);
	return CLI_DONE;
}

const struct cli_command cli_prune = {
	.name = "prune",
	.arguments = "NAME",
	.summary = "thin a history",
	.details =
		"  Removes the images of history NAME that no option keeps. The newest and those with tags stay\n"
		"  always. What stays can be restored as before.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.reads_images = true,
	.run = run,
};
