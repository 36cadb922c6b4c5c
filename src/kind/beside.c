/* SPDX-License-Identifier: Apache-2.0 */
#include "kind/beside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/content.h"

enum { KEPT_MAX = 1000 };

struct kage_err *kage_beside_directory(const char *path, char **ret_dir)
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

int kage_beside_nameless(const char *dir)
{
	return open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

/* ".NAME.WHAT"; a long NAME is cut so that the file system takes the whole. */
static struct kage_err *name_beside(const char *path, const char *what, char **ret_name)
{
	const char *name = strrchr(path, '/') + 1;

	if (asprintf(ret_name, "%.*s.%.200s.%s", (int)(name - path), path, name, what) < 0) {
		*ret_name = NULL;
		return kage_err_nomem();
	}
	return NULL;
}

struct kage_err *kage_beside_sync(const char *dir)
{
	_cleanup_fd_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 && errno == EACCES)
		return NULL; /* names can be made in it, but nobody lets us wait for them */
	if (fd < 0 || fsync(fd) < 0)
		return kage_err_sys(errno, "make the names in %s durable", dir);
	return NULL;
}

/* --- a new file ------------------------------------------------------------------------------------ */

void kage_beside_deinit(struct kage_beside *file)
{
	if (file->named)
		unlink(file->temporary);
	close_fd(file->fd);
	free(file->dir);
	free(file->temporary);
	*file = (struct kage_beside){ .fd = -1 };
}

/* File systems without O_TMPFILE get a name at once. */
static struct kage_err *begin(struct kage_beside *file, const char *path)
{
	TRY(kage_beside_directory(path, &file->dir));
	TRY(name_beside(path, "kage-restore", &file->temporary));
	file->fd = kage_beside_nameless(file->dir);
	if (file->fd >= 0)
		return NULL;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return kage_err_sys(errno, "make a file in %s", file->dir);
	unlink(file->temporary);
	file->fd = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (file->fd < 0)
		return kage_err_sys(errno, "make %s", file->temporary);
	file->named = true;
	return NULL;
}

struct kage_err *kage_beside_make(const char *path, struct kage_beside *ret_file)
{
	_cleanup_(kage_beside_deinit) struct kage_beside file = { .fd = -1 };

	TRY(begin(&file, path));
	*ret_file = file;
	file = (struct kage_beside){ .fd = -1 };
	return NULL;
}

static int link_fd(int fd, const char *name)
{
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, self, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
}

struct kage_err *kage_beside_take_place(struct kage_beside *file, const char *path)
{
	if (!file->named) {
		unlink(file->temporary);
		if (link_fd(file->fd, file->temporary) < 0)
			return kage_err_sys(errno, "make %s", file->temporary);
		file->named = true;
	}
	if (rename(file->temporary, path) < 0)
		return kage_err_sys(errno, "give %s its name", path);
	file->named = false;
	return NULL;
}

/* --- what is kept ---------------------------------------------------------------------------------- */

static struct kage_err *name_kept(const char *path, unsigned n, char **ret_name)
{
	char what[32];

	snprintf(what, sizeof(what), n > 1 ? "kage-before.%u" : "kage-before", n);
	return name_beside(path, what, ret_name);
}

typedef int name_fn(const void *what, const char *name);

/* Gives the first name that is free. */
static struct kage_err *give_kept_name(const char *path, name_fn *give, const void *what,
				       char **ret_name)
{
	for (unsigned n = 1; n <= KEPT_MAX; n++) {
		_cleanup_free_ char *name = NULL;

		TRY(name_kept(path, n, &name));
		if (give(what, name) == 0) {
			*ret_name = take_ptr(name);
			return NULL;
		}
		if (errno != EEXIST)
			return kage_err_sys(errno, "make %s", name);
	}
	return kage_err_new(KAGE_LIMIT, "too much was kept of %s; look at its .kage-before files",
			    path);
}

static int link_path(const void *what, const char *name)
{
	return link(what, name);
}

/* Where there are no second names there is mostly this flag, and the other way round. */
static int move_path(const void *what, const char *name)
{
	if (renameat2(AT_FDCWD, what, AT_FDCWD, name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL || link(what, name) < 0)
		return -1;
	return unlink(what);
}

static int name_copy(const void *what, const char *name)
{
	const struct kage_beside *file = what;

	return file->named ? move_path(file->temporary, name) : link_fd(file->fd, name);
}

static bool has_no_second_names(const struct kage_err *e)
{
	int num = kage_err_errno(e);

	return num == EPERM || num == EACCES || num == EOPNOTSUPP || num == EMLINK || num == EROFS;
}

struct kage_err *kage_beside_keep(const char *path, char **ret_name)
{
	char *name = NULL;
	struct kage_err *e = give_kept_name(path, link_path, path, &name);

	if (e && !has_no_second_names(e))
		return kage_err_wrap(e, "keep what is at %s", path);
	err_drop(e);
	*ret_name = name;
	return NULL;
}

struct kage_err *kage_beside_move(const char *path, char **ret_name)
{
	return kage_err_wrap(give_kept_name(path, move_path, path, ret_name),
			     "put what is at %s aside", path);
}

/* Like the original, so that it can take its place by hand; without its set-ID bits. */
static struct kage_err *copy_all(int from, int to)
{
	struct stat st;

	if (fstat(from, &st) < 0)
		return kage_err_sys(errno, "stat what is to be kept");
	TRY(kage_content_clone(from, to));
	if ((fchown(to, st.st_uid, st.st_gid) < 0 && errno != EPERM) ||
	    fchmod(to, st.st_mode & 0777) < 0 ||
	    futimens(to, (struct timespec[]){ st.st_atim, st.st_mtim }) < 0)
		return kage_err_sys(errno, "make a copy like what it is of");
	if (fsync(to) < 0)
		return kage_err_sys(errno, "make a copy durable");
	return NULL;
}

/* Nobody finds this one, but an error of ours can be undone with it. */
static struct kage_err *keep_nameless(int fd, char **ret_name, int *ret_fd)
{
	_cleanup_fd_ int copy = kage_beside_nameless("/tmp");

	if (copy < 0)
		copy = memfd_create("kage-before", MFD_CLOEXEC);
	if (copy < 0)
		return kage_err_sys(errno, "make room for a copy");
	TRY(kage_content_clone(fd, copy));
	*ret_name = NULL;
	*ret_fd = take_fd(&copy);
	return NULL;
}

static struct kage_err *keep_copy(const char *path, int fd, char **ret_name, int *ret_fd)
{
	_cleanup_(kage_beside_deinit) struct kage_beside copy = { .fd = -1 };
	struct kage_err *e = kage_beside_make(path, &copy);
	int num = e ? kage_err_errno(e) : 0;

	if (num == EACCES || num == EPERM || num == EROFS) {
		kage_err_free(e);
		return keep_nameless(fd, ret_name, ret_fd);
	}
	TRY(e);
	TRY(copy_all(fd, copy.fd));
	TRY(give_kept_name(path, name_copy, &copy, ret_name));
	copy.named = false;
	*ret_fd = take_fd(&copy.fd);
	return NULL;
}

struct kage_err *kage_beside_keep_copy(const char *path, int fd, char **ret_name, int *ret_fd)
{
	return kage_err_wrap(keep_copy(path, fd, ret_name, ret_fd), "keep what is in %s", path);
}

void kage_beside_forget(const char *path)
{
	for (unsigned n = 1; n <= KEPT_MAX; n++) {
		_cleanup_free_ char *name = NULL;
		struct kage_err *e = name_kept(path, n, &name);

		err_drop(e);
		if (e || unlink(name) < 0)
			return;
	}
}
