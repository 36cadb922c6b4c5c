/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors to files of file systems: regular files, directories (also in the middle of readdir:
 * their offset is what the file system made of it, and it understands it again), devices, and
 * whatever was opened with O_PATH.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/fds.h"
#include "kind/files.h"

/* What F_GETFL shows and open(2) takes again. The flags that make or cut a file are never shown by the
 * kernel (do_dentry_open() drops them), and never taken from an image. */
static const uint32_t open_again = O_ACCMODE | O_APPEND | O_DIRECT | O_SYNC | O_DSYNC | O_NOATIME |
				   O_PATH | O_LARGEFILE | O_NONBLOCK;

static bool match(const struct kage_fd_seen *fd)
{
	return fd->link[0] == '/';
}

/* Devices without a state of their own behind a descriptor: see Documentation/admin-guide/devices.txt
 * of the kernel. */
static bool is_stateless(dev_t rdev)
{
	switch (major(rdev)) {
	case 1: /* mem: null 3, zero 5, full 7, random 8, urandom 9, kmsg 11 */
		return minor(rdev) >= 3;
	case 10: /* misc: hwrng 183 */
		return minor(rdev) == 183;
	default:
		return false;
	}
}

static void look_at_device(struct kage_capture *c, const struct kage_fd_seen *fd)
{
	if (S_ISCHR(fd->st.st_mode) && !is_stateless(fd->st.st_rdev))
		kage_obstacle(c->obstacles, true, "let the program close the device first",
			      kage_fds_label(c, fd),
			      "the driver of this device keeps a state that cannot be seen from "
			      "outside");
	if (S_ISBLK(fd->st.st_mode))
		kage_obstacle(c->obstacles, true, "let the program close the device first",
			      kage_fds_label(c, fd), "block devices are not part of an image");
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	Kage__RegularFile *m =
		msg_new(&c->image->arena, Kage__RegularFile, kage__regular_file__init);
	bool path_only = d->flags & O_PATH, written;

	if (!m)
		return kage_err_nomem();
	d->kind_case = KAGE__DESCRIPTION__KIND_FILE;
	d->file = m;
	written = S_ISREG(fd->st.st_mode) && !path_only && (d->flags & O_ACCMODE) != O_RDONLY;
	m->lease = F_UNLCK;
	if (!path_only) {
		look_at_device(c, fd);
		if (S_ISREG(fd->st.st_mode)) {
			int lease = fcntl(fd->ours, F_GETLEASE);

			m->lease = lease < 0 ? F_UNLCK : (uint32_t)lease;
		}
	}
	return kage_file_note(c, fd->ours, &fd->st, fd->link, written, &m->file);
}

static struct kage_err *find_file(struct kage_restore *r, const Kage__Description *d,
				  const Kage__FileObject **ret_f)
{
	*ret_f = kage_image_file(r->image, d->file->file);
	return *ret_f ? NULL
		      : kage_err_new(KAGE_CORRUPT, "the image has no file %u", d->file->file);
}

static int open_flags(const Kage__Description *d, const Kage__FileObject *f)
{
	int flags = (int)(d->flags & open_again) | O_CLOEXEC | O_NOCTTY;

	if (d->flags & O_PATH)
		return O_PATH | O_CLOEXEC | (S_ISLNK(f->mode) ? O_NOFOLLOW : 0);
	if (S_ISDIR(f->mode))
		flags |= O_DIRECTORY;
	return flags | O_NONBLOCK;
}

static int open_path(const Kage__FileObject *f, int flags)
{
	int fd = open(f->path, flags);

	/* Only the owner may ask for it; without it all is the same but the access time. */
	if (fd < 0 && errno == EPERM && (flags & O_NOATIME))
		fd = open(f->path, flags & ~O_NOATIME);
	return fd;
}

static struct kage_err *check_type(const Kage__FileObject *f, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return kage_err_sys(errno, "stat %s", f->path);
	if ((st.st_mode & S_IFMT) != (f->mode & S_IFMT))
		return kage_err_new(KAGE_CHANGED, "%s is of another type than it was", f->path);
	return NULL;
}

static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	const Kage__FileObject *f;
	_cleanup_fd_ int fd = -1;
	const char *rest;
	bool made;
	int base;

	TRY(find_file(r, d, &f));
	if (kage_file_is_own_proc(r->process, f, &rest)) {
		/* Only the restored process can open this; place() does. */
		fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return kage_err_sys(errno, "open /dev/null");
		*ret_fd = take_fd(&fd);
		return NULL;
	}
	TRY(kage_files_put_back(r));
	TRY(kage_file_is_made(r, f, &made));
	if (made) {
		TRY(kage_file_open(r, f->id, O_RDONLY, &base));
		fd = kage_fds_reopen(base, open_flags(d, f));
	} else {
		fd = open_path(f, open_flags(d, f));
	}
	if (fd < 0)
		return kage_err_sys(errno, "open %s", f->path);
	TRY(check_type(f, fd));
	*ret_fd = take_fd(&fd);
	return NULL;
}

/* Opens /proc/self/… in the process itself and puts it at every number of the description. */
static void place_own_proc(struct kage_restore *r, const Kage__Description *d,
			   const Kage__FileObject *f, const char *rest, struct kage_batch *b)
{
	char path[4096];
	size_t at, opened;

	snprintf(path, sizeof(path), "/proc/self%s", rest);
	at = kage_batch_string(b, path);
	opened = BATCH(b, "open its own entry of /proc", SYS_openat, V((int64_t)AT_FDCWD), DATA(at),
		       V(open_flags(d, f) & ~O_NONBLOCK));
	if (d->offset)
		BATCH(b, "seek in its own entry of /proc", SYS_lseek, RESULT(opened), V(d->offset),
		      V(SEEK_SET));
	for (size_t i = 0; i < r->process->n_descriptors; i++) {
		const Kage__Descriptor *n = r->process->descriptors[i];

		if (n->description == d->id)
			BATCH(b, "place its own entry of /proc", SYS_dup3, RESULT(opened), V(n->fd),
			      V(n->close_on_exec ? O_CLOEXEC : 0));
	}
	BATCH(b, "close its own entry of /proc", SYS_close, RESULT(opened));
}

static struct kage_err *place(struct kage_restore *r, const Kage__Description *d, int fd,
			      struct kage_batch *b)
{
	const Kage__FileObject *f;
	const char *rest;

	TRY(find_file(r, d, &f));
	if (kage_file_is_own_proc(r->process, f, &rest))
		place_own_proc(r, d, f, rest, b);
	/* A lease belongs to who asks for it, so the process itself does. */
	if (d->file->lease != F_UNLCK)
		BATCH(b, "take its lease again", SYS_fcntl, V(fd), V(F_SETLEASE),
		      V(d->file->lease));
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	const Kage__FileObject *f = kage_image_file(image, d->file->file);
	static const char *const access[] = { "read", "write", "read and write", "" };

	if (!f)
		return;
	fprintf(out, "%s", f->path);
	if (f->unlinked)
		fputs(" (unlinked)", out);
	if (d->flags & O_PATH)
		fputs(", path only", out);
	else
		fprintf(out, ", %s", access[d->flags & O_ACCMODE]);
	if (d->flags & O_APPEND)
		fputs(", append", out);
	if (S_ISREG(f->mode))
		fprintf(out, ", at %llu of %llu", (unsigned long long)d->offset,
			(unsigned long long)f->size_bytes);
	if (f->content_space)
		fputs(", contents in the image", out);
}

const struct kage_fd_kind kage_fd_file = {
	.name = "file",
	.which = KAGE__DESCRIPTION__KIND_FILE,
	.match = match,
	.capture = capture,
	.make = make,
	.place = place,
	.print = print,
};
