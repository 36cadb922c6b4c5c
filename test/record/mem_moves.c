/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes its memory in ways that leave no page soft-dirty (sys/blind.h), again and again, and knows what it must hold:
 *
 *	exchange  two blocks change places by three calls of mremap(2), which moves their page tables whole
 *	lend	  a block goes away and comes back, at times written meanwhile
 *	lose	  a mapping grows, is made writable anew and written, and becomes one with a neighbour, so that nothing tells
 *		  any more that it was new
 *
 *	mem_moves SEED
 *
 * Says "ready", goes on until the file "go" is there, checks all that it has, and says PASS.
 */
#include "lib/kindtest.h"

enum { PAGE = 4096, BLOCK = 4 << 20, PART = 64 * PAGE, HOLE = 4 * PAGE };

#define MUST(condition)                                                             \
	do {                                                                        \
		if (!(condition)) {                                                 \
			dprintf(1, "FAIL: line %d: %s: %s\n", __LINE__, #condition, \
				strerror(errno));                                   \
			_exit(1);                                                   \
		}                                                                   \
	} while (0)

static uint64_t number;
static char *blocks, *parts; /* three blocks, the third one a hole; a part, a hole, a part */
static uint64_t block_holds[2], part_holds[2];

static uint64_t below(uint64_t n)
{
	number = number * 6364136223846793005ull + 1442695040888963407ull;
	return (number >> 33) % n;
}

static uint64_t word(uint64_t holds, size_t page)
{
	return (holds * 4096 + page) * 0x9e3779b97f4a7c15ull;
}

static void fill(char *at, size_t bytes, uint64_t holds)
{
	for (size_t i = 0; i < bytes / PAGE; i++)
		*(volatile uint64_t *)(at + i * PAGE) = word(holds, i);
}

static void check(const char *at, size_t bytes, uint64_t holds)
{
	for (size_t i = 0; i < bytes / PAGE; i++)
		MUST(*(const volatile uint64_t *)(at + i * PAGE) == word(holds, i));
}

static char *block(int i)
{
	return blocks + (size_t)i * BLOCK;
}

static void move(int from, int to)
{
	MUST(mremap(block(from), BLOCK, BLOCK, MREMAP_MAYMOVE | MREMAP_FIXED, block(to)) ==
	     block(to));
}

static void exchange(void)
{
	uint64_t held = block_holds[0];

	move(0, 2);
	move(1, 0);
	move(2, 1);
	block_holds[0] = block_holds[1];
	block_holds[1] = held;
}

static void lend(void)
{
	move(0, 2);
	if (below(4) == 0)
		fill(block(2), BLOCK, ++block_holds[0]);
	kt_nap((long)below(30));
	move(2, 0);
}

/* The first part grows into the hole, and so is new; what is written then leaves no trace in its page table; when the second
 * part becomes one with it, it is as old as that. */
static void lose(void)
{
	char *hole = parts + PART, *second = hole + HOLE;
	int prot = PROT_READ | PROT_WRITE;

	MUST(mmap(hole, HOLE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == hole);
	MUST(mprotect(parts, PART + HOLE, PROT_NONE) == 0);
	MUST(mprotect(parts, PART + HOLE, prot) == 0);
	fill(parts, PART, ++part_holds[0]);
	MUST(mprotect(second, PART, prot) == 0);
	if (below(2))
		kt_nap((long)below(30));
	MUST(munmap(hole, HOLE) == 0);
	MUST(mprotect(second, PART, PROT_READ) == 0);
}

static char *map(size_t bytes)
{
	char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(at != MAP_FAILED);
	return at;
}

/* Between guards, so that nothing else becomes one with them. */
static void prepare_parts(void)
{
	parts = map(2ul * PART + HOLE + 2ul * PAGE) + PAGE;
	part_holds[1] = 1;
	fill(parts, PART, part_holds[0]);
	fill(parts + PART, HOLE, 0);
	fill(parts + PART + HOLE, PART, part_holds[1]);
	MUST(mprotect(parts - PAGE, PAGE, PROT_NONE) == 0);
	MUST(mprotect(parts + 2ul * PART + HOLE, PAGE, PROT_NONE) == 0);
	MUST(munmap(parts + PART, HOLE) == 0);
	MUST(mprotect(parts + PART + HOLE, PART, PROT_READ) == 0);
}

/* The last: what is mapped after it may be where the third block is to be. */
static void prepare_blocks(void)
{
	uintptr_t at = (uintptr_t)map(4ul * BLOCK);

	blocks = (char *)((at + BLOCK - 1) & ~(uintptr_t)(BLOCK - 1));
	madvise(blocks, 3ul * BLOCK, MADV_NOHUGEPAGE); /* a kernel without huge pages refuses */
	for (int i = 0; i < 2; i++) {
		block_holds[i] = (uint64_t)(i + 1) << 32;
		fill(block(i), BLOCK, block_holds[i]);
	}
	MUST(munmap(block(2), BLOCK) == 0);
}

int main(int argc, char **argv)
{
	static void (*const ops[])(void) = { exchange, lend, lose };
	uint64_t n = 0;

	number = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	prepare_parts();
	prepare_blocks();
	kt_say("ready\n");
	for (; !kt_told("go"); n++) {
		ops[below(3)]();
		kt_nap((long)below(50));
	}
	for (int i = 0; i < 2; i++) {
		check(block(i), BLOCK, block_holds[i]);
		check(parts + (size_t)i * (PART + HOLE), PART, part_holds[i]);
	}
	dprintf(1, "PASS %llu operations\n", (unsigned long long)n);
	return 0;
}
