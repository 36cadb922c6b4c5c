/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files for a restore: the one that its path leads to, or one made of the contents in the image.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/beside.h"
#include "kind/content.h"
#include "kind/fds.h"
#include "kind/files.h"

/* --- made of contents --------------------------------------------------------------------------- */

static int nameless_in(const char *dir, bool executable)
{
	struct statvfs fs;

	if (executable && statvfs(dir, &fs) == 0 && (fs.f_flag & ST_NOEXEC))
		return -1;
	return kage_beside_nameless(dir);
}

struct kage_err *kage_file_dress(const Kage__FileObject *f, int fd)
{
	const struct timespec times[2] = {
		{ .tv_nsec = UTIME_OMIT },
		{ .tv_sec = f->mtime_ns / 1000000000, .tv_nsec = f->mtime_ns % 1000000000 },
	};

	if (fchown(fd, f->uid, f->gid) < 0 && errno != EPERM)
		return kage_err_sys(errno, "give %s its owner", f->path);
	if (fchmod(fd, f->mode & 07777) < 0 && errno != EPERM)
		return kage_err_sys(errno, "give %s its rights", f->path);
	if (f->mtime_ns >= 0 && futimens(fd, times) < 0 && errno != EPERM)
		return kage_err_sys(errno, "give %s its time", f->path);
	return NULL;
}

struct kage_err *kage_file_space(const struct kage_restore *r, const Kage__FileObject *f,
				 const Kage__Space **ret_space)
{
	*ret_space = kage_image_space(r->image, f->content_space);
	return *ret_space ? NULL
			  : kage_err_new(KAGE_CORRUPT, "the contents of %s are not in the image",
					 f->path);
}

struct kage_err *kage_file_fill(struct kage_restore *r, const Kage__FileObject *f, int fd)
{
	const Kage__Space *space;

	TRY(kage_file_space(r, f, &space));
	TRY_WRAP(kage_content_fill(r->image->pages, space, fd), "fill %s", f->path);
	return kage_file_dress(f, fd);
}

/* Without a name, like an unlinked file: in the directory where it was, else wherever there is room. */
static struct kage_err *make_regular(struct kage_restore *r, const Kage__FileObject *f, int *ret_fd)
{
	bool executable = kage_file_is_mapped(r->process, f);
	_cleanup_free_ char *dir = NULL;
	_cleanup_fd_ int fd = -1;

	TRY(kage_beside_directory(f->path, &dir));
	fd = nameless_in(dir, executable);
	if (fd < 0)
		fd = nameless_in("/tmp", executable);
	if (fd < 0)
		fd = memfd_create(strrchr(f->path, '/') + 1, MFD_CLOEXEC);
	if (fd < 0)
		return kage_err_sys(errno, "make a file for the contents of %s", f->path);
	TRY(kage_file_fill(r, f, fd));
	*ret_fd = take_fd(&fd);
	return NULL;
}

/* A directory whose name is gone, but which is somebody's working directory. */
static struct kage_err *make_directory(const Kage__FileObject *f, int *ret_fd)
{
	char name[] = "/tmp/kage-XXXXXX";
	int fd;

	if (!mkdtemp(name))
		return kage_err_sys(errno, "make a directory in place of %s", f->path);
	fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rmdir(name);
	if (fd < 0)
		return kage_err_sys(errno, "open a directory in place of %s", f->path);
	*ret_fd = fd;
	return NULL;
}

/* --- opened by path ----------------------------------------------------------------------------- */

static int open_flags_for(const Kage__FileObject *f, int flags)
{
	flags |= O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	if (S_ISDIR(f->mode))
		return O_RDONLY | O_DIRECTORY | O_CLOEXEC;
	if (S_ISLNK(f->mode))
		return O_PATH | O_NOFOLLOW | O_CLOEXEC;
	if (S_ISSOCK(f->mode) || S_ISFIFO(f->mode))
		return O_PATH | O_CLOEXEC;
	return flags;
}

static struct kage_err *open_named(struct kage_restore *r, const Kage__FileObject *f, int flags,
				   int *ret_fd)
{
	_cleanup_fd_ int fd = open(f->path, open_flags_for(f, flags));
	enum kage_file_state state;

	if (fd < 0 && errno == EACCES && S_ISDIR(f->mode))
		fd = open(f->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return kage_err_sys(errno, "open %s", f->path);
	TRY(kage_file_compare(r, f, &state));
	if (state == KAGE_FILE_OTHER)
		return kage_err_new(KAGE_CHANGED, "%s is of another type than it was", f->path);
	if (state == KAGE_FILE_CHANGED && (f->written || kage_file_is_mapped(r->process, f)))
		return kage_err_new(KAGE_CHANGED, "%s was changed since the image was taken",
				    f->path);
	*ret_fd = take_fd(&fd);
	return NULL;
}

/* Once more with the rights of FLAGS: a file that is open for writing cannot be anybody's executable
 * (ETXTBSY), so it is not opened with more rights than asked for. */
static struct kage_err *with_rights(const Kage__FileObject *f, int flags, int *fd)
{
	int again = kage_fds_reopen(*fd, flags | O_NOCTTY | O_NONBLOCK);

	if (again < 0)
		return kage_err_sys(errno, "open %s", f->path);
	if (dup3(again, *fd, O_CLOEXEC) < 0) {
		close_fd(again);
		return kage_err_sys(errno, "open %s", f->path);
	}
	close_fd(again);
	return NULL;
}

static struct kage_err *open_any(struct kage_restore *r, const Kage__FileObject *f, int flags,
				 int *ret_fd)
{
	_cleanup_fd_ int fd = -1;
	bool made;

	TRY(kage_file_is_made(r, f, &made));
	if (!made)
		return open_named(r, f, flags, ret_fd);
	if (S_ISDIR(f->mode))
		return make_directory(f, ret_fd);
	if (!S_ISREG(f->mode))
		return kage_err_new(KAGE_UNSUPPORTED, "%s has no name any more", f->path);
	TRY(make_regular(r, f, &fd));
	if (flags == O_RDONLY)
		TRY(with_rights(f, O_RDONLY, &fd));
	*ret_fd = take_fd(&fd);
	return NULL;
}

static bool has_rights(int fd, int flags)
{
	int now = fcntl(fd, F_GETFL);

	return flags == O_RDONLY || (now & (O_ACCMODE | O_PATH)) == O_RDWR;
}

struct kage_err *kage_file_open(struct kage_restore *r, uint32_t id, int flags, int *ret_fd)
{
	const Kage__FileObject *f = kage_image_file(r->image, id);
	const Kage__Image *m = r->image->msg;
	size_t i = 0;

	if (!f)
		return kage_err_new(KAGE_CORRUPT, "the image has no file %u", id);
	while (m->files[i] != f)
		i++;
	TRY(kage_files_put_back(r));
	if (r->files[i] < 0)
		TRY(open_any(r, f, flags, &r->files[i]));
	else if (S_ISREG(f->mode) && !has_rights(r->files[i], flags))
		TRY(with_rights(f, flags, &r->files[i]));
	*ret_fd = r->files[i];
	return NULL;
}
