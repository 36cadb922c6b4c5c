/* SPDX-License-Identifier: Apache-2.0 */
/* Lengths of time as people write them. */
#ifndef CLI_DURATION_H
#define CLI_DURATION_H

#include <stdbool.h>
#include <stdint.h>

/** Parses "200ms", "1.5s", "10min", "2h", "7d"; a bare number is seconds. False for anything else, and for what
 *  is longer than a century. */
bool cli_duration_parse(const char *text, uint64_t *ret_ns);

#endif
