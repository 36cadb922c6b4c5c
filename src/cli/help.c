/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/help.h"

#include "cli/json.h"
#include "cli/parse.h"
#include "cli/text.h"

static void title(const char *text, bool colour)
{
	printf("%s%s%s\n", colour ? "\033[1m" : "", text, colour ? "\033[0m" : "");
}

void cli_help_overview(bool colour)
{
	puts("kage keeps the image of a running program, and gives the program its life back from "
	     "it.\n");
	title("Usage", colour);
	puts("  kage COMMAND [OPTION…] [ARGUMENT…]\n");
	title("Commands", colour);
	for (size_t i = 0; cli_commands[i]; i++)
		printf("  %-9s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
	puts("");
	title("Images", colour);
	puts("  NAME@3        the third of history NAME\n"
	     "  NAME@latest   the newest, which NAME alone means too; NAME@first: the oldest\n"
	     "  NAME@-1       the one before the newest\n"
	     "  NAME@5min     the newest that is at least five minutes old\n"
	     "  NAME@good     the one that 'kage tag' gave that name\n");
	title("Everywhere", colour);
	puts("  --store DIR   use the store in DIR, not $KAGE_STORE, /var/lib/kage (root) or\n"
	     "                ~/.local/share/kage\n"
	     "  --json        print JSON\n"
	     "  --help        tell about one command: kage snap --help, or kage help snap\n"
	     "  --version     print the version\n");
	puts("The manual: man kage");
}

/* "-n, --name NAME" */
static char *signature(const struct cli_option *option)
{
	char letter[5] = "    ";

	if (option->letter)
		snprintf(letter, sizeof(letter), "-%c, ", option->letter);
	return cli_printf("%s--%s%s%s", letter, option->name, option->argument ? " " : "",
			  option->argument ? option->argument : "");
}

static int widest(const struct cli_option *options, int width)
{
	for (; options && options->name; options++) {
		_cleanup_free_ char *text = signature(options);
		int columns = cli_text_columns(text);

		if (options->help && columns > width)
			width = columns;
	}
	return width;
}

static void print_options(const struct cli_option *options, int width)
{
	for (; options && options->name; options++) {
		_cleanup_free_ char *text = signature(options);

		if (options->help)
			printf("  %s%*s  %s\n", text, width - cli_text_columns(text), "",
			       options->help);
	}
}

void cli_help_command(const struct cli_command *command, bool colour)
{
	const struct cli_option *key = command->reads_images ? cli_key_options : NULL;
	int width = widest(command->options, widest(key, widest(cli_common_options, 0)));

	printf("kage %s: %s\n\n", command->name, command->summary);
	title("Usage", colour);
	printf("  kage %s [OPTION…] %s\n\n%s\n\n", command->name, command->arguments,
	       command->details);
	title("Options", colour);
	print_options(command->options, width);
	print_options(key, width);
	print_options(cli_common_options, width);
	printf("\nThe manual: man kage-%s\n", command->name);
}

static void add_options(json_t *list, const struct cli_option *options)
{
	for (; options && options->name; options++) {
		char letter[2] = { options->letter, '\0' };

		if (options->help)
			json_array_append_new(
				list,
				json_pack("{s:s, s:o, s:o, s:s}", "name", options->name, "letter",
					  cli_json_text(options->letter ? letter : NULL),
					  "argument", cli_json_text(options->argument), "help",
					  options->help));
	}
}

static json_t *command_json(const struct cli_command *command)
{
	json_t *options = json_array();

	add_options(options, command->options);
	if (command->reads_images)
		add_options(options, cli_key_options);
	add_options(options, cli_common_options);
	return json_pack("{s:s, s:s, s:s, s:s, s:o}", "command", command->name, "arguments",
			 command->arguments, "summary", command->summary, "details",
			 command->details, "options", options);
}

void cli_help_json(const struct cli_command *command)
{
	json_t *list;

	if (command) {
		cli_json_print_take(command_json(command));
		return;
	}
	list = json_array();
	for (size_t i = 0; cli_commands[i]; i++)
		json_array_append_new(list, command_json(cli_commands[i]));
	cli_json_print_take(json_pack("{s:o}", "commands", list));
}
