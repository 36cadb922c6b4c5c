/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures restarts of a child of rfork(3), beside fork, exit and wait of the same program in the same run, and the figures
 * of the paper (Core 2 Quad, 2008; mean of 1,000).
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <kage/rfork.h>

enum { RESTARTS = 1000 };

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static double median_us(uint64_t *v)
{
	qsort(v, RESTARTS, sizeof(*v), by_size);
	return (double)v[RESTARTS / 2] / 1000;
}

/* From before a fork to after the end of the child. */
static void time_forks(uint64_t *v)
{
	for (int i = 0; i < RESTARTS; i++) {
		uint64_t begin = now_ns();
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		waitpid(pid, NULL, 0);
		v[i] = now_ns() - begin;
	}
}

/* From one start to the next. */
static void time_restarts(uint64_t *v)
{
	uint64_t *at = mmap(NULL, (RESTARTS + 2) * sizeof(*at), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid = at == MAP_FAILED ? -1 : rfork(NULL);

	if (pid < 0)
		exit(1);
	if (pid == 0) {
		uint64_t n = at[0]++;

		at[n + 1] = now_ns();
		if (n < RESTARTS)
			rfork_restart();
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	for (int i = 0; i < RESTARTS; i++)
		v[i] = at[i + 2] - at[i + 1];
	rfork_forget(pid);
}

int main(void)
{
	static uint64_t v[RESTARTS];
	double bare, portable;

	time_forks(v);
	bare = median_us(v);
	time_restarts(v);
	portable = median_us(v);
	printf("  fork, exit, wait             %8.1f us\n", bare);
	printf("  rfork, restart (portable)    %8.1f us   %5.2fx   at most 2x; the paper: 310.4 us\n",
	       portable, portable / bare);
	return 0;
}
