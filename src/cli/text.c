/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/text.h"

#include <inttypes.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <wchar.h>

#include "cli/cli.h"

/* Two digits below ten of a unit, whole numbers above: as exact as a person reads. */
static const char *scaled(char *buffer, double value, const char *unit)
{
	snprintf(buffer, CLI_TEXT_BYTES, value < 9.95 ? "%.1f %s" : "%.0f %s", value, unit);
	return buffer;
}

const char *cli_text_size(char buffer[static CLI_TEXT_BYTES], uint64_t bytes)
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB" };
	double value = (double)bytes / 1024;
	size_t i = 0;

	if (bytes < 1000) {
		snprintf(buffer, CLI_TEXT_BYTES, "%" PRIu64 " B", bytes);
		return buffer;
	}
	while (value >= 999.5 && i + 1 < ARRAY_SIZE(units)) {
		value /= 1024;
		i++;
	}
	return scaled(buffer, value, units[i]);
}

const char *cli_text_duration(char buffer[static CLI_TEXT_BYTES], uint64_t ns)
{
	static const struct {
		const char *unit;
		double ns, below; /* of that unit */
	} units[] = {
		{ "µs", 1e3, 999.5 },   { "ms", 1e6, 999.5 },  { "s", 1e9, 119.5 },
		{ "min", 6e10, 119.5 }, { "h", 3.6e12, 47.5 }, { "d", 8.64e13, 0 },
	};
	size_t i = 0;

	if (ns < 1000) {
		snprintf(buffer, CLI_TEXT_BYTES, "%" PRIu64 " ns", ns);
		return buffer;
	}
	while (i + 1 < ARRAY_SIZE(units) && (double)ns / units[i].ns >= units[i].below)
		i++;
	return scaled(buffer, (double)ns / units[i].ns, units[i].unit);
}

const char *cli_text_time(char buffer[static CLI_TEXT_BYTES], uint64_t realtime_ns)
{
	time_t seconds = (time_t)(realtime_ns / 1000000000u);
	struct tm tm;

	if (!localtime_r(&seconds, &tm) ||
	    !strftime(buffer, CLI_TEXT_BYTES, "%Y-%m-%d %H:%M:%S", &tm))
		snprintf(buffer, CLI_TEXT_BYTES, "?");
	return buffer;
}

const char *cli_text_time_utc(char buffer[static CLI_TEXT_BYTES], uint64_t realtime_ns)
{
	time_t seconds = (time_t)(realtime_ns / 1000000000u);
	struct tm tm;

	if (!gmtime_r(&seconds, &tm) ||
	    !strftime(buffer, CLI_TEXT_BYTES, "%Y-%m-%dT%H:%M:%SZ", &tm))
		snprintf(buffer, CLI_TEXT_BYTES, "?");
	return buffer;
}

/* Decodes one character at S into *RET_C and returns its length, or 0 where S is not UTF-8
 * (overlong forms, surrogates and numbers beyond Unicode included). */
static size_t utf8_next(const unsigned char *s, uint32_t *ret_c)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc0 ? 2 : 0;
	uint32_t c = n == 1 ? s[0] : n ? s[0] & (0x7fu >> n) : 0;

	if (n == 0 || s[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3fu);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0;
	*ret_c = c;
	return n;
}

/* Marks that turn the direction of writing make a line look like another one. */
static bool is_control(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x202a && c <= 0x202e) ||
	       (c >= 0x2066 && c <= 0x2069) || c == 0x2028 || c == 0x2029;
}

char *cli_text_clean(const char *s)
{
	size_t length = strlen(s);
	/* Each byte becomes at most four; two more for cli_text_cut(). */
	char *clean = cli_grow(NULL, length * 4 + 3, 1), *to = clean;
	const unsigned char *from = (const unsigned char *)s;

	while (*from) {
		uint32_t c = 0;
		size_t n = utf8_next(from, &c);

		if (n == 0 || is_control(c)) {
			for (size_t i = 0; i < (n ? n : 1); i++)
				to += sprintf(to, "\\x%02x", from[i]);
			from += n ? n : 1;
			continue;
		}
		memcpy(to, from, n);
		to += n;
		from += n;
	}
	*to = '\0';
	return clean;
}

char *cli_text_line(const char *s)
{
	static const char sign[] = "↵";
	/* A line feed becomes the three bytes of the sign. */
	char *line = cli_grow(NULL, strlen(s) * (sizeof(sign) - 1) + 1, 1), *to = line, *clean;

	for (; *s; s++) {
		if (*s == '\n')
			to = stpcpy(to, sign);
		else
			*to++ = *s == '\t' ? ' ' : *s;
	}
	*to = '\0';
	clean = cli_text_clean(line);
	free(line);
	return clean;
}

/* The C library knows how wide characters are, but only under a UTF-8 locale, which is loaded for
 * the first character beyond ASCII: most commands never meet one. */
static int character_columns(uint32_t c)
{
	static locale_t utf8;
	locale_t before;
	int columns;

	if (c < 0x80)
		return 1;
	if (!utf8)
		utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", NULL);
	if (!utf8)
		return 1;
	before = uselocale(utf8);
	columns = wcwidth((wchar_t)c);
	uselocale(before);
	return columns < 0 ? 1 : columns;
}

int cli_text_columns(const char *s)
{
	int columns = 0;

	while (*s) {
		uint32_t c = 0;
		size_t n = utf8_next((const unsigned char *)s, &c);

		columns += n ? character_columns(c) : 1;
		s += n ? n : 1;
	}
	return columns;
}

void cli_text_cut(char *s, int columns)
{
	char *cut = s; /* where the ellipsis would go */
	int used = 0;

	if (cli_text_columns(s) <= columns)
		return;
	for (char *at = s; *at;) {
		uint32_t c = 0;
		size_t n = utf8_next((const unsigned char *)at, &c);

		used += n ? character_columns(c) : 1;
		at += n ? n : 1;
		if (used > columns - 1)
			break;
		cut = at;
	}
	strcpy(cut, "…");
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t cli_clock_mono_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t cli_clock_real_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}
