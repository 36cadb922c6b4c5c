/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seccomp filters: still in force, in their order, in the threads that have them and in no other.
 * With "tight" the filter lets nothing pass but what this program itself needs: kage must do without
 * the rest, or say that it cannot, and must not get the program killed.
 */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/utsname.h>

#include "lib/kindtest.h"

#define NUMBER            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define RETURN(value)     BPF_STMT(BPF_RET | BPF_K, (value))
#define ON(number, value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), RETURN(value)

static void install(struct sock_filter *filter, unsigned short n)
{
	struct sock_fprog prog = { n, filter };

	KT_NEED(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) == 0);
}

static pthread_barrier_t ready;
static volatile int leave;

static void *filtered(void *arg)
{
	struct sock_filter first[] = { NUMBER, ON(SYS_sethostname, SECCOMP_RET_ERRNO | 71),
				       ON(SYS_uname, SECCOMP_RET_ERRNO | 72),
				       RETURN(SECCOMP_RET_ALLOW) };
	struct sock_filter second[] = { NUMBER, ON(SYS_uname, SECCOMP_RET_ERRNO | 73),
					ON(SYS_getppid, SECCOMP_RET_ERRNO | 74),
					RETURN(SECCOMP_RET_ALLOW) };
	struct utsname name;

	(void)arg;
	install(first, sizeof(first) / sizeof(*first));
	install(second, sizeof(second) / sizeof(*second));
	pthread_barrier_wait(&ready);
	while (!leave)
		kt_nap(10);
	KT(syscall(SYS_sethostname, "x", -1) < 0 && errno == 71, "%d", errno);
	KT(syscall(SYS_uname, &name) < 0 && errno == 73, "the newest filter decides: %d", errno);
	KT(syscall(SYS_getppid) < 0 && errno == 74, "%d", errno);
	return NULL;
}

static void tight(void)
{
	struct sock_filter filter[] = { NUMBER,
					ON(SYS_write, SECCOMP_RET_ALLOW),
					ON(SYS_exit_group, SECCOMP_RET_ALLOW),
					ON(SYS_clock_nanosleep, SECCOMP_RET_ALLOW),
					ON(SYS_nanosleep, SECCOMP_RET_ALLOW),
					ON(SYS_restart_syscall, SECCOMP_RET_ALLOW),
					ON(SYS_faccessat, SECCOMP_RET_ALLOW),
					ON(SYS_faccessat2, SECCOMP_RET_ALLOW),
					RETURN(SECCOMP_RET_KILL_PROCESS) };

	install(filter, sizeof(filter) / sizeof(*filter));
	kt_wait();
	kt_end();
}

int main(int argc, char **argv)
{
	pthread_t thread;
	struct utsname name;

	KT_NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	if (argc > 1 && strcmp(argv[1], "tight") == 0)
		tight();
	pthread_barrier_init(&ready, NULL, 2);
	KT_NEED(pthread_create(&thread, NULL, filtered, NULL) == 0);
	pthread_barrier_wait(&ready);
	kt_wait();
	KT(uname(&name) == 0 && getppid() >= 0, "the other thread's filters are not ours");
	KT(prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0);
	leave = 1;
	pthread_join(thread, NULL);
	KT(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	kt_end();
}
