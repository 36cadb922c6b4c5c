/* SPDX-License-Identifier: Apache-2.0 */
/* kage call: makes a running program perform a system call. */
#include <string.h>

#include "cli/cli.h"
#include "cli/duration.h"
#include "cli/interrupt.h"
#include "cli/json.h"

struct call_values {
	int thread;
	const char *timeout;
};

static const struct cli_option options[] = {
	{ "thread", 't', "TID", "the thread that makes it; without, any", CLI_NUMBER,
	  .offset = offsetof(struct call_values, thread), .min = 1, .max = INT32_MAX },
	{ "timeout", 0, "DURATION", "give the call up after that time, e.g. 2s", CLI_TEXT,
	  .offset = offsetof(struct call_values, timeout) },
	{ 0 },
};

static struct kage_err *arguments(const struct kage_syscall *call, json_t *list)
{
	for (size_t i = 0; i < kage_syscall_arguments(call); i++) {
		struct kage_syscall_argument a;
		struct kage_err *e = kage_syscall_argument(call, i, &a);
		json_t *o;

		if (e)
			return e;
		o = json_pack("{s:o, s:o}", "name", cli_json_text(a.name), "text",
			      cli_json_text(a.text));
		if (a.bytes)
			json_object_set_new(o, "bytes", cli_json_hex(a.bytes, a.size));
		json_array_append_new(list, o);
		kage_syscall_argument_deinit(&a);
	}
	return NULL;
}

static struct kage_err *print_json(const struct kage_syscall *call, pid_t pid, const char *text)
{
	const struct kage_syscall_result *r = kage_syscall_result(call);
	const char *name = r->error ? strerrorname_np(r->error) : NULL;
	json_t *args = json_array();
	struct kage_err *e = arguments(call, args);

	if (e) {
		json_decref(args);
		return e;
	}
	cli_json_print_take(json_pack("{s:i, s:i, s:s, s:o, s:o, s:s?, s:b, s:b, s:o, s:o}", "pid",
				      (int)pid, "tid", (int)r->tid, "call", kage_syscall_name(call),
				      "arguments", args, "result", cli_json_signed(r->value),
				      "errno", name, "gave_up", (int)r->gave_up, "ended",
				      (int)r->ended, "pause_ns", cli_json_number(r->pause_ns),
				      "text", cli_json_text(text)));
	return NULL;
}

static struct kage_err *print(struct cli *cli, const struct kage_syscall *call, pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	struct kage_err *e = kage_syscall_describe(call, &text);

	if (e)
		return e;
	if (cli->json)
		return print_json(call, pid, text);
	puts(text);
	return NULL;
}

static int run(struct cli *cli, const void *values, int argc, char **argv)
{
	const struct call_values *v = values;
	struct kage_syscall_options how = { .tid = v->thread };
	struct kage_syscall *call = NULL;
	struct kage_err *e;
	bool failed = true;
	pid_t pid = cli_pid_parse(argv[0]);

	if (pid == 0)
		return cli_fail_usage(cli, "'%s' is not a PID; 'pgrep %s' finds those of a name",
				      argv[0], argv[0]);
	if (v->timeout && !cli_duration_parse(v->timeout, &how.timeout_ns))
		return cli_fail_usage(cli, "--timeout: '%s' is no duration such as 500ms or 2s",
				      v->timeout);
	e = kage_syscall_parse((const char *const *)argv + 1, (size_t)argc - 1, &call);
	if (!e)
		e = kage_syscall_make(cli->ctx, pid, &how, call);
	if (!e) {
		failed = kage_syscall_result(call)->error;
		cli->interrupted = kage_syscall_result(call)->gave_up && cli_interrupt_signal();
		e = print(cli, call, pid);
	}
	kage_syscall_free(call);
	if (e)
		return cli_fail(cli, e);
	return failed ? CLI_FAILED : CLI_DONE;
}

const struct cli_command cli_call = {
	.name = "call",
	.arguments = "PID NAME [ARGUMENT…]",
	.summary = "make a running program perform a system call",
	.details =
		"Makes a thread of process PID perform the system call NAME, and prints the call with\n"
		"its result and what it has left in memory. The program goes on as if nothing had\n"
		"happened but the call.\n"
		"\n"
		"An ARGUMENT is a number, constants (O_RDWR|O_CREAT), \"text\", x\"00 ff\" (bytes),\n"
		"[4096] (room for so many bytes), {…} (a structure or several), or _ (what is usual).\n"
		"Arguments at the end may be left out.",
	.options = options,
	.min_args = 2,
	.max_args = 8,
	.first_ends_options = true,
	.interrupted = "the call was given up",
	.run = run,
};
