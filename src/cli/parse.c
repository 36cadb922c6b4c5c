/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/parse.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <string.h>

enum { MOST_OPTIONS = 24, LONGEST_NAME = 24 };

const struct cli_option cli_common_options[] = {
	{ "store", 0, "DIR", "use the store in DIR", CLI_TEXT,
	  .offset = offsetof(struct cli, store_path) },
	{ "json", 0, NULL, "print JSON", CLI_FLAG, .offset = offsetof(struct cli, json) },
	{ "help", 'h', NULL, "print this and end", CLI_FLAG, .offset = offsetof(struct cli, help) },
	{ 0 },
};

const struct cli_option cli_key_options[] = {
	{ "key", 0, "FILE", "read with the secret key in FILE", CLI_TEXT,
	  .offset = offsetof(struct cli, key_path) },
	{ 0 },
};

/* What getopt_long() works on, and the way back from its answer. */
struct grammar {
	struct option options[MOST_OPTIONS];
	const struct cli_option *specs[MOST_OPTIONS];
	void *bases[MOST_OPTIONS]; /* the structure that specs[i]->offset refers to */
	size_t n;
	char letters[2 * MOST_OPTIONS + 3];
};

/* Values of struct option below this are letters. */
enum { FIRST_LONG = 256 };

static void grammar_add(struct grammar *grammar, const struct cli_option *spec, void *base)
{
	for (; spec && spec->name; spec++) {
		size_t n = grammar->n++;
		char *end = grammar->letters + strlen(grammar->letters);

		assert(n + 1 < MOST_OPTIONS);
		grammar->specs[n] = spec;
		grammar->bases[n] = base;
		grammar->options[n] = (struct option){
			.name = spec->name,
			.has_arg = spec->argument ? required_argument : no_argument,
			.val = FIRST_LONG + (int)n,
		};
		if (spec->letter) {
			*end++ = spec->letter;
			*end++ = spec->argument ? ':' : '\0';
			*end = '\0';
		}
	}
}

static void grammar_init(struct grammar *grammar, struct cli *cli, void *values)
{
	*grammar = (struct grammar){ 0 };
	/* '+': the first argument ends the options; ':': a missing value is told apart. */
	strcpy(grammar->letters, cli->command->first_ends_options ? "+:" : ":");
	grammar_add(grammar, cli->command->options, values);
	if (cli->command->reads_images)
		grammar_add(grammar, cli_key_options, cli);
	grammar_add(grammar, cli_common_options, cli);
}

/* The index of the option for which getopt_long() gave CODE, or -1. */
static int grammar_find(const struct grammar *grammar, int code)
{
	for (size_t i = 0; i < grammar->n; i++)
		if (code == FIRST_LONG + (int)i || (code && code == grammar->specs[i]->letter))
			return (int)i;
	return -1;
}

/* Distance of edits (insert, delete, replace, swap neighbours) between A and B. */
static int distance(const char *a, const char *b)
{
	int d[LONGEST_NAME + 1][LONGEST_NAME + 1];
	int n = (int)strlen(a), m = (int)strlen(b);

	if (n > LONGEST_NAME || m > LONGEST_NAME)
		return LONGEST_NAME;
	for (int i = 0; i <= n; i++) {
		for (int j = 0; j <= m; j++) {
			int cost = i && j && a[i - 1] == b[j - 1] ? 0 : 1;
			int best = i + j;

			if (i && j) {
				best = d[i - 1][j - 1] + cost;
				best = d[i - 1][j] + 1 < best ? d[i - 1][j] + 1 : best;
				best = d[i][j - 1] + 1 < best ? d[i][j - 1] + 1 : best;
			}
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    d[i - 2][j - 2] + 1 < best)
				best = d[i - 2][j - 2] + 1;
			d[i][j] = best;
		}
	}
	return d[n][m];
}

bool cli_parse_near(const char *a, const char *b)
{
	size_t n = strlen(a);

	if (n >= 3 && strncmp(a, b, n) == 0)
		return true;
	return distance(a, b) <= (n < 4 ? 1 : 2);
}

bool cli_parse_number(const char *text, size_t length, uint64_t *ret_number)
{
	uint64_t n = 0;

	for (size_t i = 0; i < length; i++)
		if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(n, (uint64_t)10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(text[i] - '0'), &n))
			return false;
	if (n == 0)
		return false;
	*ret_number = n;
	return true;
}

bool cli_parse_wants_json(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--json") == 0)
			return true;
	return false;
}

static int fail_unknown(struct cli *cli, const struct grammar *grammar, const char *word)
{
	const char *name = word + strspn(word, "-");

	for (size_t i = 0; i < grammar->n; i++)
		if (word[1] == '-' && grammar->specs[i]->help &&
		    cli_parse_near(name, grammar->specs[i]->name))
			return cli_fail_usage(cli,
					      "unknown option '%s'; did you mean '--%s'? "
					      "'kage %s --help' lists all",
					      word, grammar->specs[i]->name, cli->command->name);
	return cli_fail_usage(cli, "unknown option '%s'; 'kage %s --help' lists those there are",
			      word, cli->command->name);
}

/* Says what getopt_long() found wrong with WORD, the element of argv that it just took. */
static int fail_option(struct cli *cli, const struct grammar *grammar, int code, const char *word)
{
	int at = grammar_find(grammar, optopt);
	char letter[3] = { '-', (char)optopt, '\0' };

	if (code == ':' && at >= 0)
		return cli_fail_usage(cli, "option '--%s' needs a value: --%s %s",
				      grammar->specs[at]->name, grammar->specs[at]->name,
				      grammar->specs[at]->argument);
	if (at >= 0 && !grammar->specs[at]->argument)
		return cli_fail_usage(cli, "option '--%s' takes no value: --%s",
				      grammar->specs[at]->name, grammar->specs[at]->name);
	return fail_unknown(cli, grammar, optopt > 0 && optopt < FIRST_LONG ? letter : word);
}

static int set_number(struct cli *cli, const struct cli_option *spec, const char *text, int *ret)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 10);
	if (errno || end == text || *end || v < spec->min || v > spec->max)
		return cli_fail_usage(cli, "--%s takes a number from %d to %d, not '%s'",
				      spec->name, spec->min, spec->max, text);
	*ret = (int)v;
	return CLI_DONE;
}

static int set_choice(struct cli *cli, const struct cli_option *spec, const char *text, int *ret)
{
	const char *word = spec->argument;

	for (int i = 1;; i++) {
		size_t n = strcspn(word, "|");

		if (strlen(text) == n && memcmp(text, word, n) == 0) {
			*ret = i;
			return CLI_DONE;
		}
		if (word[n] == '\0')
			break;
		word += n + 1;
	}
	return cli_fail_usage(cli, "--%s takes one of %s, not '%s'", spec->name, spec->argument,
			      text);
}

static int add(struct cli *cli, const struct cli_option *spec, struct cli_texts *texts,
	       const char *text)
{
	if (texts->n == CLI_TEXTS_MAX)
		return cli_fail_usage(cli, "--%s may be given %d times", spec->name, CLI_TEXTS_MAX);
	texts->v[texts->n++] = text;
	return CLI_DONE;
}

static int set(struct cli *cli, const struct cli_option *spec, void *base, const char *text)
{
	void *value = (char *)base + spec->offset;

	switch (spec->kind) {
	case CLI_FLAG:
		*(bool *)value = true;
		return CLI_DONE;
	case CLI_TEXT:
		*(const char **)value = text;
		return CLI_DONE;
	case CLI_TEXTS:
		return add(cli, spec, value, text);
	case CLI_NUMBER:
		return set_number(cli, spec, text, value);
	case CLI_CHOICE:
		return set_choice(cli, spec, text, value);
	}
	return CLI_USAGE;
}

static int check_count(struct cli *cli, int n, char **arguments)
{
	const struct cli_command *command = cli->command;

	if (cli->help)
		return CLI_DONE;
	if (n < command->min_args)
		return cli_fail_usage(cli, "something is missing: kage %s [OPTION…] %s",
				      command->name, command->arguments);
	if (command->max_args >= 0 && n > command->max_args)
		return cli_fail_usage(cli, "'%s' is too much: kage %s [OPTION…] %s",
				      arguments[command->max_args], command->name,
				      command->arguments);
	return CLI_DONE;
}

int cli_parse(struct cli *cli, void *values, int argc, char **argv, int *ret_first)
{
	struct grammar grammar;
	int code, status = CLI_DONE;

	grammar_init(&grammar, cli, values);
	opterr = 0;
	optind = 0; /* glibc: begin anew */
	while ((code = getopt_long(argc, argv, grammar.letters, grammar.options, NULL)) != -1) {
		int at = code == '?' || code == ':' ? -1 : grammar_find(&grammar, code);

		if (at < 0)
			return fail_option(cli, &grammar, code, argv[optind - 1]);
		status = set(cli, grammar.specs[at], grammar.bases[at], optarg);
		if (status != CLI_DONE)
			return status;
	}
	*ret_first = optind;
	return check_count(cli, argc - optind, argv + optind);
}
