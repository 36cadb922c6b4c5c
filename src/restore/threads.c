/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads of a restored process: made, given what is theirs, let go.
 */
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "kind/threads.h"
#include "restore/restore.h"
#include "sys/maps.h"

static const uint64_t stop_timeout_ns = 10ull * 1000 * 1000 * 1000;

/* In place most of them are there. */
static bool is_missing(const struct kage_restore *r, size_t i)
{
	return r->in_place ? !kage_target_thread(r->stub, r->process->threads[i]->tid) : i > 0;
}

/* Somebody else may have got a thread's number meanwhile. B has made those threads of which MADE are the indices. */
static struct kage_err *explain(struct kage_err *e, const Kage__Process *p, const size_t *made,
				const struct kage_batch *b)
{
	for (size_t i = 0; e && i < b->n_done; i++) {
		if (kage_batch_result(b, i) != -EEXIST)
			continue;
		err_drop(e);
		return kage_err_new(KAGE_BUSY,
				    "thread number %d is taken; end that process, or restore with "
				    "--pid new",
				    p->threads[made[i]]->tid);
	}
	return e;
}

struct kage_err *threads_make(struct kage_restore *r)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;
	struct kage_target *stub = r->stub;
	const Kage__Process *p = r->process;
	_cleanup_free_ size_t *made = calloc(p->n_threads, sizeof(*made));
	size_t n_there = stub->n_threads;

	if (!made)
		return kage_err_nomem();
	kage_batch_init(&b);
	for (size_t i = 0; i < p->n_threads; i++) {
		struct clone_args args = {
			.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
				 CLONE_SYSVSEM,
			.set_tid_size = r->own_numbers ? 0 : 1,
		};
		size_t tid, at;

		if (!is_missing(r, i))
			continue;
		made[b.n] = i;
		tid = kage_batch_data(&b, &p->threads[i]->tid, sizeof(int32_t));
		at = kage_batch_data(&b, &args, sizeof(args));
		if (args.set_tid_size)
			kage_batch_point(&b, at + offsetof(struct clone_args, set_tid), tid);
		BATCH(&b, "make a thread", SYS_clone3, DATA(at), V(sizeof(args)));
	}
	TRY(explain(kage_batch_run(stub, stub->threads[0], &b), p, made, &b));
	if (stub->n_threads != p->n_threads)
		return kage_err_new(KAGE_SYS, "%zu of %zu threads were made", stub->n_threads,
				    p->n_threads);
	for (size_t i = n_there; i < p->n_threads; i++)
		stub->threads[i]->sigmask = ~0ull;
	for (size_t i = 0; stub->inner_pid && i < p->n_threads; i++)
		stub->threads[i]->inner_tid = p->threads[i]->tid;
	return NULL;
}

/* The thread's own filters must not hit what is left to do; it dies with us if we do. */
static struct kage_err *suspend_filters(struct kage_restore *r, size_t i)
{
	const Kage__Thread *msg = r->process->threads[i];

	/* A life is born so. */
	if (!msg->seccomp_mode || r->twin)
		return NULL;
	if (ptrace(PTRACE_SETOPTIONS, r->stub->threads[i]->tid, NULL,
		   (void *)(uintptr_t)(PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD |
				       PTRACE_O_SUSPEND_SECCOMP)) < 0)
		return kage_err_sys(errno, "suspend seccomp while thread %d is restored", msg->tid);
	return NULL;
}

/* What B has gathered, and what is thread I's own. */
static struct kage_err *build_one(struct kage_restore *r, size_t i, struct kage_batch *b)
{
	TRY(suspend_filters(r, i));
	for (const struct kage_kind *const *k = kage_kinds; *k; k++)
		if ((*k)->build_thread)
			TRY_WRAP((*k)->build_thread(r, r->process->threads[i], b), "%s",
				 (*k)->name);
	return kage_batch_run(r->stub, r->stub->threads[i], b);
}

struct kage_err *threads_build(struct kage_restore *r, struct kage_batch *b)
{
	/* The leader last: what it loses, the others may still need. But they may need what is done for all of them. */
	if (r->stub->n_threads > 1) {
		TRY(kage_batch_run(r->stub, r->stub->threads[0], b));
		kage_batch_reset(b);
	}
	for (size_t i = r->stub->n_threads; i-- > 0;) {
		TRY_WRAP(build_one(r, i, b), "thread %d", r->process->threads[i]->tid);
		kage_batch_reset(b);
	}
	return NULL;
}

/* --- letting go --------------------------------------------------------------------------------- */

/* A system call instruction in the vDSO, which stays when everything of ours is gone. */
struct kage_err *restore_find_syscall(struct kage_restore *r, uint64_t *ret_address)
{
	const Kage__Memory *m = r->process->memory;

	for (size_t i = 0; i < m->n_mappings; i++) {
		const Kage__Mapping *map = m->mappings[i];
		size_t size = map->end - map->start;
		_cleanup_free_ void *code = NULL;
		long at;

		if (map->backing != KAGE__MAPPING__BACKING__VDSO)
			continue;
		code = malloc(size);
		if (!code)
			return kage_err_nomem();
		TRY(kage_target_read(r->stub, addr(map->start), code, size));
		at = kage_arch_find_syscall(code, size);
		if (at >= 0) {
			*ret_address = map->start + (uint64_t)at;
			return NULL;
		}
	}
	return kage_err_new(KAGE_UNSUPPORTED, "the image has no vDSO with a system call in it");
}

/* The last call of ours, made by the leader, which has its final registers already. A wait that was
 * begun anew survives it: this call leaves the restart block alone. */
static struct kage_err *unmap_area(struct kage_restore *r, const struct stub_area *area)
{
	struct kage_thread *leader = r->stub->threads[0];
	_cleanup_free_ struct kage_regs *final = calloc(1, sizeof(*final));
	_cleanup_free_ struct kage_regs *regs = calloc(1, sizeof(*regs));
	const uint64_t args[6] = { (uint64_t)(uintptr_t)area->base, area->bytes };
	uint64_t at = 0;

	if (!regs || !final)
		return kage_err_nomem();
	TRY(restore_find_syscall(r, &at));
	TRY(kage_arch_get_regs(leader->tid, false, final));
	kage_arch_enter_syscall(final, at, SYS_munmap, args, regs);
	TRY(kage_arch_set_regs(leader->tid, false, regs));
	TRY(kage_target_step_syscall(r->stub, leader));
	TRY(kage_target_step_syscall(r->stub, leader));
	TRY(kage_arch_get_regs(leader->tid, false, regs));
	if (kage_arch_result(regs) != 0)
		return kage_err_sys((int)-kage_arch_result(regs), "unmap the batch's memory");
	TRY(kage_target_settle(r->stub, leader));
	return kage_arch_set_regs(leader->tid, false, final);
}

/* Registers of thread I, or a wait begun anew. */
static struct kage_err *load(struct kage_restore *r, struct waits *w, size_t i)
{
	const Kage__Thread *msg = r->process->threads[i];
	_cleanup_free_ struct kage_regs *regs = calloc(1, sizeof(*regs));
	bool waiting;

	if (!regs)
		return kage_err_nomem();
	TRY(kage_threads_final_regs(r, msg, regs));
	TRY(waits_begin(r, w, i, regs, &waiting));
	/* A signal that waits already must hit the thread in its call, not before it: a program may go
	 * by that it ends with EINTR. */
	if (!waiting)
		kage_arch_interrupt_call(msg->syscall, regs);
	return waiting ? NULL : kage_arch_set_regs(r->stub->threads[i]->tid, true, regs);
}

static struct kage_err *set_mask(struct kage_restore *r, size_t i)
{
	uint64_t mask = r->process->threads[i]->blocked;

	if (ptrace(PTRACE_SETSIGMASK, r->stub->threads[i]->tid, (void *)sizeof(mask), &mask) < 0)
		return kage_err_sys(errno, "set the signal mask of thread %d",
				    r->process->threads[i]->tid);
	return NULL;
}

/* Brings about a stop of the whole process, which threads stay in when they are let go. As long as all other
 * signals are blocked: one that waits in the image waits until the program is continued. */
static struct kage_err *stop_all(struct kage_target *stub)
{
	struct kage_thread *leader = stub->threads[0];
	struct kage_stop stop;
	uintptr_t signal = 0;

	if (pidfd_send_signal(stub->pidfd, SIGSTOP, NULL, 0) < 0)
		return kage_err_sys(errno, "stop the restored process");
	do {
		leader->stopped = false;
		ptrace(PTRACE_CONT, leader->tid, NULL, (void *)signal);
		TRY(kage_target_wait(stub, leader->tid, stop_timeout_ns, &stop));
		if (stop.what == STOP_ENDED)
			return kage_err_new(KAGE_GONE, "the new process %d ended", stub->pid);
		leader->stopped = true;
		signal = stop.what == STOP_SIGNAL ? (uintptr_t)stop.signal : 0;
	} while (stop.what != STOP_EVENT || stop.signal != SIGSTOP);
	return NULL;
}

struct kage_err *threads_release(struct kage_restore *r, const struct stub_area *area, bool stopped)
{
	struct kage_target *stub = r->stub;
	struct waits w = { 0 };

	for (size_t i = 0; i < stub->n_threads; i++)
		TRY_WRAP(load(r, &w, i), "thread %d", r->process->threads[i]->tid);
	TRY(unmap_area(r, area));
	if (stopped)
		TRY(stop_all(stub));
	for (size_t i = 0; i < stub->n_threads; i++)
		TRY(set_mask(r, i));
	if (!stopped)
		waits_release_on_sockets(r);
	stub->ours = false;
	kage_site_destroy(take_ptr(stub->site));
	kage_target_thaw(stub, false);
	return NULL;
}
