/* SPDX-License-Identifier: Apache-2.0 */
#include "target/sender.h"

#include <linux/bpf.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/taskread.h"

enum { LOOK_EVERY_NS = 20 * 1000 };

static const int signals[SENDER_SIGNALS] = { SIGURG, SIGWINCH, SIGCHLD }; /* ignored by default */

void kage_sender_init(struct kage_sender *s)
{
	for (int i = 0; i < SENDER_SIGNALS; i++)
		s->programs[i] = -1;
	s->own_event = -1;
}

void kage_sender_deinit(struct kage_sender *s)
{
	for (int i = 0; i < SENDER_SIGNALS; i++)
		close_fd(s->programs[i]);
	close_fd(s->own_event);
}

/* A program that sends signal SIG to the thread in which it runs; -1 on failure. */
static int load(int sig)
{
	static const char license[] = "GPL";
	const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_1, .imm = sig },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_send_signal_thread },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = { 0 };

	attr.prog_type = BPF_PROG_TYPE_PERF_EVENT;
	attr.insns = (uint64_t)(uintptr_t)insns;
	attr.insn_cnt = ARRAY_SIZE(insns);
	attr.license = (uint64_t)(uintptr_t)license;
	memcpy(attr.prog_name, "kage_sender", sizeof("kage_sender"));
	return (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
}

/* Which program sends what thread SEEN of T would not notice, loaded; -1 when there is none. */
static int program_for(struct kage_target *t, const struct kage_taskinfo *info,
		       const struct kage_taskthread *seen)
{
	uint64_t blocked = kage_taskthread_sigmask(seen) | seen->task.blocked;

	if (!info->has_actions)
		return -1;
	for (int i = 0; i < SENDER_SIGNALS; i++) {
		uint64_t handler = info->actions[signals[i] - 1].handler.v;

		if (handler != (uint64_t)(uintptr_t)SIG_DFL || blocked >> (signals[i] - 1) & 1)
			continue;
		if (t->sender.programs[i] < 0)
			t->sender.programs[i] = load(signals[i]);
		return t->sender.programs[i] < 0 ? -1 : i;
	}
	return -1;
}

/* The kernel looks at events of threads when it switches between them only while there are any, and the first makes it
 * wait until all processors know (account_event(), kernel/events/core.c): ten milliseconds. So there is one of our own
 * before. */
static bool get_ready(struct kage_sender *s)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
		.disabled = 1,
		.exclude_kernel = 1,
	};

	if (s->own_event < 0)
		s->own_event =
			(int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	return s->own_event >= 0;
}

void kage_sender_get_ready(struct kage_target *t, const struct kage_taskinfo *info)
{
	bool any_runs = false;

	for (size_t i = 0; i < info->n_threads; i++) {
		if (info->threads[i].asleep)
			continue;
		any_runs = true;
		(void)program_for(t, info, &info->threads[i]);
	}
	if (any_runs)
		(void)get_ready(&t->sender);
}

static bool open_event(struct kage_target *t, struct kage_thread *thread,
		       const struct kage_taskthread *seen, struct perf_event_attr *attr)
{
	_cleanup_fd_ int fd = -1;
	int which;

	if (t->sender.own_event < 0 && (t->stopped_at_ns || !get_ready(&t->sender)))
		return false;
	which = program_for(t, t->info, seen);
	if (which < 0)
		return false;
	attr->size = sizeof(*attr);
	attr->disabled = 1;
	fd = (int)syscall(SYS_perf_event_open, attr, thread->tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0 || ioctl(fd, PERF_EVENT_IOC_SET_BPF, t->sender.programs[which]) < 0 ||
	    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0) < 0)
		return false;
	thread->event = take_fd(&fd);
	thread->event_signal = signals[which];
	return true;
}

bool kage_sender_at(struct kage_target *t, struct kage_thread *thread,
		    const struct kage_taskthread *seen, uint64_t ip)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_BREAKPOINT,
		.sample_period = 1,
		.bp_type = HW_BREAKPOINT_X,
		.bp_addr = ip,
		.bp_len = sizeof(long),
	};

	return open_event(t, thread, seen, &attr);
}

bool kage_sender_in_program(struct kage_target *t, struct kage_thread *thread,
			    const struct kage_taskthread *seen)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_TASK_CLOCK,
		.sample_period = LOOK_EVERY_NS,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};

	return open_event(t, thread, seen, &attr);
}

bool kage_sender_sent(const struct kage_thread *thread, const struct kage_stop *stop)
{
	return stop->what == STOP_SIGNAL && stop->signal == thread->event_signal &&
	       !thread->interrupted;
}

void kage_sender_end(struct kage_thread *thread)
{
	close_fd(thread->event);
	thread->event = -1;
}
