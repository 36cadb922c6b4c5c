/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How threads are scheduled: policy, nice value, processors, I/O priority. All of it is read and set
 * from outside, by thread number.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kind/kind.h"

extern const struct kage_kind kage_kind_scheduling;

/* The first version of the kernel's struct sched_attr (sched_setattr(2)); its header cannot be
 * included beside the C library's. */
struct sched_attr {
	uint32_t size, sched_policy;
	uint64_t sched_flags;
	int32_t sched_nice;
	uint32_t sched_priority;
	uint64_t sched_runtime, sched_deadline, sched_period;
};

enum { IOPRIO_WHO_THREAD = 1, AFFINITY_BYTES = 1024 };

static struct kage_err *capture_thread(struct kage_capture *c, Kage__Thread *t)
{
	struct arena *a = &c->image->arena;
	struct sched_attr attr = { .size = sizeof(attr) };
	uint8_t cpus[AFFINITY_BYTES];
	long n, io;

	t->scheduling = msg_new(a, Kage__Scheduling, kage__scheduling__init);
	if (!t->scheduling)
		return kage_err_nomem();
	if (syscall(SYS_sched_getattr, t->tid, &attr, sizeof(attr), 0) < 0)
		return kage_err_sys(errno, "read scheduling of thread %d", t->tid);
	t->scheduling->policy = attr.sched_policy;
	t->scheduling->nice = attr.sched_nice;
	t->scheduling->priority = attr.sched_priority;
	t->scheduling->flags = attr.sched_flags;
	t->scheduling->runtime_ns = attr.sched_runtime;
	t->scheduling->deadline_ns = attr.sched_deadline;
	t->scheduling->period_ns = attr.sched_period;
	n = syscall(SYS_sched_getaffinity, t->tid, sizeof(cpus), cpus);
	if (n > 0) {
		t->scheduling->affinity.data = arena_dup(a, cpus, (size_t)n);
		t->scheduling->affinity.len = (size_t)n;
	}
	io = syscall(SYS_ioprio_get, IOPRIO_WHO_THREAD, t->tid);
	t->scheduling->ioprio = io > 0 ? (uint32_t)io : 0;
	return NULL;
}

static struct kage_err *capture(struct kage_capture *c)
{
	for (size_t i = 0; i < c->process->n_threads; i++)
		TRY(capture_thread(c, c->process->threads[i]));
	return NULL;
}

/* Processors that it may use and this machine has; none: all of them. */
static bool usable(const Kage__Scheduling *m, uint8_t *mask, size_t size)
{
	uint8_t have[AFFINITY_BYTES] = { 0 };
	bool any = false;

	syscall(SYS_sched_getaffinity, 0, sizeof(have), have);
	memset(mask, 0, size);
	for (size_t i = 0; i < size && i < m->affinity.len; i++) {
		mask[i] = m->affinity.data[i] & have[i];
		any |= mask[i] != 0;
	}
	return any;
}

static struct kage_err *check(struct kage_restore *r)
{
	uint8_t mask[AFFINITY_BYTES];
	const Kage__Scheduling *m = r->process->threads[0]->scheduling;

	if (m && m->affinity.len && !usable(m, mask, sizeof(mask)))
		kage_obstacle(r->obstacles, false, "set other processors afterwards (taskset -p)",
			      "affinity", "none of the processors it was bound to is here");
	return NULL;
}

static struct kage_err *build_thread(struct kage_restore *r, const Kage__Thread *msg,
				     struct kage_batch *b)
{
	const Kage__Scheduling *m = msg->scheduling;
	struct sched_attr attr = { .size = sizeof(attr) };
	uint8_t mask[AFFINITY_BYTES];

	(void)r;
	if (!m)
		return NULL;
	attr.sched_policy = m->policy;
	attr.sched_flags =
		m->flags & (SCHED_FLAG_RESET_ON_FORK | SCHED_FLAG_RECLAIM | SCHED_FLAG_DL_OVERRUN);
	attr.sched_nice = m->nice;
	attr.sched_priority = m->priority;
	attr.sched_runtime = m->runtime_ns;
	attr.sched_deadline = m->deadline_ns;
	attr.sched_period = m->period_ns;
	if (m->affinity.len && usable(m, mask, sizeof(mask)))
		BATCH_TRY(b, "bind to processors", SYS_sched_setaffinity, V(0), V(m->affinity.len),
			  DATA(kage_batch_data(b, mask, m->affinity.len)));
	/* A priority that needs rights which are missing here is not worth refusing for. */
	BATCH_TRY(b, "set scheduling", SYS_sched_setattr, V(0),
		  DATA(kage_batch_data(b, &attr, sizeof(attr))), V(0));
	if (m->ioprio)
		BATCH_TRY(b, "set the I/O priority", SYS_ioprio_set, V(IOPRIO_WHO_THREAD), V(0),
			  V(m->ioprio));
	return NULL;
}

const struct kage_kind kage_kind_scheduling = {
	.name = "scheduling",
	.capture = capture,
	.check = check,
	.build_thread = build_thread,
};
