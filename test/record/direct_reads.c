/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Four threads read the file PATH, of 64 MiB, past the page cache, each all over a buffer of its own, until killed.
 * With a second word they open it for each read.
 */
#include <pthread.h>

#include "lib/kindtest.h"

enum { MIB = 1 << 20, FILE_MIBS = 64, BUFFER_MIBS = 8, THREADS = 4 };

static const char *path;
static bool anew;

static void *reads(void *arg)
{
	char *buffer = mmap(NULL, BUFFER_MIBS * MIB, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned seed = (unsigned)(uintptr_t)arg;
	int fd = -1;

	KT_NEED(buffer != MAP_FAILED);
	for (;;) {
		off_t from = (off_t)(rand_r(&seed) % FILE_MIBS) * MIB;

		if (fd < 0)
			fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
		KT_NEED(pread(fd, buffer + rand_r(&seed) % BUFFER_MIBS * MIB, MIB, from) == MIB);
		if (anew) {
			close(fd);
			fd = -1;
		}
		usleep((unsigned)rand_r(&seed) % 2000);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	int fd;

	path = argc > 1 ? argv[1] : "data";
	anew = argc > 2;
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		kt_skip("the file system has no O_DIRECT");
	close(fd);
	for (uintptr_t i = 0; i < THREADS; i++)
		KT_NEED(pthread_create(&thread, NULL, reads, (void *)i) == 0);
	kt_say("ready\n");
	for (;;)
		pause();
}
