/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines, a word a line, the first of them the command. What was understood is within the bounds
 * of the command's table; and words of any bytes can be shown on a terminal. */
#include "cli/cli.h"
#include "cli/parse.h"
#include "cli/text.h"

#include <inttypes.h>
#include <stdint.h>
#include <string.h>

enum { WORDS_MAX = 64 };

#define holds(property)          \
	do {                     \
		if (!(property)) \
			abort(); \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int split(char *text, char *argv[WORDS_MAX + 1])
{
	int argc = 0;

	for (char *word; argc < WORDS_MAX && (word = strsep(&text, "\n"));)
		argv[argc++] = word;
	argv[argc] = NULL;
	return argc;
}

static int count_words(const char *choices)
{
	int n = 1;

	for (; (choices = strchr(choices, '|')); choices++)
		n++;
	return n;
}

static void check_value(const struct cli_option *option, const unsigned char *values)
{
	const void *value = values + option->offset;
	int number;

	switch (option->kind) {
	case CLI_FLAG:
		holds(*(const uint8_t *)value <= 1);
		return;
	case CLI_TEXT:
		holds(!*(const char *const *)value ||
		      strlen(*(const char *const *)value) < SIZE_MAX);
		return;
	case CLI_NUMBER:
		number = *(const int *)value;
		holds(!number || (number >= option->min && number <= option->max));
		return;
	case CLI_CHOICE:
		number = *(const int *)value;
		holds(number >= 0 && number <= count_words(option->argument));
		return;
	}
}

static void check_line(int argc, char **argv)
{
	_Alignas(max_align_t) unsigned char values[CLI_VALUES_BYTES] = { 0 };
	struct cli cli = { .command = cli_command_find(argv[0]) };
	uintptr_t sum = 0;
	int first;

	cli.json = cli_parse_wants_json(argc, argv);
	if (!cli.command)
		return;
	for (int i = 0; i < argc; i++)
		sum += (uintptr_t)argv[i];
	if (cli_parse(&cli, values, argc, argv, &first) != CLI_DONE)
		return;
	holds(first >= 1 && first <= argc);
	holds(cli.help || (argc - first >= cli.command->min_args &&
			   (cli.command->max_args < 0 || argc - first <= cli.command->max_args)));
	for (const struct cli_option *o = cli.command->options; o && o->name; o++)
		check_value(o, values);
	for (int i = 0; i < argc; i++)
		sum -= (uintptr_t)argv[i];
	holds(sum == 0);
}

static void check_text(const char *word)
{
	_cleanup_free_ char *clean = cli_text_clean(word), *again = cli_text_clean(clean);

	holds(strcmp(clean, again) == 0);
	for (const char *p = clean; *p; p++)
		holds((unsigned char)*p >= 0x20 && *p != 0x7f);
	for (int columns = 30; columns > 0; columns -= 7) {
		cli_text_cut(clean, columns);
		holds(cli_text_columns(clean) <= columns);
	}
}

static void check_word(const char *word)
{
	pid_t pid = cli_pid_parse(word);
	uint64_t number;
	char plain[24];

	holds(pid >= 0);
	if (cli_parse_number(word, strlen(word), &number)) {
		snprintf(plain, sizeof(plain), "%" PRIu64, number);
		holds(strcmp(plain, word + strspn(word, "0")) == 0);
	} else {
		holds(pid == 0);
	}
	holds(strlen(word) > 24 || cli_parse_near(word, word));
	cli_command_nearest(word);
	check_text(word);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = strndup((const char *)data, size);
	char *argv[WORDS_MAX + 1];
	int argc;

	holds(text);
	argc = split(text, argv);
	for (int i = 0; i < argc; i++)
		check_word(argv[i]);
	check_line(argc, argv);
	return 0;
}
