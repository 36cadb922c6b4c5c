/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Staying with programs that are not our children: signals go on to them, their terminal is carried, and the end of
 * the last is ours.
 */
#ifndef CLI_WATCH_H
#define CLI_WATCH_H

#include "cli/cli.h"
#include "cli/relay.h"

struct cli_watch {
	sigset_t mask_before;
	int signals; /* signalfd */
};

/** Holds back the signals that concern the programs, before there are any. Returns 0 or an errno value. */
int cli_watch_open(struct cli_watch *w);

/** Stays with the N LIVES until all have ended; RELAY may be NULL. Returns the exit status to end with: of the first
 *  that did not end with 0, as a shell tells it. */
int cli_watch_wait(struct cli *cli, struct cli_watch *w, struct kage_life *lives, size_t n,
		   struct cli_relay *relay);

void cli_watch_close(struct cli_watch *w);

#endif
