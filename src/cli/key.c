/* SPDX-License-Identifier: Apache-2.0 */
/* kage key: the pair of keys with which histories are encrypted and read. */
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"

static void print(const struct cli *cli, const char *path, const char *public, bool made)
{
	if (cli->json)
		cli_json_print_take(json_pack("{s:o, s:o, s:b}", "file", cli_json_text(path),
					      "public", cli_json_text(public), "made", (int)made));
	else
		printf("%s\n", public);
	if (made && !cli->json)
		cli_note(
			cli,
			"the secret key is in %s: take it to where images are to be read, and keep "
			"a copy; without it nobody can read them",
			path);
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : NULL;
	_cleanup_free_ char *where = NULL;
	_cleanup_free_ char *public = NULL;
	bool make = strcmp(argv[0], "new") == 0;
	struct kage_err *e;

	(void)data;
	if (!make && strcmp(argv[0], "show") != 0)
		return cli_fail_usage(cli, "'%s' is neither 'new' nor 'show'", argv[0]);
	e = make ? kage_key_new(path, &where, &public) : kage_key_show(path, &where, &public);
	if (e)
		return cli_fail(cli, e);
	print(cli, where, public, make);
	return CLI_DONE;
}

const struct cli_command cli_key = {
	.name = "key",
	.arguments = "new|show [FILE]",
	.summary = "make the keys for encrypted histories",
	.details =
		"  new makes a pair of keys: the secret one goes to FILE, the public one is printed, for --recipient\n"
		"  of 'kage record', 'run' and 'snap'. show prints the public key of the secret one in FILE. Without\n"
		"  FILE it is $KAGE_KEY, /etc/kage/key (root) or ~/.config/kage/key.",
	.min_args = 1,
	.max_args = 2,
	.run = run,
};
