/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The in-kernel half of triggers: a table of (process, system call), looked at by a BPF program when a call ends. There
 * is one for all who have rules, so that other programs pay for one look; who comes first makes it, later ones find it by
 * asking the kernel for its links. It is nowhere in a file system, so it ends with the last who has it open.
 *
 * A thread that meets a rule, and is traced, is sent a signal that it would ignore without a tracer. It stops with it before
 * it sees what the call has returned; kage_exits_take() tells which call it was. Where the thread blocks all such
 * signals, it stops as soon as it does no longer.
 */
#ifndef SYS_EXITS_H
#define SYS_EXITS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "sys/bpf/exits_record.h"

struct kage_exits {
	int link, rules, hits, numbers; /* descriptors; -1: not open */
	uint64_t *n_rules;              /* of each call, shared with the kernel; NULL: not open */
};

#define KAGE_EXITS_NONE ((struct kage_exits){ -1, -1, -1, -1, NULL })

/** Opens the table, or makes it; the caller keeps others from doing the same at that time. KAGE_PERM without the rights,
 *  KAGE_UNSUPPORTED where the kernel cannot, or has other numbers for processes than the caller (a PID namespace). */
struct kage_err *kage_exits_open(struct kage_exits *ret_exits) _must_check_;
void kage_exits_close(struct kage_exits *x);

/** Sets the rule for system call NUMBER, below EXIT_NUMBERS, of process TGID. */
struct kage_err *kage_exits_set(const struct kage_exits *x, pid_t tgid, unsigned number,
				const struct kage_exit_rule *rule) _must_check_;
void kage_exits_unset(const struct kage_exits *x, pid_t tgid, unsigned number);

/** Whether thread TID, which is about to receive SIGNAL, was sent it for a call; tells which, and forgets it. */
bool kage_exits_take(const struct kage_exits *x, pid_t tid, int signal,
		     struct kage_exit_hit *ret_hit);

#endif
