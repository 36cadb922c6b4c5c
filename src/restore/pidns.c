/* SPDX-License-Identifier: Apache-2.0 */
#include "restore/pidns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"

/* The first process. No C library: other threads of ours may have held its locks. Children that lose
 * their parent in the namespace become its own, and are reaped by the kernel as SIGCHLD is ignored. */
static _Noreturn void first_process(int told_fd)
{
	struct {
		uint64_t handler, flags, restorer, mask;
	} ignore = { .handler = 1 /* SIG_IGN */ };
	struct pollfd p = { .events = POLLIN };
	int32_t inner = 0;

	syscall(SYS_setsid);
	syscall(SYS_prctl, PR_SET_NAME, "kage-init");
	syscall(SYS_rt_sigaction, SIGCHLD, &ignore, NULL, 8);
	if (told_fd > 0)
		syscall(SYS_close_range, 0, told_fd - 1, 0);
	syscall(SYS_close_range, told_fd + 1, ~0u, 0);
	if (syscall(SYS_read, told_fd, &inner, sizeof(inner)) != sizeof(inner))
		syscall(SYS_exit_group, 0);
	p.fd = (int)syscall(SYS_pidfd_open, inner, 0);
	syscall(SYS_close, told_fd);
	while (p.fd >= 0 && syscall(SYS_poll, &p, 1, -1) < 0)
		;
	syscall(SYS_exit_group, 0);
	__builtin_unreachable();
}

struct kage_err *pidns_create(bool orphan, struct pidns *ret_ns)
{
	_cleanup_(pidns_deinit) struct pidns ns = PIDNS_NONE;
	_cleanup_fd_ int told = -1;
	struct clone_args args = { .flags = CLONE_NEWPID | CLONE_PIDFD | CLONE_CLEAR_SIGHAND |
					    (orphan ? (uint64_t)CLONE_PARENT : 0),
				   .pidfd = (uint64_t)(uintptr_t)&ns.pidfd };
	int fds[2];
	long r;

	ns.own_fd = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (ns.own_fd < 0 || pipe2(fds, O_CLOEXEC) < 0)
		return kage_err_sys(errno, "prepare a PID namespace");
	told = fds[0];
	ns.tell_fd = fds[1];
	r = syscall(SYS_clone3, &args, sizeof(args));
	if (r == 0)
		first_process(told);
	if (r < 0)
		return kage_err_sys(errno, "make a PID namespace");
	*ret_ns = ns;
	ns = PIDNS_NONE;
	return NULL;
}

struct kage_err *pidns_enter(const struct pidns *ns)
{
	if (setns(ns->pidfd, CLONE_NEWPID) < 0)
		return kage_err_sys(errno, "enter the new PID namespace");
	return NULL;
}

struct kage_err *pidns_leave(const struct pidns *ns)
{
	if (setns(ns->own_fd, CLONE_NEWPID) < 0)
		return kage_err_sys(errno, "return to the own PID namespace");
	return NULL;
}

struct kage_err *pidns_tie(struct pidns *ns, pid_t inner)
{
	int32_t number = inner;

	TRY(kage_file_write(ns->tell_fd, &number, sizeof(number), -1, "the namespace's pipe"));
	close_fd(take_fd(&ns->tell_fd));
	return NULL;
}

void pidns_deinit(struct pidns *ns)
{
	close_fd(take_fd(&ns->tell_fd));
	close_fd(take_fd(&ns->pidfd));
	close_fd(take_fd(&ns->own_fd));
}
