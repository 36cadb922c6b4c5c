/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser of what the task iterator writes: a pure function over a buffer, of which no byte is
 * trusted. Records are copied as they come; what depends on several of them (the time left of a timer
 * that counts a thread's CPU time) is worked out when all are there.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "base/cleanup.h"
#include "sys/taskread.h"

enum {
	MAX_THREADS = 1 << 22, /* the kernel's own limit of thread numbers */
	I386_RESTART_SYSCALL = 0,
	I386_SIGSUSPEND = 72,
	I386_RT_SIGSUSPEND = 179,
	THREAD_STATUS_COMPAT = 2,
};

struct parser {
	const uint8_t *at;
	size_t left;
	uint64_t tick_ns;
	struct kage_taskinfo *info;
	struct kage_taskthread *thread; /* between TASK_THREAD and TASK_END */
	uint32_t seen;                  /* bit per record type that may come once a thread */
	bool transfers_differ;          /* of this thread, there are two that disagree */
	bool has_process;
	struct kage_task_timer *timers; /* as read, for info->timers */
	size_t n_timers;
};

static struct kage_err *corrupt(const char *what)
{
	return kage_err_new(KAGE_CORRUPT, "task iterator wrote %s", what);
}

/* Grows the array at *ARRAY of *N elements by a zeroed one, which *RET then points to. */
static struct kage_err *push(void *array, size_t *n, size_t size, void *ret)
{
	void *old, *grown;

	memcpy(&old, array, sizeof(old));
	if ((*n & (*n - 1)) == 0) { /* full: capacity is the next power of two */
		grown = reallocarray(old, *n ? *n * 2 : 1, size);
		if (!grown)
			return kage_err_nomem();
		memcpy(array, &grown, sizeof(grown));
		old = grown;
	}
	grown = (char *)old + *n * size;
	memset(grown, 0, size);
	(*n)++;
	memcpy(ret, &grown, sizeof(grown));
	return NULL;
}

/* --- single records ---------------------------------------------------------------------------- */

static struct kage_err *copy(const struct parser *p, size_t size, void *ret_body, size_t body_size)
{
	if (size != body_size)
		return corrupt("a record of a wrong size");
	memcpy(ret_body, p->at, body_size);
	return NULL;
}

static struct kage_err *begin_thread(struct parser *p, size_t size)
{
	if (p->thread)
		return corrupt("a thread within a thread");
	if (p->info->n_threads >= MAX_THREADS)
		return corrupt("more threads than can be");
	TRY(push(&p->info->threads, &p->info->n_threads, sizeof(*p->thread), &p->thread));
	p->seen = 0;
	p->transfers_differ = false;
	return copy(p, size, &p->thread->task, sizeof(p->thread->task));
}

static bool same_pulse(const struct kage_task_pulse *a, const struct kage_task_pulse *b)
{
	return a->state && b->state && !a->on_cpu && !b->on_cpu && a->nvcsw == b->nvcsw &&
	       a->nivcsw == b->nivcsw;
}

static struct kage_err *end_thread(struct parser *p, size_t size)
{
	struct kage_taskthread *t = p->thread;

	TRY(copy(p, size, &t->end, sizeof(t->end)));
	t->asleep = same_pulse(&t->task.pulse, &t->end);
	p->thread = NULL;
	return NULL;
}

static struct kage_err *parse_process(struct parser *p, size_t size)
{
	if (p->has_process)
		return corrupt("two processes");
	p->has_process = true;
	return copy(p, size, &p->info->process, sizeof(p->info->process));
}

static struct kage_err *parse_mm(struct parser *p, size_t size)
{
	struct kage_task_mm mm;

	TRY(copy(p, size, &mm, sizeof(mm)));
	/* A thread that has ended has none, and all is zero. */
	if (!p->info->has_mm && mm.start_stack.v) {
		p->info->has_mm = true;
		p->info->mm = mm;
	}
	return NULL;
}

static struct kage_err *parse_actions(struct parser *p, size_t size)
{
	p->info->has_actions = true;
	return copy(p, size, p->info->actions, sizeof(p->info->actions));
}

static struct kage_err *parse_signal(struct parser *p, size_t size,
				     struct kage_task_signal **signals, size_t *n)
{
	struct kage_task_signal *s;
	int32_t code;

	if (*n > KAGE_TASK_MAX_SIGNALS)
		return corrupt("too many signals");
	TRY(push(signals, n, sizeof(*s), &s));
	TRY(copy(p, size, s, sizeof(*s)));
	/* The kernel's own mark in signals of timers (si_sys_private) is never shown to programs. */
	memcpy(&code, s->info + 8, sizeof(code));
	if (code == SI_TIMER)
		memset(s->info + 32, 0, 4);
	return NULL;
}

static struct kage_err *parse_timer(struct parser *p, size_t size)
{
	struct kage_task_timer *t;

	if (p->n_timers > KAGE_TASK_MAX_TIMERS)
		return corrupt("too many timers");
	TRY(push(&p->timers, &p->n_timers, sizeof(*t), &t));
	TRY(copy(p, size, t, sizeof(*t)));
	if (t->foreign)
		p->n_timers--;
	return NULL;
}

static struct kage_err *parse_list_end(struct parser *p, size_t size)
{
	struct kage_task_list list;

	TRY(copy(p, size, &list, sizeof(list)));
	if (list.end > WALK_TORN)
		return corrupt("a list with an unknown end");
	p->info->torn |= list.end == WALK_TORN;
	if (list.end != WALK_CUT)
		return NULL;
	if (list.type == TASK_SHARED_SIGNAL)
		p->info->signals_cut = true;
	else if (list.type == TASK_SIGNAL)
		p->thread->signals_cut = true;
	else
		p->info->timers_cut = true;
	return NULL;
}

static struct kage_err *parse_xsave(struct parser *p, size_t size)
{
	struct kage_taskthread *t = p->thread;

	if (size < sizeof(t->xsave))
		return corrupt("extended state that is cut");
	memcpy(&t->xsave, p->at, sizeof(t->xsave));
	if (t->xsave.bytes != size - sizeof(t->xsave) || t->xsave.bytes > KAGE_TASK_MAX_XSAVE)
		return corrupt("extended state of a wrong size");
	t->xsave_area = malloc(t->xsave.bytes ? t->xsave.bytes : 1);
	if (!t->xsave_area)
		return kage_err_nomem();
	memcpy(t->xsave_area, p->at + sizeof(t->xsave), t->xsave.bytes);
	return NULL;
}

/* Takes a body and the symbol behind it. Compilers may add a suffix to a function's name. */
static struct kage_err *copy_named(const struct parser *p, size_t size, void *ret_body,
				   size_t body_size, char ret_symbol[KAGE_TASK_SYMBOL_BYTES + 1])
{
	if (size != body_size + KAGE_TASK_SYMBOL_BYTES)
		return corrupt("a record of a wrong size");
	memcpy(ret_body, p->at, body_size);
	memcpy(ret_symbol, p->at + body_size, KAGE_TASK_SYMBOL_BYTES);
	ret_symbol[KAGE_TASK_SYMBOL_BYTES] = 0;
	ret_symbol[strcspn(ret_symbol, ". ")] = 0;
	return NULL;
}

static struct kage_err *parse_restart(struct parser *p, size_t size)
{
	static const char *const names[] = {
		[KAGE_RESTART_NONE] = "do_no_restart_syscall",
		[KAGE_RESTART_NANOSLEEP] = "hrtimer_nanosleep_restart",
		[KAGE_RESTART_CPU_NANOSLEEP] = "posix_cpu_nsleep_restart",
		[KAGE_RESTART_ALARM_NANOSLEEP] = "alarm_timer_nsleep_restart",
		[KAGE_RESTART_POLL] = "do_restart_poll",
		[KAGE_RESTART_FUTEX] = "futex_wait_restart",
	};
	char symbol[KAGE_TASK_SYMBOL_BYTES + 1];
	struct kage_taskthread *t = p->thread;

	TRY(copy_named(p, size, &t->restart, sizeof(t->restart), symbol));
	t->restart_kind = KAGE_RESTART_OTHER;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(symbol, names[i]))
			t->restart_kind = (enum kage_restart)i;
	return NULL;
}

/* LATER - EARLIER, 0 when that would be negative. Any values will do. */
static uint64_t time_left(uint64_t later, uint64_t earlier)
{
	int64_t left = (int64_t)(later - earlier);

	return left > 0 ? (uint64_t)left : 0;
}

static struct kage_err *parse_sleep(struct parser *p, size_t size)
{
	struct kage_tasksleep *sleep = &p->thread->sleep;
	char symbol[KAGE_TASK_SYMBOL_BYTES + 1];
	struct kage_task_sleep s;
	uint64_t now;

	TRY(copy_named(p, size, &s, sizeof(s), symbol));
	if (sleep->timed)
		return NULL;
	now = (uint64_t)s.now;
	if (s.kind == 1 && !strcmp(symbol, "hrtimer_wakeup")) {
		now += (uint64_t)s.offset_ns;
		*sleep = (struct kage_tasksleep){ .timed = true, .clock = s.clock };
		sleep->deadline_ns = (uint64_t)s.soft_expires;
		sleep->remaining_ns = time_left(sleep->deadline_ns, now);
	} else if (s.kind == 2 && !strcmp(symbol, "process_timeout")) {
		*sleep = (struct kage_tasksleep){ .timed = true, .coarse = true };
		sleep->clock = CLOCK_MONOTONIC;
		sleep->remaining_ns = time_left((uint64_t)s.expires, now) * p->tick_ns;
		sleep->deadline_ns = p->thread->task.now_ns + sleep->remaining_ns;
	}
	return NULL;
}

/* Something else on the stack may look like one: it counts when the sum is right, and when all agree. */
static struct kage_err *parse_transfer(struct parser *p, size_t size)
{
	struct kage_taskthread *t = p->thread;
	struct kage_task_transfer raw;

	TRY(copy(p, size, &raw, sizeof(raw)));
	if (p->transfers_differ || raw.done > t->regs.dx || raw.left != t->regs.dx - raw.done)
		return NULL;
	if (t->transfer.known && t->transfer.done != raw.done) {
		t->transfer = (struct kage_tasktransfer){ 0 };
		p->transfers_differ = true;
		return NULL;
	}
	t->transfer = (struct kage_tasktransfer){ true, raw.done, raw.left };
	return NULL;
}

/* --- what is worked out of several records --------------------------------------------------------- */

/* The time until an instant that an interval may follow. */
static uint64_t remaining(uint64_t expires, uint64_t interval, uint64_t now, bool armed)
{
	uint64_t left = time_left(expires, now);

	if (left || !armed)
		return left;
	return interval ? interval - (now - expires) % interval : 1;
}

static bool cpu_clock(int clock)
{
	return clock < 0 || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID;
}

/* The CPU time that CLOCK of thread or process CPU_TID shows. Numbers of such clocks are made of
 * what is counted (bits 0-1) and whether of one thread (bit 2) (kernel: posix-timers_types.h). */
static bool cpu_now(const struct kage_taskinfo *info, int clock, int cpu_tid, uint64_t *ret_now)
{
	const struct kage_task_process *p = &info->process;
	const struct kage_task_thread *t = NULL;
	bool of_thread = clock < 0 ? clock & 4 : clock == CLOCK_THREAD_CPUTIME_ID;
	int counted = clock < 0 ? clock & 3 : 2;
	uint64_t user, all, exact;

	for (size_t i = 0; i < info->n_threads && !t; i++)
		if (info->threads[i].task.own_tid == cpu_tid)
			t = &info->threads[i].task;
	/* A process is named by its leader, which is a thread here unless it is another one. */
	if (!t)
		return false;
	user = of_thread ? t->utime_ns : p->group_utime_ns;
	all = of_thread ? t->utime_ns + t->stime_ns : p->group_utime_ns + p->group_stime_ns;
	exact = of_thread ? t->cpu_ns : p->group_cpu_ns;
	*ret_now = counted == 0 ? all : counted == 1 ? user : exact;
	return true;
}

static void finish_cpu_timer(const struct kage_taskinfo *info, const struct kage_task_timer *raw,
			     struct kage_tasktimer *t)
{
	uint64_t now;

	t->deadline_ns = raw->cpu_expires_ns;
	if (!t->deadline_ns)
		return;
	t->unknown = !cpu_now(info, raw->clock, raw->cpu_tid, &now);
	if (!t->unknown)
		t->remaining_ns = remaining(t->deadline_ns, t->interval_ns, now, true);
}

static void finish_timer(const struct kage_taskinfo *info, const struct kage_task_timer *raw,
			 struct kage_tasktimer *t)
{
	bool alarm = raw->clock == CLOCK_REALTIME_ALARM || raw->clock == CLOCK_BOOTTIME_ALARM;
	const struct kage_task_expiry *e = alarm ? &raw->alarm : &raw->plain;
	bool pending = raw->status == 2 || raw->requeue_pending & 1;
	/* While its signal is pending the kernel does not run it; it goes on when that is taken. */
	bool armed = raw->status == 1 || raw->active || (pending && raw->interval_ns);

	t->id = raw->id;
	t->clock = raw->clock;
	t->notify = raw->notify;
	memcpy(&t->signo, raw->info.info, sizeof(t->signo));
	memcpy(&t->value, raw->info.info + 24, sizeof(t->value));
	t->tid = raw->notify & SIGEV_THREAD_ID ? raw->tid : 0;
	t->pending = pending;
	t->interval_ns = (uint64_t)raw->interval_ns;
	t->overrun = raw->overrun;
	t->overrun_last = raw->overrun_last;
	if (cpu_clock(raw->clock)) {
		finish_cpu_timer(info, raw, t);
		return;
	}
	/* A relative timer of the real-time clock runs on the monotonic one, so that setting the
	 * clock does not move it. */
	t->absolute_real = e->clock == CLOCK_REALTIME;
	t->deadline_ns = (uint64_t)e->expires_ns;
	/* One that tells nobody is never armed inside the kernel, only looked at. */
	if (armed || raw->notify == SIGEV_NONE)
		t->remaining_ns = remaining(t->deadline_ns, t->interval_ns,
					    info->process.now_ns + (uint64_t)e->offset_ns, armed);
}

static void finish_itimers(struct kage_taskinfo *info)
{
	const struct kage_task_process *p = &info->process;
	uint64_t now[2] = { p->group_utime_ns + p->group_stime_ns, p->group_utime_ns };
	static const int which[2] = { ITIMER_PROF, ITIMER_VIRTUAL };

	if (p->real_active)
		info->itimers[ITIMER_REAL].remaining_ns =
			remaining(p->real_expires_ns, 0, p->now_ns, true);
	info->itimers[ITIMER_REAL].interval_ns = p->real_interval_ns;
	for (int i = 0; i < 2; i++) {
		struct kage_taskitimer *t = &info->itimers[which[i]];

		if (p->cpu_expires_ns[i])
			t->remaining_ns = remaining(p->cpu_expires_ns[i], 0, now[i], true);
		t->interval_ns = p->cpu_interval_ns[i];
	}
}

static struct kage_err *finish(struct parser *p)
{
	struct kage_taskinfo *info = p->info;

	if (p->thread)
		return corrupt("a thread without an end");
	if (!info->n_threads)
		return kage_err_new(KAGE_GONE, "no such process");
	if (!p->has_process)
		return corrupt("threads without a process");
	finish_itimers(info);
	for (size_t i = 0; i < p->n_timers; i++) {
		struct kage_tasktimer *t;

		TRY(push(&info->timers, &info->n_timers, sizeof(*t), &t));
		finish_timer(info, &p->timers[i], t);
	}
	return NULL;
}

/* --- the stream -------------------------------------------------------------------------------------- */

static struct kage_err *parse_record(struct parser *p, uint32_t type, size_t size)
{
	struct kage_taskthread *t = p->thread;

	switch (type) {
	case TASK_PROCESS:
		return parse_process(p, size);
	case TASK_MM:
		return parse_mm(p, size);
	case TASK_ACTIONS:
		return parse_actions(p, size);
	case TASK_SHARED_SIGNAL:
		return parse_signal(p, size, &p->info->signals, &p->info->n_signals);
	case TASK_SIGNAL:
		return parse_signal(p, size, &t->signals, &t->n_signals);
	case TASK_TIMER:
		return parse_timer(p, size);
	case TASK_LIST:
		return parse_list_end(p, size);
	case TASK_CREDS:
		return copy(p, size, &t->creds, sizeof(t->creds));
	case TASK_REGS:
		return copy(p, size, &t->regs, sizeof(t->regs));
	case TASK_RESTART:
		return parse_restart(p, size);
	case TASK_SLEEP:
		return parse_sleep(p, size);
	case TASK_TRANSFER:
		return parse_transfer(p, size);
	case TASK_XSAVE:
		return parse_xsave(p, size);
	case TASK_END:
		return end_thread(p, size);
	default:
		return corrupt("a record of unknown type");
	}
}

static bool may_repeat(uint32_t type)
{
	return type == TASK_SHARED_SIGNAL || type == TASK_SIGNAL || type == TASK_TIMER ||
	       type == TASK_LIST || type == TASK_SLEEP || type == TASK_TRANSFER;
}

static struct kage_err *parse_next(struct parser *p)
{
	struct task_record head;

	if (p->left < sizeof(head))
		return corrupt("half a record");
	memcpy(&head, p->at, sizeof(head));
	p->at += sizeof(head);
	p->left -= sizeof(head);
	if (head.size > p->left)
		return corrupt("a record beyond its end");
	if (head.type == TASK_THREAD) {
		TRY(begin_thread(p, head.size));
	} else {
		if (!p->thread)
			return corrupt("a record outside of a thread");
		if (head.type < 32 && p->seen & 1u << head.type && !may_repeat(head.type))
			return corrupt("a record twice");
		p->seen |= head.type < 32 ? 1u << head.type : 0;
		TRY(parse_record(p, head.type, head.size));
	}
	p->at += head.size;
	p->left -= head.size;
	return NULL;
}

static struct kage_err *parse_all(struct parser *p)
{
	while (p->left)
		TRY(parse_next(p));
	return finish(p);
}

struct kage_err *kage_taskinfo_parse(const void *buf, size_t size, uint64_t tick_ns,
				     struct kage_taskinfo **ret_info)
{
	struct parser p = { .at = buf, .left = size, .tick_ns = tick_ns };
	struct kage_err *e;

	p.info = calloc(1, sizeof(*p.info));
	if (!p.info)
		return kage_err_nomem();
	e = parse_all(&p);
	free(p.timers);
	if (e) {
		kage_taskinfo_free(p.info);
		return e;
	}
	*ret_info = p.info;
	return NULL;
}

void kage_taskinfo_free(struct kage_taskinfo *info)
{
	if (!info)
		return;
	for (size_t i = 0; i < info->n_threads; i++) {
		free(info->threads[i].signals);
		free(info->threads[i].xsave_area);
	}
	free(info->threads);
	free(info->timers);
	free(info->signals);
	free(info);
}

/* --- questions --------------------------------------------------------------------------------------- */

struct kage_taskthread *kage_taskinfo_thread(struct kage_taskinfo *info, pid_t tid)
{
	for (size_t i = 0; i < info->n_threads; i++)
		if (info->threads[i].task.tid == tid)
			return &info->threads[i];
	return NULL;
}

bool kage_taskthread_in_syscall(const struct kage_taskthread *t, uint64_t *ret_number,
				bool *ret_compat)
{
	if ((int64_t)t->regs.orig_ax < 0)
		return false;
	*ret_number = t->regs.orig_ax;
	*ret_compat = t->task.thread_status & THREAD_STATUS_COMPAT;
	return true;
}

bool kage_taskthread_restarting(const struct kage_taskthread *t)
{
	uint64_t number;
	bool compat;

	if (!kage_taskthread_in_syscall(t, &number, &compat))
		return false;
	return number == (compat ? I386_RESTART_SYSCALL : SYS_restart_syscall);
}

uint64_t kage_taskthread_sigmask(const struct kage_taskthread *t)
{
	uint64_t number;
	bool compat;

	if (t->task.real_blocked)
		return t->task.real_blocked;
	if (t->task.restore_sigmask)
		return t->task.saved_sigmask;
	/* sigsuspend asks for its mask to be put back only when it is woken. */
	if (!kage_taskthread_in_syscall(t, &number, &compat))
		return t->task.blocked;
	if (compat ? number == I386_SIGSUSPEND || number == I386_RT_SIGSUSPEND
		   : number == SYS_rt_sigsuspend)
		return t->task.saved_sigmask;
	return t->task.blocked;
}

bool kage_taskthread_slept_on(const struct kage_taskthread *before,
			      const struct kage_taskthread *after)
{
	return before->task.tid == after->task.tid &&
	       before->task.start_ns == after->task.start_ns && before->asleep && after->asleep &&
	       same_pulse(&before->end, &after->task.pulse);
}
