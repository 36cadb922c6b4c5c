/* SPDX-License-Identifier: Apache-2.0 */
/* Places in memory as the command line names them: addresses, ranges, symbols. */
#ifndef CLI_PLACE_H
#define CLI_PLACE_H

#include "cli/cli.h"

struct cli_place {
	uint64_t address;
	uint64_t size;             /* bytes; 0: not told */
	struct kage_symbol symbol; /* that was named, or all zero */
};

/** A number in decimal, or hexadecimal with 0x. False when TEXT is none; what follows it is at
 *  *RET_END. */
bool cli_place_number(const char *text, uint64_t *ret_number, const char **ret_end);

/** Understands "ADDRESS+LENGTH" and "ADDRESS-END", with OPEN also an ADDRESS alone. Addresses are
 *  hexadecimal, with or without 0x; lengths are as in C. Returns CLI_DONE, or CLI_USAGE after it told
 *  why. */
int cli_place_range(struct cli *cli, const char *text, bool open, struct cli_place *ret_place);

/** Finds the symbol that TEXT names: NAME, FILE:NAME, each with +LENGTH behind it if wanted. Returns
 *  CLI_DONE, or another status after it told why. */
int cli_place_symbol(struct cli *cli, struct kage_symbols *symbols, const char *text,
		     struct cli_place *ret_place);

static inline void cli_symbols_cleanup(struct kage_symbols **symbols)
{
	kage_symbols_close(*symbols);
}
#define _cleanup_symbols_ __attribute__((cleanup(cli_symbols_cleanup)))

#endif
