/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File locks: flock, POSIX and OFD locks, whole files and ranges, shared and exclusive, and leases. A
 * child that is made afterwards finds out what it cannot lock.
 */
#include <sys/file.h>
#include <sys/wait.h>

#include "lib/kindtest.h"

static int make(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	KT_NEED(fd >= 0);
	return fd;
}

static int lock(int fd, int how, short type, off_t start, off_t length)
{
	struct flock l = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length
	};

	return fcntl(fd, how, &l);
}

/* What another process sees: bit i for question i. */
static int ask_another(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		int ex = open("flock ex", O_RDWR), sh = open("flock sh", O_RDWR);
		int posix = open("posix", O_RDWR), ofd = open("ofd", O_RDWR), seen = 0;

		seen |= (flock(ex, LOCK_SH | LOCK_NB) < 0) << 0;
		seen |= (flock(sh, LOCK_SH | LOCK_NB) == 0) << 1;
		seen |= (flock(sh, LOCK_EX | LOCK_NB) < 0) << 2;
		seen |= (lock(posix, F_SETLK, F_RDLCK, 199, 1) < 0) << 3;
		seen |= (lock(posix, F_SETLK, F_WRLCK, 50, 50) == 0) << 4;
		seen |= (lock(posix, F_SETLK, F_WRLCK, 200, 800) == 0 &&
			 lock(posix, F_SETLK, F_RDLCK, 1000, 5) == 0)
			<< 5;
		seen |= (lock(posix, F_SETLK, F_WRLCK, 1ll << 40, 0) < 0) << 6;
		seen |= (lock(ofd, F_OFD_SETLK, F_RDLCK, 9, 1) < 0) << 7;
		_exit(seen);
	}
	waitpid(pid, &status, 0);
	return WEXITSTATUS(status);
}

int main(void)
{
	int ex = make("flock ex"), sh = make("flock sh"), posix = make("posix"), ofd = make("ofd");
	int other, seen, leased;

	KT_NEED(flock(ex, LOCK_EX) == 0 && flock(sh, LOCK_SH) == 0);
	KT_NEED(lock(posix, F_SETLK, F_WRLCK, 100, 100) == 0);
	KT_NEED(lock(posix, F_SETLK, F_RDLCK, 1000, 0) == 0); /* to the end, wherever that is */
	KT_NEED(lock(ofd, F_OFD_SETLK, F_WRLCK, 0, 10) == 0);
	other = open("ofd", O_RDWR | O_CLOEXEC); /* another description of the same process */
	KT_NEED(lock(other, F_OFD_SETLK, F_RDLCK, 20, 10) == 0);
	KT_NEED(ask_another() == 0xff);
	close(make("for readers"));
	leased = open("for readers", O_RDONLY | O_CLOEXEC);
	KT_NEED(fcntl(leased, F_SETLEASE, F_RDLCK) == 0);

	kt_wait();

	KT((seen = ask_another()) == 0xff, "%x", seen);
	KT(lock(other, F_OFD_SETLK, F_RDLCK, 0, 10) < 0, "each description has its own");
	KT(lock(ofd, F_OFD_SETLK, F_WRLCK, 25, 1) < 0);
	KT(lock(ofd, F_OFD_SETLK, F_UNLCK, 0, 10) == 0);
	KT(lock(other, F_OFD_SETLK, F_WRLCK, 0, 10) == 0);
	KT(fcntl(leased, F_GETLEASE) == F_RDLCK, "%d", fcntl(leased, F_GETLEASE));
	KT(flock(ex, LOCK_UN) == 0);
	KT((ask_another() & 1) == 0);
	kt_end();
}
