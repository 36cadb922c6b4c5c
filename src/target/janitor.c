/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The janitor: takes the private copy of the vDSO's page away that laying down the runner has made.
 *
 * Only a process that shares the memory can drop a page (madvise(2), MADV_DONTNEED), and a thread of
 * the target cannot, because it would run in the very page and could not be brought back safely if we
 * were killed just then. So the thread makes a process J1 that shares its memory, J1 makes another,
 * J2, and ends; the thread reaps J1; J2, an orphan by then, makes the one call and ends. No signal is
 * sent to anyone (exit signal 0), and what is held by us dies with us (PTRACE_O_EXITKILL): whenever
 * we are killed the target is unharmed.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "target/batch.h"

enum { SHARE_ALL = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND, BIRTH_TIMEOUT_MS = 5000 };

static void end_process(struct kage_thread *j)
{
	int status = 0;

	if (!j->tid)
		return;
	kill(j->tid, SIGKILL);
	while (waitpid(j->tid, &status, __WALL) >= 0 || errno == EINTR)
		if (WIFEXITED(status) || WIFSIGNALED(status))
			break;
	j->tid = 0;
}

static struct kage_err *set_options(pid_t tid, uintptr_t options)
{
	if (ptrace(PTRACE_SETOPTIONS, tid, NULL, (void *)options) < 0)
		return kage_err_sys(errno, "set trace options of %d", tid);
	return NULL;
}

/* Makes PARENT fork in the runner; the child stands before its first instruction, and dies with us. */
static struct kage_err *split(struct kage_target *t, struct kage_thread *parent,
			      const struct kage_regs *from, struct kage_thread *ret_child)
{
	_cleanup_free_ struct kage_regs *regs = calloc(1, sizeof(*regs));
	unsigned long born = 0;
	struct kage_stop stop;

	if (!regs)
		return kage_err_nomem();
	kage_arch_enter_split(from, t->site->runner, SHARE_ALL, regs);
	TRY(kage_arch_set_regs(parent->tid, false, regs));
	TRY(kage_target_step_syscall(t, parent));
	TRY(kage_target_step_syscall(t, parent));
	if (ptrace(PTRACE_GETEVENTMSG, parent->tid, NULL, &born) < 0 || !born) {
		TRY(kage_arch_get_regs(parent->tid, false, regs));
		return kage_err_sys((int)-kage_arch_result(regs), "make a helper process");
	}
	ret_child->tid = (pid_t)born;
	ret_child->attached = true;
	TRY(kage_target_wait(t, ret_child->tid, BIRTH_TIMEOUT_MS * 1000000ull, &stop));
	ret_child->stopped = stop.what != STOP_ENDED;
	return set_options(ret_child->tid,
			   PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE);
}

/* A system call instruction of the vDSO itself: in its first page when it has several, else in what
 * comes back in the same place. */
static struct kage_err *find_instruction(struct kage_target *t, uint64_t *ret_at)
{
	uint8_t code[KAGE_PAGE_BYTES];
	long found;

	TRY(kage_target_read(t, addr(t->site->vdso_start), code, sizeof(code)));
	found = kage_arch_find_syscall(code, sizeof(code));
	*ret_at = t->site->vdso_start + (uint64_t)found;
	if (found < 0 || *ret_at >= t->site->runner)
		return kage_err_new(KAGE_UNSUPPORTED, "the vDSO has no system call instruction");
	return NULL;
}

static struct kage_err *call_in(struct kage_target *t, struct kage_thread *j,
				const struct kage_regs *from, uint64_t number,
				const uint64_t args[6])
{
	_cleanup_free_ struct kage_regs *regs = calloc(1, sizeof(*regs));
	uint64_t at = 0;

	if (!regs)
		return kage_err_nomem();
	TRY(find_instruction(t, &at));
	kage_arch_enter_syscall(from, at, number, args, regs);
	TRY(kage_arch_set_regs(j->tid, false, regs));
	TRY(kage_target_step_syscall(t, j));
	TRY(kage_target_step_syscall(t, j));
	TRY(kage_arch_get_regs(j->tid, false, regs));
	if (kage_arch_result(regs) < 0)
		return kage_err_sys((int)-kage_arch_result(regs), "make system call %d in a helper",
				    (int)number);
	return NULL;
}

/* J2's work. It leaves the target's session first: until init has reaped it, it would keep the
 * target's number from being given again. */
static struct kage_err *drop(struct kage_target *t, struct kage_thread *j,
			     const struct kage_regs *from)
{
	const uint64_t none[6] = { 0 };
	const uint64_t page[6] = { page_floor(t->site->runner), KAGE_PAGE_BYTES, MADV_DONTNEED };

	TRY(call_in(t, j, from, SYS_setsid, none));
	TRY(call_in(t, j, from, SYS_madvise, page));
	t->site->page_dropped = true;
	return NULL;
}

struct kage_err *kage_janitor_make(struct kage_target *t, struct kage_thread *thread,
				   struct kage_thread **ret_janitor)
{
	_cleanup_free_ struct kage_thread *j1 = calloc(1, sizeof(*j1));
	_cleanup_free_ struct kage_thread *j2 = calloc(1, sizeof(*j2));
	struct kage_err *e, *e2 = NULL;

	if (!j1 || !j2)
		return kage_err_nomem();
	TRY(set_options(thread->tid, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE));
	e = split(t, thread, &thread->regs, j1);
	if (!e)
		e = split(t, j1, &thread->regs, j2);
	end_process(j1);
	/* The thread goes on to reap J1: out of clone, into wait4, out of it. */
	if (j1->attached)
		for (int i = 0; i < 3 && !e2; i++)
			e2 = kage_target_step_syscall(t, thread);
	if (!e2)
		e2 = set_options(thread->tid, PTRACE_O_TRACESYSGOOD);
	if (!e)
		e = e2;
	else
		err_drop(e2);
	if (e)
		end_process(j2);
	else
		*ret_janitor = take_ptr(j2);
	return e;
}

struct kage_err *kage_janitor_drop_page(struct kage_target *t, struct kage_thread *janitor)
{
	struct kage_err *e = drop(t, janitor, &t->site->thread->regs);

	end_process(janitor);
	free(janitor);
	return e;
}
