/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/place.h"

#include <errno.h>
#include <string.h>

static bool number(const char *text, int base, uint64_t *ret_number, const char **ret_end)
{
	char *end;

	/* strtoull() would take signs and blanks, too. */
	if (!strchr("0123456789abcdefABCDEF", text[0]) || text[0] == '\0')
		return false;
	errno = 0;
	*ret_number = strtoull(text, &end, base);
	*ret_end = end;
	return errno == 0 && end != text;
}

bool cli_place_number(const char *text, uint64_t *ret_number, const char **ret_end)
{
	bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');

	return number(text, hex ? 16 : 10, ret_number, ret_end);
}

int cli_place_range(struct cli *cli, const char *text, bool open, struct cli_place *ret_place)
{
	struct cli_place place = { 0 };
	const char *end;
	uint64_t last = 0;
	bool good = number(text, 16, &place.address, &end);

	if (good && *end == '+')
		good = cli_place_number(end + 1, &place.size, &end) && place.size > 0;
	else if (good && *end == '-')
		good = number(end + 1, 16, &last, &end) && last > place.address;
	else
		good = good && open;
	if (!good || *end)
		return cli_fail_usage(cli,
				      "'%s' is no place in memory; write ADDRESS+LENGTH or "
				      "ADDRESS-END, such as 7ffd3000+64",
				      text);
	if (last)
		place.size = last - place.address;
	*ret_place = place;
	return CLI_DONE;
}

int cli_place_symbol(struct cli *cli, struct kage_symbols *symbols, const char *text,
		     struct cli_place *ret_place)
{
	const char *plus = strrchr(text, '+'), *end;
	struct cli_place place = { 0 };
	_cleanup_free_ char *name = NULL;
	struct kage_err *e;

	if (plus && (!cli_place_number(plus + 1, &place.size, &end) || *end || !place.size))
		plus = NULL; /* part of the name, then */
	name = cli_printf("%.*s", (int)(plus ? (size_t)(plus - text) : strlen(text)), text);
	e = kage_symbols_find(symbols, name, &place.symbol);
	if (e)
		return cli_fail(cli, e);
	place.address = place.symbol.address;
	place.size = plus ? place.size : place.symbol.size;
	*ret_place = place;
	return CLI_DONE;
}
