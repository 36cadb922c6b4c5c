/* SPDX-License-Identifier: Apache-2.0 */
/*
 * killat K COMMAND…: runs COMMAND and kills it with SIGKILL when it begins its K-th system call after
 * exec, in whichever of its threads. Processes that it starts are not followed. With K = 0 nothing is
 * killed. The last line on stderr is "killat: killed at K in SYSCALL" or "killat: N calls, status S".
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "killat: %s: %s\n", what, strerror(errno));
	exit(3);
}

static void start(char **argv)
{
	if (ptrace(PTRACE_TRACEME, 0, 0, 0) || raise(SIGSTOP))
		fail("trace");
	execvp(argv[0], argv);
	fail(argv[0]);
}

/* A thread of the command. */
struct thread {
	pid_t tid;
	int entering; /* the next stop at a system call is its end */
};

static struct thread threads[64];
static int n_threads;

static struct thread *thread_of(pid_t tid)
{
	for (int i = 0; i < n_threads; i++)
		if (threads[i].tid == tid)
			return &threads[i];
	if (n_threads == sizeof(threads) / sizeof(*threads))
		fail("threads");
	threads[n_threads] = (struct thread){ .tid = tid };
	return &threads[n_threads++];
}

/* Kills process PID, whose thread TID begins a call, and waits until nothing of it is left. Never
 * returns. */
static void kill_it(pid_t pid, pid_t tid, long k)
{
	struct user_regs_struct regs;
	int status;

	if (ptrace(PTRACE_GETREGS, tid, 0, &regs))
		memset(&regs, 0xff, sizeof(regs));
	kill(pid, SIGKILL);
	while ((tid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
		if (tid > 0 && WIFSTOPPED(status))
			ptrace(PTRACE_DETACH, tid, 0, 0); /* a process that it has just started */
		else if (tid ==
			 pid) /* after its threads; what it has given to us to wait for may go on */
			break;
	}
	fprintf(stderr, "killat: killed at %ld in %lld\n", k, (long long)regs.orig_rax);
	exit(0);
}

/* Whether TID is a thread of PID, and no process that it has started by clone(2). */
static int is_thread(pid_t pid, pid_t tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d", pid, tid);
	return access(path, F_OK) == 0;
}

static void end(pid_t tid, pid_t pid, int status, long n)
{
	if (tid != pid)
		return;
	fprintf(stderr, "killat: %ld calls, status %d\n", n,
		WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
	exit(0);
}

int main(int argc, char **argv)
{
	long k = argc > 2 ? atol(argv[1]) : -1, n = 0;
	int execed = 0, status;
	pid_t pid, tid;

	if (k < 0)
		return 2;
	pid = fork();
	if (pid == 0)
		start(argv + 2);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		fail("start");
	if (ptrace(PTRACE_SETOPTIONS, pid, 0,
		   PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC |
			   PTRACE_O_TRACECLONE))
		fail("set options");
	ptrace(PTRACE_SYSCALL, pid, 0, 0);
	while ((tid = waitpid(-1, &status, __WALL)) > 0) {
		struct thread *t = thread_of(tid);
		int deliver = 0;

		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			end(tid, pid, status, n);
			continue;
		}
		if (!is_thread(pid, tid)) {
			ptrace(PTRACE_DETACH, tid, 0, 0);
			continue;
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
			t->entering = !t->entering;
			if (t->entering && execed && ++n == k)
				kill_it(pid, tid, k);
		} else if (status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXEC << 8))) {
			execed = 1; /* in the middle of execve, whose end comes next */
			t->entering = 1;
		} else if (status >> 16 == 0 && WSTOPSIG(status) != SIGSTOP) {
			deliver = WSTOPSIG(status);
		} /* else: an event, or the first stop of a new thread */
		if (ptrace(PTRACE_SYSCALL, tid, 0, deliver) && errno != ESRCH)
			fail("continue");
	}
	fail("wait");
}
