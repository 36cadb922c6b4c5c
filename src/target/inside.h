/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only a process itself, or the kernel, knows of it: nothing in /proc and no ptrace request
 * shows it. Two ways to it, which fill the same structure:
 *
 *	rungs 0 and 1	BPF iterators read it out of the kernel; nothing is injected (inside_bpf.c)
 *	rung 2		the target is made to ask, by a batch in each thread (inside_batch.c)
 */
#ifndef TARGET_INSIDE_H
#define TARGET_INSIDE_H

#include "target/target.h"

enum { KAGE_NSIG = 64 };

struct kage_inside_action {
	uint64_t handler, flags, restorer, mask;
};

struct kage_inside_interval {
	uint64_t left_ns, interval_ns;
};

struct kage_inside_timer {
	int32_t id;
	uint64_t left_ns, interval_ns;
	uint32_t overrun;
};

struct kage_inside_thread {
	pid_t tid;
	uint64_t tid_address; /* clear_child_tid */
	uint64_t altstack_sp, altstack_bytes;
	uint32_t altstack_flags;
	uint32_t pdeath_signal;
	uint64_t timer_slack_ns;
	uint32_t securebits;
	enum kage_restart restart_kind; /* NONE: not known */
	bool has_expiry;                /* a restart block with a time is known */
	uint64_t expiry_ns;             /* absolute, of clock expiry_clock */
	uint32_t expiry_clock;
	bool has_left;    /* it sleeps for a time */
	uint64_t left_ns; /* of that */
};

struct kage_inside {
	unsigned rung;
	struct kage_inside_action actions[KAGE_NSIG]; /* of signal i + 1 */
	struct kage_inside_interval itimers[3];
	struct kage_inside_timer *timers; /* the ids were given; the rest is filled */
	size_t n_timers;
	uint64_t brk;
	uint32_t dumpable;
	bool child_subreaper;
	bool io_flusher;
	uint32_t lock_future; /* MCL_… of mlockall for later mappings; rung 2 cannot tell */
	struct kage_inside_thread *threads; /* as in the target's list */
	size_t n_threads;
};

/** Frees what INSIDE holds. */
void kage_inside_deinit(struct kage_inside *inside);

/** Takes it from what the kernel told when T was frozen (t->info). *RET_COMPLETE is false, and nothing else is
 *  given, when that is not everything. */
struct kage_err *kage_inside_read(struct kage_target *t, struct kage_inside *ret_inside,
				  bool *ret_complete) _must_check_;

/** Asks the target T itself, every thread of which is stopped. TIMER_IDS: the POSIX timers that it has (/proc/PID/timers). */
struct kage_err *kage_inside_ask(struct kage_target *t, const int32_t *timer_ids, size_t n_timers,
				 struct kage_inside *ret_inside) _must_check_;

#endif
