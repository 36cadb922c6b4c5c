/* SPDX-License-Identifier: Apache-2.0 */
/* Protection keys: which are taken, which mapping has which, and each thread's rights. */
#include "lib/kindtest.h"

enum { PAGE = 4096 };

int main(void)
{
	int write_off = pkey_alloc(0, PKEY_DISABLE_WRITE), hole = pkey_alloc(0, 0);
	int all_off = pkey_alloc(0, PKEY_DISABLE_ACCESS);
	unsigned char *a, *b;

	if (write_off < 0 || all_off < 0)
		kt_skip("machine: the processor has no protection keys");
	KT_NEED(pkey_free(hole) == 0);
	a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	b = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	KT_NEED(a != MAP_FAILED && b != MAP_FAILED);
	kt_fill(a, PAGE, 1);
	kt_fill(b, PAGE, 2);
	KT_NEED(pkey_mprotect(a, PAGE, PROT_READ | PROT_WRITE, write_off) == 0);
	KT_NEED(pkey_mprotect(b, PAGE, PROT_READ | PROT_WRITE, all_off) == 0);

	kt_maps_remember();
	kt_wait();
	kt_maps_compare();

	KT(kt_differs(a, PAGE, 1) < 0);
	KT(pkey_get(write_off) == PKEY_DISABLE_WRITE && pkey_get(all_off) == PKEY_DISABLE_ACCESS);
	KT(pkey_set(all_off, 0) == 0);
	KT(kt_differs(b, PAGE, 2) < 0);
	KT(pkey_alloc(0, 0) == hole);
	kt_end();
}
