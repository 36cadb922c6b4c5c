/* SPDX-License-Identifier: Apache-2.0 */
/* Locked memory: mlock, mlock2 on fault, and mlockall for what comes later ("future", "fault"). */
#include "lib/kindtest.h"

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif
#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif

enum { PAGE = 4096 };

static unsigned char *map(size_t pages)
{
	void *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0);

	KT_NEED(p != MAP_FAILED);
	return p;
}

int main(int argc, char **argv)
{
	unsigned char *locked = map(16), *on_fault = map(16), *plain = map(16), *later;
	unsigned char *closed = map(4);
	bool on_touch = argc > 1 && strcmp(argv[1], "fault") == 0;
	bool future = on_touch || (argc > 1 && strcmp(argv[1], "future") == 0);

	KT_NEED(mlock(locked + PAGE, 8 * PAGE) == 0);
	KT_NEED(syscall(SYS_mlock2, on_fault, 16 * PAGE, MLOCK_ONFAULT) == 0);
	kt_fill(locked, 16 * PAGE, 1);
	kt_fill(closed, 4 * PAGE, 3);
	KT_NEED(mlock(closed, 4 * PAGE) == 0 && mprotect(closed, 4 * PAGE, PROT_NONE) == 0);
	kt_fill(on_fault + 3 * PAGE, PAGE, 2);
	if (future)
		KT_NEED(mlockall(MCL_FUTURE | (on_touch ? MCL_ONFAULT : 0)) == 0);

	kt_maps_remember();
	kt_wait();
	kt_maps_compare();

	KT(kt_differs(locked, 16 * PAGE, 1) < 0);
	KT(kt_differs(on_fault + 3 * PAGE, PAGE, 2) < 0);
	KT(kt_has_flag(closed, "lo") && mprotect(closed, 4 * PAGE, PROT_READ) == 0);
	KT(kt_differs(closed, 4 * PAGE, 3) < 0);
	KT(!kt_has_flag(locked, "lo") && kt_has_flag(locked + PAGE, "lo"));
	KT(kt_has_flag(on_fault, "lo") && !kt_has_flag(plain, "lo"));
	later = map(4);
	KT(kt_has_flag(later, "lo") == future, "%s", kt_vmflags(later));
	KT(kt_has_flag(later, "lf") == on_touch, "%s", kt_vmflags(later));
	kt_end();
}
