/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables that fit the terminal: columns are as wide as their widest cell; where the sum is too
 * wide, the columns that matter least go, then the stretching column is cut.
 */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct cli_column {
	const char *title;
	bool right;   /* aligned to the right: numbers */
	bool stretch; /* may be cut; at most one */
	int spare;    /* 0: always there; of the others the highest goes first */
};

enum { CLI_TABLE_COLUMNS = 10 };

struct cli_table {
	const struct cli_column *columns;
	size_t n_columns;
	char **cells; /* row by row */
	size_t n_cells;
};

/** Adds a cell to the right of the last one, row after row; TEXT is copied as cli_text_line()
 *  has it. */
void cli_table_add(struct cli_table *table, const char *text);

/** Whether all of it fits into COLUMNS columns; 0 stands for any width. */
bool cli_table_fits(const struct cli_table *table, int columns);

/** Prints it with a line of titles. COLOUR makes the titles stand out. */
void cli_table_print(struct cli_table *table, FILE *out, int columns, bool colour);

void cli_table_deinit(struct cli_table *table);

#define _cleanup_table_ __attribute__((cleanup(cli_table_deinit)))

#endif
