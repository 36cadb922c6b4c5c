/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does to its memory whatever can be done to memory, at random, and knows what it must hold: each page has
 * contents that follow from a number that is noted beside it. Every system call must succeed that
 * would succeed in a program that nobody looks at.
 *
 *	mem_random SEED THREADS [exec] [uring] [uffd] [writers] [direct] [nofork]
 *
 * Says "ready", goes on until the file "go" is there, checks all that it has, and says PASS with what it has counted.
 * While there is a file "quiet" it changes nothing.
 */
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "lib/kindtest.h"
#include "lib/ring.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

enum {
	PAGE = 4096,
	WORDS = PAGE / 8,
	PAGES = 4096,       /* of an arena */
	OBJECT_PAGES = 256, /* of the file, and of each memfd */
	HUGE_PAGES = 2,
	SPARSE = 64,
	HEAP_PAGES = 128,
	MAX_THREADS = 8,
};
#define RESERVED (64ull << 30)

enum kind { NONE, ANON, FILE_PRIVATE, SHARED, MEMFD, MEMFD_PRIVATE };
enum { LOCKED = 1, HUGE = 2, NO_HUGE = 4, DONT_FORK = 8, WIPE_ON_FORK = 16 };

struct page {
	uint32_t map, gen, spot; /* by which mmap; contents: 0 is what was there at first */
	uint16_t home,
		from; /* page of what is mapped; 1 + page of the file that was read into it */
	uint8_t kind, prot, advice, guard, lazy;
};

struct sparse {
	uint32_t page, gen;
};

struct worker {
	uint64_t x, n_ops;
	uint32_t id, last; /* the last generation, or mapping, that was given out */
	char *at, *alias, *reserved, *hugetlb, *heap;
	int memfd, n_sparse, n_heap;
	struct page page[PAGES], memfd_page[OBJECT_PAGES];
	struct sparse sparse[SPARSE];
	uint32_t hugetlb_gen[HUGE_PAGES], heap_gen[HEAP_PAGES];
};

static struct worker *workers;
static int n_workers, data_fd, direct_fd, mem_fd;
static volatile int leave;
static volatile uint64_t n_refused, n_busy;
static bool with_exec, with_uring, with_uffd, with_writers, with_direct, with_fork = true;
static int64_t begin_ns;

#define MUST(condition, ...)                                                        \
	do {                                                                        \
		if (!(condition)) {                                                 \
			dprintf(1, "FAIL: line %d: %s: %s: ", __LINE__, #condition, \
				strerror(errno));                                   \
			dprintf(1, " " __VA_ARGS__);                                \
			dprintf(1, "\n");                                           \
			_exit(1);                                                   \
		}                                                                   \
	} while (0)

/* --- numbers ---------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static uint64_t below(struct worker *w, uint64_t n)
{
	w->x += 0x9e3779b97f4a7c15ull;
	return mix(w->x) % n;
}

static uint64_t gen_word(const struct worker *w, uint32_t gen, int i)
{
	return gen ? ((uint64_t)w->id << 56 | (uint64_t)gen << 16 | (uint64_t)i) *
			       0x9e3779b97f4a7c15ull
		   : 0;
}

static uint64_t file_word(int page, int i)
{
	return (uint64_t)(page * WORDS + i + 1) * 0xff51afd7ed558ccdull;
}

/* --- what a page must hold -------------------------------------------------------------------- */

/* Pages of a shared memfd hold what the memfd does, wherever they are. */
static struct page *holder(struct worker *w, int i)
{
	struct page *p = &w->page[i];

	return p->kind == MEMFD ? &w->memfd_page[p->home] : p;
}

static bool is_own(const struct page *p)
{
	return p->gen || p->spot || p->from;
}

static uint64_t word_of(struct worker *w, const struct page *p, int i)
{
	if (p->spot && (int)(p->spot % WORDS) == i)
		return mix(p->spot);
	if (p->gen)
		return gen_word(w, p->gen, i);
	if (p->from)
		return file_word(p->from - 1, i);
	if (p->kind == FILE_PRIVATE)
		return file_word(p->home, i);
	if (p->kind == MEMFD_PRIVATE && !is_own(p))
		return word_of(w, &w->memfd_page[p->home], i);
	return 0;
}

static int wrong_word(struct worker *w, const struct page *p, const volatile uint64_t *words)
{
	for (int i = 0; i < WORDS; i++)
		if (words[i] != word_of(w, p, i))
			return i;
	return -1;
}

static void check_words(struct worker *w, const struct page *p, const uint64_t *words, void *where)
{
	int i = wrong_word(w, p, words);

	if (i < 0 || (p->lazy && kt_zero(words, PAGE)))
		return;
	MUST(i < 0,
	     "thread %u, %p, word %d: %#llx is not %#llx; kind %d prot %d gen %u spot %u from %u lazy %d",
	     w->id, where, i, (unsigned long long)words[i], (unsigned long long)word_of(w, p, i),
	     p->kind, p->prot, p->gen, p->spot, p->from, p->lazy);
}

static void check(struct worker *w, int i)
{
	uint64_t words[WORDS];
	struct page *p = &w->page[i];
	char *at = w->at + (size_t)i * PAGE;

	if (p->kind == NONE)
		return;
	if (!p->guard && (p->prot & PROT_READ)) {
		check_words(w, holder(w, i), (uint64_t *)at, at);
		return;
	}
	if (p->guard) {
		MUST(pread(mem_fd, words, PAGE, (off_t)(uintptr_t)at) < 0, "a guard is gone");
		return;
	}
	MUST(pread(mem_fd, words, PAGE, (off_t)(uintptr_t)at) == PAGE, "read %p", at);
	check_words(w, holder(w, i), words, at);
}

/* --- changing contents ------------------------------------------------------------------------ */

static void fill(struct worker *w, uint32_t gen, void *at)
{
	volatile uint64_t *words = at;

	for (int i = 0; i < WORDS; i++)
		words[i] = gen_word(w, gen, i);
}

static bool is_writable(const struct page *p)
{
	return p->kind != NONE && !p->guard && (p->prot & PROT_WRITE);
}

static void set_gen(struct worker *w, struct page *p)
{
	p->gen = ++w->last;
	p->spot = p->from = p->lazy = 0;
}

static void write_page(struct worker *w, int i)
{
	struct page *p = holder(w, i);

	if (!is_writable(&w->page[i]))
		return;
	/* Noted afterwards as well as before, so that who reads in between needs both: nobody does. */
	set_gen(w, p);
	fill(w, p->gen, w->at + (size_t)i * PAGE);
}

/* One word, and the one that was written so before. */
static void write_spot(struct worker *w, int i)
{
	struct page *p = holder(w, i);
	volatile uint64_t *words = (uint64_t *)(w->at + (size_t)i * PAGE);
	uint32_t before = p->spot;

	if (!is_writable(&w->page[i]) || p->lazy)
		return;
	if (p->kind == MEMFD_PRIVATE && !p->gen && !p->from) {
		write_page(w, i);
		return;
	}
	p->spot = 0;
	if (before)
		words[before % WORDS] = word_of(w, p, (int)(before % WORDS));
	p->spot = ++w->last;
	words[p->spot % WORDS] = mix(p->spot);
}

/* --- ranges ----------------------------------------------------------------------------------- */

static int pick(struct worker *w, int *ret_n)
{
	static const int most[] = { 2, 8, 8, 64, 64, 700 };
	int n = 1 + (int)below(w, (uint64_t)most[below(w, 6)]);
	int a = (int)below(w, PAGES);

	if (below(w, 16) == 0) { /* a huge page, exactly */
		a &= ~511;
		n = 512;
	}
	*ret_n = a + n > PAGES ? PAGES - a : n;
	return a;
}

/* How many of N pages from A on are mapped, and without any of ADVICE. */
static int mapped(struct worker *w, int a, int n, int without)
{
	int k = 0;

	while (k < n && w->page[a + k].kind != NONE && !(w->page[a + k].advice & without))
		k++;
	return k;
}

/* How many of N pages from A on are in one piece; ONE_MAP: of the same mmap. */
static int alike(struct worker *w, int a, int n, bool one_map)
{
	const struct page *p = &w->page[a];
	int k = 1;

	if (p->kind == NONE)
		return 0;
	for (; k < n; k++) {
		const struct page *q = &p[k];

		if (q->kind != p->kind || q->prot != p->prot || q->advice != p->advice ||
		    (one_map && q->map != p->map) ||
		    ((p->kind == FILE_PRIVATE || p->kind == MEMFD || p->kind == MEMFD_PRIVATE) &&
		     q->home != p->home + k) ||
		    (p->kind == SHARED && q->map != p->map))
			break;
	}
	return k;
}

/* After a change of a part, of which neighbours may be parts of one mapping again, or not: only what certainly is
 * one keeps one number. */
static void renumber(struct worker *w, int a, int n)
{
	uint32_t before = 0;

	for (int i = a; i < a + n; i++) {
		w->last += i == a || w->page[i].map != before;
		before = w->page[i].map;
		w->page[i].map = w->last;
	}
}

static char *place(struct worker *w, int a)
{
	return w->at + (size_t)a * PAGE;
}

static void forget(struct worker *w, int a, int n)
{
	memset(&w->page[a], 0, (size_t)n * sizeof(w->page[0]));
}

/* --- operations on an arena ------------------------------------------------------------------- */

static void map_new(struct worker *w)
{
	static const uint8_t kinds[] = { ANON,   ANON,  ANON,         FILE_PRIVATE,
					 SHARED, MEMFD, MEMFD_PRIVATE };
	int n, a = pick(w, &n), home = 0, fd = -1, flags = MAP_FIXED;
	uint8_t kind = kinds[below(w, sizeof(kinds))];

	if (kind == FILE_PRIVATE || kind == MEMFD || kind == MEMFD_PRIVATE) {
		home = (int)below(w, OBJECT_PAGES);
		n = home + n > OBJECT_PAGES ? OBJECT_PAGES - home : n;
		fd = kind == FILE_PRIVATE ? data_fd : w->memfd;
	} else {
		flags |= MAP_ANONYMOUS;
	}
	flags |= kind == SHARED || kind == MEMFD ? MAP_SHARED : MAP_PRIVATE;
	/* Noted first: in between there is no instant at which this is read. */
	MUST(mmap(place(w, a), (size_t)n * PAGE, PROT_READ | PROT_WRITE, flags, fd,
		  (off_t)home * PAGE) == place(w, a));
	forget(w, a, n);
	w->last++;
	for (int i = a; i < a + n; i++)
		w->page[i] = (struct page){ .kind = kind,
					    .map = w->last,
					    .home = (uint16_t)(home + i - a),
					    .prot = PROT_READ | PROT_WRITE };
	for (int i = a; i < a + n && below(w, 3); i++)
		write_page(w, i);
}

static void unmap(struct worker *w)
{
	int n, a = pick(w, &n);

	MUST(munmap(place(w, a), (size_t)n * PAGE) == 0);
	forget(w, a, n);
}

static void protect(struct worker *w)
{
	static const uint8_t prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
					 PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC };
	int n, a = pick(w, &n);
	uint8_t prot = prots[below(w, sizeof(prots))];

	n = mapped(w, a, n, 0);
	MUST(mprotect(place(w, a), (size_t)n * PAGE, prot) == 0, "%d pages at %p", n, place(w, a));
	for (int i = a; i < a + n; i++)
		w->page[i].prot = prot;
	renumber(w, a, n);
}

static void write_some(struct worker *w)
{
	int n, a = pick(w, &n);

	for (int i = a; i < a + n; i++)
		if (below(w, 4))
			write_page(w, i);
}

static void write_spots(struct worker *w)
{
	for (int i = 0; i < 64; i++)
		write_spot(w, (int)below(w, PAGES));
}

static void check_some(struct worker *w)
{
	int n, a = pick(w, &n);

	for (int i = a; i < a + n; i++)
		check(w, i);
}

static void drop(struct worker *w)
{
	int n, a = pick(w, &n);

	n = mapped(w, a, n, LOCKED);
	MUST(madvise(place(w, a), (size_t)n * PAGE, MADV_DONTNEED) == 0);
	for (int i = a; i < a + n; i++)
		if (w->page[i].kind != SHARED)
			w->page[i].gen = w->page[i].spot = w->page[i].from = w->page[i].lazy = 0;
}

static void free_lazily(struct worker *w)
{
	int n, a = pick(w, &n);

	n = alike(w, a, n, false);
	if (!n || w->page[a].kind != ANON || (w->page[a].advice & LOCKED))
		return;
	MUST(madvise(place(w, a), (size_t)n * PAGE, MADV_FREE) == 0);
	for (int i = a; i < a + n; i++)
		w->page[i].lazy = 1;
}

static void guard(struct worker *w)
{
	int n, a = pick(w, &n);
	bool install = below(w, 2);

	n = alike(w, a, n, false);
	if (!n || w->page[a].kind != ANON || (w->page[a].advice & LOCKED))
		return;
	if (madvise(place(w, a), (size_t)n * PAGE,
		    install ? MADV_GUARD_INSTALL : MADV_GUARD_REMOVE) < 0) {
		MUST(errno == EINVAL);
		return; /* Linux before 6.13 */
	}
	for (int i = a; i < a + n; i++) {
		struct page *p = &w->page[i];

		if (install)
			p->gen = p->spot = p->from = p->lazy = 0;
		p->guard = install;
	}
}

static void advise(struct worker *w)
{
	int n, a = pick(w, &n);
	bool huge = below(w, 4);

	n = alike(w, a, n, false);
	if (!n || w->page[a].kind != ANON)
		return;
	if (madvise(place(w, a), (size_t)n * PAGE, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0) {
		MUST(errno == EINVAL);
		return; /* a kernel without huge pages */
	}
	for (int i = a; i < a + n; i++)
		w->page[i].advice = (uint8_t)((w->page[i].advice & ~(HUGE | NO_HUGE)) |
					      (huge ? HUGE : NO_HUGE));
	renumber(w, a, n);
}

/* A fork from outside must not lose it; ours here check all that they have. */
static void advise_fork(struct worker *w)
{
	static const struct {
		int advice;
		uint8_t clear, set;
	} ways[] = {
		{ MADV_DONTFORK, 0, DONT_FORK },
		{ MADV_DOFORK, DONT_FORK, 0 },
		{ MADV_WIPEONFORK, 0, WIPE_ON_FORK },
		{ MADV_KEEPONFORK, WIPE_ON_FORK, 0 },
	};
	int n, a = pick(w, &n);
	uint64_t k = below(w, sizeof(ways) / sizeof(ways[0]));

	n = alike(w, a, n, false);
	if (!n || w->page[a].kind != ANON || with_fork || with_writers)
		return;
	MUST(madvise(place(w, a), (size_t)n * PAGE, ways[k].advice) == 0);
	for (int i = a; i < a + n; i++)
		w->page[i].advice = (uint8_t)((w->page[i].advice & ~ways[k].clear) | ways[k].set);
	renumber(w, a, n);
}

static void lock(struct worker *w)
{
	int n, a = pick(w, &n);
	bool on = below(w, 2);

	n = mapped(w, a, n < 64 ? n : 64, 0);
	for (int i = a; i < a + n; i++)
		if (!is_writable(&w->page[i]) || w->page[i].kind == MEMFD_PRIVATE)
			n = i - a; /* locking makes the process's own page of the memfd's */
	if (on ? mlock(place(w, a), (size_t)n * PAGE) : munlock(place(w, a), (size_t)n * PAGE)) {
		MUST(errno == ENOMEM || errno == EPERM || errno == EAGAIN);
		MUST(munlock(place(w, a), (size_t)n * PAGE) == 0);
		on = false;
	}
	for (int i = a; i < a + n; i++)
		w->page[i].advice = (uint8_t)((w->page[i].advice & ~LOCKED) | (on ? LOCKED : 0));
	renumber(w, a, n);
}

/* Moves what is known of N pages. */
static void note_move(struct worker *w, int from, int to, int n, bool leaves)
{
	memmove(&w->page[to], &w->page[from], (size_t)n * sizeof(w->page[0]));
	/* What stays behind is empty, and neither locked (mremap(2)). */
	for (int i = from; i < from + n; i++) {
		struct page left = w->page[i];

		left.gen = left.spot = left.from = left.lazy = left.guard = 0;
		left.advice &= (uint8_t)~LOCKED;
		w->page[i] = leaves ? left : (struct page){ 0 };
	}
	renumber(w, to, n);
	if (leaves)
		renumber(w, from, n);
}

/* A refused move of several mappings has moved the first of them. */
static void note_partial_move(struct worker *w, int from, int to, int n)
{
	unsigned char in;

	for (int i = 0; i < n; i++) {
		if (mincore(place(w, from + i), PAGE, &in) < 0) {
			MUST(errno == ENOMEM);
			note_move(w, from + i, to + i, 1, false);
			continue;
		}
		/* What was mapped there may be gone by now. */
		MUST(munmap(place(w, to + i), PAGE) == 0);
		forget(w, to + i, 1);
	}
}

/* Also of several mmap: these may fail with EFAULT. */
static void move(struct worker *w)
{
	bool one_map = below(w, 4), leaves = below(w, 4) == 0;
	int n, a = pick(w, &n), to = (int)below(w, PAGES);
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	n = alike(w, a, n, one_map);
	if (!n || to + n > PAGES || (to < a + n && a < to + n))
		return;
	leaves = leaves && one_map && w->page[a].kind == ANON;
	if (mremap(place(w, a), (size_t)n * PAGE, (size_t)n * PAGE,
		   flags | (leaves ? MREMAP_DONTUNMAP : 0), place(w, to)) == place(w, to)) {
		note_move(w, a, to, n, leaves);
		return;
	}
	MUST(!one_map, "mremap of %d pages at %p, kind %d prot %d advice %d", n, place(w, a),
	     w->page[a].kind, w->page[a].prot, w->page[a].advice);
	__atomic_add_fetch(&n_refused, 1, __ATOMIC_RELAXED);
	note_partial_move(w, a, to, n);
}

static void resize(struct worker *w)
{
	int n, a = pick(w, &n), more = 1 + (int)below(w, 64), k = 0;
	void *p;

	n = alike(w, a, n, true);
	if (!n || w->page[a].kind != ANON || (w->page[a].advice & LOCKED))
		return;
	if (n > 1 && below(w, 2)) {
		int less = 1 + (int)below(w, (uint64_t)n - 1);

		MUST(mremap(place(w, a), (size_t)n * PAGE, (size_t)less * PAGE, 0) == place(w, a));
		forget(w, a + less, n - less);
		return;
	}
	while (k < more && a + n + k < PAGES && w->page[a + n + k].kind == NONE)
		k++;
	if (!k)
		return;
	p = mremap(place(w, a), (size_t)n * PAGE, (size_t)(n + k) * PAGE, 0);
	MUST(p == place(w, a), "grow %d pages at %p by %d", n, place(w, a), k);
	for (int i = a + n; i < a + n + k; i++) {
		w->page[i] = w->page[a];
		w->page[i].gen = w->page[i].spot = w->page[i].from = 0;
		w->page[i].lazy = w->page[i].guard = 0;
	}
	renumber(w, a, n + k);
}

/* --- from behind ------------------------------------------------------------------------------ */

static void through_memfd(struct worker *w)
{
	int k = (int)below(w, OBJECT_PAGES);
	struct page *p = &w->memfd_page[k];
	uint64_t words[WORDS];

	switch (below(w, 3)) {
	case 0:
		p->gen = ++w->last;
		p->spot = p->from = 0;
		fill(w, p->gen, words);
		MUST(pwrite(w->memfd, words, PAGE, (off_t)k * PAGE) == PAGE);
		break;
	case 1:
		p->gen = ++w->last;
		p->spot = p->from = 0;
		fill(w, p->gen, w->alias + (size_t)k * PAGE);
		break;
	default:
		MUST(fallocate(w->memfd, 3 /* punch a hole, keep the size */, (off_t)k * PAGE,
			       PAGE) == 0);
		p->gen = p->spot = p->from = 0;
		break;
	}
}

/* Reads pages of the file past the page cache. */
static void read_directly(struct worker *w)
{
	int n, a = pick(w, &n), from = (int)below(w, OBJECT_PAGES - 64);

	n = n < 64 ? n : 64;
	for (int i = a; i < a + n; i++)
		if (!is_writable(&w->page[i]) || w->page[i].kind == MEMFD)
			n = i - a;
	if (!n || direct_fd < 0)
		return;
	MUST(pread(direct_fd, place(w, a), (size_t)n * PAGE, (off_t)from * PAGE) == n * PAGE);
	for (int i = a; i < a + n; i++) {
		w->page[i].gen = w->page[i].spot = w->page[i].lazy = 0;
		w->page[i].from = (uint16_t)(from + i - a + 1);
	}
}

static int reap(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		MUST(errno == EINTR);
	return status;
}

/* A child writes all over its copy; it must not be ours. */
static void fork_and_write(struct worker *w)
{
	int n, a = pick(w, &n);
	pid_t pid = with_fork ? fork() : 0;

	if (!with_fork)
		return;
	MUST(pid >= 0);
	if (pid == 0) {
		for (int i = a; i < a + n; i++) {
			check(w, i);
			if (w->page[i].kind == ANON || w->page[i].kind == FILE_PRIVATE)
				write_page(w, i);
			check(w, i);
		}
		_exit(0);
	}
	MUST(reap(pid) == 0, "the child");
}

static void written_by_child(struct worker *w)
{
	int i = (int)below(w, PAGES);
	uint64_t words[WORDS];
	struct iovec from = { words, PAGE }, to = { place(w, i), PAGE };
	pid_t parent = getpid(), pid;

	if (!with_writers || !is_writable(&w->page[i]) || w->page[i].kind == MEMFD)
		return;
	set_gen(w, &w->page[i]);
	fill(w, w->page[i].gen, words);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		MUST(process_vm_writev(parent, &from, 1, &to, 1, 0) == PAGE);
		_exit(0);
	}
	MUST(reap(pid) == 0, "the child");
}

/* A userfaultfd of its own on a new mapping. */
static void own_uffd(struct worker *w)
{
	int n, a = pick(w, &n), fd = with_uffd ? (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1) : -1;
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = { .range = { (uintptr_t)place(w, a), (size_t)n * PAGE },
				     .mode = UFFDIO_REGISTER_MODE_WP };

	if (fd < 0)
		return;
	MUST(ioctl(fd, UFFDIO_API, &api) == 0);
	MUST(mmap(place(w, a), (size_t)n * PAGE, PROT_READ | PROT_WRITE,
		  MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == place(w, a));
	if (ioctl(fd, UFFDIO_REGISTER, &r)) {
		MUST(errno == EBUSY);
		__atomic_add_fetch(&n_busy, 1, __ATOMIC_RELAXED);
	}
	forget(w, a, n);
	w->last++;
	for (int i = a; i < a + n; i++) {
		w->page[i] = (struct page){ .kind = ANON,
					    .map = w->last,
					    .prot = PROT_READ | PROT_WRITE };
		write_page(w, i);
	}
	kt_nap((long)below(w, 20));
	close(fd);
}

/* Reads into buffers that a ring of its own has pinned, with time between for images. */
static void through_ring(struct worker *w)
{
	int i = (int)below(w, PAGES);
	struct ring ring;

	if (!with_uring || !is_writable(&w->page[i]) || w->page[i].kind != ANON)
		return;
	if (!ring_open(&ring, place(w, i), PAGE))
		return;
	for (int k = 0; k < 3; k++) {
		int from = (int)below(w, OBJECT_PAGES);

		kt_nap((long)below(w, 150));
		MUST(ring_read_fixed(&ring, data_fd, place(w, i), PAGE, (uint64_t)from * PAGE) ==
		     PAGE);
		w->page[i].gen = w->page[i].spot = w->page[i].lazy = 0;
		w->page[i].from = (uint16_t)(from + 1);
	}
	ring_close(&ring);
}

/* --- elsewhere -------------------------------------------------------------------------------- */

static void touch_reserved(struct worker *w)
{
	const uint64_t gib = 1 << 30, pages = gib / PAGE;
	uint32_t dropped = (uint32_t)(below(w, RESERVED / gib) * pages);
	int k = (int)below(w, SPARSE);

	if (w->n_sparse == SPARSE && below(w, 4) == 0) {
		MUST(madvise(w->reserved + (uint64_t)dropped * PAGE, gib, MADV_DONTNEED) == 0);
		for (int i = 0; i < w->n_sparse; i++)
			if (w->sparse[i].page - dropped < pages)
				w->sparse[i].gen = 0;
	}
	if (w->n_sparse < SPARSE) {
		k = w->n_sparse++;
		w->sparse[k].page = (uint32_t)(k * (RESERVED / PAGE / SPARSE) +
					       below(w, RESERVED / PAGE / SPARSE));
	}
	w->sparse[k].gen = ++w->last;
	fill(w, w->sparse[k].gen, w->reserved + (uint64_t)w->sparse[k].page * PAGE);
}

static void check_gen(struct worker *w, uint32_t gen, const char *at)
{
	const struct page p = { .gen = gen, .kind = ANON };

	check_words(w, &p, (const uint64_t *)at, (void *)(uintptr_t)at);
}

static void touch_hugetlb(struct worker *w)
{
	const size_t bytes = 2 << 20;
	int k = (int)below(w, HUGE_PAGES);
	char *at = w->hugetlb + (size_t)k * bytes;

	if (!w->hugetlb)
		return;
	if (below(w, 4) == 0) {
		w->hugetlb_gen[k] = 0;
		MUST(madvise(at, bytes, MADV_DONTNEED) == 0);
		return;
	}
	/* The first page and the last. */
	w->hugetlb_gen[k] = ++w->last;
	fill(w, w->last, at);
	fill(w, w->last, at + bytes - PAGE);
}

static void move_brk(struct worker *w)
{
	int n = (int)below(w, HEAP_PAGES);
	char *now = sbrk(0);

	if (!w->heap)
		return;
	MUST(now == w->heap + (size_t)w->n_heap * PAGE, "somebody else moved the break");
	MUST(brk(w->heap + (size_t)n * PAGE) == 0);
	for (int i = w->n_heap; i < n; i++)
		w->heap_gen[i] = 0;
	w->n_heap = n;
	for (int i = 0; i < n; i++)
		if (below(w, 2)) {
			w->heap_gen[i] = ++w->last;
			fill(w, w->last, w->heap + (size_t)i * PAGE);
		}
}

static __attribute__((noinline)) void grow_stack(struct worker *w, int depth)
{
	uint64_t words[WORDS];
	uint32_t gen = ++w->last;

	fill(w, gen, words);
	if (depth > 0)
		grow_stack(w, depth - 1);
	check_gen(w, gen, (char *)words);
}

static void go_deep(struct worker *w)
{
	grow_stack(w, 1 + (int)below(w, 200));
}

static void check_elsewhere(struct worker *w)
{
	for (int i = 0; i < w->n_sparse; i++)
		check_gen(w, w->sparse[i].gen, w->reserved + (uint64_t)w->sparse[i].page * PAGE);
	for (int i = 0; w->hugetlb && i < HUGE_PAGES; i++) {
		check_gen(w, w->hugetlb_gen[i], w->hugetlb + (size_t)i * (2 << 20));
		check_gen(w, w->hugetlb_gen[i], w->hugetlb + (size_t)(i + 1) * (2 << 20) - PAGE);
	}
	for (int i = 0; i < w->n_heap; i++)
		check_gen(w, w->heap_gen[i], w->heap + (size_t)i * PAGE);
}

/* --- working ---------------------------------------------------------------------------------- */

static void work_once(struct worker *w)
{
	static const struct {
		void (*op)(struct worker *w);
		int weight;
	} ops[] = {
		{ map_new, 40 },        { unmap, 12 },         { protect, 30 },
		{ write_some, 60 },     { write_spots, 60 },   { check_some, 60 },
		{ drop, 12 },           { free_lazily, 8 },    { guard, 10 },
		{ advise, 10 },         { advise_fork, 10 },   { lock, 6 },
		{ move, 20 },           { resize, 14 },        { through_memfd, 40 },
		{ read_directly, 8 },   { fork_and_write, 1 }, { written_by_child, 1 },
		{ own_uffd, 1 },        { through_ring, 1 },   { touch_reserved, 20 },
		{ touch_hugetlb, 10 },  { move_brk, 10 },      { go_deep, 6 },
		{ check_elsewhere, 4 },
	};
	int total = 0;
	size_t i = 0;

	for (size_t k = 0; k < sizeof(ops) / sizeof(ops[0]); k++)
		total += ops[k].weight;
	for (int at = (int)below(w, (uint64_t)total); at >= ops[i].weight; i++)
		at -= ops[i].weight;
	ops[i].op(w);
	w->n_ops++;
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!leave) {
		for (int i = 0; i < 20; i++)
			work_once(w);
		kt_nap(1);
		while (kt_told("quiet") && !kt_told("go"))
			kt_nap(10);
	}
	return NULL;
}

/* --- making ----------------------------------------------------------------------------------- */

static void make_file(void)
{
	uint64_t words[WORDS];

	data_fd = open("data", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	MUST(data_fd >= 0);
	for (int k = 0; k < OBJECT_PAGES; k++) {
		for (int i = 0; i < WORDS; i++)
			words[i] = file_word(k, i);
		if (pread(data_fd, words, PAGE, (off_t)k * PAGE) != PAGE)
			MUST(pwrite(data_fd, words, PAGE, (off_t)k * PAGE) == PAGE);
	}
	MUST(fsync(data_fd) == 0);
	/* Such a descriptor makes kage copy all memory in the stop. */
	direct_fd = with_direct ? open("data", O_RDONLY | O_DIRECT | O_CLOEXEC) : -1;
}

static void *reserve(size_t bytes, int prot)
{
	void *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	MUST(p != MAP_FAILED);
	return p;
}

static void make_worker(struct worker *w, int id, uint64_t seed)
{
	w->id = (uint32_t)id + 1;
	w->x = mix(seed * MAX_THREADS + (uint64_t)id);
	/* Far from where the kernel puts what has no place: holes in it stay ours. */
	w->at = (char *)(0x100000000000 + ((uintptr_t)id << 36));
	w->memfd = memfd_create("random", MFD_CLOEXEC);
	MUST(w->memfd >= 0 && ftruncate(w->memfd, (off_t)OBJECT_PAGES * PAGE) == 0);
	w->alias = mmap(NULL, (size_t)OBJECT_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			w->memfd, 0);
	MUST(w->alias != MAP_FAILED);
	w->reserved = reserve(RESERVED, PROT_READ | PROT_WRITE);
	if (id == 0) {
		w->hugetlb = mmap(NULL, (size_t)HUGE_PAGES << 21, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
		if (w->hugetlb == MAP_FAILED)
			w->hugetlb = NULL;
		w->heap = sbrk(0);
		w->heap = (char *)(((uintptr_t)w->heap + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
		MUST(brk(w->heap) == 0);
	}
}

/* Another program, the same one: all threads but this one end, and all memory with them. */
static void become_new(char **argv)
{
	char seed[32];

	snprintf(seed, sizeof(seed), "%lu", strtoul(argv[1], NULL, 10) + 1);
	argv[1] = seed;
	execv("/proc/self/exe", argv);
	MUST(false, "exec");
}

static void read_words(int argc, char **argv)
{
	for (int i = 3; i < argc; i++) {
		with_exec |= strcmp(argv[i], "exec") == 0;
		with_uring |= strcmp(argv[i], "uring") == 0;
		with_uffd |= strcmp(argv[i], "uffd") == 0;
		with_writers |= strcmp(argv[i], "writers") == 0;
		with_direct |= strcmp(argv[i], "direct") == 0;
		with_fork &= strcmp(argv[i], "nofork") != 0;
	}
}

int main(int argc, char **argv)
{
	uint64_t seed = argc > 2 ? strtoull(argv[1], NULL, 10) : 1, n_ops = 0;
	pthread_t threads[MAX_THREADS];

	n_workers = argc > 2 ? atoi(argv[2]) : 1;
	MUST(n_workers >= 1 && n_workers <= MAX_THREADS);
	read_words(argc, argv);
	make_file();
	mem_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	MUST(mem_fd >= 0);
	workers = reserve(n_workers * sizeof(*workers), PROT_READ | PROT_WRITE);
	for (int i = 1; i < n_workers; i++) {
		make_worker(&workers[i], i, seed);
		MUST(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
	}
	make_worker(&workers[0], 0, seed);
	begin_ns = kt_now_ns(CLOCK_MONOTONIC);
	kt_say("ready\n");
	while (!kt_told("go")) {
		for (int i = 0; i < 20; i++)
			work_once(&workers[0]);
		kt_nap(1);
		while (kt_told("quiet") && !kt_told("go"))
			kt_nap(10);
		if (with_exec && kt_now_ns(CLOCK_MONOTONIC) - begin_ns > 1500000000)
			become_new(argv);
	}
	leave = 1;
	for (int i = 1; i < n_workers; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < n_workers; i++) {
		for (int k = 0; k < PAGES; k++)
			check(&workers[i], k);
		check_elsewhere(&workers[i]);
		n_ops += workers[i].n_ops;
	}
	dprintf(1, "PASS %llu operations, %llu mremap refused, %llu uffd busy\n",
		(unsigned long long)n_ops, (unsigned long long)n_refused,
		(unsigned long long)n_busy);
	return 0;
}
