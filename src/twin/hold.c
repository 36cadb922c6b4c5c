/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A twin is born in the middle of a batch: the runner lies in its copy of the vDSO's page, the batch's area is mapped.
 * From there a first batch receives a memfd and maps it: that is where all others lie. Then what the birth has
 * left is cleared away.
 */
#include "twin/hold.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/sched.h>

#include "base/cleanup.h"
#include "sys/kernel.h"
#include "target/batch.h"

enum {
	CODE_BYTES = 4096,
	MARGIN_BYTES = 16 << 20,
	BYTES_OF_FD = sizeof(int),
	BIRTH_MS = 30000,
};

static const uint64_t stop_timeout_ns = 10ull * 1000 * 1000 * 1000;
static const uint64_t user_floor = 1ull << 24;
static const uintptr_t hold_options =
	PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE;

/* --- descriptors ------------------------------------------------------------------------------ */

struct kage_err *kage_twin_send(int socket, const int *fds, size_t n)
{
	union {
		char bytes[CMSG_SPACE(KAGE_TWIN_GIVE_MOST * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
			       .cmsg_type = SCM_RIGHTS,
			       .cmsg_len = CMSG_LEN(n * sizeof(int)) };
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	if (sendmsg(socket, &msg, MSG_NOSIGNAL) < 0)
		return kage_err_sys(errno, "pass %zu descriptors", n);
	return NULL;
}

struct kage_err *kage_twin_give(const struct kage_twin *twin, const int *fds, size_t n)
{
	return kage_err_wrap(kage_twin_send(twin->hold_fd, fds, n), "process %d",
			     twin->process->pid);
}

void kage_twin_say_receive(struct kage_batch *b, int socket, size_t n, size_t *ret_at)
{
	struct iovec iov = { .iov_len = 1 };
	struct msghdr msg = { .msg_iovlen = 1, .msg_controllen = CMSG_SPACE(n * BYTES_OF_FD) };
	size_t byte = kage_batch_data(b, NULL, 1);
	size_t control = kage_batch_data(b, NULL, msg.msg_controllen + sizeof(uint64_t));
	size_t vec = kage_batch_data(b, &iov, sizeof(iov));
	size_t at = kage_batch_data(b, &msg, sizeof(msg));

	kage_batch_point(b, vec + offsetof(struct iovec, iov_base), byte);
	kage_batch_point(b, at + offsetof(struct msghdr, msg_iov), vec);
	kage_batch_point(b, at + offsetof(struct msghdr, msg_control), control);
	BATCH(b, "receive descriptors", SYS_recvmsg, V(socket), DATA(at), V(0));
	*ret_at = control + CMSG_LEN(0);
}

/* Of a stream each recvmsg(2) or recvfrom(2) ends behind what came with descriptors; those are dropped. */
static bool take_back_some(struct kage_twin *twin)
{
	enum { AT_ONCE = 16 };
	_cleanup_(kage_batch_deinit) struct kage_batch b;
	size_t byte, last = 0;
	struct kage_err *e;

	kage_batch_init(&b);
	byte = kage_batch_data(&b, NULL, 1);
	for (int i = 0; i < AT_ONCE; i++)
		last = BATCH_TRY(&b, "take a message back", SYS_recvfrom, V(0), DATA(byte), V(1),
				 V(MSG_DONTWAIT), V(0), V(0));
	e = kage_batch_run(twin->process, twin->process->threads[0], &b);
	if (e) {
		err_drop(e);
		return false;
	}
	return kage_batch_result(&b, last) > 0;
}

void kage_twin_take_back(struct kage_twin *twin)
{
	struct kage_err *gone = kage_twin_check(twin);

	if (!gone)
		while (take_back_some(twin))
			;
	err_drop(gone);
}

/* --- taking in hand --------------------------------------------------------------------------- */

/* Filters of the program must not hit what it is made to do; it dies with us, so they are never missed
 * (PTRACE_O_SUSPEND_SECCOMP). Without the right they stay. */
static int seize(pid_t pid)
{
	if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)(hold_options | PTRACE_O_SUSPEND_SECCOMP)) == 0)
		return 0;
	return errno == EPERM ? (int)ptrace(PTRACE_SEIZE, pid, NULL, (void *)hold_options) : -1;
}

/* Until it has closed all but its socket. */
static struct kage_err *wait_for_birth(const struct kage_twin *twin)
{
	struct pollfd p = { .fd = twin->hold_fd, .events = POLLIN };
	char byte;
	int r;

	do
		r = poll(&p, 1, BIRTH_MS);
	while (r < 0 && errno == EINTR);
	if (r == 1 && read(twin->hold_fd, &byte, 1) == 1)
		return NULL;
	TRY(kage_twin_check(twin));
	return kage_err_new(KAGE_LIMIT, "its twin, process %d, did not run for %d s",
			    twin->process->pid, BIRTH_MS / 1000);
}

static struct kage_err *stop(struct kage_target *p, struct kage_thread **ret_thread)
{
	struct kage_thread *thread = kage_target_add_thread(p, p->pid);
	struct kage_stop stop;

	if (!thread)
		return kage_err_nomem();
	if (seize(p->pid) < 0)
		return kage_err_sys(errno, "trace the twin, process %d", p->pid);
	thread->attached = true;
	if (ptrace(PTRACE_INTERRUPT, p->pid, NULL, NULL) < 0)
		return kage_err_sys(errno, "stop the twin, process %d", p->pid);
	TRY(kage_target_wait(p, p->pid, stop_timeout_ns, &stop));
	if (stop.what != STOP_EVENT)
		return kage_err_new(KAGE_CHANGED,
				    "its twin, process %d, was ended by somebody else", p->pid);
	thread->stopped = true;
	thread->sigmask = ~0ull;
	TRY(kage_thread_learn_inner(p, thread));
	p->inner_pid = thread->inner_tid;
	*ret_thread = thread;
	return kage_arch_get_regs(p->pid, true, &thread->regs);
}

static struct kage_err *open_mem(struct kage_target *p)
{
	int fd = openat(p->proc_fd, "mem", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return kage_err_sys(errno, "open /proc/%d/mem", p->pid);
	close_fd(p->mem_fd);
	p->mem_fd = fd;
	return NULL;
}

/* Of the target; the twin has a copy. Any signal does: all are seen by us first. */
static struct kage_err *enter_birthplace(struct kage_twin *twin)
{
	struct kage_site *s = malloc(sizeof(*s));

	if (!s)
		return kage_err_nomem();
	*s = twin->born_in;
	s->live = false;
	s->area_here = NULL;
	s->event_signal = SIGURG;
	twin->process->site = s;
	twin->process->ours = true;
	return NULL;
}

/* Memory of ours at an address that is free in both. */
static struct kage_err *map_here(struct kage_twin *twin, const struct kage_maps *theirs,
				 size_t bytes, int *ret_memfd)
{
	_cleanup_(kage_maps_deinit) struct kage_maps ours = { 0 };
	_cleanup_fd_ int self = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_fd_ int memfd = memfd_create("kage batches", MFD_CLOEXEC);
	uint64_t at;
	void *p;

	if (self < 0 || memfd < 0 || ftruncate(memfd, (off_t)bytes) < 0)
		return kage_err_sys(errno, "make %zu bytes of shared memory", bytes);
	TRY(kage_maps_read(self, false, &ours));
	at = kage_maps_common_hole(&ours, theirs, bytes, MARGIN_BYTES, user_floor,
				   KAGE_ARCH_USER_CEILING);
	if (!at)
		return kage_err_new(KAGE_LIMIT, "no room for %zu bytes beside the twin's memory",
				    bytes);
	p = mmap((void *)(uintptr_t)at, bytes, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED_NOREPLACE, memfd, 0);
	if (p == MAP_FAILED)
		return kage_err_sys(errno, "map %zu bytes at %#llx", bytes, (unsigned long long)at);
	twin->area = p;
	twin->area_bytes = bytes;
	*ret_memfd = take_fd(&memfd);
	return NULL;
}

/* The first page, for the runner, is the twin's own. Its name is no longer that of the program, which somebody
 * may look for (pgrep(1), killall(1)). */
static struct kage_err *map_there(struct kage_twin *twin, struct kage_thread *thread, int memfd)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;
	uint64_t base = (uint64_t)(uintptr_t)twin->area;
	size_t fd, code_size;
	const void *code = kage_arch_runner(&code_size);

	kage_batch_init(&b);
	TRY(kage_twin_give(twin, &memfd, 1));
	kage_twin_say_receive(&b, 0, 1, &fd);
	BATCH(&b, "map shared memory", SYS_mmap, V(base), V(twin->area_bytes),
	      V(PROT_READ | PROT_WRITE), V(MAP_SHARED | MAP_FIXED_NOREPLACE), LOAD(fd), V(0));
	BATCH(&b, "map a page", SYS_mmap, V(base), V(CODE_BYTES), V(PROT_READ | PROT_EXEC),
	      V(MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED), V(-1), V(0));
	BATCH(&b, "close a descriptor", SYS_close, LOAD(fd));
	BATCH(&b, "name the twin", SYS_prctl, V(PR_SET_NAME),
	      DATA(kage_batch_string(&b, "kage-twin")));
	TRY(kage_batch_run(twin->process, thread, &b));
	return kage_target_write_forced(twin->process, addr(base), code, code_size);
}

static void move_in(struct kage_twin *twin)
{
	struct kage_site *s = twin->process->site;

	s->runner = (uint64_t)(uintptr_t)twin->area;
	s->area = s->runner + CODE_BYTES;
	s->area_here = (uint8_t *)twin->area + CODE_BYTES;
	s->area_bytes = twin->area_bytes - CODE_BYTES;
}

/* Shared mappings are other people's: a life gets its own, with the contents of the instant. */
static void say_unmap_shared(const struct kage_maps *maps, struct kage_batch *b)
{
	for (size_t i = 0; i < maps->n; i++) {
		const struct kage_vma *v = &maps->vmas[i];

		if (v->shared)
			BATCH(b, "give up a shared mapping", SYS_munmap, V(v->start),
			      V(v->end - v->start));
	}
}

/* Behind the vDSO's contents a restored program may have slots (kage_site_slot()): then only the runner is wiped. */
static struct kage_err *clear_page(struct kage_twin *twin, struct kage_batch *b)
{
	const struct kage_site *s = &twin->born_in;
	uint64_t page = page_floor(s->runner);
	uint8_t bytes[KAGE_PAGE_BYTES];
	_cleanup_free_ uint8_t *zeros = NULL;
	size_t size, from;

	kage_arch_runner(&size);
	from = s->runner + size - page;
	TRY(kage_target_read(twin->process, addr(page), bytes, sizeof(bytes)));
	for (size_t i = from; i < sizeof(bytes); i++)
		if (bytes[i]) {
			zeros = calloc(1, size);
			return zeros ? kage_target_write_forced(twin->process, addr(s->runner),
								zeros, size)
				     : kage_err_nomem();
		}
	BATCH(b, "drop a page", SYS_madvise, V(page), V(KAGE_PAGE_BYTES), V(MADV_DONTNEED));
	return NULL;
}

static struct kage_err *clear_away(struct kage_twin *twin, struct kage_thread *thread,
				   const struct kage_maps *maps)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;

	kage_batch_init(&b);
	BATCH(&b, "clear away", SYS_munmap, V(twin->born_in.area), V(twin->born_in.area_bytes));
	say_unmap_shared(maps, &b);
	TRY(clear_page(twin, &b));
	return kage_batch_run(twin->process, thread, &b);
}

static struct kage_err *hold(struct kage_twin *twin, size_t area_bytes)
{
	_cleanup_(kage_maps_deinit) struct kage_maps maps = { 0 };
	_cleanup_fd_ int memfd = -1;
	struct kage_target *p = twin->process;
	struct kage_thread *thread = NULL;

	TRY(wait_for_birth(twin));
	TRY(stop(p, &thread));
	TRY(open_mem(p));
	TRY(kage_maps_read(p->proc_fd, false, &maps));
	TRY(enter_birthplace(twin));
	TRY(map_here(twin, &maps, CODE_BYTES + page_ceil(area_bytes), &memfd));
	TRY(map_there(twin, thread, memfd));
	move_in(twin);
	return clear_away(twin, thread, &maps);
}

struct kage_err *kage_twin_hold(struct kage_twin *twin, size_t area_bytes)
{
	struct kage_err *e;

	kage_target_block_signals(twin->process);
	e = hold(twin, area_bytes);
	kage_target_unblock_signals(twin->process);
	return e;
}

/* --- splitting off ---------------------------------------------------------------------------- */

static struct kage_err *cannot_split(int64_t result, pid_t number)
{
	switch (result) {
	case -EEXIST:
		return kage_err_new(KAGE_BUSY, "process number %d is taken", number);
	case -EPERM:
		return kage_err_new(KAGE_PERM, "it may not choose its process number");
	default:
		return result < 0 ? kage_err_sys((int)-result, "fork the twin") : NULL;
	}
}

/* The namespaces that are given to it: children are born in the first. Without the right they are born with a number of
 * their own, or not at all if one was chosen. */
static struct kage_err *say_enter(struct kage_twin *twin, const struct kage_twin_birth *birth,
				  size_t *ret_fds, size_t *ret_entered, struct kage_batch *b)
{
	const int fds[] = { birth->pidns, birth->own_ns };

	TRY(kage_twin_give(twin, fds, ARRAY_SIZE(fds)));
	kage_twin_say_receive(b, 0, ARRAY_SIZE(fds), ret_fds);
	*ret_entered =
		BATCH_TRY(b, "enter a PID namespace", SYS_setns, LOAD(*ret_fds), V(CLONE_NEWPID));
	return NULL;
}

static void say_leave(size_t fds, struct kage_batch *b)
{
	BATCH_TRY(b, "return to its own PID namespace", SYS_setns, LOAD(fds + sizeof(int)),
		  V(CLONE_NEWPID));
	BATCH(b, "close a descriptor", SYS_close_range, V(1), V(~0u), V(0));
}

/* A child of the twin's parent. The kernel stops it before its first instruction, traced as the twin is. */
static struct kage_err *fork_life(struct kage_twin *twin, const struct kage_twin_birth *birth)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;
	struct clone_args args = { .flags = CLONE_PARENT, .set_tid_size = 1 };
	size_t tid, at, forked, fds = 0, entered = 0;

	kage_batch_init(&b);
	if (birth->pidns >= 0)
		TRY(say_enter(twin, birth, &fds, &entered, &b));
	if (birth->number) {
		tid = kage_batch_data(&b, &birth->number, sizeof(birth->number));
		at = kage_batch_data(&b, &args, sizeof(args));
		kage_batch_point(&b, at + offsetof(struct clone_args, set_tid), tid);
		forked = BATCH_TRY(&b, "fork", SYS_clone3, DATA(at), V(sizeof(args)));
	} else {
		forked = BATCH_TRY(&b, "fork", SYS_clone, V(CLONE_PARENT));
	}
	if (birth->pidns >= 0)
		say_leave(fds, &b);
	TRY(kage_batch_run(twin->process, twin->process->threads[0], &b));
	/* What was born then was born elsewhere. */
	if (birth->pidns >= 0 && kage_batch_result(&b, entered) < 0)
		return kage_err_new(KAGE_PERM, "it may not have a PID namespace");
	return cannot_split(kage_batch_result(&b, forked), birth->number);
}

/* The thread that the batch has found to be born is another process. */
static struct kage_thread *take_born(struct kage_target *p)
{
	return p->n_threads > 1 ? p->threads[--p->n_threads] : NULL;
}

static void abandon(struct kage_thread *born)
{
	kill(born->tid, SIGKILL);
	while (waitpid(born->tid, NULL, __WALL) >= 0 || errno == EINTR)
		;
	kage_thread_free(born);
}

static struct kage_err *open_life(struct kage_twin *twin, struct kage_thread *born,
				  struct kage_target **ret_life)
{
	struct kage_target *life = NULL;
	char path[64];
	int pidfd = pidfd_open(born->tid, 0);

	if (pidfd < 0)
		return kage_err_sys(errno, "open process %d", born->tid);
	TRY(kage_target_adopt(twin->process->ctx, born->tid, pidfd, &life));
	*ret_life = life;
	snprintf(path, sizeof(path), "/proc/%d", life->pid);
	life->proc_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (life->proc_fd < 0)
		return kage_err_sys(errno, "open %s", path);
	TRY(open_mem(life));
	life->site = malloc(sizeof(*life->site));
	if (!life->site)
		return kage_err_nomem();
	*life->site = *twin->process->site;
	return NULL;
}

static struct kage_err *make_stub(struct kage_target *life, struct kage_thread *born)
{
	struct kage_thread *leader = kage_target_add_thread(life, born->tid);

	if (!leader)
		return kage_err_nomem();
	leader->attached = leader->stopped = true;
	leader->sigmask = ~0ull;
	leader->regs = born->regs;
	life->ours = true;
	life->frozen = true;
	kage_target_block_signals(life);
	TRY(kage_thread_learn_inner(life, leader));
	life->inner_pid = leader->inner_tid;
	return NULL;
}

struct kage_err *kage_twin_split(struct kage_twin *twin, const struct kage_twin_birth *birth,
				 struct kage_target **ret_life)
{
	struct kage_target *life = NULL;
	struct kage_thread *born;
	struct kage_err *e;

	TRY(kage_twin_check(twin));
	e = fork_life(twin, birth);
	born = take_born(twin->process);
	if (!born)
		return e ? e
			 : kage_err_new(KAGE_SYS, "the twin, process %d, did not fork",
					twin->process->pid);
	if (!e)
		e = open_life(twin, born, &life);
	if (!e)
		e = make_stub(life, born);
	if (e) {
		abandon(born);
		if (life)
			life->n_threads = 0;
		kage_target_close(life);
		return e;
	}
	kage_thread_free(born);
	*ret_life = life;
	return NULL;
}

void kage_twin_release(struct kage_twin *twin)
{
	struct kage_target *p = twin->process;

	/* It is a child of ours if we have traced it. */
	while (p && (waitpid(p->pid, NULL, __WALL) >= 0 || errno == EINTR))
		;
	if (twin->area)
		munmap(twin->area, twin->area_bytes);
	twin->area = NULL;
}
