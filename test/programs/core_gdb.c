/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program for core_gdb.sh: each thread waits in another system call, in a function whose name tells
 * so, and one spins with known values in all of its vector registers. Prints "ready" and what kind of
 * registers those are.
 *
 * The value of the 64-bit lane Q of register R is (R + 1) << 32 | (Q + 1), that of mask register K is
 * 0x101 * K.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { REGISTERS = 32, LANES = 8 };

static uint64_t values[REGISTERS][LANES];
char *volatile shared; /* for the debugger to find */

static void *wait_nanosleep(void *arg)
{
	nanosleep(&(struct timespec){ .tv_sec = 3600 }, NULL);
	return arg;
}

static void *wait_futex(void *arg)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static pthread_cond_t never = PTHREAD_COND_INITIALIZER;

	pthread_mutex_lock(&lock);
	for (;;)
		pthread_cond_wait(&never, &lock);
	return arg;
}

static void *wait_poll(void *arg)
{
	int fds[2];

	if (pipe(fds) == 0)
		poll(&(struct pollfd){ .fd = fds[0], .events = POLLIN }, 1, 3600 * 1000);
	return arg;
}

static void *wait_epoll(void *arg)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0), fds[2];

	if (pipe(fds) || epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &event))
		return arg;
	while (epoll_wait(epoll, &event, 1, -1) < 0) /* a debugger that comes interrupts it */
		;
	return arg;
}

static void *wait_read(void *arg)
{
	int fds[2];
	char byte;

	if (pipe(fds) == 0 && read(fds[0], &byte, 1) < 0)
		abort();
	return arg;
}

static void pause_in_handler(int signal)
{
	(void)signal;
	pause();
}

static void *wait_handler(void *arg)
{
	raise(SIGUSR1);
	return arg;
}

#define LOAD(move, kind, n) move " 64*" #n "(%0), %%" kind #n "\n\t"
#define LOAD_16(move, kind)  \
	LOAD(move, kind, 0)  \
	LOAD(move, kind, 1)  \
	LOAD(move, kind, 2)  \
	LOAD(move, kind, 3)  \
	LOAD(move, kind, 4)  \
	LOAD(move, kind, 5)  \
	LOAD(move, kind, 6)  \
	LOAD(move, kind, 7)  \
	LOAD(move, kind, 8)  \
	LOAD(move, kind, 9)  \
	LOAD(move, kind, 10) \
	LOAD(move, kind, 11) \
	LOAD(move, kind, 12) \
	LOAD(move, kind, 13) \
	LOAD(move, kind, 14) \
	LOAD(move, kind, 15)
#define LOAD_UPPER_16(move, kind) \
	LOAD(move, kind, 16)      \
	LOAD(move, kind, 17)      \
	LOAD(move, kind, 18)      \
	LOAD(move, kind, 19)      \
	LOAD(move, kind, 20)      \
	LOAD(move, kind, 21)      \
	LOAD(move, kind, 22)      \
	LOAD(move, kind, 23)      \
	LOAD(move, kind, 24)      \
	LOAD(move, kind, 25)      \
	LOAD(move, kind, 26)      \
	LOAD(move, kind, 27)      \
	LOAD(move, kind, 28)      \
	LOAD(move, kind, 29)      \
	LOAD(move, kind, 30)      \
	LOAD(move, kind, 31)
#define LOAD_MASK(k) "imul $" #k ", %1, %%eax\n\tkmovw %%eax, %%k" #k "\n\t"

/* None of these returns. */
static void spin_zmm(void)
{
	__asm__ volatile(LOAD_16("vmovdqu64", "zmm") LOAD_UPPER_16("vmovdqu64", "zmm") LOAD_MASK(1)
				 LOAD_MASK(2) LOAD_MASK(3) LOAD_MASK(4) LOAD_MASK(5) LOAD_MASK(6)
					 LOAD_MASK(7) "1: pause\n\tjmp 1b"
			 :
			 : "r"(values), "r"(0x101)
			 : "rax", "memory");
}

static void spin_ymm(void)
{
	__asm__ volatile(LOAD_16("vmovdqu", "ymm") "1: pause\n\tjmp 1b" : : "r"(values) : "memory");
}

static void spin_xmm(void)
{
	__asm__ volatile(LOAD_16("movdqu", "xmm") "1: pause\n\tjmp 1b" : : "r"(values) : "memory");
}

static void *hold_vectors(void *arg)
{
	if (__builtin_cpu_supports("avx512f"))
		spin_zmm();
	else if (__builtin_cpu_supports("avx"))
		spin_ymm();
	else
		spin_xmm();
	return arg;
}

static const char *kind_of_vectors(void)
{
	if (__builtin_cpu_supports("avx512f"))
		return "zmm";
	return __builtin_cpu_supports("avx") ? "ymm" : "xmm";
}

int main(void)
{
	void *(*const functions[])(void *) = { wait_nanosleep, wait_futex, wait_poll,
					       wait_epoll,     wait_read,  wait_handler,
					       hold_vectors };
	pthread_t thread;

	signal(SIGUSR1, pause_in_handler);
	for (int r = 0; r < REGISTERS; r++)
		for (int q = 0; q < LANES; q++)
			values[r][q] = (uint64_t)(r + 1) << 32 | (uint64_t)(q + 1);
	shared = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	snprintf(shared + 0x5000, 64, "written to shared memory");
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		if (pthread_create(&thread, NULL, functions[i], NULL))
			return 1;
	printf("ready %s\n", kind_of_vectors());
	fflush(stdout);
	pthread_join(thread, NULL);
	return 0;
}
