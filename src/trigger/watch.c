/* SPDX-License-Identifier: Apache-2.0 */
#include "trigger/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/iter.h"
#include "sys/taskread.h"
#include "target/held.h"

/* In place of a result while the kernel is going to make the call again (include/linux/errno.h there). */
enum { RESTART_FIRST = 512, RESTART_LAST = 516 };

enum { SPIN_NS = 50 * 1000, AT_A_TIME_NS = 1000 * 1000, ACTION_SPAN_NS = 1000 * 1000 };

struct watch_standing {
	pid_t pid, tid;
	int signal; /* that the thread is to receive */
	unsigned n; /* actions */
};

/* --- the table ----------------------------------------------------------------------------------- */

static bool makes_thread(unsigned number)
{
	return number == SYS_clone || number == SYS_clone3 || number == SYS_fork ||
	       number == SYS_vfork;
}

/* Behind these the table tells what it could not before. */
static bool helps(unsigned number)
{
	return number == SYS_rt_sigprocmask || number == SYS_restart_syscall;
}

/* What the kernel can look at for NUMBER. False: nobody waits for that call. */
static bool kernel_rule(const struct watch *w, unsigned number, struct kage_exit_rule *ret)
{
	const struct trigger_rule *only = NULL;
	size_t n = 0;

	*ret = (struct kage_exit_rule){ 0 };
	for (size_t i = 0; i < w->n_rules; i++) {
		if (w->rules[i]->on != ON_CALL || w->rules[i]->number != number)
			continue;
		only = w->rules[i];
		n++;
	}
	if (n == 1)
		trigger_rule_for_kernel(only, ret);
	return n > 0;
}

static bool has_calls(const struct watch *w)
{
	for (size_t i = 0; i < w->n_rules; i++)
		if (w->rules[i]->on == ON_CALL && !makes_thread(w->rules[i]->number))
			return true;
	return false;
}

static struct kage_err *set_number(struct watch *w, unsigned number)
{
	struct kage_exit_rule rule;
	bool wanted = !makes_thread(number) && kernel_rule(w, number, &rule);

	if (!wanted && helps(number) && has_calls(w)) {
		rule = (struct kage_exit_rule){ .helps = 1 };
		wanted = true;
	}
	for (size_t i = 0; i < w->n_programs; i++) {
		if (wanted)
			TRY(kage_exits_set(&w->exits, w->programs[i]->pid, number, &rule));
		else if (w->is_set[number])
			kage_exits_unset(&w->exits, w->programs[i]->pid, number);
	}
	w->is_set[number] = wanted;
	return NULL;
}

static void unset_program(struct watch *w, pid_t pid)
{
	for (unsigned n = 0; n < EXIT_NUMBERS; n++)
		if (w->is_set[n])
			kage_exits_unset(&w->exits, pid, n);
}

/* --- for what the program is held ---------------------------------------------------------------- */

static uint64_t wanted_signals(const struct watch *w)
{
	uint64_t signals = 0;

	for (size_t i = 0; i < w->n_rules; i++)
		if (w->rules[i]->on == ON_SIGNAL)
			signals |= 1ull << (w->rules[i]->signal - 1);
	return signals;
}

/* What the rules ask for is told to the kernel. */
static struct kage_err *settle(struct watch *w)
{
	for (unsigned n = 0; w->by_table && n < EXIT_NUMBERS; n++)
		TRY(set_number(w, n));
	for (size_t i = 0; i < w->n_programs; i++) {
		w->programs[i]->held_signals = wanted_signals(w);
		if (!w->by_table && has_calls(w))
			TRY(kage_target_hold_calls(w->programs[i]));
	}
	return NULL;
}

static void drop_program(struct watch *w, size_t i)
{
	unset_program(w, w->programs[i]->pid);
	if (i > 0)
		kage_target_close(w->programs[i]);
	memmove(&w->programs[i], &w->programs[i + 1],
		(--w->n_programs - i) * sizeof(struct kage_target *));
}

/* It costs each system call of the machine something. */
static void close_table(struct watch *w)
{
	if (w->is_open)
		kage_exits_close(&w->exits);
	w->is_open = w->by_table = false;
}

/* Who sleeps in a call that would feel a stop is let go later. */
static void let_all_go(struct watch *w)
{
	for (size_t i = w->n_programs; i-- > 0;) {
		struct kage_target *t = w->programs[i];

		unset_program(w, t->pid);
		kage_target_unhold(t, w->reader);
		if (t->n_threads)
			continue;
		t->held = false;
		drop_program(w, i);
	}
	memset(w->is_set, 0, sizeof(w->is_set));
	close_table(w);
}

static void settle_or_say(struct watch *w)
{
	struct kage_err *e;

	/* One for whom an action goes on is let go afterwards. */
	if (!w->n_rules && w->n_standing)
		return;
	if (!w->n_rules) {
		let_all_go(w);
		return;
	}
	e = settle(w);
	if (e)
		kage_ctx_notice(w->ctx, "triggers: %s", kage_err_message(e));
	err_drop(e);
}

/* --- rules --------------------------------------------------------------------------------------- */

struct trigger_rule *watch_find(const struct watch *w, uint64_t id)
{
	for (size_t i = 0; i < w->n_rules; i++)
		if (w->rules[i]->id == id)
			return w->rules[i];
	return NULL;
}

static void forget_rule(struct watch *w, size_t i)
{
	trigger_rule_free(w->rules[i]);
	memmove(&w->rules[i], &w->rules[i + 1], (--w->n_rules - i) * sizeof(*w->rules));
}

void watch_remove(struct watch *w, struct trigger_rule *rule)
{
	for (size_t i = 0; i < w->n_rules; i++)
		if (w->rules[i] == rule)
			forget_rule(w, i--);
	settle_or_say(w);
}

/* Who sleeps is not to be stopped; without the rights to know everybody is. */
static struct kage_err *open_reader(struct watch *w)
{
	struct kage_err *e = w->reader ? NULL : kage_taskread_open(KAGE_ITER_PINS, &w->reader);

	if (e && kage_err_code(e) != KAGE_PERM && kage_err_code(e) != KAGE_UNSUPPORTED)
		return e;
	err_drop(e);
	return NULL;
}

static struct kage_err *open_table(struct watch *w)
{
	const char *forced = secure_getenv("KAGE_TRIGGER_RUNG");
	struct kage_err *e;

	if (w->is_open)
		return NULL;
	w->exits = KAGE_EXITS_NONE;
	TRY(open_reader(w));
	if (forced && strcmp(forced, "ptrace") == 0) {
		w->is_open = true;
		return NULL;
	}
	e = kage_exits_open(&w->exits);
	if (e && kage_err_code(e) != KAGE_PERM && kage_err_code(e) != KAGE_UNSUPPORTED)
		return e;
	w->is_open = true;
	w->by_table = !e;
	if (e)
		kage_ctx_notice(w->ctx,
				"%s; calls are met by ptrace instead, which slows all calls "
				"of the program down",
				kage_err_message(e));
	err_drop(e);
	return NULL;
}

static struct kage_err *add_program(struct watch *w, struct kage_target *t)
{
	struct kage_target **grown =
		reallocarray(w->programs, w->n_programs + 1, sizeof(*w->programs));

	if (!grown)
		return kage_err_nomem();
	w->programs = grown;
	grown[w->n_programs++] = t;
	return NULL;
}

/* A keeper that was killed may have left some. */
static void clear_table(const struct watch *w, pid_t pid)
{
	for (unsigned n = 0; w->by_table && n < EXIT_NUMBERS; n++)
		kage_exits_unset(&w->exits, pid, n);
}

static struct kage_err *begin(struct watch *w, struct kage_target *t)
{
	TRY(open_table(w));
	if (!w->n_programs) {
		TRY(add_program(w, t));
		clear_table(w, t->pid);
	}
	if (w->reader)
		TRY(kage_target_get_ready(t, w->reader));
	TRY(kage_target_hold(t));
	return settle(w);
}

struct kage_err *watch_add(struct watch *w, struct kage_target *t, struct trigger_rule *rule)
{
	struct trigger_rule **grown = reallocarray(w->rules, w->n_rules + 1, sizeof(*w->rules));
	struct kage_err *e;

	if (!grown) {
		trigger_rule_free(rule);
		return kage_err_nomem();
	}
	w->rules = grown;
	grown[w->n_rules++] = rule;
	rule->id = ++w->last_id;
	e = begin(w, t);
	if (e)
		watch_remove(w, rule);
	return e;
}

/* --- what is met --------------------------------------------------------------------------------- */

static bool is_met(struct trigger_rule *r, const struct watch_event *event)
{
	if (r->on != event->on || (r->tid && r->tid != event->tid))
		return false;
	if (r->on == ON_SIGNAL)
		return r->signal == event->signal;
	return r->on != ON_CALL || (r->number == event->hit.number &&
				    trigger_rule_meets(r, event->target, event->tid, &event->hit));
}

static void act(struct watch *w, struct trigger_rule *r, const struct watch_event *event,
		bool *ret_begun)
{
	struct kage_err *e;

	w->has_acted = true;
	if (event->hit.time_ns)
		trigger_rule_note_delay(r, kage_clock_mono_ns() - event->hit.time_ns);
	r->n_done++;
	e = w->act(w->user, r, event, ret_begun);
	if (!e)
		return;
	r->n_failed++;
	free(r->last_error);
	r->last_error = strdup(kage_err_message(e));
	kage_ctx_notice(w->ctx, "trigger %" PRIu64 ": %s", r->id, kage_err_message(e));
	err_drop(e);
}

/* Returns whether some are used up now. To *N_BEGUN is added how many actions go on. */
static bool fire(struct watch *w, const struct watch_event *event, unsigned *n_begun)
{
	bool over = false;

	w->acting = event->tid;
	w->forget_signal = false;
	for (size_t i = 0; i < w->n_rules; i++) {
		struct trigger_rule *r = w->rules[i];

		bool begun = false;

		if (!r->follow && event->target != w->programs[0])
			continue;
		if (is_met(r, event) && trigger_rule_counts(r))
			act(w, r, event, &begun);
		*n_begun += begun;
		over |= trigger_rule_is_over(r);
	}
	w->acting = 0;
	return over;
}

static void bury_rules(struct watch *w)
{
	for (size_t i = w->n_rules; i-- > 0;)
		if (trigger_rule_is_over(w->rules[i]))
			forget_rule(w, i);
	settle_or_say(w);
}

struct kage_freeze watch_freeze(const struct watch *w)
{
	return (struct kage_freeze){ .reader = w->reader,
				     .stop_all = !w->reader,
				     .span_ns = ACTION_SPAN_NS };
}

static struct watch_standing *find_standing(const struct watch *w, pid_t pid)
{
	for (size_t i = 0; i < w->n_standing; i++)
		if (w->standing[i].pid == pid)
			return &w->standing[i];
	return NULL;
}

/* All threads of T that run are kept. */
static struct kage_err *keep_all(const struct watch *w, struct kage_target *t)
{
	const struct kage_freeze all = watch_freeze(w);

	TRY(kage_target_freeze(t, &all));
	for (size_t i = 0; i < t->n_threads; i++)
		t->threads[i]->kept |= t->threads[i]->stopped;
	kage_target_thaw(t, false);
	return NULL;
}

static void let_all(struct kage_target *t, const struct watch_standing *s)
{
	for (size_t i = 0; i < t->n_threads; i++) {
		struct kage_thread *thread = t->threads[i];

		if (thread->kept && !thread->has_met)
			kage_target_let(t, thread, thread->tid == s->tid ? s->signal : 0);
	}
}

/* As long as actions go on nothing of the program does. */
static struct kage_err *stand(struct watch *w, const struct watch_event *event, int signal,
			      unsigned n)
{
	struct watch_standing *grown =
		reallocarray(w->standing, w->n_standing + 1, sizeof(*w->standing));

	if (!grown)
		return kage_err_nomem();
	w->standing = grown;
	grown[w->n_standing++] =
		(struct watch_standing){ event->target->pid, event->tid, signal, n };
	return keep_all(w, event->target);
}

void watch_done(struct watch *w, pid_t pid)
{
	struct watch_standing *s = find_standing(w, pid), was;

	if (!s || --s->n)
		return;
	was = *s;
	*s = w->standing[--w->n_standing];
	for (size_t i = 0; i < w->n_programs; i++)
		if (w->programs[i]->pid == pid)
			let_all(w->programs[i], &was);
	watch_take(w, 0);
	settle_or_say(w);
}

/* EVENT is over: its thread goes on, if it is there still. */
static void let_after(struct watch *w, const struct watch_event *event, int signal, bool over,
		      unsigned n_begun)
{
	struct kage_thread *thread = kage_target_thread(event->target, event->tid);
	struct kage_err *e = NULL;

	if (w->forget_signal)
		signal = 0;
	if (n_begun)
		e = stand(w, event, signal, n_begun);
	else if (thread && thread->kept)
		kage_target_let(event->target, thread, signal);
	if (e)
		kage_ctx_notice(w->ctx, "process %d: %s", event->target->pid, kage_err_message(e));
	err_drop(e);
	if (over)
		bury_rules(w);
}

static void fire_and_let(struct watch *w, const struct watch_event *event, int signal)
{
	unsigned n_begun = 0;
	bool over = fire(w, event, &n_begun);

	let_after(w, event, signal, over, n_begun);
}

static void meet_signal(struct watch *w, struct kage_target *t, struct kage_thread *thread,
			int signal)
{
	struct watch_event event = { .target = t, .tid = thread->tid };
	siginfo_t si = { 0 };

	if (w->by_table && kage_exits_take(&w->exits, thread->tid, signal, &event.hit)) {
		/* Two of a kind are one: then it is somebody's own, too. */
		ptrace(PTRACE_GETSIGINFO, thread->tid, NULL, &si);
		fire_and_let(w, &event, si.si_code == SI_KERNEL ? 0 : signal);
		return;
	}
	event.on = ON_SIGNAL;
	event.signal = signal;
	fire_and_let(w, &event, signal);
}

/* The call at whose end THREAD stands. False: it is going to be made again, or the table tells of it. */
static bool read_call(const struct watch *w, const struct kage_thread *thread,
		      struct kage_exit_hit *ret)
{
	struct kage_regs regs;
	uint64_t number = 0;
	struct kage_err *e = kage_arch_get_regs(thread->tid, false, &regs);
	bool known = !e && kage_arch_in_syscall(&regs, &number);

	err_drop(e);
	if (!known || (w->by_table && !makes_thread((unsigned)number)))
		return false;
	ret->number = (uint32_t)number;
	ret->result = kage_arch_result(&regs);
	for (int i = 0; i < EXIT_ARGS; i++)
		ret->args[i] = kage_arch_arg(&regs, i);
	return ret->result > -RESTART_FIRST || ret->result < -RESTART_LAST;
}

static void meet_call(struct watch *w, struct kage_target *t, struct kage_thread *thread)
{
	struct watch_event event = { .on = ON_CALL, .target = t, .tid = thread->tid };

	if (read_call(w, thread, &event.hit))
		fire_and_let(w, &event, 0);
	else
		kage_target_let(t, thread, 0);
}

/* --- births and ends ----------------------------------------------------------------------------- */

static bool is_thread_of(const struct kage_target *t, pid_t tid)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "task/%d", tid);
	return fstatat(t->proc_fd, path, &st, 0) == 0;
}

static bool follows(const struct watch *w)
{
	for (size_t i = 0; i < w->n_rules; i++)
		if (w->rules[i]->follow)
			return true;
	return false;
}

static struct kage_err *follow(struct watch *w, pid_t pid)
{
	struct kage_target *t = NULL;
	struct kage_err *e;

	TRY(kage_target_open(w->ctx, pid, &t));
	e = kage_target_hold_born(t);
	if (!e)
		e = add_program(w, t);
	if (e) {
		t->held = false;
		kage_target_close(t);
		return e;
	}
	return settle(w);
}

static void meet_born(struct watch *w, struct kage_target *t, pid_t born)
{
	struct kage_thread *thread;
	struct kage_err *e;

	if (is_thread_of(t, born)) {
		thread = kage_target_thread(t, born);
		thread = thread ? thread : kage_target_add_thread(t, born);
		if (thread)
			thread->attached = true;
		return;
	}
	e = follows(w) ? follow(w, born) : NULL;
	if (e)
		kage_ctx_notice(w->ctx, "process %d is not followed: %s", born,
				kage_err_message(e));
	if (e || !follows(w))
		kage_held_let_born(born);
	err_drop(e);
}

static bool waits_for_births(const struct watch *w)
{
	for (size_t i = 0; i < w->n_rules; i++)
		if (w->rules[i]->on == ON_CALL && makes_thread(w->rules[i]->number))
			return true;
	return false;
}

static void meet_exec(struct watch *w, struct kage_target *t, struct kage_thread *thread)
{
	struct watch_event event = { .on = ON_CALL, .target = t, .tid = thread->tid };
	struct kage_err *e = kage_target_renew(t);
	unsigned n_begun = 0;
	bool over = false;

	if (e)
		kage_ctx_notice(w->ctx, "process %d has executed another program: %s", t->pid,
				kage_err_message(e));
	err_drop(e);
	if (read_call(w, thread, &event.hit))
		over = fire(w, &event, &n_begun);
	event = (struct watch_event){ .on = ON_EXEC, .target = t, .tid = event.tid };
	over |= fire(w, &event, &n_begun);
	let_after(w, &event, 0, over, n_begun);
}

static void meet(struct watch *w, struct kage_target *t, struct kage_thread *thread,
		 const struct kage_held_stop *stop)
{
	struct watch_event event = { .on = ON_EXIT, .target = t };

	switch (stop->what) {
	case HELD_SIGNAL:
		meet_signal(w, t, thread, stop->signal);
		break;
	case HELD_CALL:
		meet_call(w, t, thread);
		break;
	case HELD_BIRTH:
		meet_born(w, t, stop->born);
		if (waits_for_births(w))
			kage_target_let_to_end(thread);
		else
			kage_target_let(t, thread, 0);
		break;
	case HELD_EXEC:
		meet_exec(w, t, thread);
		break;
	case HELD_EXIT:
		event.tid = thread->tid;
		fire_and_let(w, &event, 0);
		break;
	case HELD_NOTHING:
	case HELD_ENDED:
		break;
	}
}

/* --- the loop ------------------------------------------------------------------------------------ */

static bool take_from(struct watch *w, struct kage_target *t, struct kage_thread *thread)
{
	struct kage_held_stop stop;

	if (find_standing(w, t->pid) || !kage_target_held_next(t, thread, &stop))
		return false;
	meet(w, t, thread, &stop);
	return true;
}

/* Each in turn; what one has done may have changed all lists. Whether any had something to say. */
static bool take_each(struct watch *w)
{
	bool any = false;

	for (size_t p = 0; p < w->n_programs; p++)
		for (size_t i = w->programs[p]->n_threads; i-- > 0;)
			if (p < w->n_programs && i < w->programs[p]->n_threads)
				any |= take_from(w, w->programs[p], w->programs[p]->threads[i]);
	return any;
}

static void take_one(struct watch *w, pid_t tid)
{
	for (size_t p = 0; p < w->n_programs; p++) {
		struct kage_thread *thread = kage_target_thread(w->programs[p], tid);

		if (thread) {
			take_from(w, w->programs[p], thread);
			return;
		}
	}
}

static void bury_programs(struct watch *w)
{
	for (size_t p = w->n_programs; p-- > 0;) {
		struct kage_target *t = w->programs[p];

		if (t->n_threads)
			continue;
		t->held = false;
		/* Without the first there is nobody to say more of but those that are followed. */
		if (p > 0 || w->n_programs == 1)
			drop_program(w, p);
	}
	if (w->n_programs || !w->n_rules)
		return;
	while (w->n_rules)
		forget_rule(w, w->n_rules - 1);
}

bool watch_take(struct watch *w, pid_t tid)
{
	uint64_t begin = kage_clock_mono_ns(), now = begin, until = begin;
	bool any;

	if (tid)
		take_one(w, tid);
	/* Who has met something often meets the next soon, and to fall asleep and be woken would cost more than all else. */
	do {
		any = take_each(w);
		now = kage_clock_mono_ns();
		until = w->has_acted ? now + SPIN_NS : until;
		w->has_acted = false;
	} while ((any || (now < until && w->n_rules && !w->n_standing)) &&
		 now - begin < AT_A_TIME_NS);
	bury_programs(w);
	return any;
}

void watch_went_back(struct watch *w)
{
	struct kage_target *t = w->n_programs ? w->programs[0] : NULL;
	struct watch_standing *s = t ? find_standing(w, t->pid) : NULL;

	w->forget_signal = true;
	if (s)
		s->signal = 0;
	for (size_t i = 0; t && i < t->n_threads; i++) {
		struct kage_thread *thread = t->threads[i];

		thread->has_met = false;
		if (thread->kept && !s && thread->tid != w->acting)
			kage_target_let(t, thread, 0);
	}
}

const char *watch_rung(const struct watch *w)
{
	return w->by_table ? "bpf" : "ptrace";
}

void watch_end(struct watch *w)
{
	while (w->n_rules)
		forget_rule(w, w->n_rules - 1);
	w->n_standing = 0;
	for (size_t i = w->n_programs; i-- > 0;)
		drop_program(w, i);
	free(w->standing);
	w->standing = NULL;
	free(w->programs);
	free(w->rules);
	w->programs = NULL;
	w->rules = NULL;
	close_table(w);
	kage_taskread_close(w->reader);
	w->reader = NULL;
}
