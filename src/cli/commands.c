/* SPDX-License-Identifier: Apache-2.0 */
/* The list of commands, and small steps that several of them take. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/parse.h"

/* clang-format off */
const struct cli_command *const cli_commands[] = {
	&cli_run,
	&cli_snap,
	&cli_record,
	&cli_log,
	&cli_show,
	&cli_cat,
	&cli_when,
	&cli_diff,
	&cli_restore,
	&cli_try,
	&cli_bisect,
	&cli_clone,
	&cli_twins,
	&cli_wake,
	&cli_drop,
	&cli_rollback,
	&cli_on,
	&cli_off,
	&cli_call,
	&cli_check,
	&cli_core,
	&cli_gdb,
	&cli_tag,
	&cli_du,
	&cli_key,
	&cli_fsck,
	&cli_rm,
	&cli_prune,
	NULL,
};
/* clang-format on */

const struct cli_command *cli_command_find(const char *name)
{
	for (size_t i = 0; cli_commands[i]; i++)
		if (strcmp(cli_commands[i]->name, name) == 0)
			return cli_commands[i];
	return NULL;
}

const char *cli_command_nearest(const char *name)
{
	for (size_t i = 0; cli_commands[i]; i++)
		if (cli_parse_near(name, cli_commands[i]->name))
			return cli_commands[i]->name;
	return NULL;
}

struct kage_err *cli_store_open(struct cli *cli, unsigned flags, struct kage_store **ret_store)
{
	struct kage_err *e = kage_store_open(cli->ctx, cli->store_path, flags, ret_store);

	if (!e && cli->key_path)
		e = kage_store_set_key(*ret_store, cli->key_path);
	return e;
}

struct kage_err *cli_store_open_if_any(struct cli *cli, const char *name,
				       struct kage_store **ret_store)
{
	struct kage_err *e = cli_store_open(cli, 0, ret_store);

	if (!e || kage_err_code(e) != KAGE_NOTFOUND || cli->store_path || name)
		return e;
	kage_err_free(e);
	*ret_store = NULL;
	return NULL;
}

/* Of a damaged image: which one before it can be opened, and who tells more. */
static void show_way_out(struct cli *cli, struct kage_store *store, const char *spec)
{
	struct kage_list list = { 0 };
	_cleanup_free_ char *name = NULL;
	uint64_t number, found = 0;
	struct kage_err *e = kage_store_resolve(store, spec, &name, &number);

	if (!e)
		e = kage_store_list(store, name, &list);
	for (size_t i = list.n; !e && !found && i-- > 0;) {
		_cleanup_free_ char *older =
			cli_printf("%s@%" PRIu64, name, list.entries[i].number);
		_cleanup_image_ struct kage_image *image = NULL;
		struct kage_err *damaged;

		if (list.entries[i].number >= number)
			continue;
		damaged = kage_image_open(store, older, &image);
		found = damaged ? 0 : list.entries[i].number;
		kage_err_free(damaged);
	}
	if (found)
		cli_note(cli,
			 "%s@%" PRIu64 " is the nearest image before it that can be opened; "
			 "'kage fsck %s' tells what is damaged",
			 name, found, name);
	else if (!e)
		cli_note(cli, "'kage fsck %s' tells what is damaged", name);
	kage_err_free(e);
	kage_list_free(&list);
}

struct kage_err *cli_image_open(struct cli *cli, const char *spec, struct kage_store **ret_store,
				struct kage_image **ret_image)
{
	struct kage_err *e = cli_store_open(cli, 0, ret_store);

	if (!e)
		e = kage_image_open(*ret_store, spec, ret_image);
	if (e && kage_err_code(e) == KAGE_CORRUPT && *ret_store)
		show_way_out(cli, *ret_store, spec);
	return e;
}

pid_t cli_pid_parse(const char *text)
{
	char *end;
	long pid;

	if (text[strspn(text, "0123456789")] != '\0')
		return 0;
	errno = 0;
	pid = strtol(text, &end, 10);
	return errno || end == text || pid > INT_MAX ? 0 : (pid_t)pid;
}

enum { ENVIRONMENT_BYTES = 128 << 10 };

char *cli_pid_own_name(pid_t pid)
{
	_cleanup_free_ char *path = cli_printf("/proc/%d/environ", (int)pid);
	_cleanup_free_ char *text = cli_grow(NULL, ENVIRONMENT_BYTES + 1, 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t size = 0;
	ssize_t n;

	if (fd < 0)
		return NULL;
	while (size < ENVIRONMENT_BYTES &&
	       (n = read(fd, text + size, ENVIRONMENT_BYTES - size)) > 0)
		size += (size_t)n;
	close(fd);
	text[size] = '\0';
	for (const char *at = text; at < text + size; at += strlen(at) + 1)
		if (strncmp(at, "KAGE_NAME=", 10) == 0 && at[10])
			return cli_printf("%s", at + 10);
	return NULL;
}
