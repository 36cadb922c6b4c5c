/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kage try: many lives from one image, each with other input, and how they ended.
 *
 * Every life is a child of ours in a PID namespace of its own, whose first process goes with it. At
 * most `jobs` live at a time. Whatever happens, all are ended and reaped before we end.
 *
 *	begin()		restored, with its input, output and memory as asked for
 *	wait_for_one()	until one ends, or its time is over: then it is killed
 *	finish()	reaped, judged, noted
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/duration.h"
#include "cli/edits.h"
#include "cli/interrupt.h"
#include "cli/place.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "cli/try.h"

enum { MOST_RUNS = 1000000, MOST_JOBS = 1024 };
static const uint64_t default_timeout_ns = 60000000000;

struct try_values {
	int runs;
	int jobs;
	struct cli_texts sets;
	struct cli_texts inputs;
	struct cli_texts envs;
	const char *timeout;
	const char *output;
	bool trust;
};

static const struct cli_option options[] = {
	{ "runs", 'n', "N", "so many lives (default: 1, or one for each input)", CLI_NUMBER,
	  .offset = offsetof(struct try_values, runs), 1, MOST_RUNS },
	{ "jobs", 'j', "J", "so many at a time (default: 1)", CLI_NUMBER,
	  .offset = offsetof(struct try_values, jobs), 1, MOST_JOBS },
	{ "set", 's', "SYMBOL=VALUE", "set a variable, or 0xADDRESS=VALUE:u32", CLI_TEXTS,
	  .offset = offsetof(struct try_values, sets) },
	{ "stdin", 'i', "FILE", "standard input; several take turns", CLI_TEXTS,
	  .offset = offsetof(struct try_values, inputs) },
	{ "env", 'e', "NAME=VALUE", "set a variable of the environment, where it fits", CLI_TEXTS,
	  .offset = offsetof(struct try_values, envs) },
	{ "timeout", 't', "DURATION", "end a life after that long (default: 1min)", CLI_TEXT,
	  .offset = offsetof(struct try_values, timeout) },
	{ "output", 'o', "DIR", "keep what each printed in DIR", CLI_TEXT,
	  .offset = offsetof(struct try_values, output) },
	{ "trust", 0, NULL, "even if other users could have written the image", CLI_FLAG,
	  .offset = offsetof(struct try_values, trust) },
	{ 0 },
};

struct life {
	size_t run; /* from 1; 0: nobody lives here */
	pid_t pid;
	int pidfd;
	uint64_t begin_ns, deadline_ns;
	bool timed_out;
};

struct trial {
	struct cli *cli;
	const struct try_values *values;
	struct kage_image *image;
	struct kage_symbols *symbols;
	char **judge;  /* NULL-terminated; NULL without one */
	char *folder;  /* of outputs */
	bool given[3]; /* 0: input is ours, 1 and 2: output goes to a file */
	uint64_t timeout_ns;
	size_t runs, jobs, begun;
	bool crowded; /* one had no room beside those that live: one of them has to end first */
	struct life *lives; /* jobs of them */
	struct try_outcome *outcomes;
};

/* --- beginning -------------------------------------------------------------------------------- */

/* The memory that is to be otherwise in run number RUN. */
static int make_edits(struct trial *t, size_t run, struct cli_edits *edits)
{
	_cleanup_free_ char *number = cli_printf("%zu", run);
	const struct cli_variable variable = { "KAGE_RUN", "run", number };
	int status = CLI_DONE;

	for (size_t i = 0; i < t->values->sets.n && status == CLI_DONE; i++) {
		_cleanup_free_ char *text = cli_child_expand(t->values->sets.v[i], &variable, 1);

		status = cli_edits_set(t->cli, t->image, t->symbols, text, edits);
	}
	for (size_t i = 0; i < t->values->envs.n && status == CLI_DONE; i++) {
		_cleanup_free_ char *text = cli_child_expand(t->values->envs.v[i], &variable, 1);

		status = cli_edits_env(t->cli, t->image, t->symbols, text, edits);
	}
	return status;
}

/* The descriptors of ours that a life is given; -1 where it has its own. */
struct files {
	int in, out;
};

static void files_close(struct files *files)
{
	if (files->in >= 0)
		close(files->in);
	if (files->out >= 0)
		close(files->out);
}

static int files_open(struct trial *t, struct try_outcome *o, struct files *files)
{
	if (o->input)
		files->in = open(o->input, O_RDONLY | O_CLOEXEC);
	if (o->input && files->in < 0)
		return cli_fail_own(t->cli, KAGE_SYS, errno, "open %s", o->input);
	files->out = open(o->output, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (files->out < 0)
		return cli_fail_own(t->cli, KAGE_SYS, errno, "make %s", o->output);
	return CLI_DONE;
}

static struct kage_err *restore(struct trial *t, const struct files *files,
				const struct cli_edits *edits, struct kage_life *ret_life)
{
	struct kage_fd_given fds[3];
	struct kage_restore_options how = {
		.pid = KAGE_PID_NEW,
		.detached = true,
		.trust = t->values->trust,
		.fds = fds,
		.patches = edits->v,
		.n_patches = edits->n,
	};

	for (int fd = 0; fd < 3; fd++)
		if (t->given[fd])
			fds[how.n_fds++] =
				(struct kage_fd_given){ fd, fd == 0 ? files->in : files->out };
	return kage_restore(t->cli->ctx, t->image, &how, ret_life);
}

static struct life *free_place(struct trial *t)
{
	for (size_t i = 0; i < t->jobs; i++)
		if (!t->lives[i].run)
			return &t->lives[i];
	return NULL;
}

static bool somebody_lives(const struct trial *t)
{
	for (size_t i = 0; i < t->jobs; i++)
		if (t->lives[i].run)
			return true;
	return false;
}

/* What is in the way of the first life is in the way of all. Others are tried again when one of those
 * has ended that live beside it, and may have the port or lock that it needs. */
static int restore_failed(struct trial *t, struct try_outcome *o, size_t run, struct kage_err *e)
{
	if (run == 1 || kage_err_code(e) == KAGE_INTERRUPTED || kage_err_code(e) == KAGE_NOMEM)
		return cli_fail(t->cli, e);
	if (somebody_lives(t)) {
		kage_err_free(e);
		t->crowded = true;
		t->begun--;
		return CLI_DONE;
	}
	o->end = TRY_NOT_RUN;
	o->why = cli_text_clean(kage_err_message(e));
	o->judged = -1;
	kage_err_free(e);
	return CLI_DONE;
}

static int begin(struct trial *t)
{
	size_t run = ++t->begun;
	struct try_outcome *o = &t->outcomes[run - 1];
	__attribute__((cleanup(files_close))) struct files files = { -1, -1 };
	_cleanup_edits_ struct cli_edits edits = { 0 };
	struct life *life = free_place(t);
	struct kage_life born;
	struct kage_err *e;
	int status;

	if (!o->output)
		o->output = cli_printf("%s/%zu", t->folder, run);
	if (t->values->inputs.n)
		o->input = t->values->inputs.v[(run - 1) % t->values->inputs.n];
	status = files_open(t, o, &files);
	if (status == CLI_DONE)
		status = make_edits(t, run, &edits);
	if (status != CLI_DONE)
		return status;
	e = restore(t, &files, &edits, &born);
	if (e)
		return restore_failed(t, o, run, e);
	*life = (struct life){ .run = run, .pid = born.pid, .pidfd = born.pidfd };
	life->begin_ns = cli_clock_mono_ns();
	life->deadline_ns = life->begin_ns + t->timeout_ns;
	return CLI_DONE;
}

/* --- ending ----------------------------------------------------------------------------------- */

/* The first processes of namespaces whose lives are over; they send no signal when they end. */
static void reap_namespaces(bool all)
{
	while (waitpid(-1, NULL, __WCLONE | (all ? 0 : WNOHANG)) > 0 || (all && errno == EINTR))
		;
}

static int reap(struct trial *t, struct life *life)
{
	int status = 0;

	while (waitpid(life->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(life->pidfd);
	life->run = 0;
	t->crowded = false;
	reap_namespaces(false);
	return status;
}

static void end_all(struct trial *t)
{
	for (size_t i = 0; t->lives && i < t->jobs; i++)
		if (t->lives[i].run)
			kill(t->lives[i].pid, SIGKILL);
	for (size_t i = 0; t->lives && i < t->jobs; i++)
		if (t->lives[i].run)
			reap(t, &t->lives[i]);
	reap_namespaces(true);
}

static int judge(struct trial *t, struct try_outcome *o, size_t run)
{
	_cleanup_free_ char *number = cli_printf("%zu", run), *end = try_end_text(o);
	_cleanup_free_ char *value = cli_printf("%d", try_end_status(o));
	const struct cli_variable variables[] = {
		{ "KAGE_RUN", "run", number },       { "KAGE_STATUS", "status", value },
		{ "KAGE_END", "end", end },          { "KAGE_OUTPUT", "output", o->output },
		{ "KAGE_INPUT", "input", o->input },
	};
	size_t words = 0;
	char **argv;
	int num;

	if (!t->judge)
		return CLI_DONE;
	while (t->judge[words])
		words++;
	argv = cli_grow(NULL, words + 1, sizeof(*argv));
	memcpy(argv, t->judge, (words + 1) * sizeof(*argv));
	num = cli_child_run(t->cli, argv, variables, ARRAY_SIZE(variables), &o->judged);
	free(argv);
	if (num)
		return cli_fail_own(t->cli, KAGE_SYS, num, "start %s", t->judge[0]);
	if (o->judged == CLI_CHILD_NOT_FOUND)
		return cli_fail_own(t->cli, KAGE_NOTFOUND, 0, "there is no command '%s' to judge",
				    t->judge[0]);
	return CLI_DONE;
}

static int finish(struct trial *t, struct life *life)
{
	struct try_outcome *o = &t->outcomes[life->run - 1];
	size_t run = life->run;
	struct stat st;
	int status;

	o->total_ns = cli_clock_mono_ns() - life->begin_ns;
	status = reap(t, life);
	o->end = life->timed_out ? TRY_TIMEOUT : WIFSIGNALED(status) ? TRY_KILLED : TRY_EXITED;
	o->value = life->timed_out       ? 0
		   : WIFSIGNALED(status) ? WTERMSIG(status)
					 : WEXITSTATUS(status);
	o->judged = -1;
	if (stat(o->output, &st) == 0)
		o->output_bytes = (uint64_t)st.st_size;
	return judge(t, o, run);
}

/* Waits for the end of at least one life, or of the time of one, which is killed then. */
static int wait_for_one(struct trial *t)
{
	struct pollfd *fds = cli_grow(NULL, t->jobs, sizeof(*fds));
	uint64_t now = cli_clock_mono_ns(), first = UINT64_MAX;
	int status = CLI_DONE;

	for (size_t i = 0; i < t->jobs; i++) {
		struct life *life = &t->lives[i];

		fds[i] = (struct pollfd){ .fd = life->run ? life->pidfd : -1, .events = POLLIN };
		if (life->run && !life->timed_out && life->deadline_ns < first)
			first = life->deadline_ns;
	}
	now = first > now ? first - now : 0;
	poll(fds, t->jobs, first == UINT64_MAX ? -1 : (int)(now / 1000000 % 1000000000) + 1);
	now = cli_clock_mono_ns();
	for (size_t i = 0; i < t->jobs && status == CLI_DONE; i++) {
		struct life *life = &t->lives[i];

		if (life->run && (fds[i].revents & POLLIN)) {
			status = finish(t, life);
		} else if (life->run && !life->timed_out && life->deadline_ns <= now) {
			kill(life->pid, SIGKILL);
			life->timed_out = true;
		}
	}
	free(fds);
	return status;
}

static int live_all(struct trial *t)
{
	int status = CLI_DONE;

	while (status == CLI_DONE && (t->begun < t->runs || somebody_lives(t))) {
		if (cli_interrupt_signal())
			return cli_fail_own(t->cli, KAGE_INTERRUPTED, 0,
					    "interrupted in run %zu of %zu", t->begun, t->runs);
		if (t->begun < t->runs && free_place(t) && !t->crowded)
			status = begin(t);
		else
			status = wait_for_one(t);
	}
	return status;
}

/* --- the command ------------------------------------------------------------------------------ */

static bool has_fd(struct trial *t, int fd)
{
	return kage_image_drop_fd(t->image, fd);
}

static int make_folder(struct trial *t)
{
	const char *tmp = getenv("TMPDIR");

	if (t->values->output) {
		t->folder = cli_printf("%s", t->values->output);
		if (mkdir(t->folder, 0700) < 0 && errno != EEXIST)
			return cli_fail_own(t->cli, KAGE_SYS, errno, "make %s", t->folder);
		return CLI_DONE;
	}
	t->folder = cli_printf("%s/kage-try.XXXXXX", tmp && *tmp ? tmp : "/var/tmp");
	if (mkdtemp(t->folder))
		return CLI_DONE;
	cli_fail_own(t->cli, KAGE_SYS, errno, "make %s", t->folder);
	free(t->folder);
	t->folder = NULL;
	return CLI_FAILED;
}

static int prepare(struct trial *t)
{
	const struct try_values *v = t->values;

	t->timeout_ns = default_timeout_ns;
	if (v->timeout && !cli_duration_parse(v->timeout, &t->timeout_ns))
		return cli_fail_usage(t->cli,
				      "--timeout takes a duration such as 500ms or 5s, "
				      "not '%s'",
				      v->timeout);
	t->runs = v->runs ? (size_t)v->runs : v->inputs.n ? v->inputs.n : 1;
	t->jobs = v->jobs ? (size_t)v->jobs : 1;
	t->lives = calloc(t->jobs, sizeof(*t->lives));
	t->outcomes = calloc(t->runs, sizeof(*t->outcomes));
	if (!t->lives || !t->outcomes)
		cli_out_of_memory();
	t->given[0] = v->inputs.n > 0;
	if (t->given[0])
		has_fd(t, STDIN_FILENO);
	t->given[1] = has_fd(t, STDOUT_FILENO);
	t->given[2] = has_fd(t, STDERR_FILENO);
	return make_folder(t);
}

/* Outputs go, where they were not asked for. */
static void remove_outputs(struct trial *t)
{
	if (!t->folder || t->values->output)
		return;
	for (size_t i = 0; i < t->runs; i++)
		if (t->outcomes[i].output)
			unlink(t->outcomes[i].output);
	rmdir(t->folder);
}

static void trial_deinit(struct trial *t)
{
	end_all(t);
	remove_outputs(t);
	for (size_t i = 0; t->outcomes && i < t->runs; i++)
		try_outcome_deinit(&t->outcomes[i]);
	free(t->folder);
	free(t->lives);
	free(t->outcomes);
}

/* A life that could not be, or that the judge found bad, is what a script wants to know of. */
static int verdict(const struct trial *t)
{
	for (size_t i = 0; i < t->runs; i++)
		if (t->outcomes[i].end == TRY_NOT_RUN || t->outcomes[i].judged > 0)
			return CLI_FAILED;
	return CLI_DONE;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	_cleanup_store_ struct kage_store *store = NULL;
	_cleanup_image_ struct kage_image *image = NULL;
	_cleanup_symbols_ struct kage_symbols *symbols = NULL;
	__attribute__((cleanup(trial_deinit))) struct trial t = {
		.cli = cli,
		.values = data,
		.judge = argc > 1 ? argv + 1 : NULL,
	};
	struct kage_err *e = cli_image_open(cli, argv[0], &store, &image);
	int status;

	if (!e)
		e = kage_symbols_open(image, &symbols);
	if (e)
		return cli_fail(cli, e);
	signal(SIGCHLD, SIG_DFL); /* we may have inherited that it is ignored */
	t.image = image;
	t.symbols = symbols;
	status = prepare(&t);
	if (status == CLI_DONE)
		status = live_all(&t);
	if (status != CLI_DONE)
		return status;
	cli_progress_clear(cli->progress);
	remove_outputs(&t); /* printing may end us, if nobody reads on */
	try_report(cli, kage_image_label(image), t.outcomes, t.runs, t.values->output);
	return verdict(&t);
}

const struct cli_command cli_try = {
	.name = "try",
	.arguments = "IMAGE [-- COMMAND [ARGUMENT…]]",
	.summary = "live many lives from one image, each with other input",
	.details =
		"  Restores IMAGE again and again, each time apart from everybody, with the variables and the\n"
		"  input given, waits for the end, and tells how all ended. {run} in a value is the number of\n"
		"  the life. COMMAND judges each: $KAGE_RUN, $KAGE_STATUS, $KAGE_OUTPUT; 0 is good.",
	.options = options,
	.min_args = 1,
	.max_args = -1,
	.reads_images = true,
	.run = run,
};
