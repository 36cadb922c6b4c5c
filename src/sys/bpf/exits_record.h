/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What sys/exits.c and exits.bpf.c tell each other. */
#ifndef SYS_BPF_EXITS_RECORD_H
#define SYS_BPF_EXITS_RECORD_H

#include <linux/types.h>

enum {
	EXIT_ARGS = 6,
	EXIT_CONDITIONS = 4,
	EXIT_PREFIX_BYTES = 64,

	EXIT_ENTRIES = 8192,
	EXIT_NUMBERS = 512, /* of system calls */
};

struct kage_exit_key {
	__u32 tgid;
	__u32 number; /* of the system call */
};

enum kage_exit_what {
	EXIT_ARGUMENT, /* to EXIT_ARGS - 1: that argument */
	EXIT_RESULT = EXIT_ARGS,
	EXIT_THREAD,
};

enum kage_exit_op { EXIT_EQ, EXIT_NE, EXIT_LT, EXIT_LE, EXIT_GT, EXIT_GE, EXIT_ANY };

struct kage_exit_condition {
	__u32 what;   /* enum kage_exit_what */
	__u16 op;     /* enum kage_exit_op; those with an order are signed; ANY: of these bits */
	__u16 narrow; /* only the lower 32 bits count, which are signed */
	__u64 value;
};

/* Whether V, of what C is about, is as C wants it; in the kernel and outside of it. */
static inline __attribute__((always_inline)) int kage_exit_holds(
	const struct kage_exit_condition *c, __u64 v)
{
	__s64 a = c->narrow ? (__s32)v : (__s64)v, b = (__s64)c->value;

	switch (c->op) {
	case EXIT_EQ:
		return a == b;
	case EXIT_NE:
		return a != b;
	case EXIT_LT:
		return a < b;
	case EXIT_LE:
		return a <= b;
	case EXIT_GT:
		return a > b;
	case EXIT_GE:
		return a >= b;
	default:
		return (a & b) != 0;
	}
}

struct kage_exit_rule {
	__u32 helps; /* nobody waits for this call: it is one behind which an earlier hit is told */
	__u32 n;
	struct kage_exit_condition conditions[EXIT_CONDITIONS]; /* all must hold */
	__u32 prefix_argument; /* points to a string that begins with PREFIX, if that has bytes */
	__u32 prefix_bytes;
	char prefix[EXIT_PREFIX_BYTES];
};

/* A call that has met its rule, of a thread that was sent a signal, or will be. */
struct kage_exit_hit {
	__u64 time_ns; /* CLOCK_MONOTONIC, at the call's end */
	__s64 result;
	__u64 args[EXIT_ARGS];
	__u32 number;
	__u32 state; /* enum kage_exit_state */
	__u32 signal;
	__u32 pad;
};

enum kage_exit_state {
	HIT_SENT,    /* the signal is on its way */
	HIT_BLOCKED, /* the thread blocks all that could be sent */
	HIT_RESUMED, /* it is not at its end: restart_syscall(2) will be */
};

#endif
