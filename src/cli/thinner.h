/* SPDX-License-Identifier: Apache-2.0 */
/* Pruning a history while images are added to it, in a thread of its own: recording goes on meanwhile. */
#ifndef CLI_THINNER_H
#define CLI_THINNER_H

#include "cli/keep.h"

struct cli_thinner;

/** Starts it, for the rules of KEEP (borrowed); NULL when there are none. */
struct cli_thinner *cli_thinner_start(struct cli *cli, const struct cli_keep *keep,
				      const struct kage_store *store);

/** An image was added to history NAME: prunes it soon, unless it is being pruned. NULL is fine. */
void cli_thinner_kick(struct cli_thinner *thinner, const char *name);

/** Prunes a last time and ends; tells if pruning failed. NULL is fine. */
void cli_thinner_finish(struct cli_thinner *thinner);

#endif
