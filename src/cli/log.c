/* SPDX-License-Identifier: Apache-2.0 */
/* kage log: lists histories, or the images of one. */
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/text.h"

static const struct cli_column columns[] = {
	{ .title = "IMAGE" },
	{ .title = "AGE", .right = true },
	{ .title = "TAKEN", .spare = 5 },
	{ .title = "PAUSE", .right = true, .spare = 2 },
	{ .title = "MEMORY", .right = true, .spare = 3 },
	{ .title = "CHANGED", .right = true, .spare = 6 },
	{ .title = "STORED", .right = true, .spare = 1 },
	{ .title = "PID", .right = true, .spare = 4 },
	{ .title = "WHAT", .stretch = true },
};

/* What tells this image from others: trouble first of all, then what the user said. */
static char *what(const struct kage_entry *entry)
{
	_cleanup_free_ char *tags = NULL;

	if (entry->damage)
		return cli_printf("DAMAGED: %s", entry->damage);
	if (entry->unreadable)
		return cli_printf("NOT READABLE: %s", entry->unreadable);
	tags = *entry->tags ? cli_printf("(%s) ", entry->tags) : cli_printf("%s", "");
	if (entry->recipient)
		return cli_printf("%sencrypted for %s", tags, entry->recipient);
	if (entry->message && *entry->message)
		return cli_printf("%s%s", tags, entry->message);
	return cli_printf("%s%s", tags,
			  entry->command && *entry->command ? entry->command
			  : entry->comm                     ? entry->comm
							    : "");
}

static void add_row(struct cli_table *table, const struct kage_entry *entry, uint64_t now_ns)
{
	_cleanup_free_ char *label = cli_printf("%s@%" PRIu64, entry->name, entry->number);
	_cleanup_free_ char *pid = cli_printf("%" PRId32, entry->pid);
	_cleanup_free_ char *told = what(entry);
	uint64_t age = now_ns > entry->realtime_ns ? now_ns - entry->realtime_ns : 0;
	bool known = entry->realtime_ns > 0; /* a pack that cannot be read tells nothing */
	char text[CLI_TEXT_BYTES];

	cli_table_add(table, label);
	cli_table_add(table, known ? cli_text_duration(text, age) : "");
	cli_table_add(table, known ? cli_text_time(text, entry->realtime_ns) : "");
	cli_table_add(table, !known            ? ""
			     : entry->pause_ns ? cli_text_duration(text, entry->pause_ns)
					       : "none");
	cli_table_add(table, known ? cli_text_size(text, entry->memory_bytes) : "");
	cli_table_add(table, !known               ? ""
			     : entry->base_number ? cli_text_size(text, entry->changed_bytes)
						  : "all");
	cli_table_add(table, entry->stored_bytes ? cli_text_size(text, entry->stored_bytes) : "");
	cli_table_add(table, known ? pid : "");
	cli_table_add(table, told);
}

static void print_table(const struct cli *cli, const struct kage_list *list)
{
	struct cli_table table = { .columns = columns, .n_columns = ARRAY_SIZE(columns) };
	uint64_t now_ns = cli_clock_real_ns();

	for (size_t i = 0; i < list->n; i++)
		add_row(&table, &list->entries[i], now_ns);
	cli_table_print(&table, stdout, cli->columns, cli->colour);
	cli_table_deinit(&table);
}

static json_t *entry_json(const struct kage_entry *entry)
{
	_cleanup_free_ char *label = cli_printf("%s@%" PRIu64, entry->name, entry->number);
	char time[CLI_TEXT_BYTES];

	return json_pack(
		"{s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:i, s:i, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:o, s:o, s:o}",
		"image", cli_json_text(label), "name", cli_json_text(entry->name), "number",
		cli_json_number(entry->number), "time", cli_text_time_utc(time, entry->realtime_ns),
		"realtime_ns", cli_json_number(entry->realtime_ns), "pause_ns",
		cli_json_number(entry->pause_ns), "memory_bytes",
		cli_json_number(entry->memory_bytes), "stored_bytes",
		cli_json_number(entry->stored_bytes), "pid", (int)entry->pid, "threads",
		(int)entry->n_threads, "tracking", entry->tracking, "comm",
		cli_json_text(entry->comm), "command", cli_json_text(entry->command), "message",
		cli_json_text(entry->message), "reason", cli_json_text(entry->reason), "damage",
		cli_json_text(entry->damage), "unreadable", cli_json_text(entry->unreadable),
		"tags", cli_json_list(entry->tags), "keyframe", (int)entry->keyframe, "base_number",
		cli_json_number(entry->base_number), "changed_bytes",
		cli_json_number(entry->changed_bytes), "recipient",
		cli_json_text(entry->recipient));
}

static void print_json(const struct kage_store *store, const struct kage_list *list)
{
	json_t *images = json_array();

	for (size_t i = 0; i < list->n; i++)
		json_array_append_new(images, entry_json(&list->entries[i]));
	cli_json_print_take(json_pack("{s:o, s:o}", "store",
				      cli_json_text(store ? kage_store_path(store) : NULL),
				      "images", images));
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	_cleanup_store_ struct kage_store *store = NULL;
	struct kage_list list = { 0 };
	const char *name = argc > 0 ? argv[0] : NULL;
	struct kage_err *e;

	(void)data;
	e = cli_store_open_if_any(cli, name, &store);
	if (!e && store)
		e = kage_store_list(store, name, &list);
	if (e)
		return cli_fail(cli, e);
	cli_progress_clear(cli->progress);
	if (cli->json)
		print_json(store, &list);
	else if (list.n > 0)
		print_table(cli, &list);
	else
		cli_note(cli, "no images yet; 'kage snap PID' takes one");
	kage_list_free(&list);
	return CLI_DONE;
}

const struct cli_command cli_log = {
	.name = "log",
	.arguments = "[NAME]",
	.summary = "list histories, or the images of one",
	.details =
		"  Lists the images of history NAME, the oldest first; without NAME the newest of each history.",
	.min_args = 0,
	.max_args = 1,
	.run = run,
};
