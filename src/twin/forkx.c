/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One batch does it all. A child of the target would be seen by its parent, or by itself when it waits for children, so:
 *
 *	thread	pipe2 or socketpair; clone of a helper, which shares everything and has no exit signal; wait4 for it;
 *		(here we take the pipe's writing end and a pidfd); close what was opened
 *	helper	clone of the twin, without sharing and without an exit signal; exit
 *	twin	setsid; keeps the pipe's reading end and closes everything else; read; exit_group
 *
 * Should we die anywhere in it, the thread closes the writing end, and the twin's read ends. The helper shares the
 * memory and so has no registration of restartable sequences, and the twin none either: nothing in its memory changes
 * (kernel/fork.c, rseq_fork()).
 */
#include "twin/forkx.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/cgroup.h"
#include "sys/kernel.h"
#include "sys/text.h"
#include "twin/hold.h"

enum {
	HELPER = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND,
	END_MS = 5000, /* its memory may be large; nobody waits for it but us */
};

/* Memory by which it is registered with a userfaultfd: a fork would tell its holder and wait for him. */
static bool is_watched(const struct kage_vma *v)
{
	return kage_vma_has(v, VMFLAG('u', 'm')) || kage_vma_has(v, VMFLAG('u', 'w')) ||
	       kage_vma_has(v, VMFLAG('u', 'i'));
}

const char *kage_twin_obstacle(const struct kage_target *t, const struct kage_inside *inside,
			       const struct kage_maps *maps)
{
	if (inside->child_subreaper)
		return "it adopts orphans (PR_SET_CHILD_SUBREAPER), and would see its twin";
	if (t->pid == 1 || t->inner_pid == 1)
		return "it adopts orphans as an init does, and would see its twin";
	for (size_t i = 0; i < maps->n; i++)
		if (is_watched(&maps->vmas[i]))
			return "memory of it is registered with a userfaultfd";
	return NULL;
}

bool kage_twin_has_room(const struct kage_target *t, uint64_t bytes)
{
	return kage_cgroup_memory_left(t->proc_fd) >= bytes;
}

bool kage_twin_has(const struct kage_vma *v)
{
	return !kage_vma_has(v, VMFLAG('d', 'c')) && !kage_vma_has(v, VMFLAG('w', 'f')) &&
	       !kage_vma_has(v, VMFLAG('d', 'p')) && !kage_vma_has(v, VMFLAG('h', 't'));
}

/* --- the batch -------------------------------------------------------------------------------- */

struct forking {
	struct kage_batch b;
	size_t pipe, pidfd, byte; /* offsets of data */
	size_t helper, born;      /* calls */
	int hold_fd, twin_fd;     /* of ours; -1: not yet */
	bool wakeable;
	struct kage_site site;
	pid_t forker;
};

/* Both ends stand side by side, and system calls take the lower half of what they are given. */
#define READING LOAD(f->pipe)
#define WRITING LOAD(f->pipe + sizeof(int))

static void say_thread(struct forking *f)
{
	struct kage_batch *b = &f->b;

	/* Descriptors for lives come through a socket. */
	if (f->wakeable)
		BATCH(b, "make a pair of sockets", SYS_socketpair, V(AF_UNIX),
		      V(SOCK_STREAM | SOCK_CLOEXEC), V(0), DATA(f->pipe));
	else
		BATCH(b, "make a pipe", SYS_pipe2, DATA(f->pipe), V(O_CLOEXEC));
	f->helper = BATCH_TRY(b, "make a helper process", SYS_clone, V(HELPER));
	BATCH_TRY(b, "wait for it", SYS_wait4, RESULT(f->helper), V(0), V(__WCLONE));
	f->b.meet_at = BATCH_TRY(b, "close the pipe", SYS_close, READING);
	BATCH_TRY(b, "close the pipe", SYS_close, WRITING);
	BATCH_TRY(b, "close the twin's descriptor", SYS_close, LOAD(f->pidfd));
}

static void say_helper(struct forking *f)
{
	struct kage_batch *b = &f->b;

	kage_batch_branch(b, f->helper);
	f->born = BATCH_TRY(b, "fork", SYS_clone, V(CLONE_PIDFD), V(0), DATA(f->pidfd));
	BATCH_TRY(b, "end the helper", SYS_exit, V(0));
}

static void say_twin(struct forking *f)
{
	struct kage_batch *b = &f->b;

	kage_batch_branch(b, f->born);
	/* A signal to the target's process group is not for it. */
	BATCH_TRY(b, "leave the session", SYS_setsid, V(0));
	/* It fails only where that is its number already. */
	BATCH_TRY(b, "keep the pipe", SYS_dup3, READING, V(0), V(0));
	BATCH(b, "close all others", SYS_close_range, V(1), V(~0u), V(0));
	if (f->wakeable) /* all is done */
		BATCH_TRY(b, "say so", SYS_write, V(0), DATA(f->byte), V(1));
	BATCH(b, "wait", SYS_read, V(0), DATA(f->byte), V(1));
	BATCH_TRY(b, "end", SYS_exit_group, V(0));
}

/* The thread stands behind wait4: the twin is there, unless its making failed. */
static struct kage_err *take_out(void *user, struct kage_target *t, int64_t result)
{
	struct forking *f = user;
	int pipe[2], pidfd;

	(void)result;
	TRY(kage_batch_peek(t, &f->b, f->pipe, pipe, sizeof(pipe)));
	TRY(kage_batch_peek(t, &f->b, f->pidfd, &pidfd, sizeof(pidfd)));
	if (pidfd < 0)
		return NULL; /* told afterwards */
	TRY(kage_target_get_fd(t, pipe[1], &f->hold_fd));
	return kage_target_get_fd(t, pidfd, &f->twin_fd);
}

static struct kage_err *explain(const struct forking *f)
{
	const size_t calls[] = { 0, f->helper, f->born };

	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		int64_t result = kage_batch_result(&f->b, calls[i]);

		if (result < 0)
			return kage_err_new(KAGE_LIMIT, "%s: %s", f->b.labels[calls[i]],
					    strerror((int)-result));
	}
	return kage_err_new(KAGE_LIMIT, "its twin was ended at once");
}

static struct kage_err *run(struct kage_target *t, struct kage_thread *thread, struct forking *f)
{
	const uint64_t nothing = (uint64_t)-1;
	struct kage_err *e;

	f->pipe = kage_batch_data(&f->b, NULL, 2 * sizeof(int) + sizeof(int64_t));
	f->pidfd = kage_batch_data(&f->b, &nothing, sizeof(nothing));
	f->byte = kage_batch_data(&f->b, NULL, 1);
	say_thread(f);
	say_helper(f);
	say_twin(f);
	f->b.meet = take_out;
	f->b.meet_user = f;
	e = kage_batch_run(t, thread, &f->b);
	if (t->site)
		f->site = *t->site;
	kage_site_leave(t);
	if (!e && f->twin_fd < 0)
		return explain(f);
	if (e && f->b.n_done == 1) { /* nothing was made */
		err_drop(e);
		return explain(f);
	}
	return e;
}

/* --- the twin --------------------------------------------------------------------------------- */

/* The number of the process behind PIDFD. */
static struct kage_err *number_of(int pidfd, pid_t *ret_pid)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	uint64_t pid;
	size_t size;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	TRY(kage_file_slurp(AT_FDCWD, path, 1 << 16, &text, &size));
	if (!kage_text_u64(text, "Pid", 10, &pid) || pid == 0 || pid > INT32_MAX)
		return kage_err_new(KAGE_LIMIT, "its twin was ended at once");
	*ret_pid = (pid_t)pid;
	return NULL;
}

/* It is what can be spared first. Where it may not be said, it is not. */
static void offer_to_oom_killer(const struct kage_target *p)
{
	_cleanup_fd_ int fd = openat(p->proc_fd, "oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0)
		err_drop(kage_file_write(fd, "1000", 4, -1, "oom_score_adj"));
}

/* Opens what is needed for reading it. */
static struct kage_err *open_process(struct kage_ctx *ctx, int twin_fd,
				     struct kage_target **ret_process)
{
	char path[64];
	pid_t pid = 0;

	TRY(number_of(twin_fd, &pid));
	TRY(kage_target_adopt(ctx, pid, twin_fd, ret_process));
	snprintf(path, sizeof(path), "/proc/%d", pid);
	(*ret_process)->proc_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if ((*ret_process)->proc_fd < 0)
		return kage_err_sys(errno, "open %s", path);
	(*ret_process)->mem_fd = openat((*ret_process)->proc_fd, "mem", O_RDONLY | O_CLOEXEC);
	if ((*ret_process)->mem_fd < 0)
		return kage_err_sys(errno, "open %s/mem", path);
	return NULL;
}

static struct kage_err *open_twin(struct kage_ctx *ctx, struct forking *f,
				  struct kage_twin **ret_twin)
{
	struct kage_twin *twin = calloc(1, sizeof(*twin));
	struct kage_err *e;

	if (!twin)
		return kage_err_nomem();
	twin->hold_fd = take_fd(&f->hold_fd);
	twin->born_of = f->forker;
	twin->born_in = f->site;
	twin->born_in.code = NULL;
	twin->born_in.thread = NULL;
	e = open_process(ctx, f->twin_fd, &twin->process);
	if (twin->process)
		take_fd(&f->twin_fd);
	if (!e)
		e = kage_twin_check(twin);
	if (e) {
		kage_twin_end(twin);
		return e;
	}
	offer_to_oom_killer(twin->process);
	*ret_twin = twin;
	return NULL;
}

struct kage_err *kage_twin_fork(struct kage_target *t, struct kage_thread *thread, bool wakeable,
				struct kage_twin **ret_twin)
{
	struct forking f = {
		.hold_fd = -1, .twin_fd = -1, .wakeable = wakeable, .forker = thread->tid
	};
	struct kage_err *e;

	kage_batch_init(&f.b);
	e = run(t, thread, &f);
	if (!e)
		e = open_twin(t->ctx, &f, ret_twin);
	kage_batch_deinit(&f.b);
	close_fd(f.hold_fd);
	close_fd(f.twin_fd);
	return e;
}

struct kage_err *kage_twin_check(const struct kage_twin *twin)
{
	struct kage_err *gone = kage_target_alive(twin->process);

	if (!gone)
		return NULL;
	err_drop(gone);
	return kage_err_new(KAGE_CHANGED, "its twin, process %d, was ended by somebody else",
			    twin->process->pid);
}

void kage_twin_end(struct kage_twin *twin)
{
	struct pollfd p = { .fd = twin && twin->process ? twin->process->pidfd : -1,
			    .events = POLLIN };

	if (!twin)
		return;
	close_fd(twin->hold_fd);
	/* Its read has ended; it ends sooner so, also where it was stopped by somebody. */
	if (p.fd >= 0 && pidfd_send_signal(p.fd, SIGKILL, NULL, 0) == 0)
		(void)poll(&p, 1, END_MS);
	kage_twin_release(twin);
	kage_target_close(twin->process);
	free(twin);
}
