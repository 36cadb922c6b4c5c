/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A busy program that checks itself: sums over changing memory, numbers that go round through pipes,
 * timers, sleeping threads, threads that are born and end, locks handed over, bytes below the red
 * zone. Ends with PASS when the file "go" is there.
 *
 * With the argument "shared" its counters lie in the file "progress", so that somebody else can see
 * that every thread goes on (count) and that nothing is wrong (wrong): 16 pairs of 64-bit numbers.
 */
#include <linux/futex.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "lib/kindtest.h"

enum { SUMS, PING, PONG, NAPS, TICKS, FUTEXES, EPOLLS, BELOW, BIRTHS, HANDS, HANDS2, WORKERS };

static struct counter {
	volatile uint64_t count, wrong;
} * counters;
static volatile int leave;

#define WRONG(which, condition)                              \
	do {                                                 \
		if (condition) {                             \
			counters[which].wrong++;             \
			KT(!(condition), "errno %d", errno); \
		}                                            \
	} while (0)

static void *sums(void *arg)
{
	enum { WORDS = 1 << 17 };
	uint64_t *words = malloc(WORDS * sizeof(*words)), want = 0, x = 88172645463325252ull;

	(void)arg;
	for (size_t i = 0; i < WORDS; i++)
		want += words[i] = i * 0x9e3779b97f4a7c15ull;
	while (!leave) {
		uint64_t sum = 0;

		for (int i = 0; i < 1000; i++) { /* changes that the sum follows */
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			want += x - words[x % WORDS];
			words[x % WORDS] = x;
		}
		for (size_t i = 0; i < WORDS; i++)
			sum += words[i];
		if (sum != want) {
			counters[SUMS].wrong++;
			KT(sum == want, "memory changed under us");
			break;
		}
		counters[SUMS].count++;
	}
	return NULL;
}

static int there[2], back[2];

static void *ping(void *arg)
{
	uint64_t n = 0, got;

	(void)arg;
	while (!leave) {
		n++;
		WRONG(PING, write(there[1], &n, 8) != 8);
		WRONG(PING, read(back[0], &got, 8) != 8 || got != n * 3);
		counters[PING].count++;
	}
	n = UINT64_MAX;
	WRONG(PING, write(there[1], &n, 8) != 8);
	return NULL;
}

static void *pong(void *arg)
{
	uint64_t n, last = 0;

	(void)arg;
	for (;;) {
		WRONG(PONG, read(there[0], &n, 8) != 8);
		if (n == UINT64_MAX)
			return NULL;
		WRONG(PONG, n != last + 1);
		last = n;
		n *= 3;
		WRONG(PONG, write(back[1], &n, 8) != 8);
		counters[PONG].count++;
	}
}

static void *naps(void *arg)
{
	(void)arg;
	while (!leave) {
		struct timespec t = { 0, 3000000 };
		int64_t before = kt_now_ns(CLOCK_MONOTONIC);

		WRONG(NAPS, nanosleep(&t, NULL) != 0);
		WRONG(NAPS, kt_now_ns(CLOCK_MONOTONIC) - before < 3000000);
		counters[NAPS].count++;
	}
	return NULL;
}

static void *ticks(void *arg)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1 };
	struct itimerspec every = { { 0, 2000000 }, { 0, 2000000 } };
	timer_t timer;
	sigset_t set;
	siginfo_t info;

	(void)arg;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	event.sigev_value.sival_int = 31;
	WRONG(TICKS, timer_create(CLOCK_MONOTONIC, &event, &timer) != 0);
	WRONG(TICKS, timer_settime(timer, 0, &every, NULL) != 0);
	while (!leave) {
		WRONG(TICKS, sigwaitinfo(&set, &info) != SIGRTMIN + 1);
		WRONG(TICKS, info.si_code != SI_TIMER || info.si_value.sival_int != 31);
		counters[TICKS].count++;
	}
	return NULL;
}

static void *futexes(void *arg)
{
	uint32_t word = 7;

	(void)arg;
	while (!leave) {
		struct timespec t = { 0, 4000000 };
		long r = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, &t, NULL, 0);

		WRONG(FUTEXES, r != -1 || errno != ETIMEDOUT);
		counters[FUTEXES].count++;
	}
	return NULL;
}

static void *epolls(void *arg)
{
	int ep = epoll_create1(EPOLL_CLOEXEC), never = eventfd(0, EFD_CLOEXEC);
	struct epoll_event e = { .events = EPOLLIN };

	(void)arg;
	WRONG(EPOLLS, epoll_ctl(ep, EPOLL_CTL_ADD, never, &e) != 0);
	while (!leave) {
		WRONG(EPOLLS, epoll_wait(ep, &e, 1, 5) != 0);
		counters[EPOLLS].count++;
	}
	return NULL;
}

static void *below(void *arg)
{
	(void)arg;
	while (!leave) {
		uint64_t wrong;

		__asm__ volatile("lea -8(%%rsp), %%rdi\n mov $512, %%ecx\n"
				 "mov $0x1122334455667788, %%rax\n"
				 "1: mov %%rax, (%%rdi)\n sub $8, %%rdi\n dec %%ecx\n jnz 1b\n"
				 "mov $3000, %%edx\n 2: pause\n dec %%edx\n jnz 2b\n"
				 "lea -8(%%rsp), %%rdi\n mov $512, %%ecx\n xor %[wrong], %[wrong]\n"
				 "3: mov (%%rdi), %%rsi\n xor %%rax, %%rsi\n or %%rsi, %[wrong]\n"
				 "sub $8, %%rdi\n dec %%ecx\n jnz 3b\n"
				 : [wrong] "=&r"(wrong)
				 :
				 : "rax", "rcx", "rdx", "rdi", "rsi", "memory", "cc");
		WRONG(BELOW, wrong != 0);
		counters[BELOW].count++;
	}
	return NULL;
}

static void *short_life(void *arg)
{
	return (void *)((intptr_t)arg * 2);
}

static void *births(void *arg)
{
	(void)arg;
	for (intptr_t i = 0; !leave; i++) {
		pthread_t thread;
		void *result = NULL;

		WRONG(BIRTHS, pthread_create(&thread, NULL, short_life, (void *)i) != 0);
		WRONG(BIRTHS, pthread_join(thread, &result) != 0 || result != (void *)(i * 2));
		counters[BIRTHS].count++;
		kt_nap(1);
	}
	return NULL;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int turn = HANDS;

static void *hands(void *arg)
{
	int me = (int)(intptr_t)arg;

	while (!leave) {
		pthread_mutex_lock(&mutex);
		while (turn != me && !leave)
			pthread_cond_wait(&cond, &mutex);
		turn = me == HANDS ? HANDS2 : HANDS;
		pthread_cond_signal(&cond);
		pthread_mutex_unlock(&mutex);
		counters[me].count++;
		kt_nap(1);
	}
	pthread_mutex_lock(&mutex);
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&mutex);
	return NULL;
}

int main(int argc, char **argv)
{
	static void *(*const work[WORKERS])(void *) = { sums,   ping,    pong,   naps,
							ticks,  futexes, epolls, below,
							births, hands,   hands };
	bool shared = argc > 1 && strcmp(argv[1], "shared") == 0;
	pthread_t threads[WORKERS];
	int fd = -1;
	sigset_t set;

	if (shared) {
		fd = open("progress", O_RDWR | O_CREAT | O_TRUNC, 0644);
		KT_NEED(fd >= 0 && ftruncate(fd, 4096) == 0);
	}
	counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			shared ? MAP_SHARED : MAP_SHARED | MAP_ANONYMOUS, fd, 0);
	KT_NEED(counters != MAP_FAILED);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	KT_NEED(pipe(there) == 0 && pipe(back) == 0);
	for (intptr_t i = 0; i < WORKERS; i++) {
		pthread_attr_t attr;

		pthread_attr_init(&attr);
		pthread_attr_setstacksize(&attr, 256 << 10);
		KT_NEED(pthread_create(&threads[i], &attr, work[i], (void *)i) == 0);
	}
	kt_wait();
	leave = 1;
	for (int i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < WORKERS; i++)
		KT(counters[i].wrong == 0 && counters[i].count > 0,
		   "worker %d: %lu rounds, %lu wrong", i, counters[i].count, counters[i].wrong);
	kt_end();
}
