/* SPDX-License-Identifier: Apache-2.0 */
/* Private anonymous memory in all its forms, the heap and the stack. */
#include <setjmp.h>
#include <sys/prctl.h>

#include "lib/kindtest.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA           0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

enum { PAGE = 4096, MIB = 1 << 20 };

static unsigned char data_section[3 * PAGE] = { 1 };
static unsigned char bss_section[64 * PAGE];

static char *map(size_t size, int prot, int flags)
{
	char *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	KT_NEED(p != MAP_FAILED);
	return p;
}

/* Recursion that uses about DEPTH pages of stack. */
static unsigned deeper(int depth)
{
	volatile unsigned char frame[PAGE];

	for (int i = 0; i < PAGE; i += 64)
		frame[i] = (unsigned char)depth;
	return depth == 0 ? 0 : frame[PAGE - 64] + deeper(depth - 1);
}

static volatile bool faulted;
static sigjmp_buf fault_out;

static void on_fault(int s)
{
	(void)s;
	faulted = true;
	siglongjmp(fault_out, 1);
}

static bool faults(volatile char *p)
{
	struct sigaction action = { .sa_handler = on_fault }, segv, bus;

	faulted = false;
	sigaction(SIGSEGV, &action, &segv);
	sigaction(SIGBUS, &action, &bus);
	if (sigsetjmp(fault_out, 1) == 0)
		(void)*p;
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return faulted;
}

int main(int argc, char **argv)
{
	char *whole, *sparse, *hidden, *readonly, *moved, *grows, *guards, *flags[8], *heap, *named;
	char *code, *big, *dropped;
	const char *volatile argv0 = argv[argc - 1];
	char local[2000];
	static const struct {
		int advice;
		const char *flag;
	} advices[] = { { MADV_DONTFORK, "dc" },   { MADV_DONTDUMP, "dd" },
			{ MADV_WIPEONFORK, "wf" }, { MADV_HUGEPAGE, "hg" },
			{ MADV_NOHUGEPAGE, "nh" }, { MADV_RANDOM, "rr" },
			{ MADV_SEQUENTIAL, "sr" }, { MADV_MERGEABLE, "mg" } };
	bool has_name, has_guards, has_flag[8];

	kt_fill(data_section, sizeof(data_section), 1);
	kt_fill(bss_section + 10 * PAGE, PAGE, 2);
	kt_fill(local, sizeof(local), 3);

	whole = map(5 * MIB, PROT_READ | PROT_WRITE, 0);
	kt_fill(whole, 5 * MIB, 4);
	sparse = map(256 * MIB, PROT_READ | PROT_WRITE, MAP_NORESERVE);
	for (int i = 0; i < 256; i += 16)
		kt_fill(sparse + i * MIB + 123, 100, (uint64_t)i);
	hidden = map(8 * PAGE, PROT_READ | PROT_WRITE, 0);
	kt_fill(hidden, 8 * PAGE, 5);
	KT_NEED(mprotect(hidden, 8 * PAGE, PROT_NONE) == 0);
	readonly = map(4 * PAGE, PROT_READ | PROT_WRITE, 0);
	kt_fill(readonly, 4 * PAGE, 6);
	KT_NEED(mprotect(readonly, 4 * PAGE, PROT_READ) == 0);

	moved = map(64 * PAGE, PROT_READ | PROT_WRITE, 0);
	kt_fill(moved, 64 * PAGE, 7);
	moved = mremap(moved, 64 * PAGE, 4 * MIB, MREMAP_MAYMOVE);
	KT_NEED(moved != MAP_FAILED);

	/* A stack that grows by itself below a hole, a page of it touched. */
	grows = map(4 * MIB, PROT_NONE, 0);
	KT_NEED(mmap(grows + 3 * MIB, MIB / 4, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0) != MAP_FAILED);
	kt_fill(grows + 3 * MIB + MIB / 4 - PAGE, PAGE, 8);

	guards = map(16 * PAGE, PROT_READ | PROT_WRITE, 0);
	kt_fill(guards, 16 * PAGE, 9);
	has_guards = madvise(guards + 4 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL) == 0;

	for (int i = 0; i < 8; i++) {
		flags[i] = map(MIB * 4, PROT_READ | PROT_WRITE, 0);
		has_flag[i] = madvise(flags[i], 4 * MIB, advices[i].advice) == 0;
		kt_fill(flags[i] + 5 * PAGE, 3 * PAGE, 20 + (uint64_t)i);
	}
	named = map(4 * PAGE, PROT_READ | PROT_WRITE, 0);
	has_name = prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, named, 4 * PAGE, "kage test") == 0;

	free(strdup(argv0)); /* malloc has its part of the heap, ours lies above it */
	heap = sbrk(40 * PAGE);
	KT_NEED(heap != (void *)-1);
	kt_fill(heap, 40 * PAGE, 10);

	dropped = map(8 * PAGE, PROT_READ | PROT_WRITE, 0);
	kt_fill(dropped, 8 * PAGE, 11);
	KT_NEED(madvise(dropped + 2 * PAGE, 3 * PAGE, MADV_DONTNEED) == 0);

	code = map(PAGE, PROT_READ | PROT_WRITE, 0);
	memcpy(code, "\xb8\x2a\x00\x00\x00\xc3", 6); /* mov $42, %eax; ret */
	KT_NEED(mprotect(code, PAGE, PROT_READ | PROT_EXEC) == 0);

	big = map(1ul << 36, PROT_NONE, MAP_NORESERVE); /* a reservation of 64 GiB */
	KT_NEED(mprotect(big + (1ul << 35), PAGE, PROT_READ | PROT_WRITE) == 0);
	kt_fill(big + (1ul << 35), PAGE, 12);
	KT_NEED(munmap(grows, 3 * MIB) == 0); /* last: nothing else may come to lie there */

	kt_maps_remember();
	kt_wait();
	kt_maps_compare();

	KT(kt_differs(data_section, sizeof(data_section), 1) < 0);
	KT(kt_differs(bss_section + 10 * PAGE, PAGE, 2) < 0);
	KT(kt_zero(bss_section, 10 * PAGE));
	KT(kt_zero(bss_section + 11 * PAGE, 53 * PAGE));
	KT(kt_differs(local, sizeof(local), 3) < 0);
	KT(kt_differs(whole, 5 * MIB, 4) < 0, "at %ld", kt_differs(whole, 5 * MIB, 4));
	for (int i = 0; i < 256; i += 16) {
		KT(kt_differs(sparse + i * MIB + 123, 100, (uint64_t)i) < 0, "at %d MiB", i);
		KT(kt_zero(sparse + i * MIB + PAGE, MIB / 8), "at %d MiB", i);
	}
	KT(kt_has_flag(sparse, "nr"));
	KT(faults(hidden + PAGE));
	KT(mprotect(hidden, 8 * PAGE, PROT_READ) == 0);
	KT(kt_differs(hidden, 8 * PAGE, 5) < 0, "at %ld", kt_differs(hidden, 8 * PAGE, 5));
	KT(kt_differs(readonly, 4 * PAGE, 6) < 0);
	KT(mprotect(readonly, 4 * PAGE, PROT_READ | PROT_WRITE) == 0);
	readonly[7]++;
	KT(kt_differs(moved, 64 * PAGE, 7) < 0);
	KT(kt_zero(moved + 64 * PAGE, 4 * MIB - 64 * PAGE));

	KT(kt_differs(grows + 3 * MIB + MIB / 4 - PAGE, PAGE, 8) < 0);
	KT(kt_has_flag(grows + 3 * MIB + MIB / 4 - PAGE, "gd"));
	for (int i = 0; i < 100; i++) /* it still grows */
		grows[3 * MIB - i * PAGE] = (char)i;
	KT(grows[3 * MIB - 99 * PAGE] == 99);

	if (has_guards) {
		KT(faults(guards + 4 * PAGE));
		KT(faults(guards + 5 * PAGE + 1));
		KT(!faults(guards + 6 * PAGE));
	}
	KT(kt_differs(guards, 4 * PAGE, 9) < 0);
	for (int i = 6 * PAGE; i < 16 * PAGE; i++)
		if ((unsigned char)guards[i] != kt_byte(9, (size_t)i)) {
			KT(false, "behind the guard, at %d", i);
			break;
		}
	for (int i = 0; i < 8; i++) {
		KT(kt_differs(flags[i] + 5 * PAGE, 3 * PAGE, 20 + (uint64_t)i) < 0, "%s",
		   advices[i].flag);
		KT(!has_flag[i] || kt_has_flag(flags[i], advices[i].flag), "%s is not in %s",
		   advices[i].flag, kt_vmflags(flags[i]));
	}
	if (has_name) {
		static char maps[1 << 20];

		KT(strstr(kt_slurp("/proc/self/maps", maps, sizeof(maps)), "[anon:kage test]"));
	}
	KT(sbrk(0) == heap + 40 * PAGE, "%p %p", sbrk(0), heap + 40 * PAGE);
	KT(kt_differs(heap, 40 * PAGE, 10) < 0);
	KT(sbrk(100 * PAGE) == heap + 40 * PAGE);
	KT(kt_zero(heap + 40 * PAGE, 100 * PAGE));
	kt_fill(heap + 40 * PAGE, 100 * PAGE, 13);
	KT(sbrk(-120 * PAGE) != (void *)-1);
	KT(kt_differs(heap, 20 * PAGE, 10) < 0);
	KT(kt_differs(dropped, 2 * PAGE, 11) < 0);
	KT(kt_zero(dropped + 2 * PAGE, 3 * PAGE));
	KT((unsigned char)dropped[5 * PAGE] == kt_byte(11, 5 * PAGE));
	KT(((int (*)(void))(uintptr_t)code)() == 42);
	KT(kt_differs(big + (1ul << 35), PAGE, 12) < 0);
	KT(faults(big + (1ul << 35) + PAGE));
	KT(deeper(500) != 1); /* two MiB more of stack than before */
	for (int i = 0; i < 100; i++)
		free(malloc((size_t)i * 10000));
	kt_end();
}
