/* SPDX-License-Identifier: Apache-2.0 */
/* What --help prints. */
#ifndef CLI_HELP_H
#define CLI_HELP_H

#include "cli/cli.h"

/** All commands, one line each. */
void cli_help_overview(bool colour);

/** One command: synopsis, what it does, its options. */
void cli_help_json(const struct cli_command *command);
void cli_help_command(const struct cli_command *command, bool colour);

#endif
