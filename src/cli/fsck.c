/* SPDX-License-Identifier: Apache-2.0 */
/* kage fsck: reads every byte of a store and says what is damaged. */
#include "cli/cli.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/text.h"

static void print_json(const struct kage_fsck_result *result)
{
	json_t *findings = json_array();

	for (size_t i = 0; i < result->n_findings; i++)
		json_array_append_new(findings,
				      json_pack("{s:o, s:o, s:b}", "pack",
						cli_json_text(result->findings[i].pack), "problem",
						cli_json_text(result->findings[i].problem),
						"unreadable", (int)result->findings[i].unreadable));
	cli_json_print_take(json_pack(
		"{s:o, s:o, s:o, s:o, s:o}", "packs", cli_json_number(result->n_packs), "bad",
		cli_json_number(result->n_bad), "unreadable", cli_json_number(result->n_unreadable),
		"bytes", cli_json_number(result->bytes), "findings", findings));
}

static void print_text(const struct kage_fsck_result *result)
{
	char size[CLI_TEXT_BYTES];

	for (size_t i = 0; i < result->n_findings; i++) {
		_cleanup_free_ char *pack = cli_text_clean(result->findings[i].pack);
		_cleanup_free_ char *problem = cli_text_clean(result->findings[i].problem);

		printf("%s: %s\n", pack, problem);
	}
	printf("%zu %s of %s read, ", result->n_packs, result->n_packs == 1 ? "pack" : "packs",
	       cli_text_size(size, result->bytes));
	if (result->n_unreadable > 0)
		printf("%zu could not be read, ", result->n_unreadable);
	if (result->n_bad == 0)
		puts("none damaged");
	else
		printf("%zu damaged; 'kage rm' removes an image, the others are as they were\n",
		       result->n_bad);
}

static int report(struct cli *cli, const struct kage_fsck_result *result)
{
	cli_progress_clear(cli->progress);
	if (cli->json)
		print_json(result);
	else
		print_text(result);
	return result->n_bad || result->n_unreadable ? CLI_FAILED : CLI_DONE;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	_cleanup_store_ struct kage_store *store = NULL;
	struct kage_fsck_result result = { 0 };
	const char *name = argc > 0 ? argv[0] : NULL;
	struct kage_err *e = cli_store_open_if_any(cli, name, &store);
	int status;

	(void)data;
	if (!e && !store)
		cli_note(cli, "no images yet; 'kage snap PID' takes one");
	if (!e && store)
		e = kage_store_fsck(store, name, &result);
	if (e)
		return cli_fail(cli, e);
	status = report(cli, &result);
	kage_fsck_result_free(&result);
	return status;
}

const struct cli_command cli_fsck = {
	.name = "fsck",
	.arguments = "[NAME]",
	.summary = "check every byte of the store",
	.details =
		"  Reads all images of history NAME, or of the whole store, and names each that is damaged and\n"
		"  where, or cannot be read. Changes nothing.",
	.min_args = 0,
	.max_args = 1,
	.interrupted = "not everything was checked",
	.run = run,
};
