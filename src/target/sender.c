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

enum { LOOK_EVERY_NS = 20 * 1000, SIGNALS = ARRAY_SIZE(((struct kage_sender *)0)->programs) };

static const int signals[SIGNALS] = { SIGURG, SIGWINCH, SIGCHLD }; /* ignored by default */

void kage_sender_init(struct kage_sender *s)
{
	for (int i = 0; i < SIGNALS; i++)
		s->programs[i] = -1;
}

void kage_sender_deinit(struct kage_sender *s)
{
	for (int i = 0; i < SIGNALS; i++)
		close_fd(s->programs[i]);
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

/* The program that sends what thread SEEN of T would not notice; -1 when there is none. */
static int program_for(struct kage_target *t, const struct kage_taskthread *seen)
{
	uint64_t blocked = kage_taskthread_sigmask(seen) | seen->task.blocked;

	if (!t->info->has_actions)
		return -1;
	for (int i = 0; i < SIGNALS; i++) {
		uint64_t handler = t->info->actions[signals[i] - 1].handler.v;

		if (handler != (uint64_t)(uintptr_t)SIG_DFL || blocked >> (signals[i] - 1) & 1)
			continue;
		if (t->sender.programs[i] < 0)
			t->sender.programs[i] = load(signals[i]);
		return t->sender.programs[i];
	}
	return -1;
}

static int open_event(struct kage_target *t, const struct kage_taskthread *seen,
		      struct perf_event_attr *attr)
{
	int program = program_for(t, seen);
	_cleanup_fd_ int fd = -1;

	if (program < 0)
		return -1;
	attr->size = sizeof(*attr);
	attr->disabled = 1;
	fd = (int)syscall(SYS_perf_event_open, attr, seen->task.tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0 || ioctl(fd, PERF_EVENT_IOC_SET_BPF, program) < 0 ||
	    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0) < 0)
		return -1;
	return take_fd(&fd);
}

int kage_sender_at(struct kage_target *t, const struct kage_taskthread *seen, uint64_t ip)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_BREAKPOINT,
		.sample_period = 1,
		.bp_type = HW_BREAKPOINT_X,
		.bp_addr = ip,
		.bp_len = sizeof(long),
	};

	return open_event(t, seen, &attr);
}

int kage_sender_in_program(struct kage_target *t, const struct kage_taskthread *seen)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_TASK_CLOCK,
		.sample_period = LOOK_EVERY_NS,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};

	return open_event(t, seen, &attr);
}

bool kage_sender_sent(const struct kage_stop *stop)
{
	if (stop->what != STOP_SIGNAL)
		return false;
	for (int i = 0; i < SIGNALS; i++)
		if (stop->signal == signals[i])
			return true;
	return false;
}
