/* SPDX-License-Identifier: Apache-2.0 */
/* kage rm: removes images and histories. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/parse.h"
#include "cli/progress.h"

struct rm_values {
	bool yes;
	bool force;
};

static const struct cli_option options[] = {
	{ "force", 'f', NULL, "even images that have tags", CLI_FLAG,
	  .offset = offsetof(struct rm_values, force) },
	{ "yes", 'y', NULL, "do not ask", CLI_FLAG, .offset = offsetof(struct rm_values, yes) },
	{ 0 },
};

/* What one argument means: images FIRST to LAST of history NAME, or all of them when LAST is 0. */
struct range {
	char *name;
	uint64_t first, last;
};

static void range_deinit(struct range *range)
{
	free(range->name);
}

/* NAME@N to a number; plain numbers are taken as they are, for a bound need not exist any more. */
static struct kage_err *resolve_bound(struct kage_store *store, const char *name, const char *text,
				      size_t length, uint64_t *ret_number)
{
	_cleanup_free_ char *spec = cli_printf("%s@%.*s", name, (int)length, text);
	_cleanup_free_ char *found = NULL;

	if (cli_parse_number(text, length, ret_number))
		return NULL;
	return kage_store_resolve(store, spec, &found, ret_number);
}

static struct kage_err *resolve(struct kage_store *store, const char *spec, struct range *ret)
{
	const char *at = strrchr(spec, '@');
	const char *dots = at ? strstr(at, "..") : NULL;
	struct kage_err *e;

	if (!at) {
		ret->name = cli_printf("%s", spec);
		return NULL;
	}
	if (!dots) {
		e = kage_store_resolve(store, spec, &ret->name, &ret->first);
		ret->last = ret->first;
		return e;
	}
	ret->name = cli_printf("%.*s", (int)(at - spec), spec);
	e = resolve_bound(store, ret->name, at + 1, (size_t)(dots - at - 1), &ret->first);
	if (!e)
		e = resolve_bound(store, ret->name, dots + 2, strlen(dots + 2), &ret->last);
	return e;
}

static bool in_range(const struct range *range, uint64_t number)
{
	return range->last == 0 || (number >= range->first && number <= range->last);
}

/* Takes away the tags of the images of RANGE. */
static struct kage_err *untag(struct kage_store *store, const struct range *range)
{
	struct kage_tags tags;
	struct kage_err *e = kage_store_tags(store, range->name, &tags);

	if (e)
		return e;
	for (size_t i = 0; i < tags.n && !e; i++)
		if (in_range(range, tags.tags[i].number))
			e = kage_store_untag(store, range->name, tags.tags[i].name);
	kage_tags_free(&tags);
	return e;
}

static struct kage_err *count(struct kage_store *store, const struct range *range, size_t *ret_n)
{
	struct kage_list list;
	struct kage_err *e = kage_store_list(store, range->name, &list);

	if (e)
		return e;
	*ret_n = 0;
	for (size_t i = 0; i < list.n; i++)
		*ret_n += in_range(range, list.entries[i].number);
	kage_list_free(&list);
	return NULL;
}

/* Asks on the terminal whether N images shall go. */
static bool confirmed(const char *spec, size_t n)
{
	char answer[16];

	fprintf(stderr, "remove %zu %s (%s)? [y/N] ", n, n == 1 ? "image" : "images", spec);
	fflush(stderr);
	if (!fgets(answer, sizeof(answer), stdin)) {
		fputc('\n', stderr);
		return false;
	}
	return answer[0] == 'y' || answer[0] == 'Y';
}

/* Finds what SPEC means and asks if ASK. Removes nothing. */
static int prepare_one(struct cli *cli, struct kage_store *store, const char *spec, bool ask,
		       struct range *range)
{
	size_t n = 0;
	struct kage_err *e = resolve(store, spec, range);

	if (!e)
		e = count(store, range, &n);
	if (e)
		return cli_fail(cli, e);
	if (n == 0)
		return cli_fail_own(cli, KAGE_NOTFOUND, 0,
				    "no image in %s; 'kage log %s' lists them", spec, range->name);
	if (ask && !confirmed(spec, n))
		return cli_fail_own(cli, KAGE_INTERRUPTED, 0, "%s is kept, nothing was removed",
				    spec);
	return CLI_DONE;
}

static void print_result(const struct cli *cli, size_t removed)
{
	cli_progress_clear(cli->progress);
	if (cli->json)
		cli_json_print_take(json_pack("{s:o}", "removed", cli_json_number(removed)));
	else if (removed > 0)
		printf("%zu %s removed\n", removed, removed == 1 ? "image" : "images");
}

/* What was removed before a failure is told all the same. */
static int remove_all(struct cli *cli, struct kage_store *store, const struct range *ranges, int n,
		      bool force)
{
	struct kage_err *e = NULL;
	size_t removed = 0;

	for (int i = 0; i < n && !e; i++) {
		size_t now = 0;

		if (force)
			e = untag(store, &ranges[i]);
		if (!e)
			e = kage_store_remove(store, ranges[i].name, ranges[i].first,
					      ranges[i].last, &now);
		removed += now;
		/* It was there: an earlier argument meant it too, or somebody else removed it. */
		if (e && kage_err_code(e) == KAGE_NOTFOUND) {
			kage_err_free(e);
			e = NULL;
		}
	}
	if (!e || removed > 0)
		print_result(cli, removed);
	return e ? cli_fail(cli, e) : CLI_DONE;
}

/* All arguments are looked at before anything is removed. */
static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct rm_values *values = data;
	_cleanup_store_ struct kage_store *store = NULL;
	_cleanup_free_ struct range *ranges = cli_grow(NULL, (size_t)argc, sizeof(*ranges));
	bool ask = !values->yes && isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
	struct kage_err *e = cli_store_open(cli, 0, &store);
	int n = 0, status = CLI_DONE;

	if (e)
		return cli_fail(cli, e);
	for (; n < argc && status == CLI_DONE; n++) {
		ranges[n] = (struct range){ 0 };
		status = prepare_one(cli, store, argv[n], ask, &ranges[n]);
	}
	if (status == CLI_DONE)
		status = remove_all(cli, store, ranges, n, values->force);
	while (n > 0)
		range_deinit(&ranges[--n]);
	return status;
}

const struct cli_command cli_rm = {
	.name = "rm",
	.arguments = "IMAGE|NAME|NAME@A..B…",
	.summary = "remove images",
	.details =
		"  Removes an image, the images A to B of a history, or with a bare NAME the whole history.\n"
		"  All names are checked before anything is removed. Asks first where it talks to a terminal.\n"
		"  An image that has a tag stays, unless --force is given.",
	.options = options,
	.min_args = 1,
	.max_args = -1,
	.reads_images = true,
	.run = run,
};
