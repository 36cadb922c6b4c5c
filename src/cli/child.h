/* SPDX-License-Identifier: Apache-2.0 */
/* Commands of the user's that judge images and lives: their variables, and waiting for them. */
#ifndef CLI_CHILD_H
#define CLI_CHILD_H

#include <sys/types.h>

#include "cli/cli.h"

/* $NAME in the environment of the command, and what `{word}` in its arguments stands for. */
struct cli_variable {
	const char *name;  /* "KAGE_CORE" */
	const char *word;  /* "core", or NULL */
	const char *value; /* NULL: it is not set */
};

/** Runs ARGV with the N VARIABLES; with --json its standard output goes where errors go. Waits for its
 *  end, also when we are interrupted. Returns 0 and gives the exit status as a shell has it (128 and
 *  the signal's number for a killed one), or an errno value. */
int cli_child_run(const struct cli *cli, char **argv, const struct cli_variable *variables,
		  size_t n, int *ret_status);

/** TEXT with each `{word}` of VARIABLES replaced by its value, fresh. */
char *cli_child_expand(const char *text, const struct cli_variable *variables, size_t n);

/** Whether an argument of ARGV has `{word}` in it. */
bool cli_child_mentions(char **argv, const char *word);

/** The file that execvp(3) would find cannot be run: 126 or 127 of a shell. */
enum { CLI_CHILD_NOT_RUN = 126, CLI_CHILD_NOT_FOUND = 127 };

#endif
