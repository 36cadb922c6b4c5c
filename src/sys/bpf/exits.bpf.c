/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table of triggers, looked at when a system call ends (sys/exits.h). Whoever is in it is stopped: it is traced, and is sent
 * a signal that would otherwise be ignored; being traced, it stops before it sees what the call has returned.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/ptrace.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "exits_record.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* What the kernel has in place of a result when it is going to make the call again (include/linux/errno.h there). */
enum { RESTART_FIRST = 512, RESTART_BLOCK = 516 };
enum { SIGNALS = 3, RESTART_SYSCALL = 219 };

/* The members that are read. */
typedef struct {
	unsigned long sig[1];
} sigset_t;

struct sigaction {
	void *sa_handler;
} __attribute__((preserve_access_index));

struct k_sigaction {
	struct sigaction sa;
} __attribute__((preserve_access_index));

struct sighand_struct {
	struct k_sigaction action[64];
} __attribute__((preserve_access_index));

struct task_struct {
	unsigned int ptrace;
	sigset_t blocked;
	struct sighand_struct *sighand;
} __attribute__((preserve_access_index));

/* How many rules there are for each call. That is all that most calls of most programs cost: the verifier makes some
 * instructions of a look into an array, while one into a hash table is several function calls. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, EXIT_NUMBERS);
	__type(key, __u32);
	__type(value, __u64);
} numbers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EXIT_ENTRIES);
	__type(key, struct kage_exit_key);
	__type(value, struct kage_exit_rule);
} rules SEC(".maps");

/* By the number of the thread. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EXIT_ENTRIES);
	__type(key, __u32);
	__type(value, struct kage_exit_hit);
} hits SEC(".maps");

static __always_inline __u64 value_of(const struct kage_exit_hit *h, __u32 what, __u32 tid)
{
	if (what == EXIT_RESULT)
		return (__u64)h->result;
	if (what == EXIT_THREAD)
		return tid;
	return h->args[what < EXIT_ARGS ? what : 0];
}

/* What cannot be read now is for the keeper to see. */
static __always_inline int begins(const struct kage_exit_rule *r, const struct kage_exit_hit *h)
{
	char text[EXIT_PREFIX_BYTES];
	__u32 n = r->prefix_bytes;

	if (!n)
		return 1;
	if (n > EXIT_PREFIX_BYTES)
		n = EXIT_PREFIX_BYTES;
	if (bpf_probe_read_user(text, sizeof(text), (void *)value_of(h, r->prefix_argument, 0)) < 0)
		return 1;
	for (__u32 i = 0; i < EXIT_PREFIX_BYTES; i++) {
		if (i == n)
			break;
		if (text[i] != r->prefix[i])
			return 0;
	}
	return 1;
}

static __always_inline int matches(const struct kage_exit_rule *r, const struct kage_exit_hit *h,
				   __u32 tid)
{
	for (__u32 i = 0; i < EXIT_CONDITIONS; i++) {
		if (i >= r->n)
			break;
		if (!kage_exit_holds(&r->conditions[i], value_of(h, r->conditions[i].what, tid)))
			return 0;
	}
	return begins(r, h);
}

/* One that does nothing to the thread, should nobody trace it any more: best without a handler. 0: it blocks all. */
static __always_inline __u32 choose_signal(struct task_struct *task)
{
	const __u32 signals[SIGNALS] = { 23 /* URG */, 28 /* WINCH */, 17 /* CHLD */ };
	__u64 blocked = task->blocked.sig[0];
	__u32 second = 0;

	for (int i = 0; i < SIGNALS; i++) {
		__u32 s = signals[i];

		if (blocked >> (s - 1) & 1)
			continue;
		/* SIG_DFL and SIG_IGN */
		if ((__u64)BPF_CORE_READ(task, sighand, action[s - 1].sa.sa_handler) <= 1)
			return s;
		if (!second)
			second = s;
	}
	return second;
}

static __always_inline int stop(struct task_struct *task, __u32 tid, struct kage_exit_hit *h)
{
	h->signal = choose_signal(task);
	h->state = h->signal ? HIT_SENT : HIT_BLOCKED;
	bpf_map_update_elem(&hits, &tid, h, BPF_ANY);
	if (h->signal)
		bpf_send_signal_thread(h->signal);
	return 0;
}

/* Behind a call by which signals may have become unblocked, or which has ended another one. */
static __always_inline int tell_earlier(struct task_struct *task, __u32 number, __s64 result,
					__u32 tid, struct kage_exit_hit *h)
{
	const struct kage_exit_hit *had = bpf_map_lookup_elem(&hits, &tid);
	const struct kage_exit_rule *r;
	struct kage_exit_key key;

	if (!had || had->state != (number == RESTART_SYSCALL ? HIT_RESUMED : HIT_BLOCKED))
		return 0;
	*h = *had;
	if (number == RESTART_SYSCALL) {
		h->result = result;
		h->time_ns = bpf_ktime_get_ns();
		key.tgid = bpf_get_current_pid_tgid() >> 32;
		key.number = h->number;
		r = bpf_map_lookup_elem(&rules, &key);
		if (!r || !matches(r, h, tid)) {
			bpf_map_delete_elem(&hits, &tid);
			return 0;
		}
	}
	return stop(task, tid, h);
}

static __attribute__((noinline)) int look(struct pt_regs *regs, long result)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct kage_exit_key key = { id >> 32, (__u32)regs->orig_rax };
	const struct kage_exit_rule *r = bpf_map_lookup_elem(&rules, &key);
	struct kage_exit_hit h = { 0 };
	struct task_struct *task;
	__u32 tid = (__u32)id;

	if (!r)
		return 0;
	task = bpf_get_current_task_btf();
	if (!task->ptrace)
		return 0;
	if (r->helps)
		return tell_earlier(task, key.number, result, tid, &h);
	h.result = result;
	h.number = key.number;
	h.args[0] = regs->rdi;
	h.args[1] = regs->rsi;
	h.args[2] = regs->rdx;
	h.args[3] = regs->r10;
	h.args[4] = regs->r8;
	h.args[5] = regs->r9;
	if (result == -RESTART_BLOCK) {
		h.state = HIT_RESUMED;
		bpf_map_update_elem(&hits, &tid, &h, BPF_ANY);
		return 0;
	}
	if (result <= -RESTART_FIRST && result >= -RESTART_BLOCK)
		return 0;
	if (!matches(r, &h, tid))
		return 0;
	h.time_ns = bpf_ktime_get_ns();
	return stop(task, tid, &h);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(kage_exit, struct pt_regs *regs, long result)
{
	__u32 number = (__u32)regs->orig_rax;
	const __u64 *n = bpf_map_lookup_elem(&numbers, &number);

	return n && *n ? look(regs, result) : 0;
}
