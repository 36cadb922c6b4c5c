/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals: actions with their masks and flags, blocked ones, waiting ones of the process and of
 * threads with all that was sent with them and in their order, an alternate stack in use.
 */
#include <pthread.h>
#include <ucontext.h>

#include "lib/kindtest.h"

static pthread_barrier_t ready;
static volatile int leave;
static siginfo_t seen[64];
static volatile int n_seen;

static void note(int s, siginfo_t *info, void *context)
{
	(void)s, (void)context;
	if (n_seen < 64)
		seen[n_seen++] = *info;
}

static pid_t gettid_raw(void)
{
	return (pid_t)syscall(SYS_gettid);
}

static void queue(pid_t tid, int s, int code, long value)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	info.si_signo = s;
	info.si_code = code;
	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_value.sival_ptr = (void *)value;
	if (tid)
		KT_NEED(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, s, &info) == 0);
	else
		KT_NEED(syscall(SYS_rt_sigqueueinfo, getpid(), s, &info) == 0);
}

static bool take(int s, siginfo_t *ret)
{
	struct timespec none = { 0, 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, s);
	/* Not by sigtimedwait(3), which turns SI_TKILL into SI_USER. */
	return syscall(SYS_rt_sigtimedwait, &set, ret, &none, 8) == s;
}

/* Its own waiting signals, its own mask. */
static void *other_thread(void *arg)
{
	sigset_t set, now;
	siginfo_t info;

	(void)arg;
	sigfillset(&set);
	sigdelset(&set, SIGURG);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	queue(gettid_raw(), SIGRTMIN + 7, SI_QUEUE, 0x700000001);
	queue(gettid_raw(), SIGRTMIN + 7, SI_QUEUE, 0x700000002);
	KT_NEED(syscall(SYS_tgkill, getpid(), gettid_raw(), SIGWINCH) == 0);
	pthread_barrier_wait(&ready);
	while (!leave)
		kt_nap(10);
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	for (int s = 1; s < 65; s++)
		if (s != 32 && s != 33 && s != SIGKILL && s != SIGSTOP)
			KT(sigismember(&now, s) == (s != SIGURG), "signal %d of the thread", s);
	KT(take(SIGRTMIN + 7, &info) && info.si_value.sival_ptr == (void *)0x700000001);
	KT(take(SIGRTMIN + 7, &info) && info.si_value.sival_ptr == (void *)0x700000002);
	KT(info.si_code == SI_QUEUE && info.si_pid == getpid());
	KT(!take(SIGRTMIN + 7, &info));
	KT(take(SIGWINCH, &info));
	KT(info.si_code == SI_TKILL && info.si_pid == getpid(), "code %d pid %d", info.si_code,
	   info.si_pid);
	return NULL;
}

static char alternate[64 << 10];
static volatile int on_alternate_done;

/* Runs on the alternate stack all the time that images are taken. */
static void on_alternate(int s, siginfo_t *info, void *context)
{
	stack_t now;
	sigset_t mask;
	char here;

	(void)s, (void)context;
	pthread_barrier_wait(&ready);
	while (!leave)
		kt_nap(10);
	KT(&here > alternate && &here < alternate + sizeof(alternate));
	KT(sigaltstack(NULL, &now) == 0 && now.ss_sp == alternate &&
	   now.ss_size == sizeof(alternate) && now.ss_flags == SS_ONSTACK);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	KT(sigismember(&mask, SIGUSR1) && sigismember(&mask, SIGHUP) &&
	   !sigismember(&mask, SIGALRM));
	KT(info->si_value.sival_int == 4711);
	on_alternate_done = 1;
}

static void *alternate_thread(void *arg)
{
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof(alternate) }, now;
	struct sigaction action = { .sa_sigaction = on_alternate,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };
	sigset_t set;

	(void)arg;
	sigfillset(&set); /* what waits for the process is not for this thread */
	sigdelset(&set, SIGUSR1);
	sigdelset(&set, SIGHUP);
	sigdelset(&set, SIGALRM);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	sigemptyset(&action.sa_mask);
	sigaddset(&action.sa_mask, SIGHUP);
	sigaction(SIGUSR1, &action, NULL);
	KT_NEED(sigaltstack(&stack, NULL) == 0);
	queue(gettid_raw(), SIGUSR1, SI_QUEUE, 4711);
	KT(on_alternate_done, "the handler returned");
	KT(sigaltstack(NULL, &now) == 0 && now.ss_flags == 0 && now.ss_sp == alternate);
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	KT(!sigismember(&set, SIGUSR1) && !sigismember(&set, SIGHUP));
	return NULL;
}

static volatile int disarmed_ran;

static void on_disarmed(int s)
{
	(void)s;
	disarmed_ran = 1;
}

static void check_actions(const struct sigaction *before)
{
	for (int s = 1; s < 65; s++) {
		struct sigaction now;

		if (s == 32 || s == 33 || sigaction(s, NULL, &now))
			continue;
		KT(now.sa_handler == before[s].sa_handler && now.sa_flags == before[s].sa_flags &&
			   memcmp(&now.sa_mask, &before[s].sa_mask, 8) == 0,
		   "action of signal %d", s);
	}
}

int main(void)
{
	static struct sigaction before[65];
	struct sigaction action = { .sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART };
	stack_t stack = { .ss_sp = malloc(40000), .ss_size = 40000, .ss_flags = (int)(1u << 31) },
		now;
	pthread_t other, alt;
	siginfo_t info;
	sigset_t set, mask;

	pthread_barrier_init(&ready, NULL, 3);
	sigemptyset(&set);
	for (int s = 1; s < 65; s++)
		if (s % 3 == 0)
			sigaddset(&set, s);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGCHLD);
	for (int i = 0; i < 31; i++)
		sigaddset(&set, SIGRTMIN + i);
	sigdelset(&set, SIGALRM);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	for (int i = 1; i < 12; i++) {
		sigemptyset(&action.sa_mask);
		sigaddset(&action.sa_mask, i);
		sigaddset(&action.sa_mask, SIGRTMIN + i);
		KT_NEED(sigaction(SIGRTMIN + i, &action, NULL) == 0);
		action.sa_flags ^= i % 2 ? SA_RESTART : SA_NODEFER;
	}
	signal(SIGPIPE, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	signal(SIGVTALRM, on_disarmed);
	sigaltstack(&stack, NULL); /* SS_AUTODISARM */

	/* Waiting for the process. The order among equals must stay, and the values. */
	for (int i = 0; i < 20; i++)
		queue(0, SIGRTMIN + 3 + i % 2, SI_QUEUE, 0x3000000000 + i);
	KT_NEED(kill(getpid(), SIGTERM) == 0);
	queue(0, SIGUSR2, -7, 0x1234567890); /* a code that programs may choose */
	/* Of this thread alone. */
	queue(gettid_raw(), SIGRTMIN + 9, SI_QUEUE, 99);
	{
		siginfo_t chld = { .si_signo = SIGCHLD, .si_code = -9 };

		chld.si_pid = 1234;
		chld.si_value.sival_int = 77;
		KT_NEED(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid_raw(), SIGCHLD, &chld) ==
			0);
	}
	KT_NEED(pthread_create(&other, NULL, other_thread, NULL) == 0);
	KT_NEED(pthread_create(&alt, NULL, alternate_thread, NULL) == 0);
	pthread_barrier_wait(&ready);
	for (int s = 1; s < 65; s++)
		sigaction(s, NULL, &before[s]);

	kt_wait();

	check_actions(before);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	for (int s = 1; s < 65; s++)
		if (s != 32 && s != 33 && s != SIGKILL && s != SIGSTOP)
			KT(sigismember(&mask, s) == sigismember(&set, s), "signal %d", s);
	KT(sigaltstack(NULL, &now) == 0 && now.ss_sp == stack.ss_sp && now.ss_size == 40000 &&
		   (unsigned)now.ss_flags == 1u << 31,
	   "flags %x", now.ss_flags);
	for (int i = 0; i < 20; i++) {
		int s = SIGRTMIN + 3 + i % 2;

		KT(take(s, &info), "%d", i);
		KT(info.si_code == SI_QUEUE && info.si_pid == getpid() && info.si_uid == getuid());
		KT(info.si_value.sival_ptr == (void *)(0x3000000000 + i), "%d: %p", i,
		   info.si_value.sival_ptr);
	}
	KT(!take(SIGRTMIN + 3, &info) && !take(SIGRTMIN + 4, &info));
	KT(take(SIGTERM, &info) && info.si_code == SI_USER && info.si_pid == getpid());
	KT(!take(SIGTERM, &info));
	KT(take(SIGUSR2, &info) && info.si_code == -7 &&
	   info.si_value.sival_ptr == (void *)0x1234567890);
	KT(take(SIGCHLD, &info) && info.si_code == -9 && info.si_pid == 1234 &&
	   info.si_value.sival_int == 77);
	/* And one that a handler takes. */
	sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN + 9);
	pthread_sigmask(SIG_UNBLOCK, &mask, NULL);
	KT(n_seen == 1 && seen[0].si_value.sival_int == 99 && seen[0].si_signo == SIGRTMIN + 9);
	leave = 1;
	pthread_join(other, NULL);
	pthread_join(alt, NULL);
	kt_end();
}
