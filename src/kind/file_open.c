/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files for a restore: the one that its path leads to, or one made of the contents in the image.
 *
 * Putting back (--files=restore) is atomic for each file: its old contents are written to a file
 * without a name (O_TMPFILE) in the same directory, made durable, named beside it and renamed over
 * it. Who still has the former file open keeps that one. Only a kill between the naming and the
 * renaming leaves a name behind, and the next restore takes that away.
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
#include "kind/content.h"
#include "kind/fds.h"
#include "kind/files.h"

/* --- made of contents --------------------------------------------------------------------------- */

static struct kage_err *parent_of(const char *path, char **ret_dir)
{
	char *dir = strdup(path), *slash;

	if (!dir)
		return kage_err_nomem();
	slash = strrchr(dir, '/');
	if (!slash) {
		free(dir);
		return kage_err_new(KAGE_CORRUPT, "%s is no absolute path", path);
	}
	slash[slash == dir] = '\0';
	*ret_dir = dir;
	return NULL;
}

static int nameless_in(const char *dir, bool executable)
{
	struct statvfs fs;

	if (executable && statvfs(dir, &fs) == 0 && (fs.f_flag & ST_NOEXEC))
		return -1;
	return open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

/* Owner, rights and time as of the image; who may not give a file away keeps it. */
static struct kage_err *dress(const Kage__FileObject *f, int fd)
{
	const struct timespec times[2] = {
		{ .tv_nsec = UTIME_OMIT },
		{ .tv_sec = f->mtime_ns / 1000000000, .tv_nsec = f->mtime_ns % 1000000000 },
	};

	if (fchown(fd, f->uid, f->gid) < 0 && errno != EPERM)
		return kage_err_sys(errno, "give %s its owner", f->path);
	if (fchmod(fd, f->mode & 07777) < 0)
		return kage_err_sys(errno, "give %s its rights", f->path);
	if (f->mtime_ns >= 0 && futimens(fd, times) < 0)
		return kage_err_sys(errno, "give %s its time", f->path);
	return NULL;
}

static struct kage_err *fill(struct kage_restore *r, const Kage__FileObject *f, int fd)
{
	const Kage__Space *space = kage_image_space(r->image, f->content_space);

	if (!space)
		return kage_err_new(KAGE_CORRUPT, "the contents of %s are not in the image",
				    f->path);
	TRY_WRAP(kage_content_fill(r->image->pages, space, fd), "fill %s", f->path);
	return dress(f, fd);
}

/* Without a name, like an unlinked file: in the directory where it was, else wherever there is room. */
static struct kage_err *make_regular(struct kage_restore *r, const Kage__FileObject *f, int *ret_fd)
{
	bool executable = kage_file_is_mapped(r->process, f);
	_cleanup_free_ char *dir = NULL;
	_cleanup_fd_ int fd = -1;

	TRY(parent_of(f->path, &dir));
	fd = nameless_in(dir, executable);
	if (fd < 0)
		fd = nameless_in("/tmp", executable);
	if (fd < 0)
		fd = memfd_create(strrchr(f->path, '/') + 1, MFD_CLOEXEC);
	if (fd < 0)
		return kage_err_sys(errno, "make a file for the contents of %s", f->path);
	TRY(fill(r, f, fd));
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
	TRY(kage_file_compare(f, &state));
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

	TRY(kage_file_is_made(f, &made));
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

/* --- putting back ------------------------------------------------------------------------------- */

/* A file's old contents, ready to take its place. */
struct ready {
	const Kage__FileObject *f;
	int fd;
	char *dir;
	char *temporary; /* beside it */
	bool named;
};

struct batch_of_ready {
	struct ready *items;
	size_t n;
};

static void free_ready(struct batch_of_ready *all)
{
	for (size_t i = 0; i < all->n; i++) {
		struct ready *k = &all->items[i];

		if (k->named)
			unlink(k->temporary);
		close_fd(k->fd);
		free(k->dir);
		free(k->temporary);
	}
	free(all->items);
}

static struct kage_err *name_beside(struct ready *k)
{
	if (asprintf(&k->temporary, "%s/.%s.kage-restore", strcmp(k->dir, "/") ? k->dir : "",
		     strrchr(k->f->path, '/') + 1) < 0) {
		k->temporary = NULL;
		return kage_err_nomem();
	}
	return NULL;
}

/* File systems without O_TMPFILE get a name at once. */
static struct kage_err *begin(struct ready *k)
{
	k->fd = open(k->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (k->fd >= 0)
		return NULL;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return kage_err_sys(errno, "put back %s", k->f->path);
	unlink(k->temporary);
	k->fd = open(k->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (k->fd < 0)
		return kage_err_sys(errno, "make %s", k->temporary);
	k->named = true;
	return NULL;
}

static struct kage_err *get_ready(struct kage_restore *r, struct ready *k)
{
	TRY(parent_of(k->f->path, &k->dir));
	TRY(name_beside(k));
	TRY(begin(k));
	TRY(fill(r, k->f, k->fd));
	if (fsync(k->fd) < 0)
		return kage_err_sys(errno, "make the contents of %s durable", k->f->path);
	return NULL;
}

static struct kage_err *give_name(struct ready *k)
{
	char self[64];

	if (k->named)
		return NULL;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", k->fd);
	unlink(k->temporary);
	if (linkat(AT_FDCWD, self, AT_FDCWD, k->temporary, AT_SYMLINK_FOLLOW) < 0)
		return kage_err_sys(errno, "make %s", k->temporary);
	k->named = true;
	return NULL;
}

static struct kage_err *take_place(struct ready *k)
{
	_cleanup_fd_ int dir = open(k->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	TRY(give_name(k));
	if (rename(k->temporary, k->f->path) < 0)
		return kage_err_sys(errno, "put back %s", k->f->path);
	k->named = false;
	if (dir < 0 || fsync(dir) < 0)
		return kage_err_sys(errno, "make the name %s durable", k->f->path);
	return NULL;
}

static struct kage_err *is_to_be_put_back(const Kage__FileObject *f, bool *ret_wanted)
{
	enum kage_file_state state;

	*ret_wanted = false;
	if (!f->written || !f->content_space || f->unlinked || !S_ISREG(f->mode))
		return NULL;
	TRY(kage_file_compare(f, &state));
	if (state == KAGE_FILE_OTHER)
		return kage_err_new(KAGE_CHANGED, "%s is of another type than it was", f->path);
	*ret_wanted = state != KAGE_FILE_SAME && state != KAGE_FILE_TOUCHED;
	return NULL;
}

struct kage_err *kage_files_put_back(struct kage_restore *r)
{
	_cleanup_(free_ready) struct batch_of_ready all = { 0 };
	const Kage__Image *m = r->image->msg;
	bool wanted;

	if (r->files_put_back || r->options->files != KAGE_FILES_RESTORE)
		return NULL;
	all.items = calloc(m->n_files + 1, sizeof(*all.items));
	if (!all.items)
		return kage_err_nomem();
	for (size_t i = 0; i < m->n_files; i++) {
		TRY(is_to_be_put_back(m->files[i], &wanted));
		if (!wanted)
			continue;
		all.items[all.n++] = (struct ready){ .f = m->files[i], .fd = -1 };
		TRY(get_ready(r, &all.items[all.n - 1]));
	}
	for (size_t i = 0; i < all.n; i++)
		TRY(take_place(&all.items[i]));
	r->files_put_back = true;
	return NULL;
}
