/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many threads in teams, each of which writes a sequence to a file of its own: the members take turns,
 * every one makes the step that is its own from the number that the one before it left. The main thread
 * waits for the signals of a timer, until the file "go" is there and the timer went on.
 */
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MEMBERS = 5, KEPT = 64 };

struct team {
	pthread_mutex_t lock;
	pthread_cond_t passed;
	FILE *out;
	int64_t seed, x;
	long n; /* steps made */
};

struct member {
	struct team *team;
	int turn;
	pthread_t thread;
};

static volatile int over;

/* In the thread's own storage: its newest blocks of memory, and how many steps it has made. */
static _Thread_local uint8_t *kept[KEPT];
static _Thread_local long steps;

static int64_t following(int64_t x)
{
	return x * 16807 % 2147483647;
}

static size_t size_of(long n)
{
	return (size_t)(n * 37 % 5000) + 1;
}

/* Keeps a block whose size and contents follow from the step, and checks the one that it replaces. */
static void keep(long n)
{
	uint8_t **slot = &kept[n % KEPT];

	for (size_t i = 0; *slot && i < size_of(n - KEPT); i++)
		if ((*slot)[i] != (uint8_t)(n - KEPT))
			exit(11);
	free(*slot);
	*slot = malloc(size_of(n));
	if (!*slot)
		exit(10);
	memset(*slot, (uint8_t)n, size_of(n));
}

static void step(struct team *t)
{
	t->x = following(t->x);
	t->n++;
	fprintf(t->out, "%ld %ld\n", t->n, (long)t->x);
	if (fflush(t->out) != 0)
		exit(9);
}

static void *work(void *arg)
{
	struct member *me = arg;
	struct team *t = me->team;

	pthread_mutex_lock(&t->lock);
	for (;;) {
		while (!over && t->n % MEMBERS != me->turn)
			pthread_cond_wait(&t->passed, &t->lock);
		if (over)
			break;
		if (steps++ != t->n / MEMBERS)
			exit(12);
		step(t);
		keep(steps);
		pthread_cond_broadcast(&t->passed);
	}
	pthread_mutex_unlock(&t->lock);
	for (int i = 0; i < KEPT; i++)
		keep(++steps);
	return NULL;
}

static void begin(struct team *t, struct member *members, int number)
{
	char name[32];

	snprintf(name, sizeof(name), "out.%d", number);
	t->out = fopen(name, "w");
	if (!t->out)
		exit(8);
	t->x = t->seed = number + 1;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->passed, NULL);
	for (int i = 0; i < MEMBERS; i++) {
		members[i] = (struct member){ .team = t, .turn = i };
		if (pthread_create(&members[i].thread, NULL, work, &members[i]) != 0)
			exit(7);
	}
}

/* Signals of a timer, which every thread has blocked. */
static void tick(sigset_t *ticks, int n)
{
	siginfo_t info;

	while (n > 0)
		if (sigwaitinfo(ticks, &info) == SIGRTMIN + 1 && info.si_code == SI_TIMER &&
		    info.si_value.sival_int == 4711)
			n--;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 2;
	struct team *teams = calloc((size_t)n, sizeof(*teams));
	struct member *members = calloc((size_t)n * MEMBERS, sizeof(*members));
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1 };
	const struct itimerspec every = { { 0, 5000000 }, { 0, 5000000 } };
	sigset_t ticks;
	timer_t timer;

	sigemptyset(&ticks);
	sigaddset(&ticks, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &ticks, NULL);
	event.sigev_value.sival_int = 4711;
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
	    timer_settime(timer, 0, &every, NULL) != 0)
		return 6;
	for (int i = 0; i < n; i++)
		begin(&teams[i], &members[i * MEMBERS], i);
	while (access("go", F_OK) != 0)
		tick(&ticks, 1);
	tick(&ticks, 5);
	for (int i = 0; i < n; i++) {
		pthread_mutex_lock(&teams[i].lock);
		over = 1;
		pthread_cond_broadcast(&teams[i].passed);
		pthread_mutex_unlock(&teams[i].lock);
	}
	for (int i = 0; i < n * MEMBERS; i++)
		pthread_join(members[i].thread, NULL);
	return 0;
}
