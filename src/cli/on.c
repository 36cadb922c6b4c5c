/* SPDX-License-Identifier: Apache-2.0 */
/* kage on: what is to be done when a program meets something. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <kage/triggers.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/table.h"
#include "cli/text.h"

struct on_values {
	const char *call, *signal, *count, *action, *name;
	struct cli_texts args, results;
	bool exit, exec, once, follow, list;
	int thread, max;
};

static const struct cli_option options[] = {
	{ "call", 'c', "NAME", "behind each system call NAME, before the program sees its result",
	  CLI_TEXT, .offset = offsetof(struct on_values, call) },
	{ "arg", 'a', "CONDITION", "only if an argument of it is so: 1~'/etc/.*', 2&O_CREAT, 0=3",
	  CLI_TEXTS, .offset = offsetof(struct on_values, args) },
	{ "result", 'r', "CONDITION", "only if its result is so: ENOENT, '>=0', '=3'", CLI_TEXTS,
	  .offset = offsetof(struct on_values, results) },
	{ "signal", 's', "SIGNAL", "before SIGNAL is delivered to it", CLI_TEXT,
	  .offset = offsetof(struct on_values, signal) },
	{ "exit", 0, NULL, "before one of its threads ends", CLI_FLAG,
	  .offset = offsetof(struct on_values, exit) },
	{ "exec", 0, NULL, "when it has executed another program, before its first step", CLI_FLAG,
	  .offset = offsetof(struct on_values, exec) },
	{ "thread", 't', "TID", "only in that thread", CLI_NUMBER,
	  .offset = offsetof(struct on_values, thread), .min = 1, .max = INT32_MAX },
	{ "count", 0, "N[+[STEP]]", "only the Nth time (N+: from then on, N+STEP: each STEP times)",
	  CLI_TEXT, .offset = offsetof(struct on_values, count) },
	{ "do", 'd', "ACTION",
	  "snap, clone, rollback[:N], stop, call:NAME ARG…, exec:COMMAND or count", CLI_TEXT,
	  .offset = offsetof(struct on_values, action) },
	{ "once", '1', NULL, "do it once, then forget it", CLI_FLAG,
	  .offset = offsetof(struct on_values, once) },
	{ "max", 0, "N", "do it N times, then forget it", CLI_NUMBER,
	  .offset = offsetof(struct on_values, max), .min = 1, .max = INT32_MAX },
	{ "follow", 'f', NULL, "also in processes that it makes", CLI_FLAG,
	  .offset = offsetof(struct on_values, follow) },
	{ "name", 'n', "NAME", "call its twins and images NAME, not like the program", CLI_TEXT,
	  .offset = offsetof(struct on_values, name) },
	{ "list", 'l', NULL, "list triggers: of PID, or all", CLI_FLAG,
	  .offset = offsetof(struct on_values, list) },
	{ 0 },
};

/* --- list ---------------------------------------------------------------------------------------- */

static const struct cli_column columns[] = {
	{ .title = "TRIGGER" },
	{ .title = "PID", .right = true },
	{ .title = "PROGRAM", .spare = 3 },
	{ .title = "WHEN AND WHAT", .stretch = true },
	{ .title = "MET", .right = true },
	{ .title = "DONE", .right = true },
	{ .title = "FAILED", .right = true, .spare = 2 },
	{ .title = "BY", .spare = 4 },
	{ .title = "LAST", .spare = 1 },
};

static json_t *entry_json(const struct kage_trigger_entry *t)
{
	return json_pack("{s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i}", "id",
			 cli_json_text(t->id), "pid", (int)t->pid, "comm", cli_json_text(t->comm),
			 "trigger", cli_json_text(t->told), "met", cli_json_number(t->n_met),
			 "done", cli_json_number(t->n_done), "failed", cli_json_number(t->n_failed),
			 "max", cli_json_number(t->max), "last_ns", cli_json_number(t->last_ns),
			 "delay_ns", cli_json_number(t->delay_ns), "last_error",
			 t->last_error ? cli_json_text(t->last_error) : json_null(), "rung",
			 cli_json_text(t->rung), "keeper_pid", (int)t->keeper_pid);
}

static void print_json(const struct kage_trigger_list *list)
{
	json_t *a = json_array();

	for (size_t i = 0; i < list->n; i++)
		json_array_append_new(a, entry_json(&list->entries[i]));
	cli_json_print_take(json_pack("{s:o}", "triggers", a));
}

static void add_number(struct cli_table *table, uint64_t n)
{
	_cleanup_free_ char *text = cli_printf("%" PRIu64, n);

	cli_table_add(table, text);
}

static void add(struct cli_table *table, const struct kage_trigger_entry *t)
{
	char text[CLI_TEXT_BYTES];

	cli_table_add(table, t->id);
	add_number(table, (uint64_t)t->pid);
	cli_table_add(table, t->comm);
	cli_table_add(table, t->told);
	add_number(table, t->n_met);
	add_number(table, t->n_done);
	add_number(table, t->n_failed);
	cli_table_add(table, t->rung);
	cli_table_add(table, t->last_ns ? cli_text_time(text, t->last_ns) : "never");
}

static void print(const struct cli *cli, const struct kage_trigger_list *list)
{
	_cleanup_table_ struct cli_table table = { .columns = columns,
						   .n_columns = ARRAY_SIZE(columns) };

	if (!list->n) {
		cli_note(cli,
			 "there are no triggers; 'kage on PID --call NAME --do ACTION' makes one");
		return;
	}
	for (size_t i = 0; i < list->n; i++)
		add(&table, &list->entries[i]);
	cli_table_print(&table, stdout, cli->columns, cli->colour);
	for (size_t i = 0; i < list->n; i++)
		if (list->entries[i].last_error)
			cli_note(cli, "%s: the last action failed: %s", list->entries[i].id,
				 list->entries[i].last_error);
}

static int list_triggers(struct cli *cli, pid_t pid)
{
	struct kage_trigger_list list;
	struct kage_err *e = kage_triggers(cli->ctx, pid, &list);

	if (e)
		return cli_fail(cli, e);
	if (cli->json)
		print_json(&list);
	else
		print(cli, &list);
	kage_triggers_free(&list);
	return CLI_DONE;
}

/* --- on ------------------------------------------------------------------------------------------ */

static int set(struct cli *cli, pid_t pid, const struct on_values *v)
{
	_cleanup_store_ struct kage_store *store = NULL;
	_cleanup_free_ char *own_name = v->name ? NULL : cli_pid_own_name(pid);
	struct kage_trigger_options how = {
		.call = v->call,
		.signal = v->signal,
		.exit = v->exit,
		.exec = v->exec,
		.args = v->args.v,
		.n_args = v->args.n,
		.results = v->results.v,
		.n_results = v->results.n,
		.tid = v->thread,
		.count = v->count,
		.max = v->once ? 1 : (uint64_t)v->max,
		.follow = v->follow,
		.action = v->action,
		.name = own_name && strlen(own_name) < KAGE_TWINS_NAME_BYTES - 8 ? own_name
										 : v->name,

		.program = "/proc/self/exe",
	};
	struct kage_trigger_result result;
	struct kage_err *e = NULL;

	if (v->action && strcmp(v->action, "snap") == 0)
		e = cli_store_open(cli, KAGE_STORE_CREATE, &store);
	how.store = store;
	if (!e)
		e = kage_trigger_on(cli->ctx, pid, &how, &result);
	if (e)
		return cli_fail(cli, e);
	if (cli->json)
		cli_json_print_take(json_pack(
			"{s:o, s:i, s:i, s:o}", "id", cli_json_text(result.id), "pid", (int)pid,
			"keeper_pid", (int)result.keeper_pid, "rung", cli_json_text(result.rung)));
	else
		puts(result.id);
	return CLI_DONE;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct on_values *v = data;
	pid_t pid = argc ? cli_pid_parse(argv[0]) : 0;

	if (argc && pid == 0)
		return cli_fail_usage(cli, "'%s' is not a PID; 'pgrep %s' finds those of a name",
				      argv[0], argv[0]);
	if (v->list)
		return list_triggers(cli, pid);
	if (!argc)
		return cli_fail_usage(cli, "which process? Its PID is missing");
	if (v->once && v->max)
		return cli_fail_usage(cli, "--once and --max exclude each other");
	return set(cli, pid, v);
}

const struct cli_command cli_on = {
	.name = "on",
	.arguments = "[PID]",
	.summary = "do something when a running program makes a system call",
	.details =
		"  Sets a trigger: as soon as process PID has made a system call, is about to receive a\n"
		"  signal, to end, or has executed another program, ACTION is done, and the program goes on\n"
		"  when it is. Prints the trigger's name, for 'kage off'. Other programs are not\n"
		"  stopped. Triggers stay until they are used up, taken away, or the program ends.",
	.options = options,
	.min_args = 0,
	.max_args = 1,
	.run = run,
};
