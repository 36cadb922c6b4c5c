/* SPDX-License-Identifier: Apache-2.0 */
#include "target/batch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/kernel.h"
#include "target/permits.h"

/* Generous: a batch may wait for locks of the kernel, but makes no call that sleeps for long. */
static const uint64_t run_timeout_ns = 60ull * 1000 * 1000 * 1000;

enum { DATA_ALIGN = 16 };

void kage_batch_init(struct kage_batch *b)
{
	*b = (struct kage_batch){ 0 };
}

void kage_batch_deinit(struct kage_batch *b)
{
	arena_deinit(&b->arena);
	free(b->data);
	kage_batch_init(b);
}

void kage_batch_reset(struct kage_batch *b)
{
	kage_batch_deinit(b);
}

size_t kage_batch_add(struct kage_batch *b, const char *label, long number,
		      const struct kage_arg args[6], bool go_on)
{
	size_t n_labels = b->n, n_kinds = b->n;
	struct kage_call *call = arena_push(&b->arena, &b->calls, &b->n, sizeof(*call));
	const char **l = arena_push(&b->arena, &b->labels, &n_labels, sizeof(*l));
	uint8_t(*kinds)[6] = arena_push(&b->arena, &b->kinds, &n_kinds, sizeof(*kinds));

	if (!call || !l || !kinds) {
		b->nomem = true;
		return 0;
	}
	*l = label;
	call->number = (uint64_t)number;
	call->go_on = go_on;
	for (int i = 0; i < 6; i++) {
		(*kinds)[i] = (uint8_t)args[i].kind;
		call->args[i] = args[i].value;
	}
	return b->n - 1;
}

size_t kage_batch_data(struct kage_batch *b, const void *bytes, size_t size)
{
	size_t at = (b->data_size + DATA_ALIGN - 1) & ~(size_t)(DATA_ALIGN - 1);
	uint8_t *grown = realloc(b->data, at + size + 1);

	if (!grown) {
		b->nomem = true;
		return 0;
	}
	b->data = grown;
	memset(grown + b->data_size, 0, at - b->data_size);
	if (bytes)
		memcpy(grown + at, bytes, size);
	else
		memset(grown + at, 0, size);
	b->data_size = at + size;
	return at;
}

size_t kage_batch_string(struct kage_batch *b, const char *s)
{
	return kage_batch_data(b, s, strlen(s) + 1);
}

void kage_batch_point(struct kage_batch *b, size_t at, size_t to)
{
	struct batch_pointer *p = arena_push(&b->arena, &b->pointers, &b->n_pointers, sizeof(*p));

	if (p)
		*p = (struct batch_pointer){ at, to };
	else
		b->nomem = true;
}

void kage_batch_branch(struct kage_batch *b, size_t call)
{
	struct batch_branch *branch =
		arena_push(&b->arena, &b->branches, &b->n_branches, sizeof(*branch));

	if (branch)
		*branch = (struct batch_branch){ call, b->n };
	else
		b->nomem = true;
}

int64_t kage_batch_result(const struct kage_batch *b, size_t i)
{
	return b->calls[i].result;
}

const void *kage_batch_bytes(const struct kage_batch *b, size_t offset)
{
	return b->data + offset;
}

/* How the area is laid out: the run, the calls with the event call last, those of branches, their runs, the data. */
struct layout {
	size_t calls, runs, data, total;
	size_t n_main; /* calls before the event call */
};

static struct layout lay_out(const struct kage_batch *b)
{
	struct layout l;

	l.n_main = b->n_branches ? b->branches[0].first : b->n;
	l.calls = sizeof(struct kage_run);
	l.runs = l.calls + (b->n + 1) * sizeof(struct kage_call);
	l.data = l.runs + b->n_branches * sizeof(struct kage_run);
	l.data = (l.data + DATA_ALIGN - 1) & ~(size_t)(DATA_ALIGN - 1);
	l.total = l.data + b->data_size;
	return l;
}

/* Where call I stands among the calls: the event call is in between. */
static size_t slot(const struct layout *l, size_t i)
{
	return i < l->n_main ? i : i + 1;
}

static uint64_t call_at(const struct layout *l, uint64_t area, size_t i)
{
	return area + l->calls + slot(l, i) * sizeof(struct kage_call);
}

/* Arguments become what the runner reads: values, or addresses of values. */
static void resolve(const struct kage_batch *b, const struct layout *l, uint64_t area,
		    struct kage_call *out)
{
	for (size_t i = 0; i < b->n; i++) {
		struct kage_call *call = &out[slot(l, i)];

		*call = b->calls[i];
		for (int k = 0; k < 6; k++) {
			uint8_t kind = b->kinds[i][k];

			if (kind == ARG_DATA || kind == ARG_LOAD)
				call->args[k] += area + l->data;
			else if (kind == ARG_RESULT)
				call->args[k] = call_at(l, area, call->args[k]) +
						offsetof(struct kage_call, result);
			if (kind == ARG_LOAD || kind == ARG_RESULT)
				call->from_memory |= 1u << k;
		}
	}
}

/* The run of each branch, and the call that leads to it. */
static void lay_branches(const struct kage_batch *b, const struct layout *l, uint64_t area,
			 uint8_t *bytes)
{
	struct kage_run *runs = (struct kage_run *)(bytes + l->runs);
	struct kage_call *calls = (struct kage_call *)(bytes + l->calls);

	for (size_t i = 0; i < b->n_branches; i++) {
		size_t first = b->branches[i].first;
		size_t end = i + 1 < b->n_branches ? b->branches[i + 1].first : b->n;

		runs[i] = (struct kage_run){ call_at(l, area, first), end - first };
		calls[slot(l, b->branches[i].call)].child =
			area + l->runs + i * sizeof(struct kage_run);
	}
}

/* The last call: a signal to the thread itself. We see it before the thread would and keep it;
 * without us the kernel drops it, because it is ignored. */
static struct kage_call event_call(const struct kage_target *t, const struct kage_thread *thread)
{
	if (!t->site->event_signal)
		return (struct kage_call){ .number = SYS_getpid, .go_on = 1 };
	return (struct kage_call){ .number = SYS_tgkill,
				   .args = { (uint64_t)(t->inner_pid ? t->inner_pid : t->pid),
					     (uint64_t)(thread->inner_tid ? thread->inner_tid
									  : thread->tid),
					     (uint64_t)t->site->event_signal },
				   .go_on = 1 };
}

static struct kage_err *send_in(struct kage_target *t, struct kage_thread *thread,
				const struct kage_batch *b, const struct layout *l)
{
	struct kage_site *s = t->site;
	_cleanup_free_ uint8_t *bytes = calloc(1, l->total);
	struct kage_run *run = (struct kage_run *)bytes;

	if (!bytes)
		return kage_err_nomem();
	run->next = s->area + l->calls;
	run->left = l->n_main + 1;
	resolve(b, l, s->area, (struct kage_call *)(bytes + l->calls));
	((struct kage_call *)(bytes + l->calls))[l->n_main] = event_call(t, thread);
	lay_branches(b, l, s->area, bytes);
	if (b->data_size)
		memcpy(bytes + l->data, b->data, b->data_size);
	for (size_t i = 0; i < b->n_pointers; i++) {
		uint64_t a = s->area + l->data + b->pointers[i].to;

		memcpy(bytes + l->data + b->pointers[i].at, &a, sizeof(a));
	}
	if (s->area_here) {
		memcpy(s->area_here, bytes, l->total);
		return NULL;
	}
	return kage_target_write(t, addr(s->area), bytes, l->total);
}

static struct kage_err *bring_back(struct kage_target *t, struct kage_batch *b,
				   const struct layout *l)
{
	struct kage_site *s = t->site;
	_cleanup_free_ uint8_t *bytes = malloc(l->total);
	const struct kage_call *calls;

	if (!bytes)
		return kage_err_nomem();
	if (s->area_here)
		memcpy(bytes, s->area_here, l->total);
	else
		TRY(kage_target_read(t, addr(s->area), bytes, l->total));
	calls = (const struct kage_call *)(bytes + l->calls);
	for (size_t i = 0; i < b->n; i++)
		b->calls[i].result = calls[slot(l, i)].result;
	if (b->data_size)
		memcpy(b->data, bytes + l->data, b->data_size);
	return NULL;
}

static struct kage_err *first_failure(const struct kage_target *t, struct kage_batch *b)
{
	for (size_t i = 0; i < lay_out(b).n_main; i++) {
		int64_t r = b->calls[i].result;

		b->n_done = i + 1;
		if (r < 0 && r >= -4095 && !b->calls[i].go_on)
			return kage_err_sys((int)-r, "%s, in process %d", b->labels[i], t->pid);
	}
	return NULL;
}

/* A thread that a batch made is traced from birth and stands before its first instruction. */
static struct kage_err *note_born(struct kage_target *t, struct kage_thread *thread)
{
	unsigned long tid = 0;
	struct kage_thread *born;
	struct kage_stop stop;

	if (ptrace(PTRACE_GETEVENTMSG, thread->tid, NULL, &tid) < 0)
		return kage_err_sys(errno, "learn which thread was made");
	born = kage_target_add_thread(t, (pid_t)tid);
	if (!born)
		return kage_err_nomem();
	born->attached = true;
	TRY(kage_target_wait(t, born->tid, run_timeout_ns, &stop));
	born->stopped = stop.what != STOP_ENDED;
	return kage_arch_get_regs(born->tid, false, &born->regs);
}

static struct kage_err *unexpected_signal(struct kage_target *t, struct kage_thread *thread,
					  int signal)
{
	_cleanup_free_ struct kage_regs *regs = calloc(1, sizeof(*regs));
	siginfo_t info = { 0 };

	ptrace(PTRACE_GETSIGINFO, thread->tid, NULL, &info);
	if (regs)
		err_drop(kage_arch_get_regs(thread->tid, false, regs));
	return kage_err_new(
		KAGE_SYS,
		"a batch in process %d ended with signal %d (%s), code %d, address %p, at "
		"%#" PRIx64,
		t->pid, signal, strsignal(signal), info.si_code, info.si_addr,
		regs ? kage_arch_ip(regs) : 0);
}

/* Ends the call in which THREAD is, if it can be ended, as a signal would that is handled. */
static struct kage_err *give_up(struct kage_thread *thread)
{
	if (ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL) < 0)
		return kage_err_sys(errno, "interrupt thread %d", thread->tid);
	return NULL;
}

static struct kage_err *does_not_end(struct kage_target *t, struct kage_thread *thread)
{
	return kage_err_new(
		KAGE_LIMIT,
		"thread %d of process %d is in the kernel and cannot be made to give up its call; it goes "
		"back to its program by itself when that is over",
		thread->tid, t->pid);
}

/* Waits until THREAD stops, with the patience of B. */
static struct kage_err *wait_patiently(struct kage_target *t, struct kage_thread *thread,
				       struct kage_patience *p, struct kage_stop *ret_stop)
{
	uint64_t begin = kage_clock_mono_ns(), gave_up_ns = 0, waited;
	bool changed;

	for (;;) {
		TRY(kage_target_poll(thread->tid, ret_stop, &changed));
		if (changed)
			return NULL;
		waited = kage_clock_mono_ns() - begin;
		if (gave_up_ns && waited - gave_up_ns > KAGE_STOP_TIMEOUT_MS * 1000000ull)
			return does_not_end(t, thread);
		if (!p->apart && waited > p->together_ns) {
			kage_target_let_others_run(t, thread);
			p->apart = true;
		}
		if (!p->gave_up && ((p->timeout_ns && waited > p->timeout_ns) ||
				    kage_ctx_is_interrupted(t->ctx))) {
			TRY(give_up(thread));
			p->gave_up = true;
			gave_up_ns = waited;
		}
		if (waited > KAGE_STOP_SPIN_NS)
			kage_target_nap(t, p->apart ? KAGE_STOP_NAP_NS : KAGE_STOP_SPIN_NS);
	}
}

/* A call that was given up has failed; the runner goes on behind it. */
static struct kage_err *end_call(struct kage_thread *thread)
{
	_cleanup_free_ struct kage_regs *regs = calloc(1, sizeof(*regs));

	if (!regs)
		return kage_err_nomem();
	TRY(kage_arch_get_regs(thread->tid, false, regs));
	return kage_arch_end_call(regs) ? kage_arch_set_regs(thread->tid, false, regs) : NULL;
}

/* kage_target_step_syscall(), with patience. */
static struct kage_err *step_patiently(struct kage_target *t, struct kage_thread *thread,
				       struct kage_patience *p)
{
	struct kage_stop stop;

	do {
		thread->stopped = false;
		if (ptrace(PTRACE_SYSCALL, thread->tid, NULL, NULL) < 0)
			return kage_err_sys(errno, "step thread %d", thread->tid);
		TRY(wait_patiently(t, thread, p, &stop));
		if (stop.what == STOP_ENDED) {
			thread->attached = false;
			return kage_err_new(KAGE_GONE, "process %d ended", t->pid);
		}
		thread->stopped = true;
		if (p->gave_up)
			TRY(end_call(thread));
	} while (stop.what != STOP_SYSCALL);
	return NULL;
}

/* From system call to system call, until it is about to make the one behind which there are LEFT - 1. */
static struct kage_err *step_to(struct kage_target *t, struct kage_thread *thread,
				struct kage_patience *patience, uint64_t left)
{
	struct kage_run state;

	do {
		TRY(patience ? step_patiently(t, thread, patience)
			     : kage_target_step_syscall(t, thread));
		TRY(kage_target_read(t, addr(t->site->area), &state, sizeof(state)));
	} while (state.left > left);
	return NULL;
}

/* The slow way, for a target that handles every signal which could tell us. */
static struct kage_err *step_to_last(struct kage_target *t, struct kage_thread *thread,
				     struct kage_patience *patience)
{
	TRY(step_to(t, thread, patience, 1));
	return kage_target_settle(t, thread);
}

static struct kage_err *meet(struct kage_target *t, struct kage_thread *thread,
			     const struct kage_batch *b, const struct layout *l)
{
	struct kage_call before;

	TRY(step_to(t, thread, b->patience, l->n_main + 1 - b->meet_at));
	TRY(kage_target_read(
		t, addr(t->site->area + l->calls + (b->meet_at - 1) * sizeof(struct kage_call)),
		&before, sizeof(before)));
	return b->meet(b->meet_user, t, before.result);
}

static struct kage_err *put_mask(const struct kage_thread *thread, uint64_t mask)
{
	if (ptrace(PTRACE_SETSIGMASK, thread->tid, (void *)sizeof(mask), &mask) < 0)
		return kage_err_sys(errno, "set signal mask of thread %d", thread->tid);
	return NULL;
}

static bool is_exec(const struct kage_stop *stop)
{
	return stop->what == STOP_CLONE && stop->status >> 16 == PTRACE_EVENT_EXEC;
}

/* The new program begins with the mask that the old one had, and nothing of ours is left in it. */
static struct kage_err *note_replaced(struct kage_target *t, struct kage_thread *thread,
				      struct kage_patience *patience)
{
	patience->replaced = true;
	t->site->thread = NULL;
	return put_mask(thread, thread->sigmask);
}

/* Lets THREAD run until it tells that the batch is done. */
static struct kage_err *run_to_event(struct kage_target *t, struct kage_thread *thread,
				     struct kage_patience *patience)
{
	struct kage_stop stop;
	siginfo_t info;
	int signal = 0;

	for (;;) {
		thread->stopped = false;
		if (ptrace(PTRACE_CONT, thread->tid, NULL, (void *)(uintptr_t)signal) < 0)
			return kage_err_sys(errno, "run a batch in thread %d", thread->tid);
		if (patience)
			TRY(wait_patiently(t, thread, patience, &stop));
		else
			TRY(kage_target_wait(t, thread->tid, run_timeout_ns, &stop));
		if (stop.what == STOP_ENDED) {
			thread->attached = false;
			return kage_err_new(KAGE_GONE, "process %d ended in the middle of a batch",
					    t->pid);
		}
		thread->stopped = true;
		signal = 0;
		if (patience && is_exec(&stop))
			return note_replaced(t, thread, patience);
		if (stop.what == STOP_CLONE)
			TRY(note_born(t, thread));
		if (stop.what == STOP_EVENT && patience && patience->gave_up)
			TRY(end_call(thread));
		if (stop.what != STOP_SIGNAL)
			continue;
		/* It cannot be blocked. */
		if (stop.signal == SIGSTOP) {
			t->stop_again = true;
			continue;
		}
		if (stop.signal == t->site->event_signal &&
		    ptrace(PTRACE_GETSIGINFO, thread->tid, NULL, &info) == 0 &&
		    info.si_code == SI_TKILL &&
		    (info.si_pid == t->pid || info.si_pid == t->inner_pid))
			return NULL;
		if (patience && patience->execs)
			signal = stop.signal;
		else if (stop.signal != t->site->event_signal)
			return unexpected_signal(t, thread, stop.signal);
	}
}

struct kage_err *kage_batch_peek(struct kage_target *t, const struct kage_batch *b, size_t offset,
				 void *to, size_t size)
{
	return kage_target_read(t, addr(t->site->area + lay_out(b).data + offset), to, size);
}

struct kage_err *kage_thread_set_mask(struct kage_thread *thread, uint64_t mask)
{
	TRY(put_mask(thread, mask));
	thread->sigmask = mask;
	return NULL;
}

static struct kage_err *first_of(struct kage_err *e, struct kage_err *later)
{
	if (!e)
		return later;
	err_drop(later);
	return e;
}

static struct kage_err *keep_bases(struct kage_thread *thread)
{
	_cleanup_free_ struct kage_regs *now = calloc(1, sizeof(*now));

	if (!now)
		return kage_err_nomem();
	TRY(kage_arch_get_regs(thread->tid, false, now));
	kage_arch_keep_bases(now, &thread->regs);
	return NULL;
}

/*
 * The order matters should we be killed between two steps: from the first on the thread is in the
 * runner, which ends by itself and sets the mask; the mask is put back before the registers are.
 */
static struct kage_err *run(struct kage_target *t, struct kage_thread *thread,
			    const struct kage_batch *b, const struct layout *l)
{
	struct kage_regs *regs = calloc(1, sizeof(*regs));
	int signal = t->site->event_signal;
	uint64_t event_bit = signal ? 1ull << (signal - 1) : 0, mask;
	struct kage_err *e, *e2, *met = NULL;

	if (!regs)
		return kage_err_nomem();
	kage_arch_enter_runner(&thread->regs, t->site->runner, t->site->area, regs);
	e = kage_arch_set_regs(thread->tid, false, regs);
	free(regs);
	/* A program that is executed starts with the mask of this moment, should we be killed just then. */
	mask = b->patience && b->patience->execs ? thread->sigmask : ~0ull;
	if (!e)
		e = put_mask(thread, mask & ~event_bit);
	if (!e && b->meet)
		met = meet(t, thread, b, l);
	if (!e)
		e = signal ? run_to_event(t, thread, b->patience)
			   : step_to_last(t, thread, b->patience);
	e = first_of(met, e);
	if (!thread->attached)
		return e;
	if (!thread->stopped || (b->patience && b->patience->replaced))
		return e;
	e2 = b->patience ? keep_bases(thread) : NULL;
	e2 = first_of(e2, put_mask(thread, thread->sigmask));
	if (!e2)
		e2 = kage_arch_set_regs(thread->tid, false, &thread->regs);
	return first_of(e, e2);
}

uint64_t kage_thread_rseq(const struct kage_thread *thread)
{
	struct kptrace_rseq_configuration rseq;

	if (ptrace(KPTRACE_GET_RSEQ_CONFIGURATION, thread->tid, (void *)sizeof(rseq), &rseq) < 0)
		return 0;
	return rseq.rseq_abi_pointer;
}

/* In the middle of a restartable sequence a thread goes to its abort handler when it runs next. Only that
 * the kernel looks at where it runs then, which is the runner, and takes the sequence for left
 * (kernel/rseq.c, rseq_ip_fixup()); so we send it there. */
static struct kage_err *abort_sequence(struct kage_target *t, struct kage_thread *thread)
{
	struct krseq_cs cs;
	uint64_t rseq = kage_thread_rseq(thread), at = 0, ip = kage_arch_ip(&thread->regs);

	if (!rseq)
		return NULL;
	TRY(kage_target_read(t, addr(rseq + KRSEQ_CS_FIELD_BYTES), &at, sizeof(at)));
	if (!at)
		return NULL;
	TRY(kage_target_read(t, addr(at), &cs, sizeof(cs)));
	if (ip >= cs.start && ip - cs.start < cs.length)
		kage_arch_set_ip(&thread->regs, cs.abort);
	return NULL;
}

/* Whether the target's filters let the batch through, with what surrounds it. */
static struct kage_err *permitted(struct kage_target *t, struct kage_thread *thread,
				  const struct kage_batch *b)
{
	static const struct kage_call around[] = {
		{ .number = SYS_mmap },           { .number = SYS_munmap },
		{ .number = SYS_rt_sigprocmask }, { .number = SYS_tgkill },
		{ .number = SYS_clone },          { .number = SYS_wait4 },
		{ .number = SYS_exit },           { .number = SYS_madvise },
		{ .number = SYS_setsid },
	};

	TRY(kage_target_permits(t, thread, around, ARRAY_SIZE(around)));
	return kage_target_permits(t, thread, b->calls, b->n);
}

static struct kage_err *watch_exec(struct kage_target *t, struct kage_thread *thread)
{
	const uintptr_t options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC;

	/* Any other would take the first one's number. */
	if (thread->tid != t->pid)
		return kage_err_new(KAGE_INVALID,
				    "another program can be executed in the first thread only");
	if (!t->site->event_signal)
		return kage_err_new(KAGE_UNSUPPORTED, "it handles every signal");
	if (ptrace(PTRACE_SETOPTIONS, thread->tid, NULL, (void *)options) < 0)
		return kage_err_sys(errno, "set trace options of %d", thread->tid);
	return NULL;
}

struct kage_err *kage_batch_run(struct kage_target *t, struct kage_thread *thread,
				struct kage_batch *b)
{
	struct layout l = lay_out(b);
	struct kage_err *e;

	b->n_done = 0;
	if (b->nomem)
		return kage_err_nomem();
	if (!b->n)
		return NULL;
	if (!t->ours) {
		TRY(permitted(t, thread, b));
		TRY(kage_thread_learn_inner(t, thread));
		TRY(abort_sequence(t, thread));
	}
	TRY(kage_site_enter(t, thread, l.total));
	TRY(send_in(t, thread, b, &l));
	if (b->patience && b->patience->execs)
		TRY(watch_exec(t, thread));
	e = run(t, thread, b, &l);
	if (b->patience && b->patience->apart && !b->patience->replaced && thread->stopped)
		e = first_of(e, kage_target_hold_others(t));
	TRY(e);
	if (b->patience && b->patience->replaced)
		return NULL;
	TRY(bring_back(t, b, &l));
	return first_failure(t, b);
}
