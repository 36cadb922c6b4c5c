/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interval timers and POSIX timers: each goes on with what was left of its time, and repeats as it did.
 * Elapsed time is compared with two bounds: never less than was set, when the clock is one that runs
 * on, and never absurdly more.
 */
#include <pthread.h>
#include <sys/time.h>

#include "lib/kindtest.h"

enum { LONG_S = 1000 };

static int64_t armed_ns; /* when, by the clock that runs on while there is no process */

static volatile int alarms, ticks, thread_ticks;
static volatile pid_t ticked_in;

static void on_alarm(int s)
{
	(void)s;
	alarms++;
}

static void on_tick(int s, siginfo_t *info, void *context)
{
	(void)s, (void)context;
	if (info->si_code != SI_TIMER)
		return;
	if (info->si_value.sival_int == 21)
		ticks++;
	if (info->si_value.sival_int == 22) {
		thread_ticks++;
		ticked_in = (pid_t)syscall(SYS_gettid);
	}
}

static timer_t make(clockid_t clock, int notify, int s, int value, pid_t tid)
{
	struct sigevent event = { .sigev_notify = notify, .sigev_signo = s };
	timer_t timer;

	event.sigev_value.sival_int = value;
	event._sigev_un._tid = tid;
	KT_NEED(timer_create(clock, &event, &timer) == 0);
	return timer;
}

static void arm(timer_t timer, int flags, time_t s, long ns, long interval_ns)
{
	struct itimerspec spec = { .it_value = { s, ns }, .it_interval = { 0, interval_ns } };

	KT_NEED(timer_settime(timer, flags, &spec, NULL) == 0);
}

static volatile int leave;
static volatile pid_t ticker_tid;
static pthread_barrier_t ready;

static void *ticker(void *arg)
{
	(void)arg;
	ticker_tid = (pid_t)syscall(SYS_gettid);
	pthread_barrier_wait(&ready);
	while (!leave)
		kt_nap(10);
	return NULL;
}

/* Of MOST seconds at most what has passed since then is gone, which counts the time without a life. */
static bool is_left(time_t left, time_t most)
{
	int64_t passed_ns = kt_now_ns(CLOCK_BOOTTIME) - armed_ns;

	return left < most && left >= most - 2 - passed_ns / 1000000000;
}

static void check_left(timer_t timer, const char *what, time_t most, long interval_ns)
{
	struct itimerspec now;

	KT(timer_gettime(timer, &now) == 0, "%s", what);
	KT(is_left(now.it_value.tv_sec, most), "%s: %ld s left", what, (long)now.it_value.tv_sec);
	KT(now.it_interval.tv_nsec == interval_ns, "%s: interval %ld", what,
	   now.it_interval.tv_nsec);
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct itimerval virtual = { .it_value = { LONG_S, 0 }, .it_interval = { 7, 8 } };
	struct itimerval prof = { .it_value = { 2 * LONG_S, 0 } };
	struct itimerval real = { .it_value = { LONG_S, 0 }, .it_interval = { 0, 250000 } }, it;
	timer_t hole, mono, boot, real_abs, cpu, tick, in_thread, unarmed, quiet;
	struct itimerspec spec;
	pthread_t thread;
	sigset_t set;
	siginfo_t info;
	struct timespec none = { 0, 0 };
	int before;

	sigaction(SIGRTMIN, &action, NULL);
	signal(SIGALRM, on_alarm);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	pthread_barrier_init(&ready, NULL, 2);
	KT_NEED(pthread_create(&thread, NULL, ticker, NULL) == 0);
	pthread_barrier_wait(&ready);

	armed_ns = kt_now_ns(CLOCK_BOOTTIME);
	KT_NEED(setitimer(ITIMER_REAL, &real, NULL) == 0);
	KT_NEED(setitimer(ITIMER_VIRTUAL, &virtual, NULL) == 0);
	KT_NEED(setitimer(ITIMER_PROF, &prof, NULL) == 0);
	hole = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0); /* ids with a gap among them */
	mono = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 5, 11, 0);
	KT_NEED(timer_delete(hole) == 0);
	boot = make(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGRTMIN + 5, 12, 0);
	real_abs = make(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 5, 13, 0);
	cpu = make(CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 5, 14, 0);
	tick = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 21, 0);
	in_thread = make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN, 22, ticker_tid);
	unarmed = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 5, 15, 0);
	quiet = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
	arm(mono, 0, LONG_S, 0, 123456789);
	arm(boot, 0, 2 * LONG_S, 0, 0);
	arm(real_abs, TIMER_ABSTIME, time(NULL) + LONG_S, 0, 0);
	arm(cpu, 0, LONG_S, 0, 0);
	arm(tick, 0, 0, 5000000, 5000000);
	arm(in_thread, 0, 0, 7000000, 7000000);
	arm(quiet, 0, 3 * LONG_S, 0, 0);

	kt_wait();

	check_left(mono, "monotonic", LONG_S, 123456789);
	check_left(boot, "boottime", 2 * LONG_S, 0);
	check_left(real_abs, "realtime", LONG_S, 0);
	check_left(cpu, "cpu", LONG_S, 0);
	check_left(quiet, "without a signal", 3 * LONG_S, 0);
	KT(timer_gettime(unarmed, &spec) == 0 && spec.it_value.tv_sec == 0 &&
	   spec.it_value.tv_nsec == 0);
	KT(getitimer(ITIMER_REAL, &it) == 0 && is_left(it.it_value.tv_sec, LONG_S) &&
		   it.it_interval.tv_usec == 250000,
	   "%ld s left", (long)it.it_value.tv_sec);
	KT(getitimer(ITIMER_VIRTUAL, &it) == 0 && is_left(it.it_value.tv_sec - 1, LONG_S) &&
		   it.it_interval.tv_sec == 7 && it.it_interval.tv_usec > 0,
	   "%ld s left", (long)it.it_value.tv_sec);
	KT(getitimer(ITIMER_PROF, &it) == 0 && is_left(it.it_value.tv_sec - 1, 2 * LONG_S),
	   "%ld s left", (long)it.it_value.tv_sec);

	/* Those that tick, still tick. */
	before = ticks;
	for (int64_t end = kt_now_ns(CLOCK_MONOTONIC) + 20000000000;
	     ticks < before + 10 && kt_now_ns(CLOCK_MONOTONIC) < end;)
		kt_nap(5);
	KT(ticks >= before + 10, "%d ticks, then %d", before, ticks);
	before = thread_ticks;
	for (int64_t end = kt_now_ns(CLOCK_MONOTONIC) + 20000000000;
	     thread_ticks < before + 10 && kt_now_ns(CLOCK_MONOTONIC) < end;)
		kt_nap(5);
	KT(thread_ticks >= before + 10 && ticked_in == ticker_tid);
	/* Nothing fired that had time left, and what is set anew fires with its own value. */
	KT(alarms == 0);
	KT(sigtimedwait(&set, &info, &none) < 0);
	arm(tick, 0, 0, 0, 0); /* whose handler would end the wait */
	arm(in_thread, 0, 0, 0, 0);
	arm(unarmed, 0, 0, 1000000, 0);
	KT(sigtimedwait(&set, &info, &(struct timespec){ 20, 0 }) == SIGRTMIN + 5 &&
	   info.si_value.sival_int == 15 && info.si_code == SI_TIMER);
	hole = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0); /* no id is given twice */
	KT(hole != mono && hole != boot && hole != real_abs && hole != cpu && hole != tick &&
	   hole != in_thread && hole != unarmed && hole != quiet);
	leave = 1;
	pthread_join(thread, NULL);
	kt_end();
}
