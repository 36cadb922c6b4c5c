/* SPDX-License-Identifier: Apache-2.0 */
#include "target/lookout.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "target/batch.h"

/* Whoever is on the way into the call is met there by one of so many looks, the first after a millisecond, each later one after
 * twice the time: four seconds in all. */
enum { LOOKS = 12, FIRST_NAP_NS = 1000 * 1000 };

/* In the lookout, a copy of a process that may have had several threads, nothing may be called that takes a lock:
 * directories are read by getdents64(2). */
struct entry {
	uint64_t ino;
	int64_t off;
	uint16_t size;
	uint8_t type;
	char name[];
};

/* Where TID is in the program, if it is in a system call. */
static bool read_ip(int task_fd, const char *tid, uint64_t *ret_ip)
{
	_cleanup_fd_ int fd = -1;
	char path[64], text[256], *ip;
	ssize_t n;

	if (snprintf(path, sizeof(path), "%.20s/syscall", tid) < 0)
		return false;
	fd = openat(task_fd, path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return false;
	text[n] = '\0';
	ip = strrchr(text, ' '); /* "running" has none */
	if (!ip)
		return false;
	*ret_ip = strtoull(ip, NULL, 16);
	return true;
}

/* Ends the call in which TID is, in the runner. */
static void end_call(pid_t tid, uint64_t zone_start, uint64_t zone_end)
{
	struct kage_regs regs;
	int status, signal;

	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0)
		return;
	ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
	if (waitpid(tid, &status, __WALL) < 0 || !WIFSTOPPED(status))
		return;
	if (!kage_arch_get_regs(tid, false, &regs) && kage_arch_ip(&regs) >= zone_start &&
	    kage_arch_ip(&regs) < zone_end && kage_arch_end_call(&regs))
		err_drop(kage_arch_set_regs(tid, false, &regs));
	/* What it was about to receive it receives. */
	signal = status >> 16 ? 0 : WSTOPSIG(status);
	ptrace(PTRACE_DETACH, tid, NULL, (void *)(uintptr_t)signal);
}

static void look(const struct kage_target *t, int task_fd)
{
	char buffer[4096];
	long n;

	lseek(task_fd, 0, SEEK_SET);
	while ((n = syscall(SYS_getdents64, task_fd, buffer, sizeof(buffer))) > 0)
		for (long at = 0; at < n;) {
			const struct entry *e = (const struct entry *)(buffer + at);
			uint64_t ip;

			if (read_ip(task_fd, e->name, &ip) && ip >= t->zone_start &&
			    ip < t->zone_end)
				end_call(atoi(e->name), t->zone_start, t->zone_end);
			at += e->size;
		}
}

static _Noreturn void keep_watch(const struct kage_target *t, int us, int task_fd)
{
	struct pollfd p = { .fd = us, .events = POLLIN };

	/* No session of its own: with that comes a group of the scheduler (sched(7), autogroup), in which on Linux 6.18 it
	 * has been seen not to run for seconds. */
	setpgid(0, 0);
	while (poll(&p, 1, -1) < 0)
		;
	for (int i = 0; i < LOOKS; i++) {
		uint64_t ns = (uint64_t)FIRST_NAP_NS << i;

		look(t, task_fd);
		nanosleep(&(struct timespec){ (time_t)(ns / 1000000000), (long)(ns % 1000000000) },
			  NULL);
	}
	_exit(0);
}

/* Nothing that others wait for the end of is to be kept open. */
static void close_all_but(int a, int b)
{
	unsigned low = (unsigned)(a < b ? a : b), high = (unsigned)(a < b ? b : a);

	if (low > 0)
		close_range(0, low - 1, 0);
	if (high > low + 1)
		close_range(low + 1, high - 1, 0);
	close_range(high + 1, ~0u, 0);
}

struct kage_err *kage_lookout_post(struct kage_target *t, struct lookout *ret_lookout)
{
	_cleanup_fd_ int us = pidfd_open(getpid(), 0);
	_cleanup_fd_ int task_fd = openat(t->proc_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	sigset_t all, before;
	long pid;

	if (!t->zone_start) /* it was opened in the middle of execve(2) */
		TRY(kage_site_find_zone(t));
	if (us < 0 || task_fd < 0)
		return kage_err_sys(errno, "watch over process %d", t->pid);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
	if (pid == 0) {
		close_all_but(us, task_fd);
		keep_watch(t, us, task_fd);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return kage_err_sys(errno, "make a process that watches over process %d", t->pid);
	ret_lookout->pid = (pid_t)pid;
	return NULL;
}

void kage_lookout_end(struct lookout *lookout)
{
	int status;

	if (!lookout->pid)
		return;
	kill(lookout->pid, SIGKILL);
	while (waitpid(lookout->pid, &status, __WCLONE) < 0 && errno == EINTR)
		;
	lookout->pid = 0;
}
