/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials, in variants: "plain" changes all user and group numbers, "caps" keeps some
 * capabilities beside them, "bits" has securebits, no_new_privs and an ambient set, "thread" a thread
 * with rights of its own: in Linux they are a thread's, and it is the C library that changes all.
 */
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>

#include "lib/kindtest.h"

static char *what(void)
{
	static __thread char text[1 << 16], out[8192];
	static const char *const keys[] = { "Uid:",    "Gid:",    "Groups:",
					    "CapInh:", "CapPrm:", "CapEff:",
					    "CapBnd:", "CapAmb:", "NoNewPrivs:" };

	kt_slurp("/proc/thread-self/status", text, sizeof(text));
	out[0] = '\0';
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		sprintf(out + strlen(out), "%s %s, ", keys[i], kt_line(text, keys[i]));
	sprintf(out + strlen(out), "securebits %x keepcaps %d", prctl(PR_GET_SECUREBITS),
		prctl(PR_GET_KEEPCAPS));
	return strdup(out);
}

static void set_caps(uint64_t permitted, uint64_t effective, uint64_t inheritable)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = {
		{ (uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable },
		{ (uint32_t)(effective >> 32), (uint32_t)(permitted >> 32),
		  (uint32_t)(inheritable >> 32) },
	};

	KT_NEED(syscall(SYS_capset, &head, data) == 0);
}

#define CAP(x) (1ull << (x))

static pthread_barrier_t ready;
static volatile int leave;

static void *of_its_own(void *arg)
{
	gid_t groups[] = { 5, 4243 };
	char *before, *after;

	KT_NEED(syscall(SYS_setgroups, 2, groups) == 0);
	KT_NEED(syscall(SYS_setresgid, 2001, 2002, 2003) == 0);
	KT_NEED(syscall(SYS_setresuid, 65534, 65534, 65534) == 0);
	KT_NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	before = what();
	pthread_barrier_wait(&ready);
	while (!leave)
		kt_nap(10);
	after = what();
	KT(strcmp(before, after) == 0, "%s\nof the thread were %s", after, before);
	KT(open("/etc/shadow", O_RDONLY) < 0 && errno == EACCES);
	return arg;
}

int main(int argc, char **argv)
{
	const char *variant = argc > 1 ? argv[1] : "plain";
	gid_t groups[] = { 7, 1000, 4242 };
	bool threaded = strcmp(variant, "thread") == 0;
	char *before, *after;
	pthread_t thread;

	if (geteuid() != 0)
		kt_skip("changing credentials needs root");
	KT_NEED(setgroups(3, groups) == 0);
	if (strcmp(variant, "plain") == 0) {
		KT_NEED(setresgid(1001, 1002, 1003) == 0);
		setfsgid(1004);
		KT_NEED(setresuid(65534, 65534, 65534) == 0);
	} else if (strcmp(variant, "caps") == 0) {
		KT_NEED(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT, 0, 0, 0) == 0);
		KT_NEED(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
		KT_NEED(setresgid(100, 100, 0) == 0);
		KT_NEED(setresuid(65534, 1001, 1002) == 0);
		set_caps(CAP(CAP_NET_RAW) | CAP(CAP_CHOWN) | CAP(CAP_SETUID), CAP(CAP_NET_RAW),
			 CAP(CAP_CHOWN));
		setfsuid(65534);
	} else if (threaded) {
		pthread_barrier_init(&ready, NULL, 2);
		KT_NEED(pthread_create(&thread, NULL, of_its_own, NULL) == 0);
		pthread_barrier_wait(&ready);
	} else {
		KT_NEED(prctl(PR_SET_SECUREBITS,
			      SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT | SECBIT_NOROOT_LOCKED, 0, 0,
			      0) == 0);
		KT_NEED(setresuid(1000, 1000, 1000) == 0);
		set_caps(CAP(CAP_NET_BIND_SERVICE) | CAP(CAP_KILL), CAP(CAP_NET_BIND_SERVICE),
			 CAP(CAP_NET_BIND_SERVICE));
		KT_NEED(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) ==
			0);
		KT_NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	}
	before = what();
	kt_wait();
	after = what();
	KT(strcmp(before, after) == 0, "%s\nwere %s", after, before);
	if (threaded) {
		leave = 1;
		pthread_join(thread, NULL);
	}
	/* And they mean what they say. */
	KT(threaded || (open("/etc/shadow", O_RDONLY) < 0 && errno == EACCES));
	if (strcmp(variant, "caps") == 0)
		KT(setresuid(-1u, 65534, -1u) == 0, "the saved rights");
	kt_end();
}
