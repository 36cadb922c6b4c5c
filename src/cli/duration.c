/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/duration.h"

#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static const struct {
	const char *name;
	double ns;
} units[] = {
	{ "", 1e9 },     { "us", 1e3 },   { "ms", 1e6 },    { "s", 1e9 },      { "m", 60e9 },
	{ "min", 60e9 }, { "h", 3600e9 }, { "d", 86400e9 }, { "w", 604800e9 },
};

bool cli_duration_parse(const char *text, uint64_t *ret_ns)
{
	const double century_ns = 3.2e18;
	char *end;
	double n;

	/* Neither signs nor "inf", "nan" and "0x". */
	if (strspn(text, "0123456789.") == 0 || text[1] == 'x')
		return false;
	n = strtod(text, &end);
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (strcmp(end, units[i].name) == 0 && n * units[i].ns < century_ns) {
			*ret_ns = (uint64_t)(n * units[i].ns + 0.5);
			return true;
		}
	return false;
}
