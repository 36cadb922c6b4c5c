/* SPDX-License-Identifier: Apache-2.0 */
/* A program with MIB of memory that appends to FILE how many nanoseconds a fork of it takes, on each SIGUSR1. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t asked;

static void on_signal(int signal)
{
	(void)signal;
	asked = 1;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void tell(const char *path, uint64_t ns)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);

	if (fd < 0 || dprintf(fd, "%llu\n", (unsigned long long)ns) < 0)
		exit(1);
	close(fd);
}

int main(int argc, char **argv)
{
	size_t bytes = argc > 2 ? strtoul(argv[2], NULL, 10) << 20 : 0;
	char *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigset_t usr1, none;

	if (memory == MAP_FAILED)
		return 1;
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	memset(memory, 1, bytes);
	sigemptyset(&none);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	signal(SIGUSR1, on_signal);
	tell(argv[1], 0);
	for (;;) {
		uint64_t begin, took;
		pid_t pid;

		sigsuspend(&none);
		if (!asked)
			continue;
		asked = 0;
		begin = now_ns();
		pid = fork();
		if (pid == 0)
			_exit(0);
		took = now_ns() - begin;
		waitpid(pid, NULL, 0);
		tell(argv[1], took);
	}
}
