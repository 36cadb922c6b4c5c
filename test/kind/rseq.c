/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Restartable sequences: threads count per processor without atomic operations. A sequence that was
 * interrupted and went on as if it had not been loses or doubles counts. Spinning in the middle of
 * one makes it likely that an image is taken there.
 */
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/rseq.h>

#include "lib/kindtest.h"

enum { THREADS = 4, CPUS = 1024 };

static struct {
	volatile long count;
	char pad[56];
} counters[CPUS];
static volatile int leave;
static long wanted[THREADS], aborts[THREADS];

static struct rseq *area(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* One count, or false when it was aborted. */
static bool count(struct rseq *rs)
{
	__asm__ volatile goto(
		".pushsection __rseq_cs, \"aw\"\n"
		".balign 32\n"
		"3: .long 0, 0\n"
		".quad 1f, 2f - 1f, 4f\n"
		".popsection\n"
		"lea 3b(%%rip), %%rax\n"
		"mov %%rax, %c[cs](%[rs])\n"
		"1:\n"
		"mov %c[cpu](%[rs]), %%eax\n"
		"shl $6, %%rax\n"
		"lea %[counters], %%rcx\n"
		"mov (%%rcx, %%rax), %%rdx\n"
		"mov $200, %%esi\n"
		"5: pause\n"
		"dec %%esi\n"
		"jnz 5b\n"
		"inc %%rdx\n"
		"mov %%rdx, (%%rcx, %%rax)\n"
		"2:\n"
		".pushsection .text.unlikely, \"ax\"\n"
		".byte 0x0f, 0xb9, 0x3d\n"
		".long 0x53053053\n"
		"4: jmp %l[aborted]\n"
		".popsection\n"
		:
		: [rs] "r"(rs), [counters] "m"(counters), [cs] "i"(offsetof(struct rseq, rseq_cs)),
		  [cpu] "i"(offsetof(struct rseq, cpu_id))
		: "rax", "rcx", "rdx", "rsi", "memory", "cc"
		: aborted);
	return true;
aborted:
	return false;
}

static void *work(void *arg)
{
	int n = (int)(intptr_t)arg;
	struct rseq *rs = area();

	while (!leave) {
		if (count(rs))
			wanted[n]++;
		else
			aborts[n]++;
	}
	return NULL;
}

static int wake[2];

/* Is asleep when images are taken. Whoever is still registered is told each processor that it comes to. */
static void *asleep(void *arg)
{
	cpu_set_t all, one;
	char c;

	KT(read(wake[0], &c, 1) == 1);
	sched_getaffinity(0, sizeof(all), &all);
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		KT(sched_setaffinity(0, sizeof(one), &one) == 0);
		KT(*(volatile uint32_t *)&area()->cpu_id == cpu, "%u, not %u", area()->cpu_id, cpu);
	}
	sched_setaffinity(0, sizeof(all), &all);
	return arg;
}

int main(void)
{
	pthread_t threads[THREADS], sleeper;
	long sum = 0, want = 0, aborted = 0;
	unsigned cpu;

	if (__rseq_size == 0)
		kt_skip("the C library does not register restartable sequences");
	for (intptr_t i = 0; i < THREADS; i++)
		KT_NEED(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
	KT_NEED(pipe(wake) == 0 && pthread_create(&sleeper, NULL, asleep, NULL) == 0);
	kt_wait();
	KT(write(wake[1], "w", 1) == 1);
	pthread_join(sleeper, NULL);
	kt_nap(300); /* some more, in the life after */
	leave = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < CPUS; i++)
		sum += counters[i].count;
	for (int i = 0; i < THREADS; i++) {
		want += wanted[i];
		aborted += aborts[i];
	}
	KT(sum == want, "%ld counted, %ld wanted, %ld aborts", sum, want, aborted);
	KT(aborted > 0, "threads that take turns on two processors are interrupted");
	syscall(SYS_getcpu, &cpu, NULL, NULL);
	KT(area()->cpu_id < CPUS, "still registered");
	kt_end();
}
