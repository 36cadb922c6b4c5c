/* SPDX-License-Identifier: Apache-2.0 */
/* kage fsck: reads every byte of a store, says what is damaged, and mends what can be mended. */
#include "cli/cli.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/text.h"

struct fsck_values {
	bool repair;
};

static const struct cli_option options[] = {
	{ "repair", 0, NULL, "write anew what can still be read, and move away what cannot",
	  CLI_FLAG, .offset = offsetof(struct fsck_values, repair) },
	{ 0 },
};

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
		"{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "packs",
		cli_json_number(result->n_packs), "bad", cli_json_number(result->n_bad),
		"unreadable", cli_json_number(result->n_unreadable), "lost",
		cli_json_number(result->n_lost), "repaired", cli_json_number(result->n_repaired),
		"moved", cli_json_number(result->n_moved), "bytes", cli_json_number(result->bytes),
		"encrypted", cli_json_number(result->n_encrypted), "locked",
		cli_json_number(result->n_locked), "encrypted_histories",
		cli_json_list(result->encrypted ? result->encrypted : ""), "findings", findings));
}

/* "12 packs are encrypted (redis); without their secret key …" */
static void print_encrypted(const struct kage_fsck_result *result)
{
	printf("%zu %s encrypted (%s)", result->n_encrypted,
	       result->n_encrypted == 1 ? "pack is" : "packs are", result->encrypted);
	if (result->n_locked)
		printf("; %zu could be checked by checksums alone, --key FILE checks what is in "
		       "them",
		       result->n_locked);
	putchar('\n');
}

/* "17 packs of 20 MiB read, 2 damaged; 1 image lost" and what can be done, or was. */
static void print_sum(const struct kage_fsck_result *result, bool repair)
{
	char size[CLI_TEXT_BYTES];

	printf("%zu %s of %s read, ", result->n_packs, result->n_packs == 1 ? "pack" : "packs",
	       cli_text_size(size, result->bytes));
	if (result->n_unreadable > 0)
		printf("%zu could not be read, ", result->n_unreadable);
	if (result->n_bad == 0)
		printf("none damaged");
	else
		printf("%zu damaged", result->n_bad);
	if (result->n_lost > 0)
		printf(", %zu %s lost", result->n_lost, result->n_lost == 1 ? "image" : "images");
	if (repair && (result->n_bad > 0 || result->n_lost > 0))
		printf("; %zu written anew, %zu moved away", result->n_repaired, result->n_moved);
	else if (result->n_bad > 0 || result->n_lost > 0)
		printf("; 'kage fsck --repair' keeps what can be kept");
	putchar('\n');
	if (result->n_encrypted)
		print_encrypted(result);
}

static void print_text(const struct kage_fsck_result *result, bool repair)
{
	for (size_t i = 0; i < result->n_findings; i++) {
		_cleanup_free_ char *pack = cli_text_clean(result->findings[i].pack);
		_cleanup_free_ char *problem = cli_text_clean(result->findings[i].problem);

		printf("%s: %s\n", pack, problem);
	}
	print_sum(result, repair);
}

/* Whether the store is whole as it is now. A repair leaves a history alone of which not all could be
 * read. */
static bool is_whole(const struct kage_fsck_result *result, bool repair)
{
	if (result->n_unreadable)
		return false;
	if (repair)
		return result->n_repaired + result->n_moved >= result->n_bad &&
		       result->n_moved == result->n_lost;
	return result->n_bad == 0 && result->n_lost == 0;
}

static int report(struct cli *cli, const struct kage_fsck_result *result, bool repair)
{
	cli_progress_clear(cli->progress);
	if (cli->json)
		print_json(result);
	else
		print_text(result, repair);
	return is_whole(result, repair) ? CLI_DONE : CLI_FAILED;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	_cleanup_store_ struct kage_store *store = NULL;
	struct kage_fsck_result result = { 0 };
	const struct fsck_values *values = data;
	const char *name = argc > 0 ? argv[0] : NULL;
	struct kage_err *e = cli_store_open_if_any(cli, name, &store);
	int status;

	if (!e && !store)
		cli_note(cli, "no images yet; 'kage snap PID' takes one");
	if (!e && store)
		e = values->repair ? kage_store_repair(store, name, &result)
				   : kage_store_fsck(store, name, &result);
	if (e)
		return cli_fail(cli, e);
	status = report(cli, &result, values->repair);
	kage_fsck_result_free(&result);
	return status;
}

const struct cli_command cli_fsck = {
	.name = "fsck",
	.arguments = "[NAME]",
	.summary = "check every byte of the store",
	.details =
		"  Reads all images of history NAME, or of the whole store, and names each that is damaged and\n"
		"  where, or cannot be read. Changes nothing without --repair.",
	.options = options,
	.min_args = 0,
	.max_args = 1,
	.interrupted = "not everything was checked",
	.reads_images = true,
	.run = run,
};
