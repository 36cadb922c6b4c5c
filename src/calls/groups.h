/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of constants, a file for each subject (constants_*.c), and how they are written there. */
#ifndef CALLS_GROUPS_H
#define CALLS_GROUPS_H

#include "base/cleanup.h"
#include "calls/tables.h"

struct calls_subject {
	const struct calls_group *v;
	size_t n;
};

extern const struct calls_subject calls_files, calls_memory, calls_process, calls_net, calls_events,
	calls_system, calls_ioctl;

/* clang-format off */
/* A constant of the headers; what is negative stays so in 64 bits. */
#define C(name) { #name, (uint64_t)(name) }
/* One that they may lack because it is newer, or that does not stand there as it is passed. */
#define N(name, value) { #name, value }

#define CONSTANTS(...) (const struct calls_constant[]) { __VA_ARGS__ }
#define GROUP(name, enum_mask, ...) \
	{ #name, CONSTANTS(__VA_ARGS__), \
	  sizeof(CONSTANTS(__VA_ARGS__)) / sizeof(struct calls_constant), enum_mask }
/* clang-format on */

#endif
