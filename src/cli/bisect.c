/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kage bisect: finds the first bad image of a history, with a command that judges images.
 *
 * What is known at any time: images up to LOW are good, from HIGH on they are bad. Of those between
 * them the one nearest to the middle that was not skipped is judged next; when there is none, it is
 * over.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/text.h"

enum { SKIP_STATUS = 125 };

struct bisect_values {
	const char *good;
	const char *bad;
	bool live;
	bool trust;
};

static const struct cli_option options[] = {
	{ "good", 'g', "N", "image N is good: a number, tag, or as behind '@'; default: first",
	  CLI_TEXT, .offset = offsetof(struct bisect_values, good) },
	{ "bad", 'b', "M", "image M is bad; default: latest", CLI_TEXT,
	  .offset = offsetof(struct bisect_values, bad) },
	{ "live", 'l', NULL, "restore each image, stopped, and set $KAGE_PID", CLI_FLAG,
	  .offset = offsetof(struct bisect_values, live) },
	{ "trust", 0, NULL, "even if other users could have written the images", CLI_FLAG,
	  .offset = offsetof(struct bisect_values, trust) },
	{ 0 },
};

enum verdict { UNKNOWN, GOOD, BAD, SKIPPED };

struct search {
	struct cli *cli;
	struct kage_store *store;
	const struct bisect_values *values;
	char **argv; /* of the command */
	const char *name;
	struct kage_list list;
	enum verdict *verdicts; /* one an image */
	size_t low, high;       /* indices in the list */
	json_t *steps;
};

static void search_deinit(struct search *s)
{
	kage_list_free(&s->list);
	free(s->verdicts);
	json_decref(s->steps);
}

static const char *verdict_name(enum verdict verdict)
{
	return verdict == GOOD ? "good" : verdict == BAD ? "bad" : "skipped";
}

/* --- judging one image ------------------------------------------------------------------------ */

/* A core file of IMAGE with a name, which is the caller's to remove and free. */
static int make_core(struct search *s, struct kage_image *image, char **ret_path)
{
	const char *folder = getenv("TMPDIR");
	char *path = cli_printf("%s/kage-bisect.XXXXXX", folder && *folder ? folder : "/var/tmp");
	int fd = mkostemp(path, O_CLOEXEC);
	struct kage_err *e = NULL;

	if (fd < 0) {
		cli_fail_own(s->cli, KAGE_SYS, errno, "make %s", path);
		free(path);
		return CLI_FAILED;
	}
	e = kage_core_write(s->cli->ctx, image, fd);
	close(fd);
	if (!e) {
		*ret_path = path;
		return CLI_DONE;
	}
	unlink(path);
	free(path);
	return cli_fail(s->cli, e);
}

static int make_life(struct search *s, struct kage_image *image, struct kage_life *ret_life)
{
	const struct kage_restore_options how = {
		.pid = KAGE_PID_NEW,
		.stopped = true,
		.detached = true,
		.trust = s->values->trust,
	};
	struct kage_err *e = kage_restore(s->cli->ctx, image, &how, ret_life);

	return e ? cli_fail(s->cli, e) : CLI_DONE;
}

static void end_life(const struct kage_life *life)
{
	kill(life->pid, SIGKILL);
	while (waitpid(life->pid, NULL, 0) < 0 && errno == EINTR)
		;
	close(life->pidfd);
}

/* Runs the command for IMAGE, with its core file at CORE and its LIFE, where there are such. */
static int run_command(struct search *s, const char *label, const char *core,
		       const struct kage_life *life, int *ret_status)
{
	_cleanup_free_ char *pid = life ? cli_printf("%d", (int)life->pid) : NULL;
	const struct cli_variable variables[] = {
		{ "KAGE_IMAGE", "image", label },
		{ "KAGE_CORE", "core", core },
		{ "KAGE_PID", "pid", pid },
	};
	int num;

	cli_progress_clear(s->cli->progress);
	num = cli_child_run(s->cli, s->argv, variables, ARRAY_SIZE(variables), ret_status);
	if (num)
		return cli_fail_own(s->cli, KAGE_SYS, num, "start %s", s->argv[0]);
	if (cli_interrupt_signal())
		return cli_fail_own(s->cli, KAGE_INTERRUPTED, 0, "interrupted at %s", label);
	if (*ret_status == CLI_CHILD_NOT_RUN || *ret_status == CLI_CHILD_NOT_FOUND)
		return cli_fail_own(s->cli, KAGE_INVALID, 0,
				    "'%s' ended with status %d, which means that it could not be "
				    "run; that says nothing of %s",
				    s->argv[0], *ret_status, label);
	return CLI_DONE;
}

static int judge_open(struct search *s, struct kage_image *image, int *ret_status)
{
	bool wants_core = !s->values->live || cli_child_mentions(s->argv, "core");
	_cleanup_free_ char *core = NULL;
	struct kage_life life;
	int status = CLI_DONE;

	if (wants_core)
		status = make_core(s, image, &core);
	if (status == CLI_DONE && s->values->live)
		status = make_life(s, image, &life);
	if (status == CLI_DONE) {
		status = run_command(s, kage_image_label(image), core,
				     s->values->live ? &life : NULL, ret_status);
		if (s->values->live)
			end_life(&life);
	}
	if (core)
		unlink(core);
	return status;
}

static void tell_step(struct search *s, size_t at, int exit_status)
{
	const struct kage_entry *entry = &s->list.entries[at];
	_cleanup_free_ char *label = cli_printf("%s@%" PRIu64, entry->name, entry->number);
	const char *verdict = verdict_name(s->verdicts[at]);

	if (s->cli->json)
		json_array_append_new(s->steps,
				      json_pack("{s:s, s:i, s:s}", "image", label, "status",
						exit_status, "verdict", verdict));
	else
		printf("%s is %s\n", label, verdict);
	fflush(stdout);
}

/* Judges image AT of the list. One that cannot be read is skipped. */
static int judge(struct search *s, size_t at)
{
	_cleanup_free_ char *label = cli_printf("%s@%" PRIu64, s->name, s->list.entries[at].number);
	_cleanup_image_ struct kage_image *image = NULL;
	struct kage_err *e = kage_image_open(s->store, label, &image);
	int status, exit_status = SKIP_STATUS;

	if (e && kage_err_code(e) != KAGE_CORRUPT && kage_err_code(e) != KAGE_NOTFOUND)
		return cli_fail(s->cli, e);
	if (e) {
		cli_note(s->cli, "%s cannot be judged: %s", label, kage_err_message(e));
		kage_err_free(e);
	} else {
		status = judge_open(s, image, &exit_status);
		if (status != CLI_DONE)
			return status;
	}
	s->verdicts[at] = exit_status == 0 ? GOOD : exit_status == SKIP_STATUS ? SKIPPED : BAD;
	tell_step(s, at, exit_status);
	return CLI_DONE;
}

/* --- the search ------------------------------------------------------------------------------- */

/* The image nearest to the middle between LOW and HIGH that is to be judged; HIGH when there is
 * none. */
static size_t next(const struct search *s)
{
	size_t middle = s->low + (s->high - s->low) / 2;

	for (size_t away = 0; away < s->high - s->low; away++) {
		if (middle + away > s->low && middle + away < s->high &&
		    s->verdicts[middle + away] == UNKNOWN)
			return middle + away;
		if (middle >= away && middle - away > s->low &&
		    s->verdicts[middle - away] == UNKNOWN)
			return middle - away;
	}
	return s->high;
}

static int search(struct search *s)
{
	for (size_t at = next(s); at != s->high; at = next(s)) {
		int status = judge(s, at);

		if (status != CLI_DONE)
			return status;
		if (s->verdicts[at] == GOOD)
			s->low = at;
		else if (s->verdicts[at] == BAD)
			s->high = at;
	}
	return CLI_DONE;
}

static void print_json(const struct search *s)
{
	const struct kage_entry *entries = s->list.entries;
	_cleanup_free_ char *good = cli_printf("%s@%" PRIu64, s->name, entries[s->low].number);
	_cleanup_free_ char *bad = cli_printf("%s@%" PRIu64, s->name, entries[s->high].number);
	json_t *skipped = json_array();

	for (size_t i = s->low + 1; i < s->high; i++)
		json_array_append_new(skipped,
				      json_sprintf("%s@%" PRIu64, s->name, entries[i].number));
	cli_json_print_take(json_pack("{s:s, s:s, s:o, s:b, s:O}", "last_good", good, "first_bad",
				      bad, "skipped_between", skipped, "certain",
				      s->high - s->low == 1, "steps", s->steps));
}

/* What was found; with skipped images in between only up to those. */
static int print_result(struct search *s)
{
	const struct kage_entry *good = &s->list.entries[s->low], *bad = &s->list.entries[s->high];
	char time[CLI_TEXT_BYTES];

	if (s->cli->json) {
		print_json(s);
		return s->high - s->low > 1 ? CLI_FAILED : CLI_DONE;
	}
	if (s->high - s->low > 1)
		return cli_fail_own(s->cli, KAGE_NOTFOUND, 0,
				    "the first bad image is one of %s@%" PRIu64 " to %s@%" PRIu64
				    ": the others were skipped",
				    s->name, good[1].number, s->name, bad->number);
	printf("%s@%" PRIu64 " is the first bad image, taken %s; %s@%" PRIu64
	       " is the last good one\n",
	       s->name, bad->number, cli_text_time(time, bad->realtime_ns), s->name, good->number);
	return CLI_DONE;
}

/* The index of the image that TEXT means: what stands behind an '@', or a whole name. */
static int find(struct search *s, const char *text, size_t *ret_at)
{
	_cleanup_free_ char *spec =
		strchr(text, '@') ? cli_printf("%s", text) : cli_printf("%s@%s", s->name, text);
	_cleanup_free_ char *name = NULL;
	uint64_t number;
	struct kage_err *e = kage_store_resolve(s->store, spec, &name, &number);

	if (e)
		return cli_fail(s->cli, e);
	for (size_t i = 0; i < s->list.n; i++)
		if (strcmp(name, s->name) == 0 && s->list.entries[i].number == number) {
			*ret_at = i;
			return CLI_DONE;
		}
	return cli_fail_usage(s->cli, "%s is not of the history %s", spec, s->name);
}

static int begin(struct search *s)
{
	struct kage_err *e = kage_store_list(s->store, s->name, &s->list);
	int status;

	if (e)
		return cli_fail(s->cli, e);
	s->verdicts = calloc(s->list.n + 1, sizeof(*s->verdicts));
	if (!s->verdicts)
		cli_out_of_memory();
	s->steps = json_array();
	status = find(s, s->values->good ? s->values->good : "first", &s->low);
	if (status == CLI_DONE)
		status = find(s, s->values->bad ? s->values->bad : "latest", &s->high);
	if (status == CLI_DONE && s->low >= s->high)
		return cli_fail_usage(s->cli, "the good image has to come before the bad one");
	return status;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	_cleanup_store_ struct kage_store *store = NULL;
	__attribute__((cleanup(search_deinit))) struct search s = {
		.cli = cli,
		.values = data,
		.argv = argv + 1,
		.name = argv[0],
	};
	struct kage_err *e = cli_store_open(cli, 0, &store);
	int status;

	(void)argc;
	if (e)
		return cli_fail(cli, e);
	signal(SIGCHLD, SIG_DFL); /* we may have inherited that it is ignored */
	s.store = store;
	status = begin(&s);
	if (status == CLI_DONE)
		status = search(&s);
	return status == CLI_DONE ? print_result(&s) : status;
}

const struct cli_command cli_bisect = {
	.name = "bisect",
	.arguments = "NAME [--good N] [--bad M] -- COMMAND [ARGUMENT…]",
	.summary = "find the first bad image",
	.details =
		"  Runs COMMAND for images between a good and a bad one, until the first bad one is known. It\n"
		"  ends with 0 for a good image, 125 for one that it cannot judge, another status for a bad one.\n"
		"  $KAGE_IMAGE names the image and $KAGE_CORE a core file of it; {image} and {core} in an\n"
		"  ARGUMENT stand for them, too.",
	.options = options,
	.min_args = 2,
	.max_args = -1,
	.reads_images = true,
	.run = run,
};
