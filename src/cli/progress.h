/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One line on a terminal that tells how far a long operation is. It appears after a second, is
 * drawn ten times a second at most, and leaves nothing behind.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct kage_ctx;

struct cli_progress {
	uint64_t started_ns;
	uint64_t drawn_ns;
	bool visible;
};

/** Shows what CTX does on stderr, where that is a terminal. PROGRESS outlives CTX. */
void cli_progress_start(struct cli_progress *progress, struct kage_ctx *ctx);

/** Takes the line away. A command does so when the long part is over, before it prints; failures and
 *  notes do it themselves. */
void cli_progress_clear(struct cli_progress *progress);

#endif
