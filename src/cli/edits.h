/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a restored program that is to be otherwise than in its image: variables, environment. */
#ifndef CLI_EDITS_H
#define CLI_EDITS_H

#include "cli/cli.h"

struct cli_edits {
	struct kage_patch *v; /* n of them, their bytes owned */
	size_t n;
};

/** Adds what SETTING says: SYMBOL=VALUE or 0xADDRESS=VALUE, with :TYPE behind it where the size of the
 *  symbol does not tell: u8 to u64, i8 to i64, f32, f64, str, hex. Returns CLI_DONE, or another status
 *  after it told why. */
int cli_edits_set(struct cli *cli, const struct kage_image *image, struct kage_symbols *symbols,
		  const char *setting, struct cli_edits *edits);

/** Adds that the program's environment has SETTING, NAME=VALUE, where it had NAME before: in the place
 *  of the old value, which must not be shorter. */
int cli_edits_env(struct cli *cli, const struct kage_image *image, struct kage_symbols *symbols,
		  const char *setting, struct cli_edits *edits);

void cli_edits_deinit(struct cli_edits *edits);
#define _cleanup_edits_ __attribute__((cleanup(cli_edits_deinit)))

#endif
