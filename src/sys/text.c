/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/text.h"

#include <string.h>

const char *kage_text_next_line(const char *at)
{
	const char *nl = strchr(at, '\n');

	return nl && nl[1] ? nl + 1 : NULL;
}

const char *kage_text_field(const char *text, const char *name, size_t *ret_size)
{
	size_t n = strlen(name);

	for (const char *line = text; line; line = kage_text_next_line(line)) {
		if (strncmp(line, name, n) != 0 || line[n] != ':')
			continue;
		line += n + 1;
		line += strspn(line, " \t");
		*ret_size = strcspn(line, "\n");
		return line;
	}
	return NULL;
}

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return 16;
}

bool kage_text_number(const char **at, int base, uint64_t *ret_value)
{
	uint64_t v = 0;
	const char *p = *at;
	int d;

	for (; (d = digit_value(*p)) < base; p++)
		if (__builtin_mul_overflow(v, (uint64_t)base, &v) ||
		    __builtin_add_overflow(v, (uint64_t)d, &v))
			return false;
	if (p == *at)
		return false;
	*at = p;
	*ret_value = v;
	return true;
}

bool kage_text_int(const char **at, int32_t *ret_value)
{
	const char *p = *at;
	bool negative = kage_text_char(&p, '-');
	uint64_t v;

	if (!kage_text_number(&p, 10, &v) || v > (uint64_t)INT32_MAX + negative)
		return false;
	*at = p;
	*ret_value = (int32_t)(negative ? -(int64_t)v : (int64_t)v);
	return true;
}

bool kage_text_char(const char **at, char c)
{
	if (**at != c)
		return false;
	(*at)++;
	return true;
}

bool kage_text_u64(const char *text, const char *name, int base, uint64_t *ret_value)
{
	size_t size;
	const char *p = kage_text_field(text, name, &size);

	if (p && base == 16 && p[0] == '0' && p[1] == 'x')
		p += 2;
	return p && kage_text_number(&p, base, ret_value);
}

/* Where field NUMBER begins; NULL when there are fewer. */
static const char *stat_field(const char *stat, int number)
{
	const char *p = strrchr(stat, ')');

	for (int i = 2; p && i < number; i++) {
		p = strchr(p, ' ');
		if (p)
			p++;
	}
	return p;
}

bool kage_text_stat_u64(const char *stat, int number, uint64_t *ret_value)
{
	const char *p = stat_field(stat, number);

	return p && kage_text_number(&p, 10, ret_value);
}

bool kage_text_stat_int(const char *stat, int number, int32_t *ret_value)
{
	const char *p = stat_field(stat, number);

	return p && kage_text_int(&p, ret_value);
}

static bool is_octal(const char *s)
{
	return s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
	       s[3] >= '0' && s[3] <= '7';
}

void kage_text_unescape(char *s)
{
	char *to = s;

	while (*s) {
		bool octal = is_octal(s);

		*to++ = octal ? (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0')) : *s;
		s += octal ? 4 : 1;
	}
	*to = '\0';
}
