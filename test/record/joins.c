/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves memory that was never touched beside memory that was, so that both become one mapping, and writes to what was
 * there before: the kernel takes the userfaultfd off both, and leaves the old pages protected.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 16, ROUNDS = 60, PAUSE_US = 30000 };

static char *map_at(char *at)
{
	return mmap(at, PAGES * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
}

int main(void)
{
	puts("ready");
	fflush(stdout);
	for (long i = 0; i < ROUNDS; i++) {
		char *here = map_at((char *)0x200000000000 + i * 0x1000000);
		char *other = map_at(here + 0x800000);

		if (here == MAP_FAILED || other == MAP_FAILED)
			return 1;
		memset(here, 'a', PAGES * PAGE);
		usleep(PAUSE_US); /* an image is taken here */
		if (mremap(other, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			   here + PAGES * PAGE) == MAP_FAILED)
			return 1;
		here[5 * PAGE] = 'b';
		usleep(PAUSE_US); /* and here */
	}
	return 0;
}
