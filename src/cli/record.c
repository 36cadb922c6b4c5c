/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kage record: images of a running program, one after the other, until told to stop.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/duration.h"
#include "cli/interrupt.h"
#include "cli/json.h"
#include "cli/keep.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "cli/thinner.h"

enum { END_MS = 1000 };

struct record_values {
	const char *name;
	const char *message;
	const char *every;
	const char *git;
	struct cli_keep_values keep;
	int count;
	int level;
	const char *recipient;
	bool quiet;
	bool verify;
};

static const struct cli_option options[] = {
	{ "every", 'e', "DURATION", "an image each DURATION: 200ms, 1s (the default), 5min",
	  CLI_TEXT, .offset = offsetof(struct record_values, every) },
	{ "count", 'c', "N", "stop after N images", CLI_NUMBER,
	  .offset = offsetof(struct record_values, count), 1, INT32_MAX },
	{ "name", 'n', "NAME", "add to history NAME, not the one called like the program", CLI_TEXT,
	  .offset = offsetof(struct record_values, name) },
	CLI_KEEP_OPTIONS(struct record_values, keep),
	{ "message", 'm', "TEXT", "keep TEXT with each image", CLI_TEXT,
	  .offset = offsetof(struct record_values, message) },
	{ "git", 0, "DIR", "commit the files that it writes to the git repository DIR", CLI_TEXT,
	  .offset = offsetof(struct record_values, git) },
	{ "level", 0, "N", "compress at zstd level N, 1 to 19", CLI_NUMBER,
	  .offset = offsetof(struct record_values, level), 1, 19 },
	{ "recipient", 0, "KEY", "encrypt for the public KEY, or the one in a file KEY", CLI_TEXT,
	  .offset = offsetof(struct record_values, recipient) },
	{ "quiet", 'q', NULL, "print nothing but what fails", CLI_FLAG,
	  .offset = offsetof(struct record_values, quiet) },
	{ "verify", 0, NULL, "compare each image with a plain copy of all memory; slow", CLI_FLAG,
	  .offset = offsetof(struct record_values, verify) },
	{ 0 },
};

/* One recording as the command sees it. */
struct recording {
	struct cli *cli;
	const struct record_values *values;
	struct kage_recorder *recorder;
	pid_t pid;
	int pidfd;
	uint64_t every_ns, begin_ns;
	bool live; /* a line on the terminal that is drawn again and again */
	uint64_t n, stored_bytes, longest_pause_ns;
	struct cli_keep keep;
	struct cli_thinner *thinner; /* NULL: everything is kept */
};

/* --- telling ---------------------------------------------------------------------------------- */

static void tell_json(const struct recording *r, const struct kage_record_result *result)
{
	_cleanup_free_ char *label = cli_printf("%s@%llu", kage_recorder_name(r->recorder),
						(unsigned long long)result->number);

	cli_json_print_take(json_pack(
		"{s:o, s:o, s:i, s:i, s:i, s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:o*}", "image",
		cli_json_text(label), "number", cli_json_number(result->number), "pid", (int)r->pid,
		"threads", (int)result->n_threads, "rung", (int)result->rung, "tracking",
		result->tracking, "keyframe", (int)result->keyframe, "pause_ns",
		cli_json_number(result->pause_ns), "total_ns", cli_json_number(result->total_ns),
		"memory_bytes", cli_json_number(result->memory_bytes), "changed_bytes",
		cli_json_number(result->changed_bytes), "stored_bytes",
		cli_json_number(result->stored_bytes), "git_commit",
		result->git_commit[0] ? cli_json_text(result->git_commit) : NULL));
	fflush(stdout);
}

static void tell_line(const struct recording *r, const struct kage_record_result *result)
{
	char pause[CLI_TEXT_BYTES], changed[CLI_TEXT_BYTES], stored[CLI_TEXT_BYTES];

	cli_text_duration(pause, result->pause_ns);
	printf("%s@%llu  %s%s, %s changed, %s stored%s\n", kage_recorder_name(r->recorder),
	       (unsigned long long)result->number, result->pause_ns ? "paused " : "not stopped",
	       result->pause_ns ? pause : "", cli_text_size(changed, result->changed_bytes),
	       cli_text_size(stored, result->stored_bytes), result->keyframe ? ", keyframe" : "");
	fflush(stdout);
}

static void draw_live(const struct recording *r, const struct kage_record_result *result)
{
	char pause[CLI_TEXT_BYTES], changed[CLI_TEXT_BYTES], stored[CLI_TEXT_BYTES];
	char all[CLI_TEXT_BYTES];
	double seconds = (double)(cli_clock_mono_ns() - r->begin_ns) / 1e9;

	cli_text_duration(pause, result->pause_ns);
	fprintf(stderr,
		"\r\033[K%s@%llu  %llu images, %.1f/s  %s%s  %s changed  %s stored, %s in all",
		kage_recorder_name(r->recorder), (unsigned long long)result->number,
		(unsigned long long)r->n, seconds > 0 ? (double)r->n / seconds : 0,
		result->pause_ns ? "paused " : "not stopped", result->pause_ns ? pause : "",
		cli_text_size(changed, result->changed_bytes),
		cli_text_size(stored, result->stored_bytes), cli_text_size(all, r->stored_bytes));
	fflush(stderr);
}

static void tell(struct recording *r, const struct kage_record_result *result)
{
	r->n++;
	r->stored_bytes += result->stored_bytes;
	if (result->pause_ns > r->longest_pause_ns)
		r->longest_pause_ns = result->pause_ns;
	if (r->values->quiet)
		return;
	if (r->cli->json)
		tell_json(r, result);
	else if (r->live)
		draw_live(r, result);
	else
		tell_line(r, result);
}

static void clear_live(const struct recording *r)
{
	if (r->live && r->n)
		fputs("\r\033[K", stderr);
}

static void tell_end(const struct recording *r, const char *why)
{
	char stored[CLI_TEXT_BYTES], pause[CLI_TEXT_BYTES];

	clear_live(r);
	if (r->values->quiet || r->cli->json)
		return;
	cli_text_duration(pause, r->longest_pause_ns);
	printf("%s: %llu images of '%s', %s, %s%s\n", why, (unsigned long long)r->n,
	       kage_recorder_name(r->recorder), cli_text_size(stored, r->stored_bytes),
	       r->longest_pause_ns ? "longest pause " : "never stopped",
	       r->longest_pause_ns ? pause : "");
}

/* --- recording -------------------------------------------------------------------------------- */

/* Sleeps until WHEN_NS, the end of the target, or a signal that asks to end; whether it was the first. */
static bool wait_until(const struct recording *r, uint64_t when_ns)
{
	struct pollfd p = { .fd = r->pidfd, .events = POLLIN };
	sigset_t all, before;
	int n = -1;

	/* A signal between the look at the flag and the sleep must end that. */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	if (!cli_interrupt_signal()) {
		uint64_t now = cli_clock_mono_ns();
		uint64_t left = when_ns > now ? when_ns - now : 0;
		struct timespec ts = { (time_t)(left / 1000000000), (long)(left % 1000000000) };

		n = ppoll(&p, 1, &ts, &before);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	return n == 0;
}

/* Whether E lets the next image be taken all the same. */
static bool passes(const struct kage_err *e)
{
	return kage_err_code(e) == KAGE_LIMIT || kage_err_code(e) == KAGE_BUSY;
}

/* Whether a failure is the end of the program: of one that is ending this or that is gone already. It does not
 * take it long from there. */
static bool has_ended(const struct recording *r)
{
	struct pollfd p = { .fd = r->pidfd, .events = POLLIN };

	return poll(&p, 1, END_MS) > 0;
}

/* Takes images until there is a reason to end, which is NULL in *RET_WHY for a failure. */
static struct kage_err *record(struct recording *r, const char **ret_why)
{
	uint64_t next = cli_clock_mono_ns();

	*ret_why = NULL;
	for (;;) {
		struct kage_record_result result;
		struct kage_err *e = kage_recorder_take(r->recorder, &result);

		cli_progress_clear(r->cli->progress);
		kage_ctx_set_progress(r->cli->ctx, NULL, NULL); /* only the first one is long */
		if (e && r->n && (kage_err_code(e) == KAGE_GONE || (!passes(e) && has_ended(r)))) {
			kage_err_free(e);
			*ret_why = "the program ended";
			return NULL;
		}
		if (e && !passes(e))
			return e;
		if (e) {
			clear_live(r);
			cli_note(r->cli, "%s", kage_err_message(e));
			kage_err_free(e);
		} else {
			tell(r, &result);
			cli_thinner_kick(r->thinner, kage_recorder_name(r->recorder),
					 result.stored_bytes);
		}
		if (r->values->count && r->n >= (uint64_t)r->values->count) {
			*ret_why = "done";
			return NULL;
		}
		/* Never faster than asked for; what was missed is not made up for. */
		next += r->every_ns;
		if (next < cli_clock_mono_ns())
			next = cli_clock_mono_ns();
		if (!wait_until(r, next)) {
			*ret_why = cli_interrupt_signal() ? "stopped" : "the program ended";
			return NULL;
		}
	}
}

static int run_recorder(struct recording *r)
{
	const char *why;
	struct kage_err *e = record(r, &why);

	if (e && kage_err_code(e) == KAGE_INTERRUPTED && r->n) {
		kage_err_free(e);
		e = NULL;
		why = "stopped";
	}
	if (!e) {
		tell_end(r, why);
		return CLI_DONE;
	}
	clear_live(r);
	return cli_fail(r->cli, e);
}

/* What is encrypted can be thinned only to keyframes, and to all since the last one, whose keys the recorder
 * has. So there are keyframes where KEEP will want images. */
static void plan_keyframes(const struct cli_keep *keep, struct kage_record_options *how)
{
	for (size_t i = 0; i < keep->rules.n_tiers; i++) {
		uint64_t every = keep->tiers[i].every_ns;

		if (every && (!how->keyframe_period_ns || every < how->keyframe_period_ns))
			how->keyframe_period_ns = every;
	}
	how->keyframe_images = (keep->rules.keep_last + 1) / 2;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct record_values *values = data;
	struct kage_record_options how = { .name = values->name,
					   .message = values->message,
					   .compression = values->level,
					   .git = values->git,
					   .recipient = values->recipient,
					   .verify = values->verify };
	_cleanup_store_ struct kage_store *store = NULL;
	struct recording r = { .cli = cli, .values = values, .every_ns = 1000000000 };
	_cleanup_free_ char *own_name = NULL;
	struct kage_err *e;
	int status;

	(void)argc;
	r.pid = cli_pid_parse(argv[0]);
	if (!r.pid)
		return cli_fail_usage(cli, "'%s' is not a PID; 'pgrep %s' finds those of a name",
				      argv[0], argv[0]);
	if (values->every && !cli_duration_parse(values->every, &r.every_ns))
		return cli_fail_usage(cli, "'%s' is no duration; write 200ms, 1s, 5min",
				      values->every);
	if (cli_keep_parse(cli, &values->keep, &r.keep) != CLI_DONE)
		return CLI_USAGE;
	/* With two of them in what is kept, the oldest images can go without any being rewritten. */
	how.keyframe_every_ns = r.keep.shortest_span_ns / 2;
	how.keyframe_bytes = r.keep.rules.max_bytes / 4;
	if (values->recipient)
		plan_keyframes(&r.keep, &how);
	if (!how.name)
		how.name = own_name = cli_pid_own_name(r.pid);
	e = cli_store_open(cli, KAGE_STORE_CREATE, &store);
	if (!e)
		e = kage_recorder_create(cli->ctx, store, r.pid, &how, &r.recorder);
	if (e)
		return cli_fail(cli, e);
	r.pidfd = (int)syscall(SYS_pidfd_open, r.pid, 0);
	r.live = !cli->json && !values->quiet && isatty(STDERR_FILENO) && isatty(STDOUT_FILENO);
	r.begin_ns = cli_clock_mono_ns();
	r.thinner = cli_thinner_start(cli, &r.keep, store);
	status = run_recorder(&r);
	/* A disk that fails does so for both: one line is enough. */
	cli_thinner_finish(r.thinner, status == CLI_DONE);
	kage_recorder_destroy(r.recorder);
	if (r.pidfd >= 0)
		close(r.pidfd);
	return status;
}

const struct cli_command cli_record = {
	.name = "record",
	.arguments = "PID",
	.summary = "take images of a running program until told to stop",
	.details =
		"  Takes an image of process PID at once and then each second, or as often as --every says,\n"
		"  until the program ends or kage is interrupted. Each image holds only what changed since the\n"
		"  one before, and each can be restored.",
	.options = options,
	.min_args = 1,
	.max_args = 1,
	.run = run,
};
