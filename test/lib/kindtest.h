/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs of test/kind share. Such a program builds a state, calls kt_wait(), during which
 * images of it are taken and it may live on in another process, and then checks with KT() that all
 * is as it was. It ends with kt_end(), which prints PASS, or FAIL with all that differed.
 *
 * It is told to go on by a file "go" in its working directory: neither a pipe nor a socket to a
 * driver would outlive a restore.
 */
#ifndef KINDTEST_H
#define KINDTEST_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char kt_failures[16384];
static int kt_n_failures;

__attribute__((unused, format(printf, 3, 4))) static void kt_fail(const char *file, int line,
								  const char *fmt, ...)
{
	size_t at = strlen(kt_failures);
	va_list ap;

	kt_n_failures++;
	if (at > sizeof(kt_failures) - 1024)
		return;
	at += (size_t)snprintf(kt_failures + at, 256, "%s%s:%d: ", at ? "; " : "",
			       strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line);
	va_start(ap, fmt);
	vsnprintf(kt_failures + at, 512, fmt, ap);
	va_end(ap);
}

/* What must hold after the wait. */
#define KT(condition, ...)                                                           \
	do {                                                                         \
		if (!(condition))                                                    \
			kt_fail(__FILE__, __LINE__, "" #condition ": " __VA_ARGS__); \
	} while (0)

/* What must hold before it: the test cannot be made otherwise. */
#define KT_NEED(condition)                                                                         \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			printf("FAIL: %s:%d: preparing: %s: %s\n", __FILE__, __LINE__, #condition, \
			       strerror(errno));                                                   \
			fflush(stdout);                                                            \
			_exit(2);                                                                  \
		}                                                                                  \
	} while (0)

__attribute__((unused, noreturn)) static void kt_skip(const char *why)
{
	printf("SKIP %s\n", why);
	fflush(stdout);
	_exit(77);
}

__attribute__((unused)) static void kt_say(const char *line)
{
	if (write(1, line, strlen(line)) < 0)
		_exit(3);
}

__attribute__((unused)) static bool kt_told(const char *file)
{
	return faccessat(AT_FDCWD, file, F_OK, 0) == 0;
}

__attribute__((unused)) static void kt_nap(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

/** The state is built: waits until told to go on. */
__attribute__((unused)) static void kt_wait(void)
{
	kt_say("ready\n");
	while (!kt_told("go"))
		kt_nap(10);
}

__attribute__((unused, noreturn)) static void kt_end(void)
{
	if (kt_n_failures)
		dprintf(1, "FAIL: %s\n", kt_failures);
	else
		kt_say("PASS\n");
	/* All was looked at, and much of it used up: a good moment to be taken back. */
	while (kt_told("stay"))
		kt_nap(10);
	_exit(kt_n_failures != 0);
}

__attribute__((unused)) static int64_t kt_now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/** A byte that position I of pattern SEED has: text-like, never zero, different on every page. */
__attribute__((unused)) static unsigned char kt_byte(uint64_t seed, size_t i)
{
	uint64_t x = (seed + 1) * 0x9e3779b97f4a7c15ull + i / 64 * 0xbf58476d1ce4e5b9ull;

	x ^= x >> 29;
	return (unsigned char)((x + i) % 255 + 1);
}

__attribute__((unused)) static void kt_fill(void *at, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++)
		((unsigned char *)at)[i] = kt_byte(seed, i);
}

/** The first position that is not as kt_fill() left it, or -1. */
__attribute__((unused)) static long kt_differs(const void *at, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++)
		if (((const volatile unsigned char *)at)[i] != kt_byte(seed, i))
			return (long)i;
	return -1;
}

__attribute__((unused)) static bool kt_zero(const void *at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (((const volatile unsigned char *)at)[i])
			return false;
	return true;
}

/** Reads a file of /proc whole into BUFFER, as a string. */
__attribute__((unused)) static char *kt_slurp(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n = 0;
	ssize_t r;

	if (fd < 0)
		return NULL;
	while (n + 1 < size && (r = read(fd, buffer + n, size - n - 1)) > 0)
		n += (size_t)r;
	buffer[n] = '\0';
	close(fd);
	return buffer;
}

/** The line of TEXT that begins with KEY, without it, in a static buffer; "" when there is none. */
__attribute__((unused)) static const char *kt_line(const char *text, const char *key)
{
	static char line[4096];
	size_t n = strlen(key);

	for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (strncmp(p, key, n) == 0) {
			snprintf(line, sizeof(line), "%.*s", (int)strcspn(p + n, "\n"), p + n);
			return line + strspn(line, " \t");
		}
	return "";
}

/* The flags of the mapping at ADDRESS as smaps shows them ("rd wr mr mw me ac hg "), static. */
__attribute__((unused)) static const char *kt_vmflags(const void *address)
{
	static char line[8192], flags[256];
	unsigned long start, end;
	bool here = false;
	FILE *f = fopen("/proc/self/smaps", "re");

	flags[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2 && strchr(line, '-') < line + 17)
			here = (uintptr_t)address >= start && (uintptr_t)address < end;
		else if (here && strncmp(line, "VmFlags: ", 9) == 0) {
			snprintf(flags, sizeof(flags), " %.*s", (int)strcspn(line + 9, "\n"),
				 line + 9);
			break;
		}
	}
	if (f)
		fclose(f);
	return flags;
}

__attribute__((unused)) static bool kt_has_flag(const void *address, const char *flag)
{
	char padded[8];

	snprintf(padded, sizeof(padded), " %s ", flag);
	return strstr(kt_vmflags(address), padded) != NULL;
}

/*
 * The memory map in a form that can be compared: neighbours that are alike count as one, since how
 * they are cut is nobody's business. "ac" (accounted) and "sd" (soft-dirty) may differ.
 */
struct kt_map {
	unsigned long start, end, offset;
	char perms[8], name[256], flags[256];
};
struct kt_maps {
	struct kt_map at[512];
	int n;
};

__attribute__((unused)) static void kt_maps_add(struct kt_maps *maps, const struct kt_map *m)
{
	struct kt_map *last = maps->n ? &maps->at[maps->n - 1] : NULL;

	if (last && last->end == m->start && strcmp(last->perms, m->perms) == 0 &&
	    strcmp(last->name, m->name) == 0 && strcmp(last->flags, m->flags) == 0 &&
	    (m->name[0] != '/' || last->offset + (last->end - last->start) == m->offset))
		last->end = m->end;
	else if (maps->n < 512)
		maps->at[maps->n++] = *m;
}

__attribute__((unused)) static void kt_maps_read(struct kt_maps *maps)
{
	static char line[8192], buffer[65536];
	struct kt_map m = { 0 };
	FILE *f = fopen("/proc/self/smaps", "re");

	maps->n = 0;
	if (!f)
		return;
	setvbuf(f, buffer, _IOFBF, sizeof(buffer));
	while (fgets(line, sizeof(line), f)) {
		if (line[0] < 'A' || line[0] > 'Z') {
			m = (struct kt_map){ 0 };
			sscanf(line, "%lx-%lx %7s %lx %*s %*s %255[^\n]", &m.start, &m.end, m.perms,
			       &m.offset, m.name);
			if (m.name[0] != '/')
				m.offset = 0;
		} else if (strncmp(line, "VmFlags: ", 9) == 0) {
			for (char *flag = strtok(line + 9, " \n"); flag; flag = strtok(NULL, " \n"))
				if (strcmp(flag, "ac") != 0 && strcmp(flag, "sd") != 0)
					strcat(strcat(m.flags, flag), " ");
			kt_maps_add(maps, &m);
		}
	}
	fclose(f);
}

static struct kt_maps kt_maps_before, kt_maps_after;

/** Call these around kt_wait(), with nothing between that maps or unmaps. The stack may have grown. */
__attribute__((unused)) static void kt_maps_remember(void)
{
	kt_maps_read(&kt_maps_before);
	kt_maps_read(&kt_maps_before);
}

__attribute__((unused)) static void kt_maps_compare(void)
{
	kt_maps_read(&kt_maps_after);
	KT(kt_maps_before.n == kt_maps_after.n, "%d mappings were %d", kt_maps_after.n,
	   kt_maps_before.n);
	for (int i = 0; i < kt_maps_before.n && i < kt_maps_after.n; i++) {
		const struct kt_map *a = &kt_maps_before.at[i], *b = &kt_maps_after.at[i];

		if ((a->start != b->start && strcmp(a->name, "[stack]") != 0) || a->end != b->end ||
		    strcmp(a->perms, b->perms) != 0 || strcmp(a->name, b->name) != 0 ||
		    a->offset != b->offset || strcmp(a->flags, b->flags) != 0) {
			kt_fail(__FILE__, __LINE__,
				"mapping %lx-%lx %s %lx %s [%s] is now %lx-%lx %s %lx %s [%s]",
				a->start, a->end, a->perms, a->offset, a->name, a->flags, b->start,
				b->end, b->perms, b->offset, b->name, b->flags);
			return;
		}
	}
}

#endif
