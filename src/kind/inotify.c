/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inotify(7). fdinfo shows each watch: number, inode, device, mask, and where the file system can, a
 * file handle. A watch is kept by path: the handle is opened (open_by_handle_at(2)) and asked for its
 * path, or paths that the program is known to use are compared by inode. What cannot be found is an
 * obstacle. On restore watches get their old numbers.
 *
 * Events that were not read cannot be put back; that is said.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/fds.h"
#include "kind/parse.h"
#include "sys/text.h"

enum {
	MOUNTS_MAX_BYTES = 16 << 20,
	ENTRIES_MAX = 10000,   /* of a directory that is searched */
	DUMMIES_MAX = 1 << 20, /* additions for reaching a number, where it cannot be set */
};

/* include/uapi/linux/inotify.h, since 4.18, with CONFIG_CHECKPOINT_RESTORE */
#define KINOTIFY_IOC_SETNEXTWD _IOW('I', 0, int32_t)

static bool match(const struct kage_fd_seen *fd)
{
	return kage_fds_link_is(fd, "anon_inode:inotify") ||
	       kage_fds_link_is(fd, "anon_inode:[inotify]");
}

/* --- what fdinfo says --------------------------------------------------------------------------- */

/* The number behind NAME in the line at P. */
static bool find_number(const char *p, const char *name, uint64_t *ret)
{
	size_t n = strcspn(p, "\n");
	const char *at = memmem(p, n, name, strlen(name));

	if (!at)
		return false;
	at += strlen(name);
	return kage_text_number(&at, 16, ret);
}

static bool parse_bytes(const char *p, uint8_t *to, size_t n)
{
	for (size_t i = 0; i < n; i++, p += 2) {
		char two[3] = { p[0], p[0] ? p[1] : '\0', '\0' };
		const char *at = two;
		uint64_t v;

		if (!kage_text_number(&at, 16, &v) || at != two + 2)
			return false;
		to[i] = (uint8_t)v;
	}
	return true;
}

static bool parse_handle(const char *p, struct kage_inotify_line *l)
{
	const char *at = memmem(p, strcspn(p, "\n"), "f_handle:", 9);
	uint64_t bytes, type;

	if (!at || !find_number(p, "fhandle-bytes:", &bytes) ||
	    !find_number(p, "fhandle-type:", &type) || bytes > KAGE_HANDLE_MAX_BYTES ||
	    type > INT32_MAX || !parse_bytes(at + 9, l->handle.head.f_handle, bytes))
		return false;
	l->handle.head.handle_bytes = (unsigned)bytes;
	l->handle.head.handle_type = (int)type;
	return true;
}

/* "inotify wd:1 ino:7 sdev:fe00000 mask:fff ignored_mask:0 fhandle-bytes:8 fhandle-type:1
 * f_handle:0700000000000000", none of the numbers decimal. The kernel's own numbering of devices has
 * 20 bits for the minor (MKDEV() in linux/kdev_t.h). */
struct kage_err *kage_inotify_parse(const char *text, struct kage_inotify_line *ret_line)
{
	struct kage_inotify_line l = { 0 };
	uint64_t wd, dev, mask;

	if (!find_number(text, "wd:", &wd) || !find_number(text, " ino:", &l.ino) ||
	    !find_number(text, " sdev:", &dev) || !find_number(text, " mask:", &mask) ||
	    wd > INT32_MAX || dev > UINT32_MAX || mask > UINT32_MAX)
		return kage_err_new(KAGE_CORRUPT, "a watch is not understood: %.100s", text);
	l.wd = (int32_t)wd;
	l.mask = (uint32_t)mask;
	l.dev_major = (uint32_t)(dev >> 20);
	l.dev_minor = (uint32_t)(dev & 0xfffff);
	if (!parse_handle(text, &l))
		memset(&l.handle, 0, sizeof(l.handle));
	*ret_line = l;
	return NULL;
}

static bool is_device(const struct kage_inotify_line *l, const struct stat *st)
{
	return major(st->st_dev) == l->dev_major && minor(st->st_dev) == l->dev_minor;
}

static bool leads_to(const char *path, const struct kage_inotify_line *l)
{
	struct stat st;

	return lstat(path, &st) == 0 && st.st_ino == l->ino && is_device(l, &st);
}

/* --- finding the path --------------------------------------------------------------------------- */

/* The fifth field is the mount point, the third the device (proc_pid_mountinfo(5)). */
char *kage_inotify_mount(struct arena *a, const char *mounts, const struct kage_inotify_line *l)
{
	char device[32], *path;

	snprintf(device, sizeof(device), " %u:%u ", l->dev_major, l->dev_minor);
	for (const char *p = mounts; p; p = kage_text_next_line(p)) {
		size_t n = strcspn(p, "\n");
		const char *at = memmem(p, n, device, strlen(device));

		at = at ? strchr(at + strlen(device), ' ') : NULL;
		if (!at || at > p + n)
			continue;
		at++;
		path = arena_printf(a, "%.*s", (int)strcspn(at, " \n"), at);
		if (path)
			kage_text_unescape(path);
		return path;
	}
	return NULL;
}

/* A handle is understood by its own file system only, so some directory of that is opened first. */
static char *path_by_handle(struct arena *a, const char *mount_path, struct kage_inotify_line *l)
{
	_cleanup_fd_ int mount = -1, fd = -1;
	_cleanup_free_ char *path = NULL;
	char self[32];

	if (!l->handle.head.handle_bytes || !mount_path)
		return NULL;
	mount = open(mount_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (mount < 0)
		return NULL;
	fd = open_by_handle_at(mount, &l->handle.head, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	err_drop(kage_file_readlink(AT_FDCWD, self, &path));
	return path && leads_to(path, l) ? arena_strdup(a, path) : NULL;
}

/* PATH and the directories above it. */
static char *among_parents(struct arena *a, const char *path, const struct kage_inotify_line *l)
{
	char *at = arena_strdup(a, path), *slash;

	while (at && at[0] == '/') {
		if (leads_to(at, l))
			return at;
		if (!at[1])
			break;
		slash = strrchr(at, '/');
		slash[slash == at] = '\0';
	}
	return NULL;
}

static char *among_entries(struct arena *a, const char *dir, const struct kage_inotify_line *l)
{
	_cleanup_dir_ DIR *d = opendir(dir);
	const struct dirent *e;

	for (int i = 0; d && i < ENTRIES_MAX && (e = readdir(d)); i++) {
		char *path;

		if (e->d_ino != l->ino)
			continue;
		path = arena_printf(a, "%s/%s", strcmp(dir, "/") ? dir : "", e->d_name);
		if (path && leads_to(path, l))
			return path;
	}
	return NULL;
}

/* Where programs usually look: what they have open, where they stand, and what lies beside it. */
static char *path_by_guess(struct kage_capture *c, const char *mount,
			   const struct kage_inotify_line *l)
{
	struct arena *a = &c->image->arena;
	const Kage__Image *m = c->image->msg;
	_cleanup_free_ char *cwd = NULL;
	char *found = NULL;

	err_drop(kage_file_readlink(c->target->proc_fd, "cwd", &cwd));
	if (cwd)
		found = among_parents(a, cwd, l);
	for (size_t i = 0; !found && i < m->n_files; i++)
		found = among_parents(a, m->files[i]->path, l);
	if (!found && cwd)
		found = among_entries(a, cwd, l);
	if (!found && mount)
		found = among_parents(a, mount, l);
	if (!found && mount)
		found = among_entries(a, mount, l);
	return found;
}

/* --- capture ------------------------------------------------------------------------------------ */

static struct kage_err *capture_watch(struct kage_capture *c, const struct kage_fd_seen *fd,
				      const char *mounts, struct kage_inotify_line *l,
				      Kage__Inotify *m)
{
	struct arena *a = &c->image->arena;
	Kage__Inotify__Watch *w =
		msg_append(a, m, watches, Kage__Inotify__Watch, kage__inotify__watch__init);

	char *mount = kage_inotify_mount(a, mounts, l);

	if (!w)
		return kage_err_nomem();
	w->wd = l->wd;
	w->mask = l->mask;
	w->ino = l->ino;
	w->path = path_by_handle(a, mount, l);
	if (!w->path)
		w->path = path_by_guess(c, mount, l);
	if (w->path)
		return NULL;
	w->path = arena_strdup(a, "");
	kage_obstacle(c->obstacles, true, "run kage as root, or let the program watch fewer files",
		      kage_fds_label(c, fd),
		      "what its watch %d is on (inode %" PRIu64 ") cannot be found by any path",
		      w->wd, w->ino);
	return w->path ? NULL : kage_err_nomem();
}

static int by_wd(const void *a, const void *b)
{
	const Kage__Inotify__Watch *x = *(Kage__Inotify__Watch *const *)a;
	const Kage__Inotify__Watch *y = *(Kage__Inotify__Watch *const *)b;

	return (x->wd > y->wd) - (x->wd < y->wd);
}

static void look_for_unread(struct kage_capture *c, const struct kage_fd_seen *fd)
{
	int waiting = 0;

	if (ioctl(fd->ours, FIONREAD, &waiting) == 0 && waiting > 0)
		kage_obstacle(
			c->obstacles, false, "take the image a moment later", kage_fds_label(c, fd),
			"%d bytes of events wait to be read; a restored program does not have "
			"them",
			waiting);
}

/* In the second round, for the files that the program has open help to find paths. */
static struct kage_err *capture_links(struct kage_capture *c, const struct kage_fd_seen *fd,
				      Kage__Description *d)
{
	_cleanup_free_ char *mounts = NULL;
	Kage__Inotify *m = d->inotify;
	size_t size;

	look_for_unread(c, fd);
	for (const char *p = fd->info; p; p = kage_text_next_line(p)) {
		struct kage_inotify_line l;

		if (strncmp(p, "inotify ", 8) != 0)
			continue;
		TRY(kage_inotify_parse(p, &l));
		if (!mounts)
			TRY(kage_file_slurp(AT_FDCWD, "/proc/self/mountinfo", MOUNTS_MAX_BYTES,
					    &mounts, &size));
		TRY(capture_watch(c, fd, mounts, &l, m));
	}
	if (m->n_watches)
		qsort(m->watches, m->n_watches, sizeof(*m->watches), by_wd);
	return NULL;
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	(void)fd;
	d->kind_case = KAGE__DESCRIPTION__KIND_INOTIFY;
	d->inotify = msg_new(&c->image->arena, Kage__Inotify, kage__inotify__init);
	return d->inotify ? NULL : kage_err_nomem();
}

/* --- restore ------------------------------------------------------------------------------------ */

static struct kage_err *check(struct kage_restore *r, const Kage__Description *d)
{
	const Kage__Inotify *m = d->inotify;
	struct stat st;

	for (size_t i = 0; i < m->n_watches; i++)
		if (lstat(m->watches[i]->path, &st) < 0)
			kage_obstacle(r->obstacles, true, "put it back", m->watches[i]->path,
				      "the program watches it, and it is gone (%s)",
				      strerror(errno));
	return NULL;
}

/* Adds and takes away until the kernel, which counts upwards, has come to the number before WD. */
static struct kage_err *count_up(int fd, int32_t wd)
{
	for (int i = 0; i < DUMMIES_MAX; i++) {
		char events[4096];
		int now = inotify_add_watch(fd, "/proc/self", IN_DELETE_SELF);

		if (now < 0)
			return kage_err_sys(errno, "count watches up");
		inotify_rm_watch(fd, now);
		/* Each removal is an event (IN_IGNORED). */
		while (read(fd, events, sizeof(events)) > 0)
			;
		if (now == wd - 1)
			return NULL;
	}
	return kage_err_new(KAGE_LIMIT, "the number %d of a watch is out of reach", wd);
}

/* A mark without a restoring kernel's help gets the next number. */
static struct kage_err *aim(int fd, int32_t wd, int32_t next)
{
	int32_t want = wd;

	if (wd == next || ioctl(fd, KINOTIFY_IOC_SETNEXTWD, want) == 0)
		return NULL;
	return count_up(fd, wd);
}

static struct kage_err *add(int fd, const Kage__Inotify__Watch *w)
{
	struct stat st;
	bool link = lstat(w->path, &st) == 0 && S_ISLNK(st.st_mode);
	int wd = inotify_add_watch(fd, w->path, w->mask | (link ? IN_DONT_FOLLOW : 0));

	if (wd < 0)
		return kage_err_sys(errno, "watch %s", w->path);
	if (wd != w->wd)
		return kage_err_new(KAGE_CHANGED, "watch %s: number %d was wanted, %d came",
				    w->path, w->wd, wd);
	return NULL;
}

static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	const Kage__Inotify *m = d->inotify;
	_cleanup_fd_ int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	int32_t next = 1;

	(void)r;
	if (fd < 0)
		return kage_err_sys(errno, "inotify_init");
	for (size_t i = 0; i < m->n_watches; i++) {
		TRY(aim(fd, m->watches[i]->wd, next));
		TRY(add(fd, m->watches[i]));
		next = m->watches[i]->wd + 1;
	}
	*ret_fd = take_fd(&fd);
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	const Kage__Inotify *m = d->inotify;

	(void)image;
	fprintf(out, "%zu watches", m->n_watches);
	for (size_t i = 0; i < m->n_watches && i < 4; i++)
		fprintf(out, "%s %d %s", i ? "," : ":", m->watches[i]->wd, m->watches[i]->path);
	if (m->n_watches > 4)
		fputs(" …", out);
}

const struct kage_fd_kind kage_fd_inotify = {
	.name = "inotify",
	.which = KAGE__DESCRIPTION__KIND_INOTIFY,
	.match = match,
	.capture = capture,
	.capture_links = capture_links,
	.check = check,
	.make = make,
	.print = print,
};
