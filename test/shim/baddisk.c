/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loaded into kage with LD_PRELOAD: from when the file $BADDISK is there, calls that change files below $BADDISK_ROOT
 * fail. The file says how: "ERRNO CALLS", CALLS being some of the letters o (open for writing), w (write),
 * s (fsync, fdatasync) and n (names: link, rename, unlink).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool is_below(int fd)
{
	const char *root = getenv("BADDISK_ROOT");
	char self[64], path[PATH_MAX];
	ssize_t n;

	if (!root || fd < 0)
		return false;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	n = readlink(self, path, sizeof(path) - 1);
	path[n < 0 ? 0 : n] = '\0';
	return strncmp(path, root, strlen(root)) == 0;
}

/* Whether CALL on FD fails, errno then being set. */
static bool fails(int fd, char call)
{
	const char *when = getenv("BADDISK");
	int before = errno, number;
	char text[64] = "", calls[16];
	int file = when && is_below(fd)
			   ? (int)syscall(SYS_openat, AT_FDCWD, when, O_RDONLY | O_CLOEXEC)
			   : -1;

	if (file >= 0) {
		if (read(file, text, sizeof(text) - 1) < 0)
			text[0] = '\0';
		syscall(SYS_close, file);
	}
	errno = before;
	if (sscanf(text, "%d %15s", &number, calls) != 2 || !strchr(calls, call))
		return false;
	errno = number;
	return true;
}

int openat(int dirfd, const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list ap;

	va_start(ap, flags);
	if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE)
		mode = va_arg(ap, mode_t);
	va_end(ap);
	if ((flags & O_ACCMODE) != O_RDONLY && fails(dirfd, 'o'))
		return -1;
	return (int)syscall(SYS_openat, dirfd, path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t size)
{
	return fails(fd, 'w') ? -1 : syscall(SYS_write, fd, bytes, size);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
	return fails(fd, 'w') ? -1 : syscall(SYS_pwrite64, fd, bytes, size, offset);
}

int fsync(int fd)
{
	return fails(fd, 's') ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	return fails(fd, 's') ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int linkat(int from, const char *path, int to, const char *name, int flags)
{
	return fails(to, 'n') ? -1 : (int)syscall(SYS_linkat, from, path, to, name, flags);
}

int renameat(int from, const char *path, int to, const char *name)
{
	return fails(to, 'n') ? -1 : (int)syscall(SYS_renameat2, from, path, to, name, 0);
}

int unlinkat(int dirfd, const char *path, int flags)
{
	return fails(dirfd, 'n') ? -1 : (int)syscall(SYS_unlinkat, dirfd, path, flags);
}
