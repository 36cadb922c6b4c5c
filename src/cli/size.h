/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes as people write them. */
#ifndef CLI_SIZE_H
#define CLI_SIZE_H

#include <stdbool.h>
#include <stdint.h>

/** Parses "512M", "10G", "100000"; powers of 1,024, with or without "iB" or "B". False for anything else, and for
 *  what is no byte or too many. */
bool cli_size_parse(const char *text, uint64_t *ret_bytes);

#endif
