/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/text.h"

json_t *cli_json_text(const char *s)
{
	_cleanup_free_ char *clean = NULL;
	json_t *text = s ? json_string(s) : json_null();

	if (text)
		return text;
	clean = cli_text_clean(s);
	return json_string(clean);
}

json_t *cli_json_number(uint64_t v)
{
	char text[24];

	if (v <= (uint64_t)1 << 53)
		return json_integer((json_int_t)v);
	snprintf(text, sizeof(text), "%" PRIu64, v);
	return json_string(text);
}

json_t *cli_json_signed(int64_t v)
{
	char text[24];

	if (v >= 0)
		return cli_json_number((uint64_t)v);
	if (v >= -((int64_t)1 << 53))
		return json_integer(v);
	snprintf(text, sizeof(text), "%" PRId64, v);
	return json_string(text);
}

json_t *cli_json_hex(const uint8_t *bytes, size_t n)
{
	_cleanup_free_ char *text = cli_grow(NULL, 2 * n + 1, 1);

	text[0] = '\0';
	for (size_t i = 0; i < n; i++)
		sprintf(text + 2 * i, "%02x", bytes[i]);
	return json_string(text);
}

void cli_json_print_take(json_t *object)
{
	size_t flags = isatty(STDOUT_FILENO) ? JSON_INDENT(2) : JSON_COMPACT;

	if (!object)
		cli_out_of_memory();
	json_dumpf(object, stdout, flags);
	fputc('\n', stdout);
	json_decref(object);
}

json_t *cli_json_list(const char *s)
{
	json_t *list = json_array();

	while (*s) {
		size_t n = strcspn(s, ",");

		json_array_append_new(list, json_stringn(s, n));
		s += n + strspn(s + n, ", ");
	}
	return list;
}
