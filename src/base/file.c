/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

struct kage_err *kage_file_write(int fd, const void *p, size_t size, off_t offset, const char *name)
{
	const char *at = p;

	while (size > 0) {
		ssize_t n = offset < 0 ? write(fd, at, size) : pwrite(fd, at, size, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return kage_err_sys(errno, "write %s", name);
		at += n;
		size -= (size_t)n;
		if (offset >= 0)
			offset += n;
	}
	return NULL;
}

struct kage_err *kage_file_read(int fd, void *p, size_t size, off_t offset, const char *name,
				size_t *ret_n)
{
	size_t done = 0;

	while (done < size) {
		char *at = (char *)p + done;
		ssize_t n = offset < 0 ? read(fd, at, size - done)
				       : pread(fd, at, size - done, offset + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return kage_err_sys(errno, "read %s", name);
		if (n == 0)
			break;
		done += (size_t)n;
	}
	*ret_n = done;
	return NULL;
}

/* One read that goes on after EINTR only: files of /proc give what they have piece by piece, and only
 * an empty piece is the end. */
static struct kage_err *read_piece(int fd, char *p, size_t size, off_t offset, const char *name,
				   size_t *ret_n)
{
	ssize_t n;

	do
		n = pread(fd, p, size, offset);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return kage_err_sys(errno, "read %s", name);
	*ret_n = (size_t)n;
	return NULL;
}

struct kage_err *kage_file_slurp_fd(int fd, const char *name, size_t max, char **ret_text,
				    size_t *ret_size)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0, room = 0, got = 0;

	do {
		if (size > max)
			return kage_err_new(KAGE_LIMIT, "%s is larger than %zu bytes", name, max);
		if (room - size < 4096) {
			char *grown;

			room = room ? room * 2 : 16384;
			grown = realloc(text, room);
			if (!grown)
				return kage_err_nomem();
			text = grown;
		}
		TRY(read_piece(fd, text + size, room - size - 1, (off_t)size, name, &got));
		size += got;
	} while (got > 0);
	text[size] = '\0';
	*ret_text = take_ptr(text);
	*ret_size = size;
	return NULL;
}

struct kage_err *kage_file_slurp(int dirfd, const char *path, size_t max, char **ret_text,
				 size_t *ret_size)
{
	_cleanup_fd_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return kage_err_sys(errno, "open %s", path);
	return kage_file_slurp_fd(fd, path, max, ret_text, ret_size);
}

DIR *kage_file_opendir(int dirfd, const char *path)
{
	int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir)
		close_fd(fd);
	return dir;
}

struct kage_err *kage_file_readlink(int dirfd, const char *path, char **ret_target)
{
	char target[PATH_MAX + 64]; /* the kernel appends " (deleted)" to what it shows */
	ssize_t n = readlinkat(dirfd, path, target, sizeof(target) - 1);

	if (n < 0)
		return kage_err_sys(errno, "read link %s", path);
	target[n] = '\0';
	*ret_target = strdup(target);
	return *ret_target ? NULL : kage_err_nomem();
}

uint64_t kage_clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t kage_clock_mono_ns(void)
{
	return kage_clock_ns(CLOCK_MONOTONIC);
}

uint64_t kage_clock_real_ns(void)
{
	return kage_clock_ns(CLOCK_REALTIME);
}
