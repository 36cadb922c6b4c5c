/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads: names, thread-local storage, identities, robust mutexes, condition variables that somebody
 * waits on, barriers, stacks, and pthread_join (clear_child_tid) of those that end afterwards.
 */
#include <pthread.h>
#include <semaphore.h>
#include <sys/prctl.h>

#include "lib/kindtest.h"

enum { THREADS = 40 };

static __thread uint64_t own[100];
static pthread_key_t key;
static pthread_barrier_t all_ready;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER, robust, held = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static sem_t semaphore;
static int turn; /* under mutex */
static volatile pid_t tids[THREADS];
static pthread_t handles[THREADS];
static volatile int counted;

static pid_t gettid_raw(void)
{
	return (pid_t)syscall(SYS_gettid);
}

/* Waits for its turn, which comes from another thread that waited itself. */
static void take_turn(int n)
{
	pthread_mutex_lock(&mutex);
	while (turn != n)
		pthread_cond_wait(&cond, &mutex);
	turn++;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&mutex);
}

static void *work(void *arg)
{
	int n = (int)(intptr_t)arg;
	char name[32], again[32];
	volatile unsigned char stack[3000];

	snprintf(name, sizeof(name), "kind %02d of thé", n);
	pthread_setname_np(pthread_self(), name);
	for (int i = 0; i < 100; i++)
		own[i] = (uint64_t)n * 1000 + (uint64_t)i;
	for (size_t i = 0; i < sizeof(stack); i++)
		stack[i] = (unsigned char)(n + (int)i);
	pthread_setspecific(key, (void *)(intptr_t)(n + 1));
	tids[n] = gettid_raw();
	pthread_barrier_wait(&all_ready);

	if (n % 4 == 0) {
		take_turn(n / 4);
	} else if (n % 4 == 1) { /* a mutex that main holds all the while */
		pthread_mutex_lock(&held);
		counted++;
		pthread_mutex_unlock(&held);
	} else if (n % 4 == 2) {
		sem_wait(&semaphore);
	} else {
		pthread_rwlock_rdlock(&rwlock);
		pthread_rwlock_unlock(&rwlock);
	}

	for (int i = 0; i < 100; i++)
		KT(own[i] == (uint64_t)n * 1000 + (uint64_t)i, "thread %d", n);
	for (size_t i = 0; i < sizeof(stack); i++)
		if (stack[i] != (unsigned char)(n + (int)i)) {
			KT(false, "stack of thread %d", n);
			break;
		}
	KT(pthread_getspecific(key) == (void *)(intptr_t)(n + 1), "thread %d", n);
	KT(gettid_raw() == tids[n], "thread %d", n);
	KT(pthread_equal(pthread_self(), handles[n]), "thread %d", n);
	pthread_getname_np(pthread_self(), again, sizeof(again));
	name[15] = '\0';
	KT(strcmp(name, again) == 0, "'%s' is '%s'", name, again);
	return (void *)(intptr_t)(n * 7);
}

/* Ends while it holds a robust mutex, after the wait. */
static void *dies_holding(void *arg)
{
	pthread_mutex_lock(&robust);
	pthread_barrier_wait(arg);
	while (!kt_told("go"))
		kt_nap(10);
	return NULL;
}

static void *after(void *arg)
{
	own[3]++;
	return arg;
}

int main(void)
{
	pthread_mutexattr_t attr;
	pthread_barrier_t holder_ready;
	pthread_t holder, fresh;
	pid_t pid = getpid();
	char name[16];
	void *result;

	KT_NEED(pthread_key_create(&key, NULL) == 0);
	KT_NEED(sem_init(&semaphore, 0, 0) == 0);
	pthread_barrier_init(&all_ready, NULL, THREADS + 1);
	pthread_barrier_init(&holder_ready, NULL, 2);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	pthread_mutex_lock(&held);
	pthread_rwlock_wrlock(&rwlock);
	turn = -1;
	KT_NEED(pthread_create(&holder, NULL, dies_holding, &holder_ready) == 0);
	for (intptr_t i = 0; i < THREADS; i++)
		KT_NEED(pthread_create(&handles[i], NULL, work, (void *)i) == 0);
	pthread_barrier_wait(&all_ready);
	pthread_barrier_wait(&holder_ready);
	prctl(PR_SET_NAME, "leader of kinds");

	kt_wait();

	pthread_mutex_lock(&mutex);
	turn = 0;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&mutex);
	KT(counted == 0);
	pthread_mutex_unlock(&held);
	pthread_rwlock_unlock(&rwlock);
	for (int i = 0; i < THREADS / 4; i++)
		sem_post(&semaphore);
	for (int i = 0; i < THREADS; i++) {
		KT(pthread_join(handles[i], &result) == 0);
		KT(result == (void *)(intptr_t)(i * 7), "thread %d", i);
	}
	KT(counted == THREADS / 4);
	pthread_join(holder, NULL);
	KT(pthread_mutex_lock(&robust) == EOWNERDEAD);
	KT(pthread_mutex_consistent(&robust) == 0);
	KT(pthread_mutex_unlock(&robust) == 0);
	KT(pthread_create(&fresh, NULL, after, &key) == 0);
	KT(pthread_join(fresh, &result) == 0 && result == &key);
	KT(getpid() == pid);
	prctl(PR_GET_NAME, name);
	KT(strcmp(name, "leader of kinds") == 0, "%s", name);
	kt_end();
}
