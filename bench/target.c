/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program to measure: touches MIB of memory (half text-like, half random), keeps writing to so many of a
 * thousand of its pages a second (100), and watches its own clock. What it sees stands in a shared file:
 *
 *	target FILE MIB [PERMILLE [huge|maps]]
 *
 * huge: in huge pages. maps: a second thread does nothing but map and unmap memory, and notes the longest
 * time that took.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

struct seen {
	volatile uint64_t ready;      /* 1 once all memory is touched */
	volatile uint64_t order;      /* set by the runner: 1 forget the gap, 2 fork, 3 memcpy */
	volatile uint64_t done;       /* the last order that was carried out */
	volatile uint64_t gap_ns;     /* largest gap between two readings of the clock */
	volatile uint64_t gap_end_ns; /* when it ended, CLOCK_MONOTONIC */
	volatile uint64_t result_ns;  /* of orders 2 and 3 */
	volatile uint64_t steps;
	volatile uint64_t map_ns; /* longest mmap and munmap */
};

static void *map_and_unmap(void *arg)
{
	struct seen *seen = arg;

	for (;;) {
		uint64_t begin = now_ns(), took;
		void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			       0);

		munmap(p, 4096);
		took = now_ns() - begin;
		if (took > seen->map_ns)
			seen->map_ns = took;
	}
	return NULL;
}

static uint64_t time_fork(void)
{
	uint64_t begin = now_ns(), end;
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	end = now_ns();
	waitpid(pid, NULL, 0);
	return end - begin;
}

static uint64_t time_memcpy(char *from, size_t bytes)
{
	char *to = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	uint64_t begin = now_ns(), end;

	memcpy(to, from, bytes);
	end = now_ns();
	munmap(to, bytes);
	return end - begin;
}

static void obey(struct seen *seen, char *memory, size_t bytes)
{
	uint64_t order = seen->order;

	if (order == 2)
		seen->result_ns = time_fork();
	if (order == 3)
		seen->result_ns = time_memcpy(memory, bytes);
	seen->gap_ns = 0;
	seen->map_ns = 0;
	seen->order = 0;
	seen->done = order;
}

int main(int argc, char **argv)
{
	size_t bytes = argc > 2 ? (size_t)atol(argv[2]) << 20 : 64 << 20;
	int fd = argc > 1 ? open(argv[1], O_RDWR) : -1;
	struct seen *seen = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t permille = argc > 3 ? (uint64_t)atol(argv[3]) : 100;
	const char *how = argc > 4 ? argv[4] : "";
	uint64_t last, t, begin, written = 0;
	pthread_t thread;

	if (seen == MAP_FAILED || memory == MAP_FAILED)
		return 1;
	madvise(memory, bytes, strcmp(how, "huge") == 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	fill(memory, bytes);
	if (strcmp(how, "maps") == 0 && pthread_create(&thread, NULL, map_and_unmap, seen))
		return 1;
	seen->ready = 1;
	begin = last = now_ns();
	for (;; last = t) {
		t = now_ns();
		if (t - last > seen->gap_ns) {
			seen->gap_ns = t - last;
			seen->gap_end_ns = t;
		}
		seen->steps++;
		if (seen->order) {
			obey(seen, memory, bytes);
			begin = t = now_ns();
			written = 0;
		}
		/* One byte each. */
		if (written < (t - begin) / 1000 * permille / 1000 * (bytes / 4096) / 1000000u) {
			memory[written * 7919 * 4096 % bytes]++;
			written++;
		}
	}
}
