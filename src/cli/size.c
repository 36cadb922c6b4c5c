/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/size.h"

#include <stdlib.h>
#include <string.h>

bool cli_size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	uint64_t factor = 1;
	const char *unit;
	char *end;
	double n;

	if (strspn(text, "0123456789.") == 0 || text[1] == 'x')
		return false;
	n = strtod(text, &end);
	unit = *end ? strchr(units, *end == 'k' ? 'K' : *end) : NULL;
	if (unit) {
		factor <<= 10 * (unit - units + 1);
		end++;
	}
	if (strcmp(end, "iB") != 0 && strcmp(end, "B") != 0 && *end)
		return false;
	*ret_bytes = (uint64_t)(n * (double)factor);
	return n * (double)factor < 1e18 && *ret_bytes > 0;
}
