/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kage gdb: opens an image in gdb.
 *
 * The core file has no name from the beginning: gdb inherits its descriptor and opens it through
 * /proc/self/fd, so that nothing is left behind however gdb ends, and kage need not stay.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/progress.h"

/* A file without a name in $TMPDIR, or -1. */
static int open_nameless(void)
{
	const char *folder = getenv("TMPDIR");
	_cleanup_free_ char *name = NULL;
	int fd;

	if (!folder || !*folder)
		folder = "/var/tmp"; /* a core file may be too large for a tmpfs */
	fd = open(folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
	name = cli_printf("%s/kage-core.XXXXXX", folder);
	fd = mkostemp(name, O_CLOEXEC);
	if (fd >= 0)
		unlink(name);
	return fd;
}

/* The path of the file with number ID, as a fresh string, or NULL. */
static char *file_path(const json_t *image, json_int_t id)
{
	const json_t *file;
	size_t i;

	json_array_foreach(json_object_get(image, "files"), i, file)
	{
		const char *path = json_string_value(json_object_get(file, "path"));

		if (path && json_integer_value(json_object_get(file, "id")) == id)
			return cli_printf("%s", path);
	}
	return NULL;
}

/* The executable of the image's first process, as a fresh string; NULL when it is not told. */
static char *executable(const struct kage_image *image)
{
	_cleanup_free_ char *text = NULL;
	struct kage_err *e = kage_image_json(image, &text);
	json_t *root, *memory, *exe;
	char *path = NULL;

	if (e) {
		kage_err_free(e);
		return NULL;
	}
	root = json_loads(text, 0, NULL);
	memory = json_object_get(json_array_get(json_object_get(root, "processes"), 0), "memory");
	exe = json_object_get(memory, "exe_file");
	if (json_is_integer(exe))
		path = file_path(root, json_integer_value(exe));
	json_decref(root);
	return path;
}

static int exec_gdb(struct cli *cli, int core, const char *program, int argc, char **argv)
{
	char **args = cli_grow(NULL, (size_t)argc + 5, sizeof(*args));
	size_t n = 0;

	cli_progress_clear(cli->progress);
	/* gdb must keep the descriptor that its core file is. */
	fcntl(core, F_SETFD, 0);
	args[n++] = "gdb";
	for (int i = 0; i < argc; i++)
		args[n++] = argv[i];
	if (program)
		args[n++] = cli_printf("--exec=%s", program);
	if (program)
		args[n++] = cli_printf("--symbols=%s", program);
	args[n++] = cli_printf("--core=/proc/self/fd/%d", core);
	args[n] = NULL;
	execvp(args[0], args);
	return cli_fail_own(cli, errno == ENOENT ? KAGE_NOTFOUND : KAGE_SYS, errno,
			    "start gdb, which has to be installed");
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	_cleanup_free_ char *program = NULL;
	_cleanup_store_ struct kage_store *store = NULL;
	_cleanup_image_ struct kage_image *image = NULL;
	struct kage_err *e = cli_image_open(cli, argv[0], &store, &image);
	int core;

	(void)data;
	if (e)
		return cli_fail(cli, e);
	core = open_nameless();
	if (core < 0)
		return cli_fail_own(cli, KAGE_SYS, errno,
				    "make a temporary file in $TMPDIR or /var/tmp");
	e = kage_core_write(cli->ctx, image, core);
	if (e)
		return cli_fail(cli, e);
	program = executable(image);
	if (!program || access(program, R_OK) != 0)
		cli_note(cli, "%s is not there to take symbols from; gdb's 'file' names another",
			 program ? program : "the executable");
	if (program && access(program, R_OK) != 0) {
		free(program);
		program = NULL;
	}
	return exec_gdb(cli, core, program, argc - 1, argv + 1);
}

const struct cli_command cli_gdb = {
	.name = "gdb",
	.arguments = "IMAGE [GDB-ARGUMENT…]",
	.summary = "open an image in gdb",
	.details =
		"  Opens IMAGE in gdb, as a core file with its executable. What follows IMAGE is for gdb.",
	.min_args = 1,
	.max_args = -1,
	.first_ends_options = true,
	.reads_images = true,
	.run = run,
};
