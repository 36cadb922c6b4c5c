/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines: from a table of options to a filled structure, or one line that says what is wrong
 * and what would be right. */
#ifndef CLI_PARSE_H
#define CLI_PARSE_H

#include "cli/cli.h"

/** The options that every command has: --store, --json, --help. They set members of struct cli. */
extern const struct cli_option cli_common_options[];

/** That of commands that read what images hold. */
extern const struct cli_option cli_key_options[];

/** Fills VALUES and the common members of CLI from ARGV, whose first element is the command's name.
 *  *RET_FIRST is the index of the first argument that is no option. Returns CLI_DONE, or CLI_USAGE
 *  after it told why. With --help the number of arguments is not looked at. */
int cli_parse(struct cli *cli, void *values, int argc, char **argv, int *ret_first);

/** Whether A and B differ so little that one may be a slip for the other. */
bool cli_parse_near(const char *a, const char *b);

/** The number from 1 on that the LENGTH characters of TEXT spell in decimal digits; false when they
 *  spell none. */
bool cli_parse_number(const char *text, size_t length, uint64_t *ret_number);

/** Whether --json stands among the options of ARGV: asked before they are parsed, so that even what
 *  is wrong with them can be told that way. */
bool cli_parse_wants_json(int argc, char **argv);

#endif
