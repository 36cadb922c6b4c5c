/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interval timers and POSIX timers, with the time that was left.
 */
#include "kind/timers.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/parse.h"
#include "sys/kernel.h"
#include "sys/text.h"

enum {
	TIMERS_MAX_TEXT = 16 << 20,
	/* Without PR_TIMER_CREATE_RESTORE_IDS the kernel numbers timers in turn: further than this it
	 * is not worth counting. */
	TIMER_ID_COUNTED_MAX = 10000,
};

/* --- capture ---------------------------------------------------------------------------------- */

/* How a timer tells, and of which thread the number behind it is (fs/proc/base.c). */
static bool parse_notify(const char *p, Kage__PosixTimer *m)
{
	static const struct {
		const char *words;
		uint32_t notify;
	} ways[] = {
		{ "signal/pid.", SIGEV_SIGNAL }, { "signal/tid.", SIGEV_SIGNAL | SIGEV_THREAD_ID },
		{ "none/pid.", SIGEV_NONE },     { "none/tid.", SIGEV_NONE | SIGEV_THREAD_ID },
		{ "thread/pid.", SIGEV_THREAD }, { "thread/tid.", SIGEV_THREAD | SIGEV_THREAD_ID },
	};
	int32_t number;

	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		size_t n = strlen(ways[i].words);

		if (strncmp(p, ways[i].words, n) != 0)
			continue;
		p += n;
		m->notify = ways[i].notify;
		if (!kage_text_int(&p, &number))
			return false;
		m->thread = m->notify & SIGEV_THREAD_ID ? number : 0;
		return true;
	}
	return false;
}

/* One timer of /proc/PID/timers (proc(5)):
 *	ID: 1
 *	signal: 60/00007fff86e452a8
 *	notify: signal/pid.2634
 *	ClockID: 0
 * Clocks of CPU time have negative numbers.
 */
static struct kage_err *parse_timer(const char *text, Kage__PosixTimer *m)
{
	size_t size;
	uint64_t number;
	const char *id = kage_text_field(text, "ID", &size);
	const char *signal = kage_text_field(text, "signal", &size);
	const char *notify = kage_text_field(text, "notify", &size);
	const char *clock = kage_text_field(text, "ClockID", &size);

	if (!id || !signal || !notify || !clock || !kage_text_int(&id, &m->id) || m->id < 0 ||
	    !kage_text_number(&signal, 10, &number) || number > UINT32_MAX ||
	    !kage_text_char(&signal, '/') || !kage_text_number(&signal, 16, &m->value) ||
	    !parse_notify(notify, m) || !kage_text_int(&clock, &m->clock))
		return kage_err_new(KAGE_CORRUPT, "/proc/PID/timers is not understood: %.80s",
				    text);
	m->signal = (uint32_t)number;
	return NULL;
}

static int by_id(const void *a, const void *b)
{
	int32_t x = (*(Kage__PosixTimer *const *)a)->id, y = (*(Kage__PosixTimer *const *)b)->id;

	return (x > y) - (x < y);
}

/* The kernel shows the newest first; they are made in the order of their numbers. */
struct kage_err *kage_timers_parse(struct arena *a, const char *text, Kage__Process *p)
{
	for (const char *at = text; at && *at; at = kage_text_next_line(at)) {
		Kage__PosixTimer *m;

		if (strncmp(at, "ID:", 3) != 0)
			continue;
		m = msg_append(a, p, posix_timers, Kage__PosixTimer, kage__posix_timer__init);
		if (!m)
			return kage_err_nomem();
		TRY(parse_timer(at, m));
	}
	if (p->n_posix_timers)
		qsort(p->posix_timers, p->n_posix_timers, sizeof(*p->posix_timers), by_id);
	return NULL;
}

struct kage_err *kage_timers_list(struct kage_capture *c)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	struct kage_err *e =
		kage_file_slurp(c->target->proc_fd, "timers", TIMERS_MAX_TEXT, &text, &size);

	if (e && kage_err_errno(e) == ENOENT) { /* a kernel without POSIX timers */
		err_drop(e);
		return NULL;
	}
	TRY(e);
	return kage_timers_parse(&c->image->arena, text, c->process);
}

/* The kernel starts the real timer again when its signal is taken (kernel/signal.c, dequeue_signal): while that
 * waits, no time is left, yet the timer is not off. */
static bool is_on(unsigned which, const struct kage_inside_interval *in)
{
	return in->left_ns || (which == ITIMER_REAL && in->interval_ns);
}

static struct kage_err *capture(struct kage_capture *c)
{
	Kage__Process *p = c->process;

	for (unsigned i = 0; i < 3; i++) {
		const struct kage_inside_interval *in = &c->inside.itimers[i];
		Kage__IntervalTimer *m;

		if (!is_on(i, in))
			continue;
		m = msg_append(&c->image->arena, p, interval_timers, Kage__IntervalTimer,
			       kage__interval_timer__init);
		if (!m)
			return kage_err_nomem();
		m->which = i;
		m->left_ns = in->left_ns;
		m->interval_ns = in->interval_ns;
	}
	for (size_t i = 0; i < p->n_posix_timers; i++)
		for (size_t k = 0; k < c->inside.n_timers; k++)
			if (c->inside.timers[k].id == p->posix_timers[i]->id) {
				p->posix_timers[i]->left_ns = c->inside.timers[k].left_ns;
				p->posix_timers[i]->interval_ns = c->inside.timers[k].interval_ns;
				p->posix_timers[i]->overrun = c->inside.timers[k].overrun;
			}
	return NULL;
}

/* --- restore ---------------------------------------------------------------------------------- */

static bool can_choose_ids(void)
{
	/* In a process of ours: turning it off is harmless and tells whether it is known. */
	return prctl(KPR_TIMER_CREATE_RESTORE_IDS, KPR_TIMER_CREATE_RESTORE_IDS_OFF, 0, 0, 0) == 0;
}

static struct kage_err *check(struct kage_restore *r)
{
	char object[48];

	for (size_t i = 0; i < r->process->n_posix_timers; i++) {
		int32_t id = r->process->posix_timers[i]->id;

		if (id < TIMER_ID_COUNTED_MAX || can_choose_ids())
			continue;
		snprintf(object, sizeof(object), "POSIX timer %d", id);
		kage_obstacle(r->obstacles, true, "restore it on Linux 6.16 or newer", object,
			      "this kernel cannot give a timer so high a number");
	}
	return NULL;
}

/* What timer_create(2) takes: struct sigevent of the kernel. */
struct kernel_sigevent {
	uint64_t value;
	int32_t signo, notify, tid, pad[11];
};

static void create(const Kage__PosixTimer *m, int32_t id, struct kage_batch *b)
{
	struct kernel_sigevent ev = { .value = m->value,
				      .signo = (int32_t)m->signal,
				      .notify = (int32_t)m->notify,
				      .tid = m->thread };

	BATCH(b, "make a POSIX timer", SYS_timer_create, V((int64_t)m->clock),
	      DATA(kage_batch_data(b, &ev, sizeof(ev))), DATA(kage_batch_data(b, &id, sizeof(id))));
}

static struct kage_err *build_posix_timers(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Process *p = r->process;
	bool choose = can_choose_ids();
	int32_t next = 0;

	if (choose && p->n_posix_timers)
		BATCH(b, "choose timer numbers", SYS_prctl, V(KPR_TIMER_CREATE_RESTORE_IDS),
		      V(KPR_TIMER_CREATE_RESTORE_IDS_ON), V(0), V(0), V(0));
	for (size_t i = 0; i < p->n_posix_timers; i++) {
		const Kage__PosixTimer *m = p->posix_timers[i];
		const struct itimerspec left = {
			{ (time_t)(m->interval_ns / 1000000000),
			  (long)(m->interval_ns % 1000000000) },
			{ (time_t)(m->left_ns / 1000000000), (long)(m->left_ns % 1000000000) },
		};

		/* Numbers are given in turn: make and delete until this one's turn comes. */
		for (; !choose && next < m->id; next++) {
			create(m, next, b);
			BATCH(b, "delete a timer", SYS_timer_delete, V((int64_t)next));
		}
		create(m, m->id, b);
		next = m->id + 1;
		BATCH(b, "start a POSIX timer", SYS_timer_settime, V((int64_t)m->id), V(0),
		      DATA(kage_batch_data(b, &left, sizeof(left))), V(0));
	}
	if (choose && p->n_posix_timers)
		BATCH(b, "let the kernel number timers", SYS_prctl, V(KPR_TIMER_CREATE_RESTORE_IDS),
		      V(KPR_TIMER_CREATE_RESTORE_IDS_OFF), V(0), V(0), V(0));
	return NULL;
}

/* Those that the program has by now. */
static struct kage_err *reset(struct kage_restore *r, struct kage_batch *b)
{
	const int64_t off[4] = { 0 };
	size_t at = kage_batch_data(b, off, sizeof(off));
	_cleanup_free_ char *text = NULL;
	Kage__Process now;
	size_t size;

	for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++)
		BATCH(b, "stop an interval timer", SYS_setitimer, V(which), DATA(at), V(0));
	kage__process__init(&now);
	TRY(kage_file_slurp(r->stub->proc_fd, "timers", TIMERS_MAX_TEXT, &text, &size));
	TRY(kage_timers_parse(&r->scratch, text, &now));
	for (size_t i = 0; i < now.n_posix_timers; i++)
		BATCH(b, "delete a timer", SYS_timer_delete, V((int64_t)now.posix_timers[i]->id));
	return NULL;
}

static struct kage_err *finish(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Process *p = r->process;

	TRY(build_posix_timers(r, b));
	for (size_t i = 0; i < p->n_interval_timers; i++) {
		const Kage__IntervalTimer *m = p->interval_timers[i];
		/* Zero would mean off: at least one microsecond is left. */
		uint64_t left_us = m->left_ns ? (m->left_ns + 999) / 1000 : 1;
		uint64_t every_us = m->interval_ns / 1000;
		int64_t spec[4] = { (int64_t)(every_us / 1000000), (int64_t)(every_us % 1000000),
				    (int64_t)(left_us / 1000000), (int64_t)(left_us % 1000000) };

		BATCH(b, "start an interval timer", SYS_setitimer, V(m->which),
		      DATA(kage_batch_data(b, spec, sizeof(spec))), V(0));
	}
	return NULL;
}

const char *kage_clock_name(int32_t clock)
{
	switch (clock) {
	case CLOCK_REALTIME:
		return "real-time";
	case CLOCK_MONOTONIC:
		return "monotonic";
	case CLOCK_BOOTTIME:
		return "boot-time";
	case CLOCK_REALTIME_ALARM:
		return "real-time alarm";
	case CLOCK_BOOTTIME_ALARM:
		return "boot-time alarm";
	case CLOCK_TAI:
		return "TAI";
	default: /* CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, or one's of a certain PID */
		return "processor time";
	}
}

static void print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	static const char *const names[] = { "real", "virtual", "profiling" };

	(void)image, (void)full;
	for (size_t i = 0; i < p->n_interval_timers; i++)
		fprintf(out, "  %s timer  %.3f s left, every %.3f s\n",
			names[p->interval_timers[i]->which % 3],
			(double)p->interval_timers[i]->left_ns / 1e9,
			(double)p->interval_timers[i]->interval_ns / 1e9);
	for (size_t i = 0; i < p->n_posix_timers; i++)
		fprintf(out, "  POSIX timer %d  %s clock  %.3f s left, every %.3f s\n",
			p->posix_timers[i]->id, kage_clock_name(p->posix_timers[i]->clock),
			(double)p->posix_timers[i]->left_ns / 1e9,
			(double)p->posix_timers[i]->interval_ns / 1e9);
}

const struct kage_kind kage_kind_timers = {
	.name = "timers",
	.capture = capture,
	.check = check,
	.reset = reset,
	.finish = finish,
	.print = print,
};
