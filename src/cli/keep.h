/* SPDX-License-Identifier: Apache-2.0 */
/* Options that say which images are to be kept; `prune` and `record` share them. */
#ifndef CLI_KEEP_H
#define CLI_KEEP_H

#include <kage/kage.h>

#include "cli/cli.h"

enum { CLI_KEEP_TIERS = 16 };

/* Values of the options. */
struct cli_keep_values {
	const char *keep;
	const char *keep_every;
	int keep_last;
	const char *max_size;
};

/* The rules that they make. Must not move. */
struct cli_keep {
	struct kage_retention rules;
	struct kage_tier tiers[CLI_KEEP_TIERS];
	uint64_t shortest_span_ns; /* of a rule that has one; 0: none has */
};

#define CLI_KEEP_OPTIONS(type, field)                                                   \
	{ "keep",           0,                                                          \
	  "SPAN[=EVERY],…", "all of the last SPAN, or one each EVERY: 1min,1h=1s",      \
	  CLI_TEXT,         .offset = offsetof(type, field.keep) },                     \
		{ "keep-last", 0,                                                       \
		  "N",         "the newest N",                                          \
		  CLI_NUMBER,  .offset = offsetof(type, field.keep_last),               \
		  1,           INT32_MAX },                                             \
		{ "keep-every", 0,                                                      \
		  "EVERY",      "of older ones, one each EVERY",                        \
		  CLI_TEXT,     .offset = offsetof(type, field.keep_every) },           \
	{                                                                               \
		"max-size", 0, "SIZE", "at most SIZE on disk: the oldest go", CLI_TEXT, \
			.offset = offsetof(type, field.max_size)                        \
	}

/** Makes the rules. Returns CLI_DONE, or tells what is wrong and returns CLI_USAGE. */
int cli_keep_parse(struct cli *cli, const struct cli_keep_values *values, struct cli_keep *keep);

/** Whether KEEP has any rule. */
bool cli_keep_any(const struct cli_keep *keep);

#endif
