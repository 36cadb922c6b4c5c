/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a file still what it was when the image was taken? And what it means when it is not: that
 * depends on what the program does with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/content.h"
#include "kind/elf.h"
#include "kind/files.h"

bool kage_file_is_own_proc(const Kage__Process *p, const Kage__FileObject *f, const char **ret_rest)
{
	char prefix[32];
	int n = snprintf(prefix, sizeof(prefix), "/proc/%d", p->pid);

	if (strcmp(f->fs_type, "proc") != 0 || strncmp(f->path, prefix, (size_t)n) != 0 ||
	    (f->path[n] != '/' && f->path[n] != '\0'))
		return false;
	*ret_rest = f->path + n;
	return true;
}

/* --- comparing ---------------------------------------------------------------------------------- */

static bool same_type(const Kage__FileObject *f, const struct stat *st)
{
	if ((f->mode & S_IFMT) != (st->st_mode & S_IFMT))
		return false;
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
		return f->rdev_major == major(st->st_rdev) && f->rdev_minor == minor(st->st_rdev);
	return true;
}

static bool same_time(int64_t ns, const struct timespec *ts)
{
	return ns == (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
}

/* Nothing was done to it: the inode's change time cannot be set by hand. */
static bool untouched(const Kage__FileObject *f, const struct stat *st)
{
	return f->ino == st->st_ino && f->dev_major == major(st->st_dev) &&
	       f->dev_minor == minor(st->st_dev) && f->size_bytes == (uint64_t)st->st_size &&
	       same_time(f->ctime_ns, &st->st_ctim) && same_time(f->mtime_ns, &st->st_mtim);
}

/* Whether the times of an untouched inode speak for its contents. Not where the program writes through
 * a mapping: only the first write to a clean page sets them (file_update_time() in page_mkwrite), those
 * that follow are not seen. And not when the last change was shortly before the image: one that
 * follows within a tick of the file system's clock leaves the same time behind. */
static bool times_tell(const struct kage_restore *r, const Kage__FileObject *f)
{
	const Kage__Memory *m = r->process->memory;

	if (!f->written)
		return true;
	if (!kage_file_is_before_image(r, f->ctime_ns))
		return false;
	for (size_t i = 0; m && i < m->n_mappings; i++)
		if (m->mappings[i]->file == f->id && m->mappings[i]->shared &&
		    m->mappings[i]->max_writable)
			return false;
	return true;
}

bool kage_file_is_before_image(const struct kage_restore *r, int64_t time_ns)
{
	const int64_t tick_ns = 2000000000; /* of FAT, the coarsest */
	const Kage__Source *s = r->image->msg->source;

	return s && time_ns < (int64_t)s->realtime_ns - tick_ns;
}

static enum kage_file_state grown(const Kage__FileObject *f, const struct stat *st)
{
	return (uint64_t)st->st_size > f->size_bytes ? KAGE_FILE_APPENDED : KAGE_FILE_TOUCHED;
}

static struct kage_err *compare_tail(const Kage__FileObject *f, int fd, const struct stat *st,
				     enum kage_file_state *ret_state)
{
	bool same_size = f->size_bytes == (uint64_t)st->st_size;
	uint8_t hash[KAGE_HASH_BYTES];

	*ret_state = KAGE_FILE_CHANGED;
	if (!f->tail_hash.len) {
		if (same_size && same_time(f->mtime_ns, &st->st_mtim))
			*ret_state = KAGE_FILE_TOUCHED;
		return NULL;
	}
	TRY(kage_content_tail(fd, f->size_bytes, hash));
	if (!kage_content_is_hash(&f->tail_hash, hash))
		return NULL;
	/* A tail says nothing of what lies before it. That a longer file only grew is the likely
	 * story; one of the same length with another time was rewritten. */
	if (!same_size || f->size_bytes <= KAGE_TAIL_BYTES || same_time(f->mtime_ns, &st->st_mtim))
		*ret_state = grown(f, st);
	return NULL;
}

static struct kage_err *compare_contents(const Kage__FileObject *f, int fd, const struct stat *st,
					 enum kage_file_state *ret_state)
{
	uint8_t id[KAGE_BUILD_ID_MAX], hash[KAGE_HASH_BYTES];
	size_t n;

	*ret_state = KAGE_FILE_CHANGED;
	if ((uint64_t)st->st_size < f->size_bytes)
		return NULL;
	if (f->build_id.len && !f->written) {
		n = kage_elf_build_id(fd, id);
		if (n == f->build_id.len && memcmp(id, f->build_id.data, n) == 0 &&
		    f->size_bytes == (uint64_t)st->st_size)
			*ret_state = KAGE_FILE_TOUCHED;
		return NULL;
	}
	if (!f->hash.len)
		return compare_tail(f, fd, st, ret_state);
	TRY(kage_content_hash(fd, 0, f->size_bytes, hash));
	if (kage_content_is_hash(&f->hash, hash))
		*ret_state = grown(f, st);
	return NULL;
}

struct kage_err *kage_file_compare(const struct kage_restore *r, const Kage__FileObject *f,
				   enum kage_file_state *ret_state)
{
	_cleanup_fd_ int fd = -1;
	struct stat st;
	int failed = S_ISLNK(f->mode) ? lstat(f->path, &st) : stat(f->path, &st);

	if (failed) {
		*ret_state =
			errno == EACCES || errno == EPERM ? KAGE_FILE_HIDDEN : KAGE_FILE_MISSING;
		return NULL;
	}
	if (!same_type(f, &st)) {
		*ret_state = KAGE_FILE_OTHER;
		return NULL;
	}
	*ret_state = KAGE_FILE_SAME;
	if (!S_ISREG(f->mode) || kage_file_is_pseudo(f) || (untouched(f, &st) && times_tell(r, f)))
		return NULL;
	fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd >= 0)
		return kage_err_wrap(compare_contents(f, fd, &st, ret_state), "compare %s",
				     f->path);
	if (errno != EACCES && errno != EPERM)
		return kage_err_sys(errno, "open %s", f->path);
	/* Open for writing only, in a directory of somebody else: size and time must do. */
	*ret_state = f->size_bytes == (uint64_t)st.st_size && same_time(f->mtime_ns, &st.st_mtim)
			     ? KAGE_FILE_TOUCHED
			     : KAGE_FILE_HIDDEN;
	return NULL;
}

struct kage_err *kage_file_is_made(const struct kage_restore *r, const Kage__FileObject *f,
				   bool *ret_made)
{
	enum kage_file_state state = KAGE_FILE_SAME;

	if (!f->unlinked && f->carried)
		TRY(kage_file_compare(r, f, &state));
	*ret_made = f->unlinked || (state != KAGE_FILE_SAME && state != KAGE_FILE_TOUCHED);
	return NULL;
}

/* --- what it means ------------------------------------------------------------------------------ */

static void no(struct kage_restore *r, const Kage__FileObject *f, const char *cure, const char *why)
{
	kage_obstacle(r->obstacles, true, cure, f->path, "%s", why);
}

/* Written files come back with their contents when the user asked for that. */
static bool put_back(const struct kage_restore *r, const Kage__FileObject *f)
{
	return kage_file_has_old_contents(f) && r->options->files == KAGE_FILES_RESTORE;
}

static bool has_parent(const char *path)
{
	_cleanup_free_ char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	if (!slash)
		return false;
	slash[slash == dir] = '\0';
	return access(dir, W_OK | X_OK) == 0;
}

static void missing(struct kage_restore *r, const Kage__FileObject *f)
{
	const char *why = strcmp(f->fs_type, "tmpfs") == 0
				  ? "it is gone; it was on a tmpfs, which no reboot leaves behind"
				  : "it is gone";

	if (put_back(r, f) && has_parent(f->path))
		return;
	if (put_back(r, f))
		no(r, f, "make its directory again, writable",
		   "it is gone, and so is its directory");
	else if (f->written && f->content_space)
		no(r, f, "restore with --files=restore, which makes it again", why);
	else if (S_ISDIR(f->mode))
		no(r, f, "make the directory again", why);
	else if (S_ISFIFO(f->mode))
		no(r, f, "make it again with mkfifo", why);
	else if (kage_file_is_mapped(r->process, f))
		no(r, f, "install it again, or take images with --carry", why);
	else
		no(r, f, "put it back", why);
}

static void changed(struct kage_restore *r, const Kage__FileObject *f)
{
	if (put_back(r, f))
		return;
	if (f->written && f->content_space)
		no(r, f, "restore with --files=restore, which puts it back as of the image",
		   "it was changed since the image was taken, and not only by appending");
	else if (f->written)
		no(r, f, "put back your own copy of that time",
		   "it was changed since the image was taken; its contents are not in the image");
	else if (kage_file_is_mapped(r->process, f))
		no(r, f, "install the version of then again, or take images with --carry",
		   f->build_id.len ? "it is another version (its build-id or size differs)"
				   : "it was changed, and it is part of the program's memory");
	else
		kage_obstacle(r->obstacles, false, "none is needed if the program can bear it",
			      f->path, "it was changed since; the program has it open for reading");
}

static void appended(struct kage_restore *r, const Kage__FileObject *f)
{
	if (f->written && !f->content_space && r->options->files == KAGE_FILES_RESTORE)
		kage_obstacle(r->obstacles, false,
			      "cut it back by hand (truncate) if the program needs it", f->path,
			      "it grew from %" PRIu64
			      " bytes, and stays as it is: its contents are "
			      "not in the image",
			      f->size_bytes);
	else if (!f->written && f->build_id.len)
		changed(r, f);
}

static struct kage_err *check_named(struct kage_restore *r, const Kage__FileObject *f)
{
	enum kage_file_state state;

	TRY(kage_file_compare(r, f, &state));
	if (f->carried && state != KAGE_FILE_SAME && state != KAGE_FILE_TOUCHED) {
		kage_obstacle(r->obstacles, false, "none is needed", f->path,
			      "it is not any more what it was; the copy in the image is used");
		return NULL;
	}
	if (state == KAGE_FILE_MISSING)
		missing(r, f);
	else if (state == KAGE_FILE_OTHER)
		no(r, f, "put back what was there", "something of another type has its name now");
	else if (state == KAGE_FILE_HIDDEN)
		no(r, f, "restore as root or as its owner", "you may not read it");
	else if (state == KAGE_FILE_CHANGED)
		changed(r, f);
	else if (state == KAGE_FILE_APPENDED)
		appended(r, f);
	if (state != KAGE_FILE_MISSING && f->written && !kage_file_is_pseudo(f) &&
	    faccessat(AT_FDCWD, f->path, W_OK, AT_EACCESS) < 0 && errno != ENOENT)
		no(r, f, "restore as root or as its owner, on a file system that can be written",
		   "the program writes to it, and you may not");
	return put_back(r, f) ? kage_file_back_look(r, f, state) : NULL;
}

struct kage_err *kage_files_check(struct kage_restore *r)
{
	const Kage__Image *m = r->image->msg;
	const char *rest;

	for (size_t i = 0; i < m->n_files; i++) {
		const Kage__FileObject *f = m->files[i];

		if (kage_file_is_own_proc(r->process, f, &rest))
			continue;
		if (!f->unlinked)
			TRY(check_named(r, f));
		else if (S_ISREG(f->mode) && !f->content_space)
			no(r, f, "take another image",
			   "it had no name, and its contents are not in "
			   "the image");
	}
	return NULL;
}
