/* SPDX-License-Identifier: Apache-2.0 */
#include "target/target.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/taskread.h"
#include "sys/text.h"
#include "target/batch.h"
#include "target/sender.h"

enum { STATUS_MAX = 1 << 20 };

/* The 22nd field of stat(5), in ticks since boot. */
static struct kage_err *read_start_ticks(int proc_fd, uint64_t *ret_ticks)
{
	_cleanup_free_ char *text = NULL;
	size_t size;

	TRY(kage_file_slurp(proc_fd, "stat", STATUS_MAX, &text, &size));
	if (!kage_text_stat_u64(text, 22, ret_ticks))
		return kage_err_new(KAGE_CORRUPT, "/proc/PID/stat is not understood");
	return NULL;
}

static void read_comm(pid_t pid, char *comm, size_t size)
{
	char path[64];
	_cleanup_free_ char *text = NULL;
	size_t n;
	struct kage_err *e;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	e = kage_file_slurp(AT_FDCWD, path, STATUS_MAX, &text, &n);
	if (e)
		snprintf(comm, size, "?");
	else
		snprintf(comm, size, "%.*s", (int)strcspn(text, "\n"), text);
	err_drop(e);
}

/* Refuses what cannot be a target, with a sentence. */
static struct kage_err *check_status(int proc_fd, pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char tracer_comm[32];
	size_t size;
	uint64_t tracer = 0, tgid = 0;
	const char *state;

	TRY(kage_file_slurp(proc_fd, "status", STATUS_MAX, &text, &size));
	state = kage_text_field(text, "State", &size);
	if (state && (*state == 'Z' || *state == 'X'))
		return kage_err_new(KAGE_GONE, "process %d has ended already (it is a zombie)",
				    pid);
	if (!kage_text_field(text, "VmSize", &size))
		return kage_err_new(
			KAGE_UNSUPPORTED,
			"process %d has no memory of its own (a kernel thread, or ending)", pid);
	if (kage_text_u64(text, "Tgid", 10, &tgid) && tgid != (uint64_t)pid)
		return kage_err_new(KAGE_INVALID,
				    "%d is a thread of process %" PRIu64 "; name that", pid, tgid);
	/* Our own thread traces those that were born of a target that it holds (target/held.h). */
	if (kage_text_u64(text, "TracerPid", 10, &tracer) && tracer &&
	    tracer != (uint64_t)gettid()) {
		read_comm((pid_t)tracer, tracer_comm, sizeof(tracer_comm));
		if (strcmp(tracer_comm, "kage-keeper") == 0)
			return kage_err_new(
				KAGE_BUSY,
				"process %d has triggers, whose keeper (process %" PRIu64
				") holds it; 'kage on --do' does such things, 'kage off' "
				"ends them",
				pid, tracer);
		return kage_err_new(KAGE_BUSY,
				    "process %d is held by %s (process %" PRIu64
				    "), which traces it; end that first",
				    pid, tracer_comm, tracer);
	}
	return NULL;
}

/* The number that PATH (status) tells last: in the innermost PID namespace. 0 if that is NUMBER, which is ours. */
static struct kage_err *read_inner(int proc_fd, const char *path, pid_t number, pid_t *ret_inner)
{
	_cleanup_free_ char *text = NULL;
	const char *field, *at;
	size_t size;

	*ret_inner = 0;
	TRY(kage_file_slurp(proc_fd, path, STATUS_MAX, &text, &size));
	field = kage_text_field(text, "NSpid", &size);
	if (!field)
		return NULL;
	for (at = field + size; at > field && isdigit((unsigned char)at[-1]);)
		at--;
	if (atoi(at) != number)
		*ret_inner = atoi(at);
	return NULL;
}

struct kage_err *kage_thread_learn_inner(const struct kage_target *t, struct kage_thread *thread)
{
	char path[64];

	if (!t->inner_pid || thread->inner_tid)
		return NULL;
	snprintf(path, sizeof(path), "task/%d/status", thread->tid);
	return read_inner(t->proc_fd, path, thread->tid, &thread->inner_tid);
}

static struct kage_err *open_proc(struct kage_target *t)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d", t->pid);
	t->proc_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->proc_fd < 0)
		return kage_err_sys(errno == ENOENT ? ESRCH : errno, "open %s", path);
	TRY(read_start_ticks(t->proc_fd, &t->start_ticks));
	return read_inner(t->proc_fd, "status", t->pid, &t->inner_pid);
}

struct kage_err *kage_target_adopt(struct kage_ctx *ctx, pid_t pid, int pidfd,
				   struct kage_target **ret_target)
{
	struct kage_target *t = calloc(1, sizeof(*t));

	if (!t)
		return kage_err_nomem();
	*t = (struct kage_target){
		.ctx = ctx, .pid = pid, .pidfd = pidfd, .proc_fd = -1, .mem_fd = -1
	};
	kage_sender_init(&t->sender);
	*ret_target = t;
	return NULL;
}

/* 0 to 3: what Yama allows (ptrace(2), /proc/sys/kernel/yama/ptrace_scope); 0 without it. */
static uint64_t ptrace_scope(void)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	struct kage_err *e =
		kage_file_slurp(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope", 64, &text, &size);
	uint64_t scope = e ? 0 : strtoull(text, NULL, 10);

	err_drop(e);
	return scope;
}

/* The memory of T cannot be had, and with it nothing. The rules are those of ptrace(2), "Ptrace access
 * mode checking". */
static struct kage_err *cannot_trace(const struct kage_target *t, int num)
{
	struct kage_err *e = kage_err_sys(num, "open /proc/%d/mem", t->pid);
	struct stat st;

	if (kage_err_code(e) != KAGE_PERM)
		return e;
	if (geteuid() == 0)
		return kage_err_advise(e, "root lacks CAP_SYS_PTRACE here, or a security module "
					  "forbids it");
	if (ptrace_scope() > 0)
		return kage_err_advise(e, "use kage as root or with CAP_SYS_PTRACE: "
					  "kernel.yama.ptrace_scope keeps others from it");
	if (fstat(t->proc_fd, &st) == 0 && st.st_uid != geteuid())
		return kage_err_advise(e,
				       "use kage as root, with CAP_SYS_PTRACE, or as the program's "
				       "own user (%u)",
				       st.st_uid);
	return kage_err_advise(e, "use kage as root or with CAP_SYS_PTRACE: the program has rights "
				  "that you lack, or forbids it (PR_SET_DUMPABLE)");
}

static struct kage_err *open_memory(struct kage_target *t)
{
	t->mem_fd = openat(t->proc_fd, "mem", O_RDWR | O_CLOEXEC);
	if (t->mem_fd < 0)
		return cannot_trace(t, errno);
	return kage_site_find_zone(t);
}

struct kage_err *kage_target_renew(struct kage_target *t)
{
	close_fd(t->mem_fd);
	kage_site_destroy(take_ptr(t->site));
	return open_memory(t);
}

static struct kage_err *open_target(struct kage_target *t)
{
	TRY(open_proc(t));
	TRY(check_status(t->proc_fd, t->pid));
	TRY(open_memory(t));
	/* The directory, the memory and the pidfd are of one process: the pidfd came first and it
	 * still lives, so its number was not given to another one meanwhile. */
	return kage_target_alive(t);
}

struct kage_err *kage_target_open(struct kage_ctx *ctx, pid_t pid, struct kage_target **ret_target)
{
	_cleanup_fd_ int pidfd = -1;
	struct kage_target *t = NULL;
	struct kage_err *e;

	if (pid <= 0)
		return kage_err_new(KAGE_INVALID, "%d is not a process number", pid);
	if (pid == getpid())
		return kage_err_new(KAGE_INVALID, "a process cannot take its own image");
	pidfd = pidfd_open(pid, 0);
	if (pidfd < 0 && errno == ESRCH)
		return kage_err_new(KAGE_NOTFOUND, "there is no process %d", pid);
	if (pidfd < 0 && (errno == EINVAL || errno == ENOENT))
		return kage_err_new(KAGE_INVALID, "%d is a thread, not a process", pid);
	if (pidfd < 0)
		return kage_err_sys(errno, "open process %d", pid);
	TRY(kage_target_adopt(ctx, pid, take_fd(&pidfd), &t));
	e = open_target(t);
	if (e) {
		kage_target_close(t);
		return e;
	}
	*ret_target = t;
	return NULL;
}

void kage_target_close(struct kage_target *t)
{
	if (!t)
		return;
	kage_target_thaw(t, false);
	close_fd(t->mem_fd);
	close_fd(t->proc_fd);
	close_fd(t->pidfd);
	for (size_t i = 0; i < t->n_threads; i++)
		kage_thread_free(t->threads[i]);
	free(t->threads);
	kage_site_destroy(t->site);
	kage_sender_deinit(&t->sender);
	free(t);
}

void kage_target_comm(const struct kage_target *t, char ret_comm[17])
{
	read_comm(t->pid, ret_comm, 17);
}

struct kage_err *kage_target_alive(const struct kage_target *t)
{
	struct pollfd p = { .fd = t->pidfd, .events = POLLIN };

	if (t->gone || poll(&p, 1, 0) > 0)
		return kage_err_new(KAGE_GONE, "process %d has ended", t->pid);
	return NULL;
}

bool kage_target_replaced(const struct kage_target *t)
{
	struct kage_err *gone = kage_target_alive(t);
	bool alive = gone == NULL;
	char byte;

	err_drop(gone);
	/* mem_rw() in fs/proc/base.c: nothing of a memory that nobody uses any more, EIO for what is not
	 * mapped in one that lives. */
	return alive && pread(t->mem_fd, &byte, 1, 0) == 0;
}

struct kage_thread *kage_target_thread(struct kage_target *t, pid_t tid)
{
	for (size_t i = 0; i < t->n_threads; i++)
		if (t->threads[i]->tid == tid)
			return t->threads[i];
	return NULL;
}

struct kage_thread *kage_target_add_thread(struct kage_target *t, pid_t tid)
{
	struct kage_thread *thread = calloc(1, sizeof(*thread));
	struct kage_thread **grown =
		reallocarray(t->threads, t->n_threads + 1, sizeof(*t->threads));

	if (grown)
		t->threads = grown;
	if (!thread || !grown) {
		free(thread);
		return NULL;
	}
	thread->tid = tid;
	thread->event = -1;
	t->threads[t->n_threads++] = thread;
	if (tid == t->pid) {
		t->threads[t->n_threads - 1] = t->threads[0];
		t->threads[0] = thread;
	}
	return thread;
}

static struct kage_err *no_access(const struct kage_target *t, int num, const char *how,
				  kage_addr a)
{
	if (num == 0)
		num = EFAULT;
	return kage_err_sys(num, "%s memory of process %d at %#" PRIx64, how, t->pid, a.v);
}

struct kage_err *kage_target_read(struct kage_target *t, kage_addr from, void *to, size_t size)
{
	struct iovec here = { to, size }, there = { (void *)from.v, size };
	ssize_t n = process_vm_readv(t->pid, &here, 1, &there, 1, 0);
	size_t done = n > 0 ? (size_t)n : 0;

	/* It stops short at pages that the target itself may not read; this does not. */
	while (done < size) {
		n = pread(t->mem_fd, (char *)to + done, size - done, (off_t)(from.v + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return no_access(t, n < 0 ? errno : 0, "read", addr_add(from, done));
		done += (size_t)n;
	}
	return NULL;
}

struct kage_err *kage_target_readv(struct kage_target *t, const struct iovec *here,
				   const struct iovec *there, size_t n)
{
	ssize_t got = n ? process_vm_readv(t->pid, here, n, there, n, 0) : 0;
	size_t done = got > 0 ? (size_t)got : 0;

	for (size_t i = 0; i < n; i++) {
		if (done >= there[i].iov_len) {
			done -= there[i].iov_len;
			continue;
		}
		/* It stopped here; the rest one by one, the slow way where need be. */
		TRY(kage_target_read(t, addr((uint64_t)(uintptr_t)there[i].iov_base),
				     here[i].iov_base, here[i].iov_len));
		done = 0;
	}
	return NULL;
}

struct kage_err *kage_target_write_forced(struct kage_target *t, kage_addr to, const void *from,
					  size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = pwrite(t->mem_fd, (const char *)from + done, size - done,
				   (off_t)(to.v + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return no_access(t, n < 0 ? errno : 0, "write", addr_add(to, done));
		done += (size_t)n;
	}
	return NULL;
}

struct kage_err *kage_target_write(struct kage_target *t, kage_addr to, const void *from,
				   size_t size)
{
	struct iovec here = { (void *)from, size }, there = { (void *)to.v, size };
	ssize_t n = process_vm_writev(t->pid, &here, 1, &there, 1, 0);
	size_t done = n > 0 ? (size_t)n : 0;

	if (done == size)
		return NULL;
	return kage_target_write_forced(t, addr_add(to, done), (const char *)from + done,
					size - done);
}

struct kage_err *kage_target_get_fd(struct kage_target *t, int fd, int *ret_fd)
{
	int r = pidfd_getfd(t->pidfd, fd, 0);

	if (r < 0)
		return kage_err_sys(errno, "duplicate descriptor %d of process %d", fd, t->pid);
	*ret_fd = r;
	return NULL;
}

void kage_thread_free(struct kage_thread *thread)
{
	close_fd(thread->event);
	free(thread);
}
