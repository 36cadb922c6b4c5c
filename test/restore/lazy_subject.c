/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program to be restored lazily: `lazy_subject MODE MIB` fills memory with words that tell where they belong,
 * says "ready", waits until there is a file "go", and does what MODE says:
 *
 *	check	compares all words, in an order of its own
 *	write	writes to every fourth page, has read(2) write to every fifth, then compares all
 *	fork	forks at once, and again in the middle: parent and children compare and change
 *	moves	moves, drops and unmaps parts, at once, in several threads, and compares what is left
 *	lone	of four pages three are zeros; moves all, some at a time, in several threads, and compares
 *	forks	forks 500 children that do nothing, one after the other, then compares
 *	daemon	forks a child that closes all descriptors but the first three, both compare
 *	leader	as lone, but its first thread ends; another one compares when there is a file "end"
 *	ends	has a thread that ends at once, without a look at its memory; waits for it
 *	exec	executes another program
 *	wait	does nothing, and ends when there is a file "end"
 *
 * It ends with 0 if all was as it must be, and says "right" or what is not. In the file "first" stands the time
 * (CLOCK_MONOTONIC, ns) at which it went on.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, THREADS = 4, LONE = 4, LONE_MOVED = 8 };

static uint64_t *memory;
static size_t pages;

static uint64_t word(size_t page, size_t i)
{
	/* Every other megabyte is random, the others compress. */
	uint64_t v = (page * WORDS + i) * 0x9e3779b97f4a7c15u + 1;

	return page / 256 % 2 ? v ^ v >> 29 : page * 3 + i % 7;
}

static void fail(const char *what, size_t page, size_t i, uint64_t is, uint64_t must)
{
	printf("FAIL: %s: page %zu word %zu is %#llx, not %#llx\n", what, page, i,
	       (unsigned long long)is, (unsigned long long)must);
	fflush(stdout);
	_exit(1);
}

/* The page that was number PAGE, now at AT. */
static void compare(const char *what, const uint64_t *at, size_t page)
{
	for (size_t i = 0; i < WORDS; i++)
		if (at[i] != word(page, i))
			fail(what, page, i, at[i], word(page, i));
}

static void zeros(const char *what, const uint64_t *at, size_t page)
{
	for (size_t i = 0; i < WORDS; i++)
		if (at[i] != 0)
			fail(what, page, i, at[i], 0);
}

static uint64_t *page_at(size_t page)
{
	return memory + page * WORDS;
}

/* From all over the place: the n-th page of a walk that meets each once (7919 does not divide it). */
static size_t walk(size_t n)
{
	return n * 7919 % pages;
}

static void check(const char *what)
{
	for (size_t n = 0; n < pages; n++)
		compare(what, page_at(walk(n)), walk(n));
}

static void do_write(void)
{
	int fd = open("/dev/zero", O_RDONLY);

	for (size_t n = 0; n < pages; n++) {
		size_t page = walk(n);

		if (page % 4 == 0)
			page_at(page)[5] = 77;
		else if (page % 5 == 0 && read(fd, page_at(page) + 9, 8) != 8)
			exit(2);
	}
	close(fd);
	for (size_t n = 0; n < pages; n++) {
		size_t page = walk(n);

		if (page % 4 == 0 && page_at(page)[5] != 77)
			fail("written", page, 5, page_at(page)[5], 77);
		else if (page % 4 == 0)
			page_at(page)[5] = word(page, 5);
		else if (page % 5 == 0 && page_at(page)[9] != 0)
			fail("read", page, 9, page_at(page)[9], 0);
		else if (page % 5 == 0)
			page_at(page)[9] = word(page, 9);
		compare("after writing", page_at(page), page);
	}
}

static pid_t child(const char *what)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	check(what);
	for (size_t n = 0; n < pages; n += 3)
		page_at(n)[1] = 5;
	_exit(0);
}

static void await(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
		printf("FAIL: child: %#x\n", status);
		fflush(stdout);
		_exit(1);
	}
}

static void do_fork(void)
{
	pid_t first = child("in the first child"), second;

	for (size_t n = 0; n < pages / 3; n++)
		compare("before the second fork", page_at(walk(n)), walk(n));
	second = child("in the second child");
	check("in the parent");
	await(first);
	await(second);
	check("after the children");
}

static void do_forks(void)
{
	for (int i = 0; i < 500; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		await(pid);
	}
	check("after many children");
}

static void note(const char *name)
{
	int fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	if (fd < 0)
		exit(10);
	close(fd);
}

static void do_daemon(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		close_range(3, ~0U, 0);
		note("closed");
	}
	check(pid == 0 ? "in the daemon" : "in its parent");
}

/* One of THREADS parts of the memory, all by itself. */
static void *do_part(void *arg)
{
	size_t part = (size_t)(uintptr_t)arg, n = pages / THREADS, first = part * n;
	size_t bit = n / 8 ? n / 8 : 1, bytes = bit * PAGE;
	uint64_t *moved, *old = page_at(first + bit), *zero = page_at(first + 3 * bit);

	/* Dropped while it is missing, and read. */
	madvise(zero, bytes, MADV_DONTNEED);
	for (size_t i = 0; i < bit; i += 5)
		zeros("dropped", zero + i * WORDS, first + 3 * bit + i);
	/* Moved to elsewhere, and there to elsewhere again; the old place used for something else. */
	moved = mremap(old, bytes, bytes * 2, MREMAP_MAYMOVE);
	if (moved == MAP_FAILED)
		exit(3);
	if (moved != old && mmap(old, bytes, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == old)
		zeros("new", old, first);
	for (size_t i = 0; i < bit; i += 2)
		compare("moved", moved + i * WORDS, first + bit + i);
	for (size_t i = bit; i < 2 * bit; i += 3)
		zeros("grown", moved + i * WORDS, first + i);
	/* Onto another part of our own memory. */
	if (mremap(moved, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, page_at(first + 5 * bit)) ==
	    MAP_FAILED)
		exit(4);
	munmap(moved + bit * WORDS, bytes);
	for (size_t i = 0; i < bit; i++)
		compare("moved twice", page_at(first + 5 * bit + i), first + bit + i);
	/* Unmapped, and a neighbour grown into it. */
	munmap(page_at(first + 7 * bit), bytes);
	for (size_t i = 0; i < bit; i++) {
		compare("first", page_at(first + i), first + i);
		compare("third", page_at(first + 2 * bit + i), first + 2 * bit + i);
		compare("fifth", page_at(first + 4 * bit + i), first + 4 * bit + i);
		compare("seventh", page_at(first + 6 * bit + i), first + 6 * bit + i);
		zeros("dropped, in the end", zero + i * WORDS, first + 3 * bit + i);
	}
	return NULL;
}

/* Pages that nobody waits for while they move, and that are brought one by one. */
static void *do_lone_part(void *arg)
{
	size_t n = pages / THREADS, first = (size_t)(uintptr_t)arg * n;
	uint64_t *to = mmap(NULL, n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (to == MAP_FAILED)
		exit(8);
	for (size_t i = 0; i + LONE_MOVED <= n; i += LONE_MOVED)
		if (mremap(page_at(first + i), LONE_MOVED * PAGE, LONE_MOVED * PAGE,
			   MREMAP_MAYMOVE | MREMAP_FIXED, to + i * WORDS) == MAP_FAILED)
			exit(9);
	for (size_t i = 0; i < n / LONE_MOVED * LONE_MOVED; i++)
		if ((first + i) % LONE)
			zeros("between lone pages", to + i * WORDS, first + i);
		else
			compare("alone", to + i * WORDS, first + i);
	return NULL;
}

static void in_threads(void *(*part)(void *arg))
{
	pthread_t threads[THREADS];

	for (size_t i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, part, (void *)(uintptr_t)i))
			exit(5);
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void await_file(const char *name)
{
	const struct timespec nap = { .tv_nsec = 1000000 };

	while (access(name, F_OK) != 0)
		nanosleep(&nap, NULL);
}

static void *do_leaderless(void *arg)
{
	(void)arg;
	await_file("end");
	for (size_t page = 0; page < pages; page++)
		if (page % LONE)
			zeros("without a leader", page_at(page), page);
		else
			compare("without a leader", page_at(page), page);
	puts("right");
	exit(0);
}

static void do_leader(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, do_leaderless, NULL))
		exit(5);
	pthread_exit(NULL);
}

/* In pages at the end of the memory, which come last: what the kernel reads and writes when the thread ends. */
static void *do_end(void *arg)
{
	volatile int *go_on = arg;
	int *tid = (int *)page_at(pages - 1);
	struct robust_list_head *head = (struct robust_list_head *)page_at(pages - 600);
	uint32_t *mutex = (uint32_t *)page_at(pages - 1200);
	struct robust_list *entry = (struct robust_list *)(mutex + 2);

	*tid = (int)syscall(SYS_gettid);
	*mutex = (uint32_t)*tid;
	*head = (struct robust_list_head){ { entry }, -8, NULL };
	entry->next = &head->list;
	syscall(SYS_set_tid_address, tid);
	syscall(SYS_set_robust_list, head, sizeof(*head));
	__atomic_store_n(go_on, 1, __ATOMIC_RELEASE);
	while (access("go", F_OK) != 0)
		;
	syscall(SYS_exit, 0);
	return NULL;
}

static void begin_end(void)
{
	static volatile int runs;
	pthread_t thread;

	if (pthread_create(&thread, NULL, do_end, (void *)&runs))
		exit(5);
	while (!__atomic_load_n(&runs, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void do_ends(void)
{
	int *tid = (int *)page_at(pages - 1);
	uint32_t *mutex = (uint32_t *)page_at(pages - 1200);
	DIR *dir;
	int n = 0;

	/* Until it has ended: then nothing is left to happen. */
	while (n != 3) {
		n = 0;
		dir = opendir("/proc/self/task");
		while (dir && readdir(dir))
			n++;
		closedir(dir);
	}
	if (*tid != 0)
		fail("clear_child_tid", pages - 1, 0, (uint64_t)*tid, 0);
	if (*mutex != FUTEX_OWNER_DIED)
		fail("robust mutex", pages - 1200, 0, *mutex, FUTEX_OWNER_DIED);
}

static void note_time(void)
{
	struct timespec now;
	char text[32];
	int fd, n;

	clock_gettime(CLOCK_MONOTONIC, &now);
	n = snprintf(text, sizeof(text), "%llu\n",
		     (unsigned long long)now.tv_sec * 1000000000u +
			     (unsigned long long)now.tv_nsec);
	fd = open("first", O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, (size_t)n) != n)
		exit(6);
	close(fd);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "check";
	bool lone = strcmp(mode, "lone") == 0 || strcmp(mode, "leader") == 0;

	pages = (argc > 2 ? (size_t)atol(argv[2]) : 64) * 256;
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	if (memory == MAP_FAILED)
		return 7;
	for (size_t page = 0; page < pages; page += lone ? LONE : 1)
		for (size_t i = 0; i < WORDS; i++)
			page_at(page)[i] = word(page, i);
	if (strcmp(mode, "ends") == 0)
		begin_end();
	puts("ready");
	fflush(stdout);
	await_file("go");
	note_time();
	if (strcmp(mode, "check") == 0)
		check("all");
	else if (strcmp(mode, "write") == 0)
		do_write();
	else if (strcmp(mode, "fork") == 0)
		do_fork();
	else if (strcmp(mode, "moves") == 0)
		in_threads(do_part);
	else if (strcmp(mode, "lone") == 0)
		in_threads(do_lone_part);
	else if (strcmp(mode, "forks") == 0)
		do_forks();
	else if (strcmp(mode, "daemon") == 0)
		do_daemon();
	else if (strcmp(mode, "leader") == 0)
		do_leader();
	else if (strcmp(mode, "ends") == 0)
		do_ends();
	else if (strcmp(mode, "exec") == 0)
		execl("/bin/echo", "echo", "right", (char *)NULL);
	else
		await_file("end");
	puts("right");
	return 0;
}
