/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/text.h"

enum { GAP = 2, LEAST_STRETCH = 16 };

/* How the table is laid out for one width. */
struct layout {
	int width[CLI_TABLE_COLUMNS];
	bool shown[CLI_TABLE_COLUMNS];
};

void cli_table_add(struct cli_table *table, const char *text)
{
	table->cells = cli_grow(table->cells, table->n_cells + 1, sizeof(*table->cells));
	table->cells[table->n_cells++] = cli_text_line(text);
}

static struct layout natural(const struct cli_table *table)
{
	struct layout layout = { 0 };

	assert(table->n_columns <= CLI_TABLE_COLUMNS);
	for (size_t c = 0; c < table->n_columns; c++) {
		layout.shown[c] = true;
		layout.width[c] = cli_text_columns(table->columns[c].title);
	}
	for (size_t i = 0; i < table->n_cells; i++) {
		int width = cli_text_columns(table->cells[i]);
		size_t c = i % table->n_columns;

		if (width > layout.width[c])
			layout.width[c] = width;
	}
	return layout;
}

static int total(const struct cli_table *table, const struct layout *layout)
{
	int sum = -GAP;

	for (size_t c = 0; c < table->n_columns; c++)
		if (layout->shown[c])
			sum += layout->width[c] + GAP;
	return sum;
}

bool cli_table_fits(const struct cli_table *table, int columns)
{
	struct layout layout = natural(table);

	return columns == 0 || total(table, &layout) <= columns;
}

/* The shown column that can be spared first, or -1. */
static int first_to_go(const struct cli_table *table, const struct layout *layout)
{
	int found = -1;

	for (size_t c = 0; c < table->n_columns; c++) {
		int spare = layout->shown[c] ? table->columns[c].spare : 0;

		if (spare > 0 && (found < 0 || spare > table->columns[found].spare))
			found = (int)c;
	}
	return found;
}

/* Makes LAYOUT fit COLUMNS: the stretching column shrinks to what is still worth reading, columns
 * go, and at last the stretching one takes what is left. */
static void squeeze(const struct cli_table *table, struct layout *layout, int columns)
{
	int stretch = -1;

	for (size_t c = 0; c < table->n_columns; c++)
		if (table->columns[c].stretch)
			stretch = (int)c;
	for (;;) {
		int excess = total(table, layout) - columns;
		int least = stretch < 0 || layout->width[stretch] < LEAST_STRETCH
				    ? 0
				    : layout->width[stretch] - LEAST_STRETCH;
		int victim = excess > least ? first_to_go(table, layout) : -1;

		if (excess <= 0)
			return;
		if (victim < 0) {
			if (stretch >= 0)
				layout->width[stretch] -= excess;
			if (stretch >= 0 && layout->width[stretch] < 1)
				layout->width[stretch] = 1;
			return;
		}
		layout->shown[victim] = false;
	}
}

static void print_row(const struct cli_table *table, const struct layout *layout, FILE *out,
		      char *const *cells)
{
	int owed = 0; /* spaces that only a further cell makes visible */
	bool first = true;

	for (size_t c = 0; c < table->n_columns; c++) {
		int pad;

		if (!layout->shown[c])
			continue;
		if (table->columns[c].stretch)
			cli_text_cut(cells[c], layout->width[c]);
		pad = layout->width[c] - cli_text_columns(cells[c]);
		if (!first)
			owed += GAP;
		if (table->columns[c].right)
			owed += pad;
		fprintf(out, "%*s%s", cells[c][0] ? owed : 0, "", cells[c]);
		owed = (cells[c][0] ? 0 : owed) + (table->columns[c].right ? 0 : pad);
		first = false;
	}
}

static void print_titles(const struct cli_table *table, const struct layout *layout, FILE *out,
			 bool colour)
{
	char *titles[CLI_TABLE_COLUMNS];

	for (size_t c = 0; c < table->n_columns; c++)
		titles[c] = cli_text_clean(table->columns[c].title);
	fputs(colour ? "\033[1m" : "", out);
	print_row(table, layout, out, titles);
	fputs(colour ? "\033[0m\n" : "\n", out);
	for (size_t c = 0; c < table->n_columns; c++)
		free(titles[c]);
}

void cli_table_print(struct cli_table *table, FILE *out, int columns, bool colour)
{
	struct layout layout = natural(table);

	assert(table->n_cells % table->n_columns == 0);
	if (columns > 0)
		squeeze(table, &layout, columns);
	print_titles(table, &layout, out, colour);
	for (size_t i = 0; i < table->n_cells; i += table->n_columns) {
		print_row(table, &layout, out, table->cells + i);
		fputc('\n', out);
	}
}

void cli_table_deinit(struct cli_table *table)
{
	for (size_t i = 0; i < table->n_cells; i++)
		free(table->cells[i]);
	free(table->cells);
}
