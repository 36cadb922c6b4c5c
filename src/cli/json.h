/* SPDX-License-Identifier: Apache-2.0 */
/* What --json prints: one object per command, on stdout. */
#ifndef CLI_JSON_H
#define CLI_JSON_H

#include <stdint.h>

#include <jansson.h>

/** S as a JSON string; bytes that are not UTF-8 stand as "\xff". NULL gives null. */
json_t *cli_json_text(const char *s);

/** S, words with ", " between them, as a list of strings. */
json_t *cli_json_list(const char *s);

/** V as a JSON number, or beyond 2^53, where jq and JavaScript would round it, as a decimal string:
 *  as kage_image_json() has it. */
json_t *cli_json_number(uint64_t v);

/** The same for a V with a sign. */
json_t *cli_json_signed(int64_t v);

/** The N BYTES in hexadecimal. */
json_t *cli_json_hex(const uint8_t *bytes, size_t n);

/** Prints OBJECT, which is consumed; on a terminal over several lines. */
void cli_json_print_take(json_t *object);

#endif
