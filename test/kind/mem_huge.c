/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of 2 MiB out of the pool: private, shared, memfd. The driver reserves some. */
#include "lib/kindtest.h"

enum { HUGE = 2 << 20 };

static unsigned char *map(size_t size, int flags, int fd)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (p == MAP_FAILED)
		kt_skip("no huge pages can be had");
	return p;
}

int main(void)
{
	unsigned char *priv = map(2 * HUGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	unsigned char *shared = map(HUGE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	int fd = memfd_create("huge", MFD_HUGETLB | MFD_CLOEXEC);
	unsigned char *mem;
	struct stat st;

	KT_NEED(fd >= 0 && ftruncate(fd, HUGE) == 0);
	mem = map(HUGE, MAP_SHARED, fd);
	kt_fill(priv + 1000, 50000, 1); /* the second page stays untouched */
	kt_fill(shared, 50000, 2);
	kt_fill(mem + HUGE - 5000, 5000, 3);

	kt_maps_remember();
	kt_wait();
	kt_maps_compare();

	KT(kt_differs(priv + 1000, 50000, 1) < 0);
	KT(kt_zero(priv + 60000, 2 * HUGE - 60000));
	KT(kt_differs(shared, 50000, 2) < 0);
	KT(kt_differs(mem + HUGE - 5000, 5000, 3) < 0);
	KT(kt_has_flag(priv, "ht") && kt_has_flag(shared, "ht") && kt_has_flag(mem, "ht"));
	KT(fstat(fd, &st) == 0 && st.st_size == HUGE && st.st_blksize == HUGE);
	kt_end();
}
