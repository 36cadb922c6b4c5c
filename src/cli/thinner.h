/* SPDX-License-Identifier: Apache-2.0 */
/* Pruning a history while images are added to it, in a thread of its own: recording goes on meanwhile. */
#ifndef CLI_THINNER_H
#define CLI_THINNER_H

#include "cli/keep.h"

struct cli_thinner;

/** Starts it, for the rules of KEEP (borrowed); NULL when there are none. */
struct cli_thinner *cli_thinner_start(struct cli *cli, const struct cli_keep *keep,
				      const struct kage_store *store);

/** An image of STORED_BYTES was added to history NAME, which is pruned soon; at once, and waited for, where another image
 *  could take it past its size. NULL is fine. */
void cli_thinner_kick(struct cli_thinner *thinner, const char *name, uint64_t stored_bytes);

/** Prunes a last time and ends; with TELL tells if pruning failed. NULL is fine. */
void cli_thinner_finish(struct cli_thinner *thinner, bool tell);

#endif
