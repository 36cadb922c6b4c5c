/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Triggers: when a program makes a system call, is about to receive a signal, to execute another program or to end, something is
 * done with it, before it sees anything of what it has met. See kage-on(1).
 *
 *	const struct kage_trigger_options when = { .call = "openat", .action = "clone" };
 *	struct kage_trigger_result trigger;
 *
 *	e = kage_trigger_on(ctx, pid, &when, &trigger);
 *
 * The keeper of the program's twins (kage/twins.h) holds its triggers as well, and traces the program as long as it has some. When
 * the keeper ends, at whatever instant, the program goes on without them.
 */
#ifndef KAGE_TRIGGERS_H
#define KAGE_TRIGGERS_H

#include <kage/twins.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kage_trigger_options {
	/* When: one of these. */
	const char *call;   /* behind this system call, by its name */
	const char *signal; /* before it is delivered, "SEGV" */
	bool exit, exec;    /* before a thread ends; before the first step of another program */

	const char *const *args; /* "N=VALUE", "N&BITS", "N~REGEX" …: of the call; all must hold */
	size_t n_args;
	const char *const *results; /* "ENOENT", ">=0" …: of the call; all must hold */
	size_t n_results;
	pid_t tid;         /* only this thread; 0: any */
	const char *count; /* "3", "3+", "3+2": which of those that meet all that; NULL: each */
	uint64_t max;      /* so often at most, then the trigger is gone; 0: any number */
	bool follow;       /* also in processes that the program makes */

	const char *action; /* "snap", "clone", "stop", "call:NAME ARG…", "exec:COMMAND", "count" */

	const char *name;         /* of the program's twins and images; NULL: that of its command */
	struct kage_store *store; /* "snap": for the images */
	const char *program;      /* path of kage(1), which is the keeper; NULL: "kage" in PATH */
};

enum { KAGE_TRIGGER_ID_BYTES = KAGE_TWINS_NAME_BYTES + 24 };

struct kage_trigger_result {
	char id[KAGE_TRIGGER_ID_BYTES]; /* NAME:NUMBER */
	pid_t keeper_pid;
	char rung
		[16]; /* how calls are met: "bpf", or "ptrace", which stops the program at each call */
};

/** Adds a trigger for process PID. */
KAGE_API struct kage_err *kage_trigger_on(struct kage_ctx *ctx, pid_t pid,
					  const struct kage_trigger_options *options,
					  struct kage_trigger_result *ret_result);

struct kage_trigger_entry {
	char id[KAGE_TRIGGER_ID_BYTES];
	pid_t pid;
	char comm[17];
	char *told;       /* as it was asked, as options of kage-on(1) */
	char *last_error; /* why the last action failed, or NULL */
	char rung[16];
	uint64_t n_met, n_done,
		n_failed; /* met; actions that were begun; those of them that failed */
	uint64_t max;
	uint64_t last_ns; /* CLOCK_REALTIME, when it was met; 0: never */
	uint64_t
		delay_ns; /* from the call's end to the beginning of the action: median of the latest; 0: none */
	pid_t keeper_pid;
};

struct kage_trigger_list {
	struct kage_trigger_entry *entries; /* by name and number */
	size_t n;
};

/** Lists the triggers of the calling user; of process PID alone unless it is 0. */
KAGE_API struct kage_err *kage_triggers(struct kage_ctx *ctx, pid_t pid,
					struct kage_trigger_list *ret_list);
KAGE_API void kage_triggers_free(struct kage_trigger_list *list);

/** Takes the trigger ID away, or with only a name all of that program. */
KAGE_API struct kage_err *kage_trigger_off(struct kage_ctx *ctx, const char *id);

#ifdef __cplusplus
}
#endif

#endif
