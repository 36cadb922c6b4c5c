/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <string.h>

#include "cli/json.h"
#include "cli/table.h"
#include "cli/text.h"
#include "cli/try.h"

enum { TIMEOUT_STATUS = 124, SIGNAL_STATUS = 128 };

static const struct cli_column columns[] = {
	{ .title = "RUN", .right = true },  { .title = "END" },
	{ .title = "TIME", .right = true }, { .title = "OUTPUT", .right = true, .spare = 1 },
	{ .title = "JUDGED", .spare = 2 },  { .title = "INPUT", .stretch = true },
};

void try_outcome_deinit(struct try_outcome *outcome)
{
	free(outcome->output);
	free(outcome->why);
}

char *try_end_text(const struct try_outcome *outcome)
{
	const char *name = outcome->end == TRY_KILLED ? sigabbrev_np(outcome->value) : NULL;

	switch (outcome->end) {
	case TRY_NOT_RUN:
		return cli_printf("not restored");
	case TRY_EXITED:
		return cli_printf("exit %d", outcome->value);
	case TRY_TIMEOUT:
		return cli_printf("timeout");
	case TRY_KILLED:
		break;
	}
	return name ? cli_printf("SIG%s", name) : cli_printf("signal %d", outcome->value);
}

int try_end_status(const struct try_outcome *outcome)
{
	return outcome->end == TRY_TIMEOUT  ? TIMEOUT_STATUS
	       : outcome->end == TRY_KILLED ? SIGNAL_STATUS + outcome->value
					    : outcome->value;
}

static char *judged_text(const struct try_outcome *outcome)
{
	if (outcome->judged < 0)
		return cli_printf("%s", "");
	return outcome->judged ? cli_printf("bad (%d)", outcome->judged) : cli_printf("good");
}

/* --- groups ----------------------------------------------------------------------------------- */

static bool alike(const struct try_outcome *a, const struct try_outcome *b)
{
	return a->end == b->end && a->value == b->value && a->judged == b->judged;
}

/* The first of all that ended as number I did. */
static size_t first_alike(const struct try_outcome *outcomes, size_t i)
{
	size_t first = 0;

	while (!alike(&outcomes[first], &outcomes[i]))
		first++;
	return first;
}

/* "1-4, 7": the runs that ended as number FIRST did; fresh. */
static char *runs_text(const struct try_outcome *outcomes, size_t n, size_t first,
		       size_t *ret_count)
{
	char *text = cli_printf("%s", "");

	*ret_count = 0;
	for (size_t i = first; i < n; i++) {
		size_t last = i;
		char *longer;

		if (!alike(&outcomes[i], &outcomes[first]))
			continue;
		while (last + 1 < n && alike(&outcomes[last + 1], &outcomes[first]))
			last++;
		longer = last > i ? cli_printf("%s%s%zu-%zu", text, *text ? ", " : "", i + 1,
					       last + 1)
				  : cli_printf("%s%s%zu", text, *text ? ", " : "", i + 1);
		free(text);
		text = longer;
		*ret_count += last - i + 1;
		i = last;
	}
	return text;
}

static void print_groups(const struct try_outcome *outcomes, size_t n)
{
	putchar('\n');
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *end = NULL, *judged = NULL, *runs = NULL;
		size_t count;

		if (first_alike(outcomes, i) != i)
			continue;
		end = try_end_text(&outcomes[i]);
		judged = judged_text(&outcomes[i]);
		runs = runs_text(outcomes, n, i, &count);
		printf("%zu of %zu: %s%s%s  (%s %s)\n", count, n, end, *judged ? ", " : "", judged,
		       count == 1 ? "run" : "runs", runs);
		if (outcomes[i].why)
			printf("  %s\n", outcomes[i].why);
	}
}

static void print_table(const struct cli *cli, const struct try_outcome *outcomes, size_t n)
{
	_cleanup_table_ struct cli_table table = { .columns = columns,
						   .n_columns = ARRAY_SIZE(columns) };
	char text[CLI_TEXT_BYTES];

	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *run = cli_printf("%zu", i + 1);
		_cleanup_free_ char *end = try_end_text(&outcomes[i]);
		_cleanup_free_ char *judged = judged_text(&outcomes[i]);

		cli_table_add(&table, run);
		cli_table_add(&table, end);
		cli_table_add(&table, cli_text_duration(text, outcomes[i].total_ns));
		cli_table_add(&table, cli_text_size(text, outcomes[i].output_bytes));
		cli_table_add(&table, judged);
		cli_table_add(&table, outcomes[i].input ? outcomes[i].input : "");
	}
	cli_table_print(&table, stdout, cli->columns, cli->colour);
}

/* --- JSON ------------------------------------------------------------------------------------- */

static json_t *run_json(const struct try_outcome *o, size_t run, bool kept)
{
	_cleanup_free_ char *end = try_end_text(o);

	return json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "run",
			 cli_json_number(run), "end", end, "status",
			 o->end == TRY_NOT_RUN ? json_null() : json_integer(try_end_status(o)),
			 "total_ns", cli_json_number(o->total_ns), "input", cli_json_text(o->input),
			 "output_bytes", cli_json_number(o->output_bytes), "output",
			 cli_json_text(kept ? o->output : NULL), "judged",
			 o->judged < 0 ? json_null() : json_integer(o->judged), "why",
			 cli_json_text(o->why));
}

static json_t *groups_json(const struct try_outcome *outcomes, size_t n)
{
	json_t *groups = json_array();

	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *end = NULL;
		json_t *runs;

		if (first_alike(outcomes, i) != i)
			continue;
		runs = json_array();
		for (size_t k = i; k < n; k++)
			if (alike(&outcomes[k], &outcomes[i]))
				json_array_append_new(runs, cli_json_number(k + 1));
		end = try_end_text(&outcomes[i]);
		json_array_append_new(groups, json_pack("{s:s, s:o, s:o}", "end", end, "judged",
							outcomes[i].judged < 0
								? json_null()
								: json_integer(outcomes[i].judged),
							"runs", runs));
	}
	return groups;
}

void try_report(const struct cli *cli, const char *label, const struct try_outcome *outcomes,
		size_t n, bool kept)
{
	json_t *runs;

	if (!cli->json) {
		print_table(cli, outcomes, n);
		print_groups(outcomes, n);
		return;
	}
	runs = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(runs, run_json(&outcomes[i], i + 1, kept));
	cli_json_print_take(json_pack("{s:o, s:o, s:o}", "image", cli_json_text(label), "runs",
				      runs, "groups", groups_json(outcomes, n)));
}
