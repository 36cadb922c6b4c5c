/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program that bench/triggers measures: for each line "N" on its standard input it makes N system calls that do next to
 * nothing, and prints how many nanoseconds each has taken.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int main(void)
{
	char line[32];

	while (fgets(line, sizeof(line), stdin)) {
		long n = strtol(line, NULL, 10);
		uint64_t begin = now_ns();

		for (long i = 0; i < n; i++)
			syscall(SYS_getppid);
		printf("%.1f\n", (double)(now_ns() - begin) / (double)n);
		fflush(stdout);
	}
	return 0;
}
