/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How commands fail: one line on stderr, "kage snap: what: why", and with --json an object on
 * stdout as well.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/text.h"

static void say(const struct cli *cli, const char *kind, const char *message)
{
	_cleanup_free_ char *clean = cli_text_clean(message);

	if (cli->progress)
		cli_progress_clear(cli->progress);
	fflush(stdout);
	fprintf(stderr, "kage%s%s: %s%s\n", cli->command ? " " : "",
		cli->command ? cli->command->name : "", kind, clean);
}

static void fail(const struct cli *cli, const char *code, int num, const char *message)
{
	if (cli->json)
		cli_json_print_take(json_pack("{s:{s:s, s:i, s:o}}", "error", "code", code, "errno",
					      num, "message", cli_json_text(message)));
	say(cli, "", message);
}

int cli_fail(struct cli *cli, struct kage_err *e)
{
	const char *how = NULL;
	_cleanup_free_ char *message = NULL;

	if (kage_err_code(e) == KAGE_INTERRUPTED) {
		cli->interrupted = true;
		how = cli->command ? cli->command->interrupted : NULL;
	}
	message = cli_printf("%s%s%s", kage_err_message(e), how ? "; " : "", how ? how : "");
	fail(cli, kage_code_name(kage_err_code(e)), kage_err_errno(e), message);
	kage_err_free(e);
	return CLI_FAILED;
}

static char *format(const char *fmt, va_list ap)
{
	char *text;

	if (vasprintf(&text, fmt, ap) < 0)
		cli_out_of_memory();
	return text;
}

int cli_fail_own(struct cli *cli, enum kage_code code, int num, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL, *message = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = format(fmt, ap);
	va_end(ap);
	if (code == KAGE_INTERRUPTED)
		cli->interrupted = true;
	message = num ? cli_printf("%s: %s", text, strerror(num)) : cli_printf("%s", text);
	fail(cli, kage_code_name(code), num, message);
	return CLI_FAILED;
}

int cli_fail_usage(struct cli *cli, const char *fmt, ...)
{
	_cleanup_free_ char *message = NULL;
	va_list ap;

	va_start(ap, fmt);
	message = format(fmt, ap);
	va_end(ap);
	fail(cli, "usage", 0, message);
	return CLI_USAGE;
}

void cli_note(const struct cli *cli, const char *fmt, ...)
{
	_cleanup_free_ char *message = NULL;
	va_list ap;

	va_start(ap, fmt);
	message = format(fmt, ap);
	va_end(ap);
	say(cli, "note: ", message);
}

_Noreturn void cli_out_of_memory(void)
{
	static const char message[] = "kage: out of memory\n";

	if (write(STDERR_FILENO, message, sizeof(message) - 1) < 0)
		_exit(CLI_FAILED);
	_exit(CLI_FAILED);
}

char *cli_printf(const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	text = format(fmt, ap);
	va_end(ap);
	return text;
}

void *cli_grow(void *array, size_t n, size_t element_bytes)
{
	void *grown = reallocarray(array, n, element_bytes);

	if (!grown)
		cli_out_of_memory();
	return grown;
}
