/* SPDX-License-Identifier: Apache-2.0 */
/*
 * killat K COMMAND…: runs COMMAND and kills it with SIGKILL when it begins its K-th system call after
 * exec. Only the first process counts, and nothing it starts is followed. With K = 0 nothing is
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

/* Kills PID, and waits until nothing of it is left. Never returns. */
static void kill_it(pid_t pid, long k)
{
	struct user_regs_struct regs;
	int status;

	if (ptrace(PTRACE_GETREGS, pid, 0, &regs))
		memset(&regs, 0xff, sizeof(regs));
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, __WALL) == pid && !WIFSIGNALED(status) && !WIFEXITED(status))
		;
	fprintf(stderr, "killat: killed at %ld in %lld\n", k, (long long)regs.orig_rax);
	exit(0);
}

int main(int argc, char **argv)
{
	long k = argc > 2 ? atol(argv[1]) : -1, n = 0;
	int entering = 0, execed = 0, deliver = 0, status;
	pid_t pid;

	if (k < 0)
		return 2;
	pid = fork();
	if (pid == 0)
		start(argv + 2);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		fail("start");
	if (ptrace(PTRACE_SETOPTIONS, pid, 0,
		   PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC))
		fail("set options");
	for (;;) {
		if (ptrace(PTRACE_SYSCALL, pid, 0, deliver) && errno != ESRCH)
			fail("continue");
		if (waitpid(pid, &status, __WALL) != pid)
			fail("wait");
		deliver = 0;
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			fprintf(stderr, "killat: %ld calls, status %d\n", n,
				WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
			return 0;
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
			entering = !entering;
			if (entering && execed && ++n == k)
				kill_it(pid, k);
		} else if (status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXEC << 8))) {
			execed = 1; /* in the middle of execve, whose end comes next */
			entering = 1;
		} else {
			deliver = WSTOPSIG(status);
		}
	}
}
