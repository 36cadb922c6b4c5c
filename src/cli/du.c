/* SPDX-License-Identifier: Apache-2.0 */
/* kage du: what histories and images take, and what memory they stand for. */
#include <inttypes.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/text.h"

static const struct cli_column columns[] = {
	{ .title = "WHAT" },
	{ .title = "IMAGES", .right = true },
	{ .title = "STORED", .right = true },
	{ .title = "MEMORY", .right = true },
	{ .title = "RATIO", .right = true },
};

/* What a history, an image or all of it takes. */
struct usage {
	char *what;
	size_t images;
	uint64_t stored_bytes, memory_bytes;
};

struct report {
	struct usage *lines;
	size_t n;
	struct usage total;
};

static void report_deinit(struct report *report)
{
	for (size_t i = 0; i < report->n; i++)
		free(report->lines[i].what);
	free(report->lines);
}

static struct usage *new_line(struct report *report, char *what)
{
	report->lines = cli_grow(report->lines, report->n + 1, sizeof(*report->lines));
	report->lines[report->n] = (struct usage){ .what = what };
	return &report->lines[report->n++];
}

static void count(struct usage *usage, const struct kage_entry *entry)
{
	usage->images++;
	usage->stored_bytes += entry->stored_bytes;
	usage->memory_bytes += entry->memory_bytes;
}

/* History NAME: as one line, or with EACH one for each of its images. */
static struct kage_err *add_history(struct kage_store *store, const char *name, bool each,
				    struct report *report)
{
	struct kage_list list;
	struct kage_err *e = kage_store_list(store, name, &list);
	struct usage *line = NULL;

	if (e)
		return e;
	if (!each)
		line = new_line(report, cli_printf("%s", name));
	for (size_t i = 0; i < list.n; i++) {
		if (each)
			line = new_line(report,
					cli_printf("%s@%" PRIu64, name, list.entries[i].number));
		count(line, &list.entries[i]);
		count(&report->total, &list.entries[i]);
	}
	kage_list_free(&list);
	return NULL;
}

static struct kage_err *add_all(struct kage_store *store, struct report *report)
{
	struct kage_list histories;
	struct kage_err *e = kage_store_list(store, NULL, &histories);

	if (e)
		return e;
	for (size_t i = 0; i < histories.n && !e; i++)
		e = add_history(store, histories.entries[i].name, false, report);
	kage_list_free(&histories);
	return e;
}

/* How many bytes of memory one stored byte stands for. */
static double ratio(const struct usage *usage)
{
	return usage->stored_bytes ? (double)usage->memory_bytes / (double)usage->stored_bytes : 0;
}

static void add_row(struct cli_table *table, const struct usage *usage)
{
	_cleanup_free_ char *images = cli_printf("%zu", usage->images);
	_cleanup_free_ char *times = cli_printf("%.1f", ratio(usage));
	char text[CLI_TEXT_BYTES];

	cli_table_add(table, usage->what);
	cli_table_add(table, images);
	cli_table_add(table, cli_text_size(text, usage->stored_bytes));
	cli_table_add(table, cli_text_size(text, usage->memory_bytes));
	cli_table_add(table, times);
}

static void print_table(const struct cli *cli, const struct report *report)
{
	_cleanup_table_ struct cli_table table = { .columns = columns,
						   .n_columns = ARRAY_SIZE(columns) };

	for (size_t i = 0; i < report->n; i++)
		add_row(&table, &report->lines[i]);
	if (report->n != 1)
		add_row(&table, &report->total);
	cli_table_print(&table, stdout, cli->columns, cli->colour);
}

static json_t *usage_json(const struct usage *usage)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:f}", "what", cli_json_text(usage->what), "images",
			 cli_json_number(usage->images), "stored_bytes",
			 cli_json_number(usage->stored_bytes), "memory_bytes",
			 cli_json_number(usage->memory_bytes), "ratio", ratio(usage));
}

static void print_json(const struct kage_store *store, const struct report *report)
{
	json_t *lines = json_array();

	for (size_t i = 0; i < report->n; i++)
		json_array_append_new(lines, usage_json(&report->lines[i]));
	cli_json_print_take(json_pack("{s:o, s:o, s:o}", "store",
				      cli_json_text(kage_store_path(store)), "usage", lines,
				      "total", usage_json(&report->total)));
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	_cleanup_store_ struct kage_store *store = NULL;
	__attribute__((cleanup(report_deinit))) struct report report = { .total.what = "all" };
	struct kage_err *e = cli_store_open(cli, 0, &store);

	(void)data;
	if (!e)
		e = argc ? add_history(store, argv[0], true, &report) : add_all(store, &report);
	if (e)
		return cli_fail(cli, e);
	cli_progress_clear(cli->progress);
	if (cli->json)
		print_json(store, &report);
	else
		print_table(cli, &report);
	return CLI_DONE;
}

const struct cli_command cli_du = {
	.name = "du",
	.arguments = "[NAME]",
	.summary = "tell what histories and images take",
	.details =
		"  Tells what each history takes in the store, or each image of history NAME, and how much\n"
		"  memory they stand for.",
	.min_args = 0,
	.max_args = 1,
	.run = run,
};
