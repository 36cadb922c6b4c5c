/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that has rules, and the processes of it that are followed: held (target/held.h) by the calling thread, which does
 * what the rules say when one is met.
 *
 * Calls are met by the kernel's table (sys/exits.h); where that cannot be had, at each call of the program (PTRACE_SYSCALL).
 * Calls that make threads and processes are met by ptrace's own events, since the C library blocks all signals around them.
 */
#ifndef TRIGGER_WATCH_H
#define TRIGGER_WATCH_H

#include "sys/exits.h"
#include "target/target.h"
#include "trigger/rule.h"

/* What was met. */
struct watch_event {
	enum trigger_event on;
	struct kage_exit_hit hit; /* ON_CALL */
	int signal;               /* ON_SIGNAL */
	struct kage_target *target;
	pid_t tid; /* stands */
};

/** Does what RULE says. The thread stays as it is meanwhile. *RET_BEGUN: it goes on, and watch_done() will tell its end. */
typedef struct kage_err *watch_act_fn(void *user, struct trigger_rule *rule,
				      const struct watch_event *event, bool *ret_begun);

struct watch {
	struct kage_ctx *ctx;
	watch_act_fn *act;
	void *user;
	/* The rest is its own; zero-initialise. */
	struct kage_exits exits;
	bool is_open, by_table;
	struct kage_taskread *reader;  /* tells who sleeps; NULL: not to be had */
	struct kage_target **programs; /* the first is the caller's */
	size_t n_programs;
	pid_t acting; /* for this thread something is being done; 0: for none */
	bool has_acted;
	bool forget_signal;              /* that it was about to receive */
	struct watch_standing *standing; /* those for whom actions go on */
	size_t n_standing;
	struct trigger_rule **rules;
	size_t n_rules;
	uint64_t last_id;
	bool is_set[EXIT_NUMBERS]; /* in the table */
};

/** Adds RULE, which W then owns, for process T; all rules of W are for the same. Others must not add to the table at this
 *  time (kage_exits_open()). */
struct kage_err *watch_add(struct watch *w, struct kage_target *t, struct trigger_rule *rule)
	_must_check_;

/** The rule ID, or NULL. */
struct trigger_rule *watch_find(const struct watch *w, uint64_t id);

/** Takes RULE away. With the last one the program is let go. */
void watch_remove(struct watch *w, struct trigger_rule *rule);

/** Some thread may have stopped: TID probably, 0: unknown. Does what is to be done. True: there may be more, but others want
 *  to be served, too. */
bool watch_take(struct watch *w, pid_t tid);

/** An action that had begun for process PID has ended. */
void watch_done(struct watch *w, pid_t pid);

/** The first program is at another instant now: what its threads were about to meet is gone. */
void watch_went_back(struct watch *w);

/** How a program is frozen for an action. */
struct kage_freeze watch_freeze(const struct watch *w);

/** "bpf" or "ptrace". */
const char *watch_rung(const struct watch *w);

/** Lets everything go. */
void watch_end(struct watch *w);

#endif
