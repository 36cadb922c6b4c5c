/* SPDX-License-Identifier: Apache-2.0 */
/* Transparent huge pages: contents, advice, and the process's own switch. */
#include <sys/prctl.h>

#include "lib/kindtest.h"

enum { MIB = 1 << 20 };

int main(void)
{
	unsigned char *p =
		mmap(NULL, 16 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *q =
		mmap(NULL, 8 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	KT_NEED(p != MAP_FAILED && q != MAP_FAILED);
	KT_NEED(madvise(p, 16 * MIB, MADV_HUGEPAGE) == 0);
	kt_fill(p + MIB, 12 * MIB, 1);
	KT_NEED(madvise(p + 6 * MIB, MIB / 2, MADV_DONTNEED) == 0); /* splits one */
	KT_NEED(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	kt_fill(q, 3 * MIB, 2);

	kt_maps_remember();
	kt_wait();
	kt_maps_compare();

	KT(kt_zero(p, MIB) && kt_zero(p + 13 * MIB, 3 * MIB) && kt_zero(p + 6 * MIB, MIB / 2));
	for (size_t i = MIB; i < 13 * MIB; i++)
		if ((i < 6 * MIB || i >= 6 * MIB + MIB / 2) && p[i] != kt_byte(1, i - MIB)) {
			KT(false, "at %zu", i);
			break;
		}
	KT(kt_differs(q, 3 * MIB, 2) < 0);
	KT(kt_has_flag(p, "hg"));
	KT(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
	kt_end();
}
