/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that had an io_uring(7) once: the kernel keeps a thread of its own in it, which is not the program's.
 */
#include <dirent.h>

#include "lib/kindtest.h"
#include "lib/ring.h"

static int threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	int n = 0;

	KT_NEED(dir != NULL);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

int main(void)
{
	static char buffer[4096] __attribute__((aligned(4096)));
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct ring ring;

	KT_NEED(fd >= 0);
	if (!ring_open(&ring, buffer, sizeof(buffer)))
		kt_skip("io_uring may not be used here");
	for (int i = 0; i < 4; i++)
		KT_NEED(ring_read_fixed(&ring, fd, buffer, sizeof(buffer), 0) ==
			(int)sizeof(buffer));
	ring_close(&ring);
	KT_NEED(threads() > 1);

	kt_wait();

	KT(memcmp(buffer, "\177ELF", 4) == 0);
	/* And another one. */
	KT(ring_open(&ring, buffer, sizeof(buffer)));
	KT(ring_read_fixed(&ring, fd, buffer, sizeof(buffer), 0) == (int)sizeof(buffer));
	ring_close(&ring);
	kt_end();
}
