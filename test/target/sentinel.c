/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target that would notice: threads that fill the stack below their red zone and look at it again
 * and again, that keep values in all registers, that count their own signals, and that sleep. It ends
 * when the file "go" is there, and says PASS if it has noticed nothing.
 *
 * Compiled as it is, and by no_trace.py also statically, with musl, and not position-independent.
 */
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/time.h>

#include "lib/kindtest.h"

enum { BELOW = 8192 };

static volatile int leave;
static volatile long rounds[4];
static volatile int stray_signals;

/* Fills BELOW bytes below the stack pointer, beyond the red zone as well, and looks for changes while
 * nothing of its own touches them: nobody has any business there but signal handlers, of which there
 * are none for this thread. */
static void *below_red_zone(void *arg)
{
	uint64_t wrong = 0;

	(void)arg;
	while (!leave && !wrong) {
		__asm__ volatile("lea -8(%%rsp), %%rdi\n"
				 "mov %[n], %%ecx\n"
				 "mov $0x5a5aa5a512344321, %%rax\n"
				 "1: mov %%rax, (%%rdi)\n"
				 "sub $8, %%rdi\n"
				 "dec %%ecx\n"
				 "jnz 1b\n"
				 "mov $20000, %%edx\n"
				 "2: pause\n"
				 "dec %%edx\n"
				 "jnz 2b\n"
				 "lea -8(%%rsp), %%rdi\n"
				 "mov %[n], %%ecx\n"
				 "xor %[wrong], %[wrong]\n"
				 "3: mov (%%rdi), %%rsi\n"
				 "xor %%rax, %%rsi\n"
				 "or %%rsi, %[wrong]\n"
				 "sub $8, %%rdi\n"
				 "dec %%ecx\n"
				 "jnz 3b\n"
				 : [wrong] "=&r"(wrong)
				 : [n] "i"(BELOW / 8)
				 : "rax", "rcx", "rdx", "rdi", "rsi", "memory", "cc");
		rounds[0]++;
	}
	KT(!wrong, "bytes below the red zone: %lx", wrong);
	return NULL;
}

/* Registers and flags in a loop without calls. */
static void *registers(void *arg)
{
	uint64_t wrong = 0;

	(void)arg;
	while (!leave && !wrong) {
		__asm__ volatile("push %%rbp\n"
				 "mov $0x0123456789abcdef, %%rax\n"
				 "mov %%rax, %%rbx\n mov %%rax, %%rcx\n mov %%rax, %%rdx\n"
				 "mov %%rax, %%rsi\n mov %%rax, %%rdi\n mov %%rax, %%rbp\n"
				 "mov %%rax, %%r8\n mov %%rax, %%r9\n mov %%rax, %%r10\n"
				 "mov %%rax, %%r11\n mov %%rax, %%r12\n mov %%rax, %%r13\n"
				 "mov %%rax, %%r14\n movq %%rax, %%xmm0\n movq %%rax, %%xmm15\n"
				 "mov $20000, %%r15d\n"
				 "1: pause\n dec %%r15d\n jnz 1b\n"
				 "xor %%rax, %%rbx\n xor %%rax, %%rcx\n xor %%rax, %%rdx\n"
				 "xor %%rax, %%rsi\n xor %%rax, %%rdi\n xor %%rax, %%rbp\n"
				 "xor %%rax, %%r8\n xor %%rax, %%r9\n xor %%rax, %%r10\n"
				 "xor %%rax, %%r11\n xor %%rax, %%r12\n xor %%rax, %%r13\n"
				 "xor %%rax, %%r14\n"
				 "or %%rcx, %%rbx\n or %%rdx, %%rbx\n or %%rsi, %%rbx\n"
				 "or %%rdi, %%rbx\n or %%rbp, %%rbx\n or %%r8, %%rbx\n"
				 "or %%r9, %%rbx\n or %%r10, %%rbx\n or %%r11, %%rbx\n"
				 "or %%r12, %%rbx\n or %%r13, %%rbx\n or %%r14, %%rbx\n"
				 "movq %%xmm0, %%rcx\n xor %%rax, %%rcx\n or %%rcx, %%rbx\n"
				 "movq %%xmm15, %%rcx\n xor %%rcx, %%rax\n or %%rbx, %%rax\n"
				 "pop %%rbp\n"
				 : "=a"(wrong)
				 :
				 : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11",
				   "r12", "r13", "r14", "r15", "xmm0", "xmm15", "memory", "cc");
		rounds[1]++;
	}
	KT(!wrong, "registers: %lx", wrong);
	return NULL;
}

static void *sleeper(void *arg)
{
	int ep = epoll_create1(EPOLL_CLOEXEC), fd = eventfd(0, 0);
	struct epoll_event e = { .events = EPOLLIN };
	int wrong = 0, why = 0;

	(void)arg;
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
	while (!leave) {
		int n = epoll_wait(ep, &e, 1, 50);

		if (n != 0) {
			why = errno;
			wrong++;
		}
		rounds[2]++;
	}
	KT(wrong == 0, "epoll_wait ended early %d times, errno %d", wrong, why);
	return NULL;
}

static void on_any(int s)
{
	if (s != SIGALRM)
		stray_signals++;
}

int main(int argc, char **argv)
{
	bool quiet = argc > 1 && strcmp(argv[1], "quiet") == 0; /* no spinning */
	pthread_t threads[3];
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 4 };
	struct itimerspec far = { .it_value = { 100000, 0 } };
	stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
	int p[2], file;
	timer_t timer;
	sigset_t set;

	/* A handler for whatever can be handled: who sends something is counted. */
	for (int s = 1; s < 32; s++)
		if (s != SIGKILL && s != SIGSTOP && s != SIGSEGV && s != SIGBUS && s != SIGCONT &&
		    s != SIGTSTP && s != SIGTTIN && s != SIGTTOU)
			signal(s, on_any);
	sigaltstack(&stack, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 3);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sigqueue(getpid(), SIGRTMIN + 3, (union sigval){ .sival_int = 5 });
	pthread_kill(pthread_self(), SIGUSR2);
	KT_NEED(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	KT_NEED(timer_settime(timer, 0, &far, NULL) == 0);
	KT_NEED(pipe(p) == 0 && write(p[1], "inside", 6) == 6);
	file = open("sentinel.data", O_RDWR | O_CREAT, 0600);
	KT_NEED(file >= 0 && write(file, "data", 4) == 4);

	if (!quiet) {
		KT_NEED(pthread_create(&threads[0], NULL, below_red_zone, NULL) == 0);
		KT_NEED(pthread_create(&threads[1], NULL, registers, NULL) == 0);
	}
	KT_NEED(pthread_create(&threads[2], NULL, sleeper, NULL) == 0);
	kt_wait();
	leave = 1;
	for (int i = quiet ? 2 : 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	KT(quiet || (rounds[0] > 0 && rounds[1] > 0));
	KT(stray_signals == 0, "%d signals came", stray_signals);
	sigpending(&set);
	KT(sigismember(&set, SIGUSR2) && sigismember(&set, SIGRTMIN + 3));
	kt_end();
}
