/* SPDX-License-Identifier: Apache-2.0 */
/* kage show: prints what an image holds. */
#include <string.h>

#include "cli/cli.h"
#include "cli/progress.h"

struct show_values {
	bool full;
};

static const struct cli_option options[] = {
	{ "full", 'f', NULL, "print every field of every mapping and descriptor", CLI_FLAG,
	  .offset = offsetof(struct show_values, full) },
	{ 0 },
};

static struct kage_err *print_json(const struct kage_image *image)
{
	_cleanup_free_ char *text = NULL;
	struct kage_err *e = kage_image_json(image, &text);

	if (e)
		return e;
	fputs(text, stdout);
	if (*text && text[strlen(text) - 1] != '\n')
		fputc('\n', stdout);
	return NULL;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct show_values *values = data;
	_cleanup_store_ struct kage_store *store = NULL;
	_cleanup_image_ struct kage_image *image = NULL;
	struct kage_err *e = cli_image_open(cli, argv[0], &store, &image);

	(void)argc;
	cli_progress_clear(cli->progress);
	if (!e && cli->json)
		e = print_json(image);
	else if (!e)
		e = kage_image_print(image, stdout, values->full, cli->colour);
	return e ? cli_fail(cli, e) : CLI_DONE;
}

const struct cli_command cli_show = {
	.name = "show",
	.arguments = "IMAGE",
	.summary = "print what an image holds",
	.details = "  Prints the processes, threads, mappings, descriptors and files of IMAGE.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.reads_images = true,
	.run = run,
};
