/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files: offsets, flags, append, O_PATH, directories half read, unlinked files with their contents,
 * devices, shared descriptions, close-on-exec, owners of signals.
 */
#include <dirent.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "lib/kindtest.h"

#ifndef __NR_kcmp
#define __NR_kcmp 312
#endif

enum { ENTRIES = 500 };

static int open_with(const char *name, int flags, const char *text)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);

	KT_NEED(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
	fd = open(name, flags);
	KT_NEED(fd >= 0);
	return fd;
}

static bool reads(int fd, const char *text)
{
	char got[256] = "";
	ssize_t n = read(fd, got, strlen(text));

	return n == (ssize_t)strlen(text) && memcmp(got, text, (size_t)n) == 0;
}

static bool same_description(int a, int b)
{
	return syscall(__NR_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, a, b) == 0;
}

static char seen[ENTRIES + 10][32];
static int n_seen;

static void note_entries(const char *bytes, ssize_t n)
{
	struct linux_dirent64 {
		uint64_t ino;
		int64_t off;
		unsigned short reclen;
		unsigned char type;
		char name[];
	};

	for (ssize_t at = 0; at < n;) {
		const struct linux_dirent64 *d = (const void *)(bytes + at);

		snprintf(seen[n_seen++ % (ENTRIES + 10)], 32, "%s", d->name);
		at += d->reclen;
	}
}

/* Each of the entries exactly once. */
static bool complete(void)
{
	for (int i = 0; i < ENTRIES; i++) {
		char name[32];
		int times = 0;

		snprintf(name, sizeof(name), "entry %d", i);
		for (int j = 0; j < n_seen && j < ENTRIES + 10; j++)
			times += strcmp(seen[j], name) == 0;
		if (times != 1)
			return false;
	}
	return n_seen == ENTRIES + 2;
}

int main(void)
{
	int plain = open_with("plain", O_RDWR | O_NOFOLLOW | O_LARGEFILE, "0123456789abcdef");
	int append = open_with("append", O_WRONLY | O_APPEND | O_CLOEXEC | O_SYNC, "begin\n");
	int look = open_with("look", O_RDONLY | O_NONBLOCK | O_NOATIME, "only for reading");
	int path = open_with("path", O_PATH | O_CLOEXEC, "x");
	int directory, dir_path, unlinked, renamed, null, zero, urandom, full, duplicate, cloexec;
	int again, direct, tmpfile, far;
	char bytes[8192];
	struct stat st, st2;
	struct f_owner_ex owner = { F_OWNER_PID, getpid() };
	ssize_t n;

	KT_NEED(lseek(plain, 5, SEEK_SET) == 5 && lseek(look, 9, SEEK_SET) == 9);
	duplicate = dup(plain);
	cloexec = fcntl(plain, F_DUPFD_CLOEXEC, 900); /* far beyond the others */
	again = open("plain", O_RDWR);
	KT_NEED(duplicate >= 0 && cloexec == 900 && again >= 0);
	KT_NEED(fcntl(plain, F_SETOWN_EX, &owner) == 0 && fcntl(plain, F_SETSIG, SIGUSR2) == 0);

	KT_NEED(mkdir("many", 0755) == 0);
	for (int i = 0; i < ENTRIES; i++) {
		snprintf(bytes, sizeof(bytes), "many/entry %d", i);
		close(open(bytes, O_CREAT | O_WRONLY, 0600));
	}
	directory = open("many", O_RDONLY | O_DIRECTORY);
	KT_NEED((n = syscall(SYS_getdents64, directory, bytes, 4096)) > 0);
	note_entries(bytes, n);
	dir_path = open(".", O_PATH | O_DIRECTORY);

	unlinked = open_with("unlinked", O_RDWR, "nobody can find this");
	KT_NEED(lseek(unlinked, 7, SEEK_SET) == 7 && fchmod(unlinked, 0604) == 0);
	for (int i = 0; i < 300; i++)
		KT_NEED(pwrite(unlinked, "block", 5, 4096 + i * 3000) == 5);
	KT_NEED(unlink("unlinked") == 0);
	renamed = open_with("old name", O_RDWR, "renamed since it was opened");
	KT_NEED(rename("old name", "new name") == 0);
	tmpfile = open(".", O_TMPFILE | O_RDWR, 0600);
	if (tmpfile >= 0)
		KT_NEED(write(tmpfile, "without a name", 14) == 14);

	null = open("/dev/null", O_RDWR);
	zero = open("/dev/zero", O_RDONLY);
	full = open("/dev/full", O_WRONLY);
	urandom = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	KT_NEED(null >= 0 && zero >= 0 && full >= 0 && urandom >= 0 && dir_path >= 0);
	direct = open("plain", O_RDONLY | O_DIRECT);
	far = open_with("far", O_RDWR, "short");
	KT_NEED(lseek(far, 1ll << 40, SEEK_SET) == 1ll << 40); /* offsets may lie behind the end */
	KT_NEED(fstat(unlinked, &st) == 0);

	kt_wait();

	KT(lseek(plain, 0, SEEK_CUR) == 5 && reads(plain, "567"));
	KT(same_description(plain, duplicate) && same_description(plain, cloexec));
	KT(!same_description(plain, again));
	KT(reads(duplicate, "89") && reads(again, "0123") && reads(cloexec, "abc"));
	KT((fcntl(plain, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK)) == O_RDWR);
	KT(fcntl(plain, F_GETFD) == 0 && fcntl(cloexec, F_GETFD) == FD_CLOEXEC &&
	   fcntl(append, F_GETFD) == FD_CLOEXEC && fcntl(path, F_GETFD) == FD_CLOEXEC);
	memset(&owner, 0, sizeof(owner));
	KT(fcntl(plain, F_GETOWN_EX, &owner) == 0 && owner.type == F_OWNER_PID &&
	   owner.pid == getpid());
	KT(fcntl(plain, F_GETSIG) == SIGUSR2);

	KT((fcntl(append, F_GETFL) & (O_ACCMODE | O_APPEND | O_SYNC)) ==
	   (O_WRONLY | O_APPEND | O_SYNC));
	KT(lseek(append, 0, SEEK_SET) == 0 && write(append, "end\n", 4) == 4);
	KT(stat("append", &st2) == 0 && st2.st_size == 10, "%ld", (long)st2.st_size);
	KT((fcntl(look, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_NOATIME)) ==
	   (O_RDONLY | O_NONBLOCK | O_NOATIME));
	KT(reads(look, "reading"));
	KT(fcntl(path, F_GETFL) & O_PATH && read(path, bytes, 1) < 0 && errno == EBADF);
	KT(faccessat(dir_path, "plain", F_OK, 0) == 0);

	while ((n = syscall(SYS_getdents64, directory, bytes, 4096)) > 0)
		note_entries(bytes, n);
	KT(n == 0 && complete(), "%d entries", n_seen);

	KT(fstat(unlinked, &st2) == 0 && st2.st_nlink == 0 && st2.st_size == st.st_size &&
		   st2.st_mode == st.st_mode,
	   "links %ld size %ld mode %o", (long)st2.st_nlink, (long)st2.st_size, st2.st_mode);
	KT(access("unlinked", F_OK) < 0);
	KT(reads(unlinked, "can find this"));
	for (int i = 0; i < 300; i++)
		KT(pread(unlinked, bytes, 6, 4096 + i * 3000) >= 5 &&
		   memcmp(bytes, "block", 5) == 0);
	KT(write(unlinked, "!", 1) == 1);
	KT(reads(renamed, "renamed since"));
	KT(tmpfile < 0 ||
	   (pread(tmpfile, bytes, 14, 0) == 14 && memcmp(bytes, "without a name", 14) == 0));
	KT(tmpfile < 0 || lseek(tmpfile, 0, SEEK_CUR) == 14);

	KT(write(null, "x", 1) == 1 && read(null, bytes, 1) == 0);
	KT(read(zero, bytes, 100) == 100 && kt_zero(bytes, 100));
	KT(write(full, "x", 1) < 0 && errno == ENOSPC);
	KT(read(urandom, bytes, 64) == 64 && !kt_zero(bytes, 64));
	KT(fstat(urandom, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 9));
	KT(fcntl(urandom, F_GETFD) == FD_CLOEXEC);
	KT(direct < 0 || fcntl(direct, F_GETFL) & O_DIRECT);
	KT(lseek(far, 0, SEEK_CUR) == 1ll << 40);
	KT(open("/dev/null", O_RDONLY) < 900);
	kt_end();
}
