/* SPDX-License-Identifier: Apache-2.0 */
/* Many lives of one image: what `kage try` notes of each, and how it tells it. */
#ifndef CLI_TRY_H
#define CLI_TRY_H

#include "cli/cli.h"

enum try_end {
	TRY_NOT_RUN, /* it could not be restored */
	TRY_EXITED,
	TRY_KILLED,
	TRY_TIMEOUT,
};

struct try_outcome {
	enum try_end end;
	int value; /* exit status or signal */
	uint64_t total_ns;
	uint64_t output_bytes;
	const char *input; /* borrowed; NULL: its own */
	char *output;      /* path; kept or not */
	int judged;        /* exit status of the judge, -1 without one */
	char *why;         /* of TRY_NOT_RUN */
};

void try_outcome_deinit(struct try_outcome *outcome);

/** "exit 3", "SIGABRT", "timeout", "not restored"; fresh. */
char *try_end_text(const struct try_outcome *outcome);

/** The status as a shell has it; 124 for a timeout, as timeout(1). */
int try_end_status(const struct try_outcome *outcome);

/** Prints the table of N outcomes, and the groups of those that ended alike. KEPT: their output has been
 *  kept where they tell. */
void try_report(const struct cli *cli, const char *label, const struct try_outcome *outcomes,
		size_t n, bool kept);

#endif
