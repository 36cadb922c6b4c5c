/* SPDX-License-Identifier: Apache-2.0 */
/* Pipes of a program to itself: contents, size, packets, flags, closed ends, named ones. */
#include <pthread.h>

#include "lib/kindtest.h"

enum { BIG = 200000 };

static int slow[2], back[2];
static volatile int got_back;

/* Sleeps in a read of an empty pipe, across the image. */
static void *reader(void *arg)
{
	char c = 0;

	(void)arg;
	KT(read(slow[0], &c, 1) == 1 && c == 's');
	KT(write(back[1], "b", 1) == 1);
	return NULL;
}

/* Sleeps in a write to a full pipe: must write all of it, or as the kernel would a part. */
static int full_pipe[2];
static volatile ssize_t wrote;

static void *writer(void *arg)
{
	static unsigned char bytes[BIG];

	(void)arg;
	kt_fill(bytes, BIG, 5);
	for (size_t at = 0; at < BIG;) {
		ssize_t n = write(full_pipe[1], bytes + at, BIG - at);

		KT(n > 0, "errno %d", errno);
		if (n <= 0)
			break;
		at += (size_t)n;
		wrote = (ssize_t)at;
	}
	close(full_pipe[1]);
	return NULL;
}

static size_t read_all(int fd, unsigned char *to, size_t size)
{
	size_t n = 0;
	ssize_t r;

	while (n < size && (r = read(fd, to + n, size - n)) > 0)
		n += (size_t)r;
	return n;
}

int main(void)
{
	static unsigned char content[BIG + 10], got[BIG + 10];
	int a[2], packets[2], empty[2], half[2], eof[2], tells[2], fifo, fifo_read, twice;
	siginfo_t told;
	sigset_t set;
	pthread_t r, w;
	struct stat s0, s1;

	signal(SIGPIPE, SIG_IGN);
	kt_fill(content, BIG, 1);
	KT_NEED(pipe2(a, O_CLOEXEC | O_NONBLOCK) == 0);
	KT_NEED(fcntl(a[1], F_SETPIPE_SZ, 1 << 18) == 1 << 18);
	KT_NEED(write(a[1], content, BIG) == BIG);
	KT_NEED(read(a[0], got, 777) == 777);  /* begins in the middle of a page */
	KT_NEED(fcntl(a[0], F_SETFL, 0) == 0); /* only one end is nonblocking */
	twice = dup(a[1]);
	KT_NEED(pipe2(packets, O_DIRECT | O_NONBLOCK) == 0);
	KT_NEED(write(packets[1], "one", 3) == 3 && write(packets[1], "twentytwo", 9) == 9 &&
		write(packets[1], content, 4096) == 4096 && write(packets[1], "x", 1) == 1);
	KT_NEED(pipe(empty) == 0 && pipe(half) == 0 && pipe(eof) == 0);
	KT_NEED(write(half[1], "last words", 10) == 10 && close(half[1]) == 0);
	KT_NEED(close(eof[0]) == 0); /* nobody can read any more */
	KT_NEED(mkfifo("fifo", 0640) == 0);
	fifo_read = open("fifo", O_RDONLY | O_NONBLOCK);
	fifo = open("fifo", O_WRONLY | O_CLOEXEC);
	KT_NEED(fifo >= 0 && fifo_read >= 0 && write(fifo, "named", 5) == 5);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 4);
	sigprocmask(SIG_BLOCK, &set, NULL);
	KT_NEED(pipe(tells) == 0 && fcntl(tells[0], F_SETOWN, getpid()) == 0 &&
		fcntl(tells[0], F_SETSIG, SIGRTMIN + 4) == 0 &&
		fcntl(tells[0], F_SETFL, O_ASYNC) == 0);
	KT_NEED(pipe(slow) == 0 && pipe(back) == 0 && pipe(full_pipe) == 0);
	KT_NEED(pthread_create(&r, NULL, reader, NULL) == 0);
	KT_NEED(pthread_create(&w, NULL, writer, NULL) == 0);

	kt_wait();

	KT(fcntl(a[0], F_GETPIPE_SZ) == 1 << 18);
	KT(fcntl(a[0], F_GETFL) == O_RDONLY, "%x", fcntl(a[0], F_GETFL));
	KT(fcntl(a[1], F_GETFL) == (O_WRONLY | O_NONBLOCK), "%x", fcntl(a[1], F_GETFL));
	KT(fcntl(a[0], F_GETFD) == FD_CLOEXEC && fcntl(twice, F_GETFD) == 0);
	KT(write(twice, "end", 3) == 3);
	memcpy(content + BIG, "end", 3);
	KT(read_all(a[0], got, BIG + 3 - 777) == BIG + 3 - 777);
	KT(memcmp(got, content + 777, BIG + 3 - 777) == 0);
	KT(fstat(a[0], &s0) == 0 && fstat(twice, &s1) == 0 && s0.st_ino == s1.st_ino);
	KT(fcntl(packets[1], F_GETFL) == (O_WRONLY | O_DIRECT | O_NONBLOCK));
	KT(read(packets[0], got, 4096) == 3 && memcmp(got, "one", 3) == 0);
	KT(read(packets[0], got, 4) == 4 && memcmp(got, "twen", 4) == 0); /* the rest is lost */
	KT(read(packets[0], got, 8192) == 4096 && memcmp(got, content, 4096) == 0);
	KT(read(packets[0], got, 8192) == 1 && got[0] == 'x');
	KT(read(packets[0], got, 8192) < 0 && errno == EAGAIN);
	KT(write(empty[1], "e", 1) == 1 && read(empty[0], got, 2) == 1);
	KT(read(half[0], got, 100) == 10 && memcmp(got, "last words", 10) == 0);
	KT(read(half[0], got, 100) == 0);
	KT(write(eof[1], "x", 1) < 0 && errno == EPIPE);
	KT(fcntl(fifo_read, F_GETFL) & O_NONBLOCK && fcntl(fifo, F_GETFD) == FD_CLOEXEC);
	KT(read(fifo_read, got, 100) == 5 && memcmp(got, "named", 5) == 0);
	KT(fstat(fifo, &s0) == 0 && stat("fifo", &s1) == 0 && s0.st_ino == s1.st_ino);
	KT(fcntl(tells[0], F_GETFL) & O_ASYNC);
	KT(sigtimedwait(&set, &told, &(struct timespec){ 0, 0 }) < 0);
	KT(write(tells[1], "t", 1) == 1 &&
	   sigtimedwait(&set, &told, &(struct timespec){ 20, 0 }) == SIGRTMIN + 4 &&
	   told.si_fd == tells[0]);
	KT(write(slow[1], "s", 1) == 1 && read(back[0], got, 1) == 1 && got[0] == 'b');
	KT(wrote < BIG, "%zd", wrote);
	KT(read_all(full_pipe[0], got, BIG + 10) == BIG);
	KT(kt_differs(got, BIG, 5) < 0, "at %ld", kt_differs(got, BIG, 5));
	pthread_join(r, NULL);
	pthread_join(w, NULL);
	kt_end();
}
