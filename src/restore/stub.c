/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stub: the process that a restored one is made of.
 *
 * It is a plain copy of ourselves without our other threads, and waits in read(2) on a pipe of ours
 * until we hold it by ptrace; should we die before, the pipe ends and so does it. From then on
 * PTRACE_O_EXITKILL ends it with us, until it is let go whole. It runs nothing of ours but the few
 * raw system calls below and batches.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/memory.h"
#include "restore/pidns.h"
#include "restore/restore.h"

enum { CODE_BYTES = 4096, STUB_MARGIN_BYTES = 16 << 20 };

static const uint64_t user_floor = 1ull << 24;
static const uint64_t stop_timeout_ns = 10ull * 1000 * 1000 * 1000;

static struct kage_err *map_shared(uint64_t at, size_t bytes, uint8_t **ret_base)
{
	void *p = mmap((void *)(uintptr_t)at, bytes, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p == MAP_FAILED)
		return kage_err_sys(errno, "map %zu bytes at %#" PRIx64, bytes, at);
	*ret_base = p;
	return NULL;
}

struct kage_err *stub_area_map(struct kage_restore *r, size_t area_bytes,
			       struct stub_area *ret_area)
{
	_cleanup_(kage_maps_deinit) struct kage_maps ours = { 0 };
	_cleanup_(kage_maps_deinit) struct kage_maps theirs = { 0 };
	_cleanup_fd_ int self = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	size_t bytes = CODE_BYTES + page_ceil(area_bytes), code_size;
	const void *code;
	uint64_t at;

	if (self < 0)
		return kage_err_sys(errno, "open /proc/self");
	TRY(kage_maps_read(self, false, &ours));
	TRY(kage_memory_layout(r->process->memory, &theirs));
	at = kage_maps_common_hole(&ours, &theirs, bytes + STUB_SPARE_BYTES, STUB_MARGIN_BYTES,
				   user_floor, KAGE_ARCH_USER_CEILING);
	if (!at)
		return kage_err_new(KAGE_LIMIT, "no room for %zu bytes beside the image's memory",
				    bytes);
	TRY(map_shared(at, bytes, &ret_area->base));
	code = kage_arch_runner(&code_size);
	memcpy(ret_area->base, code, code_size);
	ret_area->bytes = bytes;
	ret_area->spare = at + bytes;
	if (mprotect(ret_area->base, CODE_BYTES, PROT_READ | PROT_EXEC) < 0) {
		stub_area_unmap(ret_area);
		return kage_err_sys(errno, "make the runner executable");
	}
	return NULL;
}

void stub_area_unmap(struct stub_area *area)
{
	if (area->base)
		munmap(area->base, area->bytes);
	area->base = NULL;
}

/* The child. The C library must not be used here: our other threads may have held its locks. */
static _Noreturn void stub_main(const int wait_fds[2])
{
	char c;

	syscall(SYS_close, wait_fds[1]);
	while (syscall(SYS_read, wait_fds[0], &c, 1) < 0)
		;
	syscall(SYS_exit_group, 1);
	__builtin_unreachable();
}

static struct kage_err *fork_stub(pid_t pid, const int wait_fds[2], pid_t *ret_pid, int *ret_pidfd)
{
	int pidfd = -1;
	struct clone_args args = {
		.flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
		.pidfd = (uint64_t)(uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
		.set_tid = (uint64_t)(uintptr_t)&pid,
		.set_tid_size = pid ? 1 : 0,
	};
	long r = syscall(SYS_clone3, &args, sizeof(args));

	if (r == 0)
		stub_main(wait_fds);
	if (r < 0 && errno == EEXIST)
		return kage_err_new(KAGE_BUSY,
				    "process number %d is taken; end that process, or "
				    "restore with --pid new",
				    pid);
	if (r < 0)
		return kage_err_sys(errno, "make a process with number %d", pid);
	*ret_pid = (pid_t)r;
	*ret_pidfd = pidfd;
	return NULL;
}

static struct kage_err *hold(struct kage_target *stub)
{
	const uintptr_t options = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE;
	struct kage_thread *leader = kage_target_add_thread(stub, stub->pid);
	struct kage_stop stop;

	if (!leader)
		return kage_err_nomem();
	if (ptrace(PTRACE_SEIZE, stub->pid, NULL, (void *)options) < 0)
		return kage_err_sys(errno, "attach to the new process %d", stub->pid);
	leader->attached = true;
	leader->inner_tid = stub->inner_pid;
	if (ptrace(PTRACE_INTERRUPT, stub->pid, NULL, NULL) < 0)
		return kage_err_sys(errno, "stop the new process %d", stub->pid);
	do {
		TRY(kage_target_wait(stub, stub->pid, stop_timeout_ns, &stop));
		if (stop.what == STOP_ENDED)
			return kage_err_new(KAGE_GONE, "the new process %d ended", stub->pid);
		if (stop.what != STOP_EVENT)
			ptrace(PTRACE_CONT, stub->pid, NULL, NULL);
	} while (stop.what != STOP_EVENT);
	leader->stopped = true;
	leader->sigmask = ~0ull;
	return kage_arch_get_regs(stub->pid, true, &leader->regs);
}

static struct kage_err *open_proc(struct kage_target *stub)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d", stub->pid);
	stub->proc_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (stub->proc_fd < 0)
		return kage_err_sys(errno, "open %s", path);
	stub->mem_fd = openat(stub->proc_fd, "mem", O_RDWR | O_CLOEXEC);
	if (stub->mem_fd < 0)
		return kage_err_sys(errno, "open %s/mem", path);
	return NULL;
}

static uint64_t signal_bit(uint32_t signal)
{
	return signal >= 1 && signal <= 64 ? 1ull << (signal - 1) : 0;
}

/* Signals that wait in the image, or that its timers and descriptors send. */
static uint64_t signals_used(const struct kage_restore *r)
{
	const Kage__Process *p = r->process;
	uint64_t used = 0;

	for (size_t i = 0; i < p->n_pending; i++)
		used |= signal_bit(p->pending[i]->signal);
	for (size_t i = 0; i < p->n_threads; i++)
		for (size_t k = 0; k < p->threads[i]->n_pending; k++)
			used |= signal_bit(p->threads[i]->pending[k]->signal);
	for (size_t i = 0; i < p->n_posix_timers; i++)
		used |= signal_bit(p->posix_timers[i]->signal);
	for (size_t i = 0; i < r->image->msg->n_descriptions; i++)
		used |= signal_bit(r->image->msg->descriptions[i]->owner_signal);
	return used;
}

/* The signal that tells of a batch's end must be no other's: one of the program's own would be taken for
 * it while it is queued, and lost. */
struct kage_err *stub_choose_event(const struct kage_restore *r, int *ret_signal)
{
	static const int at_best[] = { SIGURG, SIGWINCH, SIGCHLD };
	uint64_t used = signals_used(r);

	for (size_t i = 0; i < ARRAY_SIZE(at_best); i++)
		if (!(used & signal_bit((uint32_t)at_best[i]))) {
			*ret_signal = at_best[i];
			return NULL;
		}
	for (int signal = SIGRTMAX; signal >= SIGRTMIN; signal--)
		if (!(used & signal_bit((uint32_t)signal))) {
			*ret_signal = signal;
			return NULL;
		}
	return kage_err_new(KAGE_LIMIT, "no signal is left: all of them wait in the image");
}

static struct kage_err *give_site(const struct kage_restore *r, struct kage_target *stub,
				  const struct stub_area *area)
{
	struct kage_site *s = calloc(1, sizeof(*s));

	if (!s)
		return kage_err_nomem();
	s->runner = (uint64_t)(uintptr_t)area->base;
	s->area = s->runner + CODE_BYTES;
	s->area_here = area->base + CODE_BYTES;
	s->area_bytes = area->bytes - CODE_BYTES;
	stub->site = s;
	return stub_choose_event(r, &s->event_signal);
}

static struct kage_err *set_up(const struct kage_restore *r, struct kage_target *stub,
			       const struct stub_area *area)
{
	kage_target_block_signals(stub);
	stub->frozen = true;
	stub->ours = true;
	TRY(hold(stub));
	TRY(open_proc(stub));
	return give_site(r, stub, area);
}

/* Makes the process, in NS when there is one, and gives its number here. */
static struct kage_err *fork_in(struct kage_restore *r, const struct pidns *ns,
				const int wait_fds[2], pid_t *ret_pid, int *ret_pidfd)
{
	struct kage_err *e, *e2;

	if (!ns)
		return fork_stub(r->process->pid, wait_fds, ret_pid, ret_pidfd);
	TRY(pidns_enter(ns));
	e = fork_stub(r->process->pid, wait_fds, ret_pid, ret_pidfd);
	e2 = pidns_leave(ns);
	if (!e)
		return e2;
	err_drop(e2);
	return e;
}

static struct kage_err *make_held(struct kage_restore *r, const struct stub_area *area,
				  const struct pidns *ns, struct kage_target **ret_stub)
{
	_cleanup_fd_ int wait_read = -1, wait_write = -1, pidfd = -1;
	struct kage_err *e;
	int fds[2];
	pid_t born = 0;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return kage_err_sys(errno, "make a pipe");
	wait_read = fds[0];
	wait_write = fds[1];
	e = fork_in(r, ns, fds, &born, &pidfd);
	if (!e)
		e = kage_target_adopt(r->ctx, born, pidfd, ret_stub);
	if (e) {
		/* The end of the pipe ends it. */
		close_fd(take_fd(&wait_write));
		if (born)
			waitpid(born, NULL, __WALL);
		return e;
	}
	take_fd(&pidfd);
	if (ns)
		(*ret_stub)->inner_pid = r->process->pid;
	e = set_up(r, *ret_stub, area);
	if (e)
		stub_destroy(take_ptr(*ret_stub));
	return e;
}

struct kage_err *stub_make(struct kage_restore *r, const struct stub_area *area,
			   struct kage_target **ret_stub)
{
	_cleanup_(pidns_deinit) struct pidns ns = PIDNS_NONE;
	struct kage_target *stub = NULL;

	if (r->options->pid != KAGE_PID_SAME && r->options->pid != KAGE_PID_NEW)
		return kage_err_new(KAGE_INVALID,
				    "only a life of a twin can have numbers of its own");
	if (r->options->pid == KAGE_PID_SAME) {
		TRY(make_held(r, area, NULL, &stub));
	} else {
		struct kage_err *e;

		TRY(pidns_create(false, &ns));
		TRY(make_held(r, area, &ns, &stub));
		e = pidns_tie(&ns, r->process->pid);
		if (e) {
			stub_destroy(stub);
			return e;
		}
	}
	*ret_stub = stub;
	return NULL;
}

void stub_destroy(struct kage_target *stub)
{
	if (!stub)
		return;
	pidfd_send_signal(stub->pidfd, SIGKILL, NULL, 0);
	kage_target_thaw(stub, true);
	kage_target_close(stub);
}
