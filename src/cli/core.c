/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kage core: writes an image as an ELF core file.
 *
 * A file appears under its name only when it is whole: it is written beside it and renamed.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/text.h"

struct core_values {
	const char *output;
};

static const struct cli_option options[] = {
	{ "output", 'o', "FILE", "write to FILE; '-' stands for standard output", CLI_TEXT,
	  .offset = offsetof(struct core_values, output) },
	{ 0 },
};

/* Writes to FD, which is closed, whatever happens. */
static int write_core_take(struct cli *cli, struct kage_image *image, int fd, const char *name)
{
	struct kage_err *e = kage_core_write(cli->ctx, image, fd);

	if (close(fd) && !e)
		return cli_fail_own(cli, KAGE_SYS, errno, "write %s", name);
	return e ? cli_fail(cli, e) : CLI_DONE;
}

static int fail_create(struct cli *cli, int num, const char *name)
{
	const char *advice = num == ENOENT || num == ENOTDIR ? "; make that directory first"
			     : num == EACCES || num == EROFS ? "; name a place where you may write"
							     : "";

	return cli_fail_own(cli, KAGE_SYS, 0, "create %s: %s%s", name, strerror(num), advice);
}

static int write_beside(struct cli *cli, struct kage_image *image, const char *name)
{
	_cleanup_free_ char *beside = cli_printf("%s.XXXXXX", name);
	int fd = mkostemp(beside, O_CLOEXEC); /* mode 0600: memory is private */
	int status;

	if (fd < 0)
		return fail_create(cli, errno, name);
	status = write_core_take(cli, image, fd, name);
	if (status == CLI_DONE && rename(beside, name))
		status = cli_fail_own(cli, KAGE_SYS, errno, "rename %s to %s", beside, name);
	if (status != CLI_DONE)
		unlink(beside);
	return status;
}

/* A pipe or device cannot be replaced, and has to be opened. */
static int write_file(struct cli *cli, struct kage_image *image, const char *name)
{
	struct stat st;
	int fd;

	if (stat(name, &st) || S_ISREG(st.st_mode))
		return write_beside(cli, image, name);
	fd = open(name, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return cli_fail_own(cli, KAGE_SYS, errno, "open %s", name);
	return write_core_take(cli, image, fd, name);
}

static void print_result(const struct cli *cli, const char *label, const char *name)
{
	char size[CLI_TEXT_BYTES], used[CLI_TEXT_BYTES];
	struct stat st;

	if (stat(name, &st))
		return;
	if (cli->json)
		cli_json_print_take(json_pack("{s:o, s:o, s:o}", "image", cli_json_text(label),
					      "file", cli_json_text(name), "bytes",
					      cli_json_number((uint64_t)st.st_size)));
	else
		printf("%s  %s, %s on disk\n", name, cli_text_size(size, (uint64_t)st.st_size),
		       cli_text_size(used, (uint64_t)st.st_blocks * 512));
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct core_values *values = data;
	bool to_stdout = values->output && strcmp(values->output, "-") == 0;
	_cleanup_store_ struct kage_store *store = NULL;
	_cleanup_image_ struct kage_image *image = NULL;
	struct kage_err *e;
	int status;

	(void)argc;
	if (!values->output)
		return cli_fail_usage(cli, "where to? kage core %s -o FILE", argv[0]);
	if (to_stdout && isatty(STDOUT_FILENO))
		return cli_fail_usage(
			cli, "a core file is not for a terminal: kage core %s -o FILE", argv[0]);
	e = cli_image_open(cli, argv[0], &store, &image);
	if (e)
		return cli_fail(cli, e);
	if (to_stdout) {
		cli->json = false; /* standard output is taken */
		return write_core_take(cli, image, dup(STDOUT_FILENO), "standard output");
	}
	status = write_file(cli, image, values->output);
	cli_progress_clear(cli->progress);
	if (status == CLI_DONE)
		print_result(cli, kage_image_label(image), values->output);
	return status;
}

const struct cli_command cli_core = {
	.name = "core",
	.arguments = "IMAGE -o FILE",
	.summary = "write an image as a core file, for debuggers",
	.details =
		"  Writes an ELF core file of IMAGE with all of its threads, registers and memory.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.interrupted = "no file was written",
	.reads_images = true,
	.run = run,
};
