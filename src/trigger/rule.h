/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rule: what a program must meet, and what is to be done then; read from what a user has written (kage-on(1)).
 */
#ifndef TRIGGER_RULE_H
#define TRIGGER_RULE_H

#include <regex.h>

#include <kage/triggers.h>

#include "sys/exits.h"
#include "target/target.h"

struct trigger_condition {
	struct kage_exit_condition number; /* the value; without one: */
	bool is_text;                      /* the string that it points to matches */
	bool unlike;                       /* does not */
	regex_t regex;
	char *text;
};

struct trigger_rule {
	uint64_t id;
	enum trigger_event { ON_CALL, ON_SIGNAL, ON_EXIT, ON_EXEC } on;
	unsigned number; /* ON_CALL */
	int signal;      /* ON_SIGNAL */
	pid_t tid;       /* 0: any */
	struct trigger_condition *conditions;
	size_t n_conditions;
	uint64_t first,
		step; /* of those that meet it: the first that counts, and then each so many; 0: no other */
	uint64_t max; /* 0: any number */
	bool follow;  /* also in processes that it makes */
	enum trigger_action {
		DO_COUNT,
		DO_SNAP,
		DO_CLONE,
		DO_ROLLBACK,
		DO_STOP,
		DO_CALL,
		DO_EXEC
	} action;
	char *argument; /* behind the action's name */
	char *store;    /* of DO_SNAP: its path; the caller's to set */
	char *told;     /* as it was asked, in words */
	uint64_t n_met, n_done, n_failed;
	uint64_t last_ns; /* CLOCK_REALTIME, when it was met last; 0: never */
	char *last_error; /* of the last action, if that failed */
	uint64_t *
		delays; /* from the end of the call to the beginning of the action, of the latest: a ring */
	size_t n_delays;
};

enum { TRIGGER_DELAYS = 1024 };

/** Reads O. KAGE_INVALID says what is wrong with it. */
struct kage_err *trigger_rule_parse(const struct kage_trigger_options *o,
				    struct trigger_rule **ret_rule) _must_check_;
void trigger_rule_free(struct trigger_rule *r);

/** Whether HIT, of thread TID of T, meets R; numbers of it are counted. */
bool trigger_rule_meets(struct trigger_rule *r, struct kage_target *t, pid_t tid,
			const struct kage_exit_hit *hit);

/** Whether one more counts. */
bool trigger_rule_counts(struct trigger_rule *r);

/** Whether it is used up. */
bool trigger_rule_is_over(const struct trigger_rule *r);

/** What of R, which is the only rule for its call, the kernel can look at. */
void trigger_rule_for_kernel(const struct trigger_rule *r, struct kage_exit_rule *ret);

void trigger_rule_note_delay(struct trigger_rule *r, uint64_t ns);
/** Of the latest that were noted; 0 without any. */
uint64_t trigger_rule_median_delay(const struct trigger_rule *r);

#endif
