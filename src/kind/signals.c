/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signal actions and signals that wait, with all that was sent with them.
 */
#include "kind/signals.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "sys/taskread.h"

enum { PEEK_AT_ONCE = 32, PENDING_MAX = 1 << 20 };

/* --- one waiting signal ------------------------------------------------------------------------ */

/* Which fields a siginfo has follows from its code and number (sigaction(2), kernel/signal.c:
 * siginfo_layout). */
static Kage__PendingSignal__FieldsCase fields_of(int signo, int code)
{
	if (code == SI_TIMER)
		return KAGE__PENDING_SIGNAL__FIELDS_TIMER;
	if (code == SI_SIGIO)
		return KAGE__PENDING_SIGNAL__FIELDS_POLL;
	if (code <= 0 || code == SI_KERNEL)
		return KAGE__PENDING_SIGNAL__FIELDS_SENT;
	switch (signo) {
	case SIGCHLD:
		return KAGE__PENDING_SIGNAL__FIELDS_CHILD;
	case SIGSEGV:
	case SIGBUS:
	case SIGILL:
	case SIGFPE:
	case SIGTRAP:
		return KAGE__PENDING_SIGNAL__FIELDS_FAULT;
	case SIGIO:
		return KAGE__PENDING_SIGNAL__FIELDS_POLL;
	case SIGSYS:
		return KAGE__PENDING_SIGNAL__FIELDS_SYSCALL;
	default:
		return KAGE__PENDING_SIGNAL__FIELDS_SENT;
	}
}

#define NEW_FIELDS(Type, init, field)              \
	do {                                       \
		m->field = msg_new(a, Type, init); \
		if (!m->field)                     \
			return kage_err_nomem();   \
	} while (0)

static struct kage_err *encode_fields(struct arena *a, const siginfo_t *si, Kage__PendingSignal *m)
{
	switch (m->fields_case) {
	case KAGE__PENDING_SIGNAL__FIELDS_TIMER:
		NEW_FIELDS(Kage__PendingSignal__Timer, kage__pending_signal__timer__init, timer);
		m->timer->id = si->si_timerid;
		m->timer->overrun = si->si_overrun;
		m->timer->value = (uint64_t)(uintptr_t)si->si_ptr;
		break;
	case KAGE__PENDING_SIGNAL__FIELDS_CHILD:
		NEW_FIELDS(Kage__PendingSignal__Child, kage__pending_signal__child__init, child);
		m->child->pid = si->si_pid;
		m->child->uid = si->si_uid;
		m->child->status = si->si_status;
		m->child->utime = si->si_utime;
		m->child->stime = si->si_stime;
		break;
	case KAGE__PENDING_SIGNAL__FIELDS_FAULT:
		NEW_FIELDS(Kage__PendingSignal__Fault, kage__pending_signal__fault__init, fault);
		m->fault->address = (uint64_t)(uintptr_t)si->si_addr;
		break;
	case KAGE__PENDING_SIGNAL__FIELDS_POLL:
		NEW_FIELDS(Kage__PendingSignal__Poll, kage__pending_signal__poll__init, poll);
		m->poll->band = si->si_band;
		m->poll->fd = si->si_fd;
		break;
	case KAGE__PENDING_SIGNAL__FIELDS_SYSCALL:
		NEW_FIELDS(Kage__PendingSignal__Syscall, kage__pending_signal__syscall__init,
			   syscall);
		m->syscall->address = (uint64_t)(uintptr_t)si->si_call_addr;
		m->syscall->number = si->si_syscall;
		m->syscall->arch = si->si_arch;
		break;
	default:
		NEW_FIELDS(Kage__PendingSignal__Sent, kage__pending_signal__sent__init, sent);
		m->sent->pid = si->si_pid;
		m->sent->uid = si->si_uid;
		m->sent->value = (uint64_t)(uintptr_t)si->si_ptr;
		break;
	}
	return NULL;
}

struct kage_err *kage_signal_encode(struct arena *a, const siginfo_t *si, Kage__PendingSignal *m)
{
	m->signal = si->si_signo;
	m->code = si->si_code;
	m->error = si->si_errno;
	m->fields_case = fields_of(si->si_signo, si->si_code);
	return encode_fields(a, si, m);
}

void kage_signal_decode(const Kage__PendingSignal *m, siginfo_t *si)
{
	memset(si, 0, sizeof(*si));
	si->si_signo = m->signal;
	si->si_code = m->code;
	si->si_errno = m->error;
	switch (m->fields_case) {
	case KAGE__PENDING_SIGNAL__FIELDS_TIMER:
		si->si_timerid = m->timer->id;
		si->si_overrun = m->timer->overrun;
		si->si_ptr = (void *)(uintptr_t)m->timer->value;
		break;
	case KAGE__PENDING_SIGNAL__FIELDS_CHILD:
		si->si_pid = m->child->pid;
		si->si_uid = m->child->uid;
		si->si_status = m->child->status;
		si->si_utime = m->child->utime;
		si->si_stime = m->child->stime;
		break;
	case KAGE__PENDING_SIGNAL__FIELDS_FAULT:
		si->si_addr = (void *)(uintptr_t)m->fault->address;
		break;
	case KAGE__PENDING_SIGNAL__FIELDS_POLL:
		si->si_band = m->poll->band;
		si->si_fd = m->poll->fd;
		break;
	case KAGE__PENDING_SIGNAL__FIELDS_SYSCALL:
		si->si_call_addr = (void *)(uintptr_t)m->syscall->address;
		si->si_syscall = m->syscall->number;
		si->si_arch = m->syscall->arch;
		break;
	case KAGE__PENDING_SIGNAL__FIELDS_SENT:
		si->si_pid = m->sent->pid;
		si->si_uid = m->sent->uid;
		si->si_ptr = (void *)(uintptr_t)m->sent->value;
		break;
	default:
		break;
	}
}

/* --- capture ---------------------------------------------------------------------------------- */

/* Appends what waits in one queue to the repeated field (LIST, N) of a message. PTRACE_PEEKSIGINFO
 * takes nothing away. */
static struct kage_err *peek_queue(struct arena *a, pid_t tid, bool shared,
				   Kage__PendingSignal ***list, size_t *n)
{
	siginfo_t queue[PEEK_AT_ONCE];
	struct __ptrace_peeksiginfo_args args = { .flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0,
						  .nr = PEEK_AT_ONCE };
	long got;

	do {
		got = ptrace(PTRACE_PEEKSIGINFO, tid, &args, queue);
		if (got < 0)
			return kage_err_sys(errno, "read the waiting signals of thread %d", tid);
		for (long i = 0; i < got; i++) {
			Kage__PendingSignal **slot = arena_push(a, list, n, sizeof(*slot));

			if (!slot)
				return kage_err_nomem();
			*slot = msg_new(a, Kage__PendingSignal, kage__pending_signal__init);
			if (!*slot)
				return kage_err_nomem();
			TRY(kage_signal_encode(a, &queue[i], *slot));
		}
		args.off += (uint64_t)got;
	} while (got == PEEK_AT_ONCE && args.off < PENDING_MAX);
	return NULL;
}

/* The same from the kernel's own record, which keeps of each siginfo_t what is not always zero. */
static struct kage_err *copy_queue(struct arena *a, const struct kage_task_signal *queue,
				   size_t n_queue, Kage__PendingSignal ***list, size_t *n)
{
	for (size_t i = 0; i < n_queue; i++) {
		Kage__PendingSignal **slot = arena_push(a, list, n, sizeof(*slot));
		siginfo_t si = { 0 };

		if (!slot)
			return kage_err_nomem();
		*slot = msg_new(a, Kage__PendingSignal, kage__pending_signal__init);
		if (!*slot)
			return kage_err_nomem();
		memcpy(&si, queue[i].info, sizeof(queue[i].info));
		TRY(kage_signal_encode(a, &si, *slot));
	}
	return NULL;
}

/* The queue of the whole process: ptrace shows it through any thread that is stopped. */
static struct kage_err *capture_shared(struct kage_capture *c)
{
	const struct kage_taskinfo *info = c->target->info;
	Kage__Process *p = c->process;

	for (size_t i = 0; i < c->target->n_own; i++)
		if (!c->target->threads[i]->asleep)
			return peek_queue(&c->image->arena, c->target->threads[i]->tid, true,
					  &p->pending, &p->n_pending);
	return copy_queue(&c->image->arena, info->signals, info->n_signals, &p->pending,
			  &p->n_pending);
}

static struct kage_err *capture_own(struct kage_capture *c, size_t i)
{
	const struct kage_thread *thread = c->target->threads[i];
	Kage__Thread *msg = c->process->threads[i];

	if (!thread->asleep)
		return peek_queue(&c->image->arena, thread->tid, false, &msg->pending,
				  &msg->n_pending);
	return copy_queue(&c->image->arena, thread->seen->signals, thread->seen->n_signals,
			  &msg->pending, &msg->n_pending);
}

static struct kage_err *capture_actions(struct kage_capture *c)
{
	for (unsigned i = 0; i < KAGE_NSIG; i++) {
		const struct kage_inside_action *in = &c->inside.actions[i];
		Kage__SignalAction *m;

		if (!in->handler && !in->flags && !in->mask)
			continue;
		m = msg_append(&c->image->arena, c->process, actions, Kage__SignalAction,
			       kage__signal_action__init);
		if (!m)
			return kage_err_nomem();
		m->signal = i + 1;
		m->handler = in->handler;
		m->flags = in->flags;
		m->restorer = in->restorer;
		m->mask = in->mask;
	}
	return NULL;
}

static struct kage_err *capture(struct kage_capture *c)
{
	TRY(capture_actions(c));
	TRY(capture_shared(c));
	for (size_t i = 0; i < c->process->n_threads; i++)
		TRY(capture_own(c, i));
	c->process->stopped = c->target->threads[0]->job_stopped;
	return NULL;
}

/* --- restore ---------------------------------------------------------------------------------- */

struct kernel_action {
	uint64_t handler, flags, restorer, mask;
};

/* What waits by now goes away with what it was sent to: all are blocked, so the actions matter to nobody yet. */
static struct kage_err *reset(struct kage_restore *r, struct kage_batch *b)
{
	const struct kernel_action none = { 0 };
	size_t at = kage_batch_data(b, &none, sizeof(none));

	(void)r;
	for (unsigned s = 1; s <= KAGE_NSIG; s++)
		if (s != SIGKILL && s != SIGSTOP)
			BATCH(b, "set a signal action", SYS_rt_sigaction, V(s), DATA(at), V(0),
			      V(8));
	return NULL;
}

static struct kage_err *build(struct kage_restore *r, struct kage_batch *b)
{
	for (size_t i = 0; i < r->process->n_actions; i++) {
		const Kage__SignalAction *m = r->process->actions[i];
		struct kernel_action k = { m->handler, m->flags, m->restorer, m->mask };

		if (m->signal == SIGKILL || m->signal == SIGSTOP)
			continue;
		BATCH(b, "set a signal action", SYS_rt_sigaction, V(m->signal),
		      DATA(kage_batch_data(b, &k, sizeof(k))), V(0), V(8));
	}
	return NULL;
}

/* A process may send itself signals with any code, and everything that came with them, and so may a
 * thread (rt_sigqueueinfo(2)). All signals are blocked in the stub, so they wait. */
static struct kage_err *finish(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Process *p = r->process;
	siginfo_t si;

	for (size_t i = 0; i < p->n_pending; i++) {
		kage_signal_decode(p->pending[i], &si);
		BATCH(b, "queue a signal", SYS_rt_sigqueueinfo, V((int64_t)p->pid), V(si.si_signo),
		      DATA(kage_batch_data(b, &si, sizeof(si))));
	}
	return NULL;
}

static struct kage_err *build_thread(struct kage_restore *r, const Kage__Thread *msg,
				     struct kage_batch *b)
{
	siginfo_t si;

	for (size_t k = 0; k < msg->n_pending; k++) {
		kage_signal_decode(msg->pending[k], &si);
		BATCH(b, "queue a thread's signal", SYS_rt_tgsigqueueinfo,
		      V((int64_t)r->process->pid), V((int64_t)msg->tid), V(si.si_signo),
		      DATA(kage_batch_data(b, &si, sizeof(si))));
	}
	return NULL;
}

/* --- print ------------------------------------------------------------------------------------- */

void kage_signals_print_set(uint64_t set, FILE *out)
{
	bool first = true;

	for (int s = 1; s <= 64; s++) {
		const char *name = sigabbrev_np(s);

		if (!(set >> (s - 1) & 1))
			continue;
		fputs(first ? "" : ",", out);
		if (name)
			fputs(name, out);
		else
			fprintf(out, "%d", s);
		first = false;
	}
	fputs(first ? "none" : "", out);
}

static void print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	size_t waiting = p->n_pending;

	(void)image;
	for (size_t i = 0; i < p->n_threads; i++)
		waiting += p->threads[i]->n_pending;
	fprintf(out, "  %zu handled or ignored, %zu waiting%s\n", p->n_actions, waiting,
		p->stopped ? ", stopped" : "");
	for (size_t i = 0; full && i < p->n_actions; i++) {
		const Kage__SignalAction *m = p->actions[i];

		fprintf(out, "  SIG%-9s",
			sigabbrev_np((int)m->signal) ? sigabbrev_np((int)m->signal) : "RT");
		if (m->handler <= 1)
			fprintf(out, " %s\n", m->handler ? "ignored" : "default");
		else
			fprintf(out, " handler %#" PRIx64 "  flags %#" PRIx64 "  blocks ",
				m->handler, m->flags);
		if (m->handler > 1) {
			kage_signals_print_set(m->mask, out);
			fputc('\n', out);
		}
	}
}

const struct kage_kind kage_kind_signals = {
	.name = "signals",
	.capture = capture,
	.reset = reset,
	.build = build,
	.build_thread = build_thread,
	.finish = finish,
	.print = print,
};
