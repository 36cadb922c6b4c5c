/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials, in variants: "plain" changes all user and group numbers, "caps" keeps some
 * capabilities beside them, "bits" has securebits, no_new_privs and an ambient set.
 */
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>

#include "lib/kindtest.h"

static char *what(void)
{
	static char text[1 << 16], out[8192];
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

int main(int argc, char **argv)
{
	const char *variant = argc > 1 ? argv[1] : "plain";
	gid_t groups[] = { 7, 1000, 4242 };
	char *before, *after;

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
	/* And they mean what they say. */
	KT(open("/etc/shadow", O_RDONLY) < 0 && errno == EACCES);
	if (strcmp(variant, "caps") == 0)
		KT(setresuid(-1u, 65534, -1u) == 0, "the saved rights");
	kt_end();
}
