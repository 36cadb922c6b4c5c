/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loaded into kage with LD_PRELOAD: writes what kage does to files below $IOLOG_ROOT to the file $IOLOG, in the
 * order in which it was done (one lock around each operation and its line). test/fault/power.py makes from it
 * the states in which a power failure may leave the store.
 *
 * One line an operation; a file is named by its inode number, a name by the number of its directory:
 *
 *	create INO DIR NAME	a file that was not there before		mkdir INO DIR NAME
 *	nameless INO		O_TMPFILE					rmdir DIR NAME
 *	write INO OFFSET LENGTH, then LENGTH bytes and a newline		truncate INO LENGTH
 *	link INO DIR NAME	replaces nothing				unlink DIR NAME
 *	rename DIR NAME DIR NAME						symlink DIR NAME TARGET
 *	sync INO		fsync or fdatasync that succeeded		told	(what stdout had was flushed)
 *
 * An operation of libc's that changes files and is not known here ends the program: the log would lie.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static char root[PATH_MAX];
static size_t root_bytes;

/* The log is none of the descriptors that programs count on being the lowest free ones. */
enum { LOG_FD = 900 };

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("IOLOG"), *below = getenv("IOLOG_ROOT");
	int fd;

	if (!path || !below)
		return;
	snprintf(root, sizeof(root), "%s", below);
	root_bytes = strlen(root);
	fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
			  0600);
	log_fd = fcntl(fd, F_DUPFD_CLOEXEC, LOG_FD);
	syscall(SYS_close, fd);
}

static _Noreturn void unknown(const char *what)
{
	fprintf(stderr, "iolog: %s is not logged\n", what);
	abort();
}

/* One piece of the log: the writer holds the lock. */
static void put(const void *bytes, size_t n)
{
	for (const char *at = bytes; n > 0;) {
		ssize_t done = syscall(SYS_write, log_fd, at, n);

		if (done < 0)
			unknown("what does not fit into the log");
		at += done;
		n -= (size_t)done;
	}
}

__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
	char line[2 * PATH_MAX];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	put(line, (size_t)n);
}

static bool is_below(const char *path)
{
	return strncmp(path, root, root_bytes) == 0 &&
	       (path[root_bytes] == '/' || !path[root_bytes]);
}

/* Whether FD is a file or directory below the root. */
static bool ours(int fd)
{
	char self[64], path[PATH_MAX];
	ssize_t n;

	if (log_fd < 0 || fd < 0 || fd == log_fd)
		return false;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	n = readlink(self, path, sizeof(path) - 1);
	if (n < 0)
		return false;
	path[n] = '\0';
	return is_below(path);
}

static unsigned long long ino_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? (unsigned long long)st.st_ino : 0;
}

/* A name in a directory below the root. */
struct place {
	unsigned long long dir;
	const char *name;
	bool ours, there;
};

static struct place find(int dirfd, const char *path)
{
	const char *slash = strrchr(path, '/');
	struct place p = { .name = slash ? slash + 1 : path };
	char parent[PATH_MAX];
	struct stat st;
	int fd;

	if (log_fd < 0 || !*p.name || strcmp(p.name, ".") == 0)
		return p;
	if (slash)
		snprintf(parent, sizeof(parent), "%.*s", slash == path ? 1 : (int)(slash - path),
			 path);
	else
		strcpy(parent, ".");
	fd = (int)syscall(SYS_openat, dirfd, parent, O_PATH | O_CLOEXEC);
	p.ours = ours(fd);
	p.dir = ino_of(fd);
	p.there = p.ours && fstatat(fd, p.name, &st, AT_SYMLINK_NOFOLLOW) == 0;
	if (fd >= 0)
		syscall(SYS_close, fd);
	return p;
}

static void enter(void)
{
	if (log_fd >= 0)
		pthread_mutex_lock(&lock);
}

static void leave(void)
{
	int failed = errno;

	if (log_fd >= 0)
		pthread_mutex_unlock(&lock);
	errno = failed;
}

/* --- files ------------------------------------------------------------------------------------ */

static int open_logged(int dirfd, const char *path, int flags, mode_t mode)
{
	struct place p = { 0 };
	int fd;

	enter();
	if (flags & (O_CREAT | O_TRUNC))
		p = find(dirfd, path);
	fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
	if (fd >= 0 && (flags & O_TMPFILE) == O_TMPFILE && ours(fd))
		say("nameless %llu\n", ino_of(fd));
	else if (fd >= 0 && p.ours && (flags & O_CREAT) && !p.there)
		say("create %llu %llu %s\n", ino_of(fd), p.dir, p.name);
	else if (fd >= 0 && p.ours && (flags & O_TRUNC))
		say("truncate %llu 0\n", ino_of(fd));
	leave();
	return fd;
}

static mode_t mode_of(int flags, va_list ap)
{
	return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(ap, mode_t) : 0;
}

#define OPEN(name, parameters, dirfd)                         \
	int name parameters                                   \
	{                                                     \
		va_list ap;                                   \
		mode_t mode;                                  \
                                                              \
		va_start(ap, flags);                          \
		mode = mode_of(flags, ap);                    \
		va_end(ap);                                   \
		return open_logged(dirfd, path, flags, mode); \
	}
OPEN(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD)
OPEN(openat, (int dirfd, const char *path, int flags, ...), dirfd)
OPEN(openat64, (int dirfd, const char *path, int flags, ...), dirfd)

static ssize_t write_logged(int fd, const void *bytes, size_t size, off_t offset)
{
	ssize_t n;

	enter();
	if (!ours(fd)) {
		leave();
		return offset < 0 ? syscall(SYS_write, fd, bytes, size)
				  : syscall(SYS_pwrite64, fd, bytes, size, offset);
	}
	if (offset < 0) {
		off_t at = lseek(fd, 0, SEEK_CUR);

		n = syscall(SYS_write, fd, bytes, size);
		offset = at;
	} else {
		n = syscall(SYS_pwrite64, fd, bytes, size, offset);
	}
	if (n > 0) {
		say("write %llu %lld %zd\n", ino_of(fd), (long long)offset, n);
		put(bytes, (size_t)n);
		put("\n", 1);
	}
	leave();
	return n;
}

ssize_t write(int fd, const void *bytes, size_t size)
{
	return write_logged(fd, bytes, size, -1);
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
	return write_logged(fd, bytes, size, offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset)
{
	return write_logged(fd, bytes, size, offset);
}

static int truncate_logged(int fd, off_t length)
{
	int r;

	enter();
	r = (int)syscall(SYS_ftruncate, fd, length);
	if (r == 0 && ours(fd))
		say("truncate %llu %lld\n", ino_of(fd), (long long)length);
	leave();
	return r;
}

int ftruncate(int fd, off_t length)
{
	return truncate_logged(fd, length);
}
int ftruncate64(int fd, off_t length)
{
	return truncate_logged(fd, length);
}

static int sync_logged(int fd, long number)
{
	int r;

	enter();
	r = (int)syscall(number, fd);
	if (r == 0 && ours(fd))
		say("sync %llu\n", ino_of(fd));
	leave();
	return r;
}

int fsync(int fd)
{
	return sync_logged(fd, SYS_fsync);
}
int fdatasync(int fd)
{
	return sync_logged(fd, SYS_fdatasync);
}

/* --- names ------------------------------------------------------------------------------------ */

static int mkdir_logged(int dirfd, const char *path, mode_t mode)
{
	struct stat st = { 0 };
	struct place p;
	int r;

	enter();
	p = find(dirfd, path);
	r = (int)syscall(SYS_mkdirat, dirfd, path, mode);
	if (r == 0 && p.ours) {
		fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW);
		say("mkdir %llu %llu %s\n", (unsigned long long)st.st_ino, p.dir, p.name);
	}
	leave();
	return r;
}

int mkdir(const char *path, mode_t mode)
{
	return mkdir_logged(AT_FDCWD, path, mode);
}
int mkdirat(int dirfd, const char *path, mode_t mode)
{
	return mkdir_logged(dirfd, path, mode);
}

static int unlink_logged(int dirfd, const char *path, int flags)
{
	struct place p;
	int r;

	enter();
	p = find(dirfd, path);
	r = (int)syscall(SYS_unlinkat, dirfd, path, flags);
	if (r == 0 && p.ours)
		say("%s %llu %s\n", flags & AT_REMOVEDIR ? "rmdir" : "unlink", p.dir, p.name);
	leave();
	return r;
}

int unlinkat(int dirfd, const char *path, int flags)
{
	return unlink_logged(dirfd, path, flags);
}
int unlink(const char *path)
{
	return unlink_logged(AT_FDCWD, path, 0);
}
int rmdir(const char *path)
{
	return unlink_logged(AT_FDCWD, path, AT_REMOVEDIR);
}

int linkat(int from, const char *path, int to, const char *name, int flags)
{
	struct stat st = { 0 };
	struct place p;
	int r;

	enter();
	p = find(to, name);
	r = (int)syscall(SYS_linkat, from, path, to, name, flags);
	if (r == 0 && p.ours) {
		fstatat(to, name, &st, AT_SYMLINK_NOFOLLOW);
		say("link %llu %llu %s\n", (unsigned long long)st.st_ino, p.dir, p.name);
	}
	leave();
	return r;
}

static int rename_logged(int from, const char *path, int to, const char *name, unsigned flags)
{
	struct place a, b;
	int r;

	enter();
	a = find(from, path);
	b = find(to, name);
	if ((a.ours || b.ours) && (flags & RENAME_EXCHANGE || a.ours != b.ours))
		unknown("such a rename");
	r = (int)syscall(SYS_renameat2, from, path, to, name, flags);
	if (r == 0 && a.ours)
		say("rename %llu %s %llu %s\n", a.dir, a.name, b.dir, b.name);
	leave();
	return r;
}

int rename(const char *from, const char *to)
{
	return rename_logged(AT_FDCWD, from, AT_FDCWD, to, 0);
}
int renameat(int from, const char *path, int to, const char *name)
{
	return rename_logged(from, path, to, name, 0);
}
int renameat2(int from, const char *path, int to, const char *name, unsigned flags)
{
	return rename_logged(from, path, to, name, flags);
}

int symlinkat(const char *target, int dirfd, const char *path)
{
	struct place p;
	int r;

	enter();
	p = find(dirfd, path);
	r = (int)syscall(SYS_symlinkat, target, dirfd, path);
	if (r == 0 && p.ours)
		say("symlink %llu %s %s\n", p.dir, p.name, target);
	leave();
	return r;
}

/* --- what was said, and what is not known ------------------------------------------------------ */

int fflush(FILE *stream)
{
	static int (*real)(FILE *);
	int r;

	if (!real)
		real = (int (*)(FILE *))dlsym(RTLD_NEXT, "fflush");
	r = real(stream);
	enter();
	if (log_fd >= 0 && stream == stdout)
		say("told\n");
	leave();
	return r;
}

#define UNKNOWN(type, name, parameters, fd) \
	type name parameters                \
	{                                   \
		if (ours(fd))               \
			unknown(#name);     \
		errno = ENOSYS;             \
		return -1;                  \
	}
UNKNOWN(ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t offset),
	((void)v, (void)n, (void)offset, fd))
UNKNOWN(ssize_t, copy_file_range,
	(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned flags),
	((void)in, (void)in_at, (void)out_at, (void)n, (void)flags, out))
UNKNOWN(int, fallocate, (int fd, int mode, off_t offset, off_t length),
	((void)mode, (void)offset, (void)length, fd))
