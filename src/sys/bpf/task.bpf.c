/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Writes what the kernel knows of every thread of one process and /proc does not tell, without
 * stopping any of them (task_record.h says what and in which order).
 *
 * Runs under RCU. Threads, their signal and sighand structures and POSIX timers live as long as
 * this program runs. Queued signals may be freed under our eyes: their list is walked by reads that
 * cannot fault, and a walk whose links do not agree is reported as torn.
 *
 * Loading must be fast, since a one-shot command does it each time. Hence: no maps (records are built
 * on the stack); loops through bpf_loop, so that the verifier sees each body about once; few branches;
 * few types, since the kernel looks for each by name among all of its own. Above all, numbers in the
 * task are loaded directly, but pointers, and what they lead to, with READ(): for each pointer loaded
 * through one that it trusts, the verifier makes such a search, of more than a millisecond.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "task_kernel.h"
#include "task_record.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define RECORD(NAME, TYPE)               \
	struct {                         \
		struct task_record head; \
		struct TYPE body;        \
	} NAME = { .head = { .size = sizeof(struct TYPE) } }

#define SEND(seq, TYPE, r)                             \
	({                                             \
		(r).head.type = (TYPE);                \
		bpf_seq_write((seq), &(r), sizeof(r)); \
	})

#define READ(dst, src) bpf_core_read(&(dst), sizeof(dst), &(src))

static __always_inline kage_addr at_number(__u64 v)
{
	return (kage_addr){ v };
}

/* The address in P as a number to the verifier, which lets nobody calculate with a pointer that it
 * knows: through memory it loses its kind. */
static __always_inline __u64 as_number(const void *p)
{
	__u64 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), &p);
	return v;
}

/* The number of PID in the namespace LEVEL deep. */
static __always_inline int pid_number(struct pid *pid, __u64 level)
{
	__u64 first = bpf_core_field_offset(pid->numbers[0].nr);
	__u64 step = bpf_core_field_offset(pid->numbers[1].nr) - first;
	int nr = 0;

	bpf_probe_read_kernel(&nr, sizeof(nr), (void *)((__u64)pid + first + level * step));
	return nr;
}

/* The number of PID as those in its own namespace see it. */
static __always_inline int own_number(struct pid *pid)
{
	__u32 level = 0;

	READ(level, pid->level);
	return pid_number(pid, level);
}

static __always_inline void take_pulse(struct kage_task_pulse *p, struct task_struct *task)
{
	p->on_cpu = task->on_cpu;
	p->state = task->__state;
	p->nvcsw = task->nvcsw;
	p->nivcsw = task->nivcsw;
}

static __always_inline void read_rseq(struct kage_task_thread *t, struct task_struct *task)
{
	struct task_struct___since_6_19 *newer = (void *)task;

	if (bpf_core_field_exists(newer->rseq.usrptr)) {
		READ(t->rseq.v, newer->rseq.usrptr);
		t->rseq_bytes = newer->rseq.len;
		t->rseq_signature = newer->rseq.sig;
	} else if (bpf_core_field_exists(task->rseq)) {
		READ(t->rseq.v, task->rseq);
		t->rseq_signature = task->rseq_sig;
		/* Before 6.3 the length is not kept: it is that of the first struct rseq. */
		t->rseq_bytes = bpf_core_field_exists(task->rseq_len) ? task->rseq_len : 32;
	}
}

static __always_inline void read_signal_state(struct kage_task_thread *t, struct task_struct *task)
{
	t->blocked = task->blocked.sig[0];
	t->real_blocked = task->real_blocked.sig[0];
	t->saved_sigmask = task->saved_sigmask.sig[0];
	t->restore_sigmask = BPF_CORE_READ_BITFIELD(task, restore_sigmask);
	t->pending = task->pending.signal.sig[0];
	t->altstack = at_number(task->sas_ss_sp);
	t->altstack_bytes = task->sas_ss_size;
	t->altstack_flags = task->sas_ss_flags;
	t->pdeath_signal = task->pdeath_signal;
	t->exit_signal = task->exit_signal;
}

static __always_inline void read_prctls(struct kage_task_thread *t, struct task_struct *task)
{
	t->timer_slack_ns = task->timer_slack_ns;
	t->default_timer_slack_ns = task->default_timer_slack_ns;
	t->personality = task->personality;
	if (bpf_core_field_exists(task->seccomp.mode))
		t->seccomp_mode = task->seccomp.mode;
	t->atomic_flags = task->atomic_flags;
	t->thread_flags = task->thread_info.flags;
	t->thread_status = task->thread_info.status;
	if (bpf_core_field_exists(task->thread_info.syscall_work))
		t->syscall_work = task->thread_info.syscall_work;
	if (bpf_core_field_exists(task->thread.iopl_emul))
		t->io_privilege = task->thread.iopl_emul;
	if (bpf_core_field_exists(task->syscall_dispatch)) {
		READ(t->dispatch_selector.v, task->syscall_dispatch.selector);
		t->dispatch_offset = at_number(task->syscall_dispatch.offset);
		t->dispatch_bytes = task->syscall_dispatch.len;
	}
	if (bpf_core_field_exists(task->io_uring))
		READ(t->io_uring, task->io_uring);
	if (bpf_core_field_exists(task->sysvsem.undo_list))
		READ(t->sem_undo, task->sysvsem.undo_list);
	READ(t->vfork_done, task->vfork_done);
	READ(t->has_children, task->children.next);
	t->has_children -= as_number(task) + bpf_core_field_offset(task->children);
}

static __always_inline void read_times(struct kage_task_thread *t, struct task_struct *task)
{
	t->start_ns = task->start_time;
	t->start_boot_ns = task->start_boottime;
	t->utime_ns = task->utime;
	t->stime_ns = task->stime;
	t->cpu_ns = task->se.sum_exec_runtime;
	t->exec_start_ns = task->se.exec_start;
}

static __noinline int put_thread(struct seq_file *seq, struct task_struct *task)
{
	RECORD(r, kage_task_thread);
	struct kage_task_thread *t = &r.body;
	struct task_struct *reader = (void *)bpf_get_current_task(), *leader = 0;
	struct pid *pid = 0, *leader_pid = 0;
	__u32 level = 0;

	take_pulse(&t->pulse, task);
	t->now_ns = bpf_ktime_get_ns();
	READ(pid, reader->thread_pid);
	READ(level, pid->level);
	READ(pid, task->thread_pid);
	READ(leader, task->group_leader);
	READ(leader_pid, leader->thread_pid);
	t->tid = pid_number(pid, level);
	t->own_tid = own_number(pid);
	t->tgid = pid_number(leader_pid, level);
	t->flags = task->flags;
	t->exit_state = task->exit_state;
	t->jobctl = task->jobctl;
	t->ptrace = task->ptrace;
	read_times(t, task);
	read_signal_state(t, task);
	READ(t->set_child_tid.v, task->set_child_tid);
	READ(t->clear_child_tid.v, task->clear_child_tid);
	READ(t->robust_list.v, task->robust_list);
	read_rseq(t, task);
	read_prctls(t, task);
	bpf_probe_read_kernel(t->comm, sizeof(t->comm), task->comm);
	return SEND(seq, TASK_THREAD, r);
}

/* --- the process ----------------------------------------------------------------------------- */

static __always_inline int next_timer_id(struct signal_struct *signal)
{
	struct signal_struct___since_6_14 *newer = (void *)signal;
	struct signal_struct___before_6_14 *older = (void *)signal;
	int id = 0;

	if (bpf_core_field_exists(newer->next_posix_timer_id))
		READ(id, newer->next_posix_timer_id);
	else if (bpf_core_field_exists(older->next_posix_timer_id))
		READ(id, older->next_posix_timer_id);
	return id;
}

static __noinline int put_process(struct seq_file *seq, struct signal_struct *signal)
{
	RECORD(r, kage_task_process);
	struct kage_task_process *p = &r.body;
	short score = 0;

	p->now_ns = bpf_ktime_get_ns();
	READ(p->nr_threads, signal->nr_threads);
	READ(p->flags, signal->flags);
	READ(p->group_stop_count, signal->group_stop_count);
	READ(p->group_exit_code, signal->group_exit_code);
	p->child_subreaper = BPF_CORE_READ_BITFIELD_PROBED(signal, is_child_subreaper);
	if (bpf_core_field_exists(signal->timer_create_restore_ids))
		p->timer_restore_ids =
			BPF_CORE_READ_BITFIELD_PROBED(signal, timer_create_restore_ids);
	READ(score, signal->oom_score_adj);
	p->oom_score_adj = score;
	p->next_timer_id = next_timer_id(signal);
	READ(p->pending, signal->shared_pending.signal);
	READ(p->real_active, signal->real_timer.state);
	READ(p->real_expires_ns, signal->real_timer.node.expires);
	READ(p->real_interval_ns, signal->it_real_incr);
	READ(p->cpu_expires_ns[0], signal->it[0].expires);
	READ(p->cpu_expires_ns[1], signal->it[1].expires);
	READ(p->cpu_interval_ns[0], signal->it[0].incr);
	READ(p->cpu_interval_ns[1], signal->it[1].incr);
	READ(p->group_utime_ns, signal->cputimer.cputime_atomic.utime);
	READ(p->group_stime_ns, signal->cputimer.cputime_atomic.stime);
	READ(p->group_cpu_ns, signal->cputimer.cputime_atomic.sum_exec_runtime);
	return SEND(seq, TASK_PROCESS, r);
}

static __noinline int put_mm(struct seq_file *seq, struct mm_struct *mm)
{
	RECORD(r, kage_task_mm);
	struct kage_task_mm *m = &r.body;
	struct mm_struct___before_6_18 *older = (void *)mm;

	READ(m->start_code.v, mm->start_code);
	READ(m->end_code.v, mm->end_code);
	READ(m->start_data.v, mm->start_data);
	READ(m->end_data.v, mm->end_data);
	READ(m->start_brk.v, mm->start_brk);
	READ(m->brk.v, mm->brk);
	READ(m->start_stack.v, mm->start_stack);
	READ(m->arg_start.v, mm->arg_start);
	READ(m->arg_end.v, mm->arg_end);
	READ(m->env_start.v, mm->env_start);
	READ(m->env_end.v, mm->env_end);
	READ(m->def_flags, mm->def_flags);
	if (bpf_core_field_exists(older->flags))
		READ(m->flags, older->flags);
	else
		READ(m->flags, mm->flags);
	if (bpf_core_field_exists(mm->membarrier_state))
		READ(m->membarrier_state, mm->membarrier_state);
	return SEND(seq, TASK_MM, r);
}

/* --- signals ----------------------------------------------------------------------------------- */

enum { ACTIONS_PER_WRITE = 8 };

struct action_walk {
	struct seq_file *seq;
	__u64 from;
};

static int put_some_actions(__u32 i, void *data)
{
	struct action_walk *w = data;
	struct kage_task_action some[ACTIONS_PER_WRITE] = {};

	bpf_probe_read_kernel(some, sizeof(some), (void *)(w->from + i * sizeof(some)));
	return bpf_seq_write(w->seq, some, sizeof(some)) != 0;
}

/* Nothing is written when the kernel's structure is not the one that struct kage_task_action
 * describes, which on x86-64 is that of the system call. */
static __noinline int put_actions(struct seq_file *seq, struct sighand_struct *sighand)
{
	struct action_walk w = { .seq = seq };
	struct task_record head = {
		.type = TASK_ACTIONS,
		.size = KAGE_TASK_NSIG * sizeof(struct kage_task_action),
	};
	__u64 first = bpf_core_field_offset(sighand->action[0]);

	if (bpf_core_field_offset(sighand->action[1]) - first != sizeof(struct kage_task_action))
		return 0;
	w.from = (__u64)sighand + first;
	bpf_seq_write(seq, &head, sizeof(head));
	return bpf_loop(KAGE_TASK_NSIG / ACTIONS_PER_WRITE, put_some_actions, &w, 0);
}

/* Where a walk stands. It is changed through bpf_probe_read_kernel() only: what a number came from is
 * something the verifier remembers, and for as long as that changes from round to round it goes through
 * the body once more. */
struct list_walk {
	struct seq_file *seq;
	struct signal_struct *signal;
	__u64 head;
	__u64 at;
	__u64 before;
	__u64 type;
};

static __noinline int put_list_end(struct seq_file *seq, __u64 type, __u64 end)
{
	RECORD(r, kage_task_list);

	r.body.type = type;
	r.body.end = end;
	return SEND(seq, TASK_LIST, r);
}

static int put_one_signal(__u32 i, void *data)
{
	struct list_walk *w = data;
	RECORD(r, kage_task_signal);
	struct list_head links = {};
	__u64 at = w->at, queued = at - bpf_core_field_offset(struct sigqueue, list);

	if (at == w->head)
		return 1;
	bpf_probe_read_kernel(&r.body, sizeof(r.body),
			      (void *)(queued + bpf_core_field_offset(struct sigqueue, info)));
	/* An entry that was taken off meanwhile points no more to the one that we come from. */
	bpf_probe_read_kernel(&links, sizeof(links), (void *)at);
	if ((__u64)links.prev != w->before || !links.next) {
		put_list_end(w->seq, w->type, WALK_TORN);
		return 1;
	}
	bpf_probe_read_kernel(&w->before, sizeof(w->before), &at);
	bpf_probe_read_kernel(&w->at, sizeof(w->at), &links.next);
	r.head.type = w->type;
	return bpf_seq_write(w->seq, &r, sizeof(r)) != 0;
}

static __noinline int put_signals(struct seq_file *seq, const struct list_head *list, __u64 type)
{
	struct list_walk w = { .seq = seq, .type = type };

	bpf_probe_read_kernel(&w.head, sizeof(w.head), &list);
	bpf_probe_read_kernel(&w.before, sizeof(w.before), &list);
	bpf_probe_read_kernel(&w.at, sizeof(w.at), &list->next);
	/* One round more, which sees the end of a list of just the greatest length. */
	bpf_loop(KAGE_TASK_MAX_SIGNALS + 1, put_one_signal, &w, 0);
	return w.at == w.head ? 0 : put_list_end(seq, type, WALK_CUT);
}

/* --- POSIX timers ------------------------------------------------------------------------------- */

/* What of these unions is meant is decided by the reader, who knows the clock: no branches here. */
static __always_inline void read_expiries(struct kage_task_timer *t, struct k_itimer *timer)
{
	struct hrtimer_clock_base *base = 0;
	struct pid *pid = 0;

	READ(t->plain.expires_ns, timer->it.real.timer.node.expires);
	READ(base, timer->it.real.timer.base);
	READ(t->plain.clock, base->clockid);
	READ(t->plain.offset_ns, base->offset);
	READ(t->alarm.expires_ns, timer->it.alarm.alarmtimer.timer.node.expires);
	READ(base, timer->it.alarm.alarmtimer.timer.base);
	READ(t->alarm.clock, base->clockid);
	READ(t->alarm.offset_ns, base->offset);
	READ(t->cpu_expires_ns, timer->it.cpu.node.expires);
	READ(pid, timer->it.cpu.pid);
	t->cpu_tid = own_number(pid);
}

static __always_inline void read_event(struct kage_task_timer *t, struct k_itimer *timer)
{
	struct k_itimer___before_6_13 *older = (void *)timer;
	struct sigqueue *queued = 0;
	struct pid *pid = 0;

	if (bpf_core_field_exists(timer->sigq.info)) {
		READ(t->info, timer->sigq.info);
	} else {
		READ(queued, older->sigq);
		READ(t->info, queued->info);
	}
	READ(pid, timer->it_pid);
	t->tid = own_number(pid);
}

static __always_inline void read_status(struct kage_task_timer *t, struct k_itimer *timer)
{
	struct k_itimer___before_6_13 *older = (void *)timer;

	if (bpf_core_field_exists(timer->it_status)) {
		READ(t->status, timer->it_status);
	} else {
		READ(t->active, older->it_active);
		READ(t->requeue_pending, older->it_requeue_pending);
	}
}

static int put_one_timer(__u32 i, void *data)
{
	struct list_walk *w = data;
	RECORD(r, kage_task_timer);
	struct kage_task_timer *t = &r.body;
	__u64 at = w->at;
	struct k_itimer *timer = (void *)(at - bpf_core_field_offset(struct k_itimer, list));

	if (!at || at == w->head)
		return 1;
	if (bpf_probe_read_kernel(&w->at, sizeof(w->at), (void *)at)) {
		put_list_end(w->seq, TASK_TIMER, WALK_TORN);
		return 1;
	}
	READ(t->foreign, timer->it_signal);
	t->foreign ^= (__u64)w->signal;
	READ(t->id, timer->it_id);
	READ(t->clock, timer->it_clock);
	READ(t->notify, timer->it_sigev_notify);
	READ(t->interval_ns, timer->it_interval);
	READ(t->overrun, timer->it_overrun);
	READ(t->overrun_last, timer->it_overrun_last);
	read_status(t, timer);
	read_event(t, timer);
	read_expiries(t, timer);
	return SEND(w->seq, TASK_TIMER, r) != 0;
}

static __noinline int put_timers(struct seq_file *seq, struct signal_struct *signal)
{
	struct list_walk w = { .seq = seq, .signal = signal };

	/* The list is one with two links and a ring, or one with one link and an end. */
	w.head = (__u64)&signal->posix_timers;
	READ(w.at, signal->posix_timers);
	bpf_loop(KAGE_TASK_MAX_TIMERS + 1, put_one_timer, &w, 0);
	return !w.at || w.at == w.head ? 0 : put_list_end(seq, TASK_TIMER, WALK_CUT);
}

/* --- rights -------------------------------------------------------------------------------------- */

static __noinline int put_creds(struct seq_file *seq, struct cred *cred)
{
	RECORD(r, kage_task_creds);
	struct kage_task_creds *c = &r.body;

	c->identity = as_number(cred);
	READ(c->uid, cred->uid);
	READ(c->euid, cred->euid);
	READ(c->suid, cred->suid);
	READ(c->fsuid, cred->fsuid);
	READ(c->gid, cred->gid);
	READ(c->egid, cred->egid);
	READ(c->sgid, cred->sgid);
	READ(c->fsgid, cred->fsgid);
	READ(c->securebits, cred->securebits);
	/* Two words of 32 bits before 6.3, in the order of one of 64. */
	READ(c->cap_inheritable, cred->cap_inheritable);
	READ(c->cap_permitted, cred->cap_permitted);
	READ(c->cap_effective, cred->cap_effective);
	READ(c->cap_bounding, cred->cap_bset);
	READ(c->cap_ambient, cred->cap_ambient);
	return SEND(seq, TASK_CREDS, r);
}

/* --- registers --------------------------------------------------------------------------------------- */

enum { PT_REGS_BYTES = 21 * 8 };

static __noinline int put_regs(struct seq_file *seq, struct task_struct *task)
{
	RECORD(r, kage_task_regs);
	struct kage_task_regs *g = &r.body;

	bpf_probe_read_kernel(g, PT_REGS_BYTES, (void *)bpf_task_pt_regs(task));
	g->cs &= 0xffff; /* the kernel uses the bits above for itself */
	g->ss &= 0xffff;
	g->fs_base = task->thread.fsbase;
	g->gs_base = task->thread.gsbase;
	g->ds = task->thread.ds;
	g->es = task->thread.es;
	g->fs = task->thread.fsindex;
	g->gs = task->thread.gsindex;
	return SEND(seq, TASK_REGS, r);
}

enum { XSAVE_CHUNK = 256 };

struct xsave_walk {
	struct seq_file *seq;
	__u64 from;
	__u64 bytes;
};

/* The walk does not change: each round is the same to the verifier, which then sees only one. */
static int put_some_xsave(__u32 i, void *data)
{
	const struct xsave_walk *w = data;
	__u64 chunk[XSAVE_CHUNK / 8] = {};
	__u64 done = (__u64)i * XSAVE_CHUNK;
	__u64 n = w->bytes - done;

	if (done >= w->bytes)
		return 1;
	if (n > sizeof(chunk))
		n = sizeof(chunk);
	bpf_probe_read_kernel(chunk, n, (void *)(w->from + done));
	return bpf_seq_write(w->seq, chunk, n) != 0;
}

/* Where the extended state is described: behind the task since 6.16, in its thread before. */
static __always_inline struct fpu *find_fpu(struct task_struct *task)
{
	struct task_struct___before_6_16 *older = (void *)task;

	if (bpf_core_field_exists(older->thread.fpu))
		return (void *)((__u64)task + bpf_core_field_offset(older->thread.fpu));
	return (void *)((__u64)task + bpf_core_type_size(struct task_struct));
}

static __noinline int put_xsave(struct seq_file *seq, struct task_struct *task)
{
	RECORD(r, kage_task_xsave);
	struct kage_task_xsave *x = &r.body;
	struct xsave_walk w = { .seq = seq };
	struct fpu *fpu = find_fpu(task);
	struct fpstate *state = 0;

	READ(state, fpu->fpstate);
	if (!state)
		return 0;
	READ(x->size, state->size);
	READ(x->features, state->xfeatures);
	READ(x->user_features, state->user_xfeatures);
	if (bpf_core_field_exists(task->thread.pkru))
		x->pkru = task->thread.pkru;
	bpf_probe_read_kernel(x->tls, sizeof(x->tls), task->thread.tls_array);
	x->bytes = (x->size + 7) & ~7u;
	if (x->bytes > KAGE_TASK_MAX_XSAVE)
		x->bytes = KAGE_TASK_MAX_XSAVE;
	w.bytes = x->bytes;
	w.from = (__u64)state + bpf_core_field_offset(struct fpstate, regs);
	r.head.size += x->bytes;
	SEND(seq, TASK_XSAVE, r);
	return bpf_loop(KAGE_TASK_MAX_XSAVE / XSAVE_CHUNK, put_some_xsave, &w, 0);
}

/* --- sleeping ---------------------------------------------------------------------------------------- */

/* Writes the name of the kernel function at ADDRESS, filled up to KAGE_TASK_SYMBOL_BYTES. */
static __always_inline void put_symbol(struct seq_file *seq, const void *address)
{
	char format[8] = "%-64ps"; /* of 8 bytes, so that it is no constant which needs a map */
	__u64 arg = (__u64)address;

	bpf_seq_printf(seq, format, sizeof(format), &arg, sizeof(arg));
}

static __noinline int put_restart(struct seq_file *seq, struct task_struct *task)
{
	RECORD(r, kage_task_restart);
	struct kage_task_restart *b = &r.body;
	void *function = 0;

	/* A union of pointers and numbers, which the verifier lets nobody load as either. */
	READ(b->uaddr.v, task->restart_block.futex.uaddr);
	READ(b->uaddr2.v, task->restart_block.futex.uaddr2);
	READ(b->val, task->restart_block.futex.val);
	READ(b->futex_flags, task->restart_block.futex.flags);
	READ(b->bitset, task->restart_block.futex.bitset);
	READ(b->futex_time_ns, task->restart_block.futex.time);
	READ(b->clock, task->restart_block.nanosleep.clockid);
	READ(b->rmtp.v, task->restart_block.nanosleep.rmtp);
	READ(b->expires_ns, task->restart_block.nanosleep.expires);
	READ(b->ufds.v, task->restart_block.poll.ufds);
	READ(b->nfds, task->restart_block.poll.nfds);
	READ(b->has_timeout, task->restart_block.poll.has_timeout);
	READ(b->tv_sec, task->restart_block.poll.tv_sec);
	READ(b->tv_nsec, task->restart_block.poll.tv_nsec);
	r.head.size += KAGE_TASK_SYMBOL_BYTES;
	SEND(seq, TASK_RESTART, r);
	READ(function, task->restart_block.fn);
	put_symbol(seq, function);
	return 0;
}

/* A call that moves bytes keeps on its own stack how many of them it has moved, beside the address of
 * the program's buffer. */
static __noinline int look_for_transfer(struct seq_file *seq, __u64 pointer)
{
	struct iov_iter *iter = (void *)(pointer - bpf_core_field_offset(struct iov_iter, ubuf));
	RECORD(r, kage_task_transfer);
	__u64 segments = 0;
	__u8 type = 1;

	READ(type, iter->iter_type);
	READ(segments, iter->nr_segs);
	if (type || segments != 1) /* 0: ITER_UBUF */
		return 0;
	READ(r.body.done, iter->iov_offset);
	READ(r.body.left, iter->count);
	return SEND(seq, TASK_TRANSFER, r);
}

/* A sleeper with a timeout has its timer on its own stack, followed by a pointer to itself. What
 * else on the stack points to the task is told apart by the reader, from the name of the function
 * which the timer calls. */
struct stack_walk {
	struct seq_file *seq;
	__u64 task;
	__u64 buffer; /* of the program, which a transfer is to or from; else the task again */
	__u64 from;
	__u64 chunk;
	__u64 hits; /* of the words of the chunk, those that point to one of them */
};

static __always_inline void put_sleep(struct stack_walk *w, struct kage_task_sleep *s,
				      void *function)
{
	RECORD(r, kage_task_sleep);

	r.body = *s;
	r.head.size += KAGE_TASK_SYMBOL_BYTES;
	SEND(w->seq, TASK_SLEEP, r);
	put_symbol(w->seq, function);
}

static __noinline int look_for_hrtimer(struct stack_walk *w, __u64 pointer)
{
	struct hrtimer_sleeper *s =
		(void *)(pointer - bpf_core_field_offset(struct hrtimer_sleeper, task));
	struct kage_task_sleep found = { .kind = 1 };
	struct hrtimer_clock_base *base = 0;
	void *function = 0;
	__u8 state = 0;

	READ(state, s->timer.state);
	READ(function, s->timer.function);
	if (state != 1)
		return 0;
	READ(base, s->timer.base);
	READ(found.clock, base->clockid);
	READ(found.offset_ns, base->offset);
	READ(found.expires, s->timer.node.expires);
	READ(found.soft_expires, s->timer._softexpires);
	found.now = bpf_ktime_get_ns();
	put_sleep(w, &found, function);
	return 0;
}

static __noinline int look_for_wheel(struct stack_walk *w, __u64 pointer)
{
	struct process_timer *p =
		(void *)(pointer - bpf_core_field_offset(struct process_timer, task));
	struct kage_task_sleep found = { .kind = 2 };
	void *function = 0, *queued = 0;

	READ(queued, p->timer.entry.pprev);
	if (!queued)
		return 0;
	READ(function, p->timer.function);
	READ(found.expires, p->timer.expires);
	found.soft_expires = found.expires;
	found.now = bpf_jiffies64();
	put_sleep(w, &found, function);
	return 0;
}

enum { STACK_CHUNK = 8, MAX_STACK = 32768 };

static int look_at_word(__u32 i, void *data)
{
	struct stack_walk *w = data;
	__u64 pointer = w->chunk + i * 8;

	if (!(w->hits >> i & 1))
		return 0;
	look_for_hrtimer(w, pointer);
	if (bpf_core_type_exists(struct process_timer))
		look_for_wheel(w, pointer);
	if (bpf_core_field_exists(struct iov_iter, ubuf))
		look_for_transfer(w->seq, pointer);
	return 0;
}

static int look_at_stack(__u32 i, void *data)
{
	struct stack_walk *w = data;
	__u64 words[STACK_CHUNK] = {};
	__u64 hits = 0;

	w->chunk = w->from + (__u64)i * sizeof(words);
	bpf_probe_read_kernel(words, sizeof(words), (void *)w->chunk);
#pragma unroll
	for (int k = 0; k < STACK_CHUNK; k++) {
		__u64 differ = words[k] ^ w->task, others = words[k] ^ w->buffer;

		/* Its sign is set unless it was zero. No branch: the verifier would follow both
		 * ways of every word. */
		differ |= -differ;
		others |= -others;
		differ &= others;
		barrier_var(differ);
		hits |= (~differ >> 63) << k;
	}
	w->hits = hits;
	if (hits)
		bpf_loop(STACK_CHUNK, look_at_word, w, 0);
	return 0;
}

/* The buffer of the calls that have one, in the second argument: read, write, sendto, recvfrom. OTHERWISE
 * for all other calls. */
static __noinline __u64 transfer_buffer(struct task_struct *task, __u64 otherwise)
{
	struct kage_task_regs g = {};

	bpf_probe_read_kernel(&g, PT_REGS_BYTES, (void *)bpf_task_pt_regs(task));
	if (g.orig_ax == 0 || g.orig_ax == 1 || g.orig_ax == 44 || g.orig_ax == 45)
		return g.si;
	return otherwise;
}

static __noinline int put_sleeps(struct seq_file *seq, struct task_struct *task)
{
	struct stack_walk w; /* `chunk` and `hits` are set by each round before it uses them */
	/* The stack ends where the saved registers begin. */
	__u64 end = as_number((void *)bpf_task_pt_regs(task));

	w.seq = seq;
	w.task = as_number(task);
	w.buffer = transfer_buffer(task, w.task);
	w.from = task->thread.sp;
	if (w.from >= end || end - w.from > MAX_STACK)
		return 0;
	bpf_loop((end - w.from) / (STACK_CHUNK * 8), look_at_stack, &w, 0);
	return 0;
}

/* --- all of it ---------------------------------------------------------------------------------------- */

static __noinline int put_end(struct seq_file *seq, struct task_struct *task)
{
	RECORD(r, kage_task_pulse);

	take_pulse(&r.body, task);
	return SEND(seq, TASK_END, r);
}

/* The long straight functions stand first, those that walk lists last: the verifier goes through what
 * follows a walk once for each way in which the walk can end. */
SEC("iter/task")
int kage_task(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task;
	struct signal_struct *signal = 0;
	struct sighand_struct *sighand = 0;
	struct mm_struct *mm = 0;
	struct cred *cred = 0;

	if (!task)
		return 0;
	READ(signal, task->signal);
	READ(sighand, task->sighand);
	READ(mm, task->mm);
	READ(cred, task->real_cred);
	put_thread(seq, task);
	put_creds(seq, cred);
	put_mm(seq, mm);
	put_regs(seq, task);
	put_restart(seq, task);
	put_sleeps(seq, task);
	put_xsave(seq, task);
	put_signals(seq, &task->pending.list, TASK_SIGNAL);
	if (ctx->meta->seq_num == 0) {
		put_process(seq, signal);
		put_actions(seq, sighand);
		put_signals(seq, &signal->shared_pending.list, TASK_SHARED_SIGNAL);
		put_timers(seq, signal);
	}
	put_end(seq, task);
	return 0;
}
