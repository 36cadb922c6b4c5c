/* SPDX-License-Identifier: Apache-2.0 */
#include "kind/fds.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/files.h"
#include "kind/noted.h"
#include "sys/text.h"

enum {
	INFO_MAX_BYTES = 256 << 20, /* an epoll with millions of watches */
	INFO_USUAL_BYTES = 2048,
	DIRENT_BYTES = 64 * 1024,
};

/* --- helpers for the kinds ---------------------------------------------------------------------- */

uint32_t kage_fds_flags(const struct kage_fd_seen *fd)
{
	uint64_t flags = 0;

	return kage_text_u64(fd->info, "flags", 8, &flags) ? (uint32_t)flags : 0;
}

bool kage_fds_link_is(const struct kage_fd_seen *fd, const char *prefix)
{
	return strncmp(fd->link, prefix, strlen(prefix)) == 0;
}

const char *kage_fds_label(struct kage_capture *c, const struct kage_fd_seen *fd)
{
	const char *s = arena_printf(&c->image->arena, "fd %d (%s)", fd->fd, fd->link);

	return s ? s : "a descriptor";
}

const char *kage_fds_label_of(struct kage_restore *r, const Kage__Description *d)
{
	const char *s = NULL;

	for (size_t i = 0; i < r->process->n_descriptors; i++) {
		const Kage__Descriptor *n = r->process->descriptors[i];

		if (n->description == d->id)
			s = s ? arena_printf(&r->image->arena, "%s, fd %u", s, n->fd)
			      : arena_printf(&r->image->arena, "fd %u", n->fd);
	}
	return s ? s : "a descriptor";
}

size_t kage_fds_index(const struct kage_restore *r, const Kage__Description *d)
{
	size_t i = d->id - 1;

	if (i < r->image->msg->n_descriptions && r->image->msg->descriptions[i] == d)
		return i;
	for (i = 0; r->image->msg->descriptions[i] != d; i++)
		;
	return i;
}

static int compare_ours(pid_t self, int a, int b)
{
	return (int)syscall(SYS_kcmp, self, self, KCMP_FILE, a, b);
}

int kage_fds_reopen(int fd, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

/* --- looking ------------------------------------------------------------------------------------ */

struct linux_dirent64 {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

static struct kage_err *add_number(struct kage_capture *c, const char *name)
{
	uint64_t n;
	struct kage_fd_seen *grown;

	if (!kage_text_number(&name, 10, &n) || *name || n > INT32_MAX)
		return NULL; /* "." and ".." */
	if ((c->n_fds & (c->n_fds - 1)) == 0) {
		grown = reallocarray(c->fds, c->n_fds ? c->n_fds * 2 : 1, sizeof(*grown));
		if (!grown)
			return kage_err_nomem();
		c->fds = grown;
	}
	c->fds[c->n_fds++] = (struct kage_fd_seen){ .fd = (int)n, .ours = -1 };
	return NULL;
}

static int by_number(const void *a, const void *b)
{
	const struct kage_fd_seen *x = a, *y = b;

	return (x->fd > y->fd) - (x->fd < y->fd);
}

static struct kage_err *list_numbers(struct kage_capture *c, int dir)
{
	_cleanup_free_ char *buffer = malloc(DIRENT_BYTES);
	ssize_t n;

	if (!buffer)
		return kage_err_nomem();
	while ((n = syscall(SYS_getdents64, dir, buffer, DIRENT_BYTES)) > 0) {
		const struct linux_dirent64 *e;

		for (ssize_t at = 0; at < n; at += e->reclen) {
			e = (const struct linux_dirent64 *)(buffer + at);
			TRY(add_number(c, e->name));
		}
	}
	if (n < 0)
		return kage_err_sys(errno, "list /proc/%d/fd", c->target->pid);
	if (c->n_fds)
		qsort(c->fds, c->n_fds, sizeof(*c->fds), by_number);
	return NULL;
}

/* The kernel writes all of an fdinfo as one record (single_open() in fs/proc/fd.c), so a read that
 * does not fill the buffer was the whole of it. The target stands still: each call counts. */
static struct kage_err *read_info(int dir, const char *name, char **ret_info)
{
	_cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	char text[INFO_USUAL_BYTES];
	ssize_t n;
	size_t size;

	if (fd < 0)
		return kage_err_sys(errno, "open fdinfo/%s", name);
	n = pread(fd, text, sizeof(text), 0);
	if (n < 0 || n == sizeof(text))
		return kage_file_slurp_fd(fd, "fdinfo", INFO_MAX_BYTES, ret_info, &size);
	*ret_info = strndup(text, (size_t)n);
	return *ret_info ? NULL : kage_err_nomem();
}

struct proc_dirs {
	int fd, fdinfo;
};

static void close_dirs(struct proc_dirs *d)
{
	close_fd(d->fd);
	close_fd(d->fdinfo);
}

static struct kage_err *look_at(struct kage_capture *c, const struct proc_dirs *dirs,
				struct kage_fd_seen *fd)
{
	char name[16];

	snprintf(name, sizeof(name), "%d", fd->fd);
	TRY(kage_file_readlink(dirs->fd, name, &fd->link));
	TRY(read_info(dirs->fdinfo, name, &fd->info));
	fd->close_on_exec = kage_fds_flags(fd) & O_CLOEXEC;
	TRY(kage_target_get_fd(c->target, fd->fd, &fd->ours));
	if (fstat(fd->ours, &fd->st) < 0)
		return kage_err_sys(errno, "stat %s", fd->link);
	return NULL;
}

static struct kage_err *look_at_all(struct kage_capture *c)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
	_cleanup_(close_dirs) struct proc_dirs dirs = {
		openat(c->target->proc_fd, "fd", flags),
		openat(c->target->proc_fd, "fdinfo", flags),
	};

	if (dirs.fd < 0 || dirs.fdinfo < 0)
		return kage_err_sys(errno, "open /proc/%d/fd", c->target->pid);
	TRY(list_numbers(c, dirs.fd));
	for (size_t i = 0; i < c->n_fds; i++)
		TRY_WRAP(look_at(c, &dirs, &c->fds[i]), "fd %d", c->fds[i].fd);
	return NULL;
}

void kage_fds_raise_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

/* Threads made by clone(2) without CLONE_FILES have a table of their own, of which an image knows
 * nothing. */
static void check_tables(struct kage_capture *c)
{
	pid_t leader = c->target->pid;
	char object[48];

	for (size_t i = 0; i < c->target->n_own; i++) {
		pid_t tid = c->target->threads[i]->tid;

		if (tid == leader || syscall(SYS_kcmp, leader, tid, KCMP_FILES, 0, 0) <= 0)
			continue;
		snprintf(object, sizeof(object), "thread %d", tid);
		kage_obstacle(c->obstacles, true, "none yet", object,
			      "it has a table of descriptors of its own");
	}
}

/* --- which share a description ------------------------------------------------------------------ */

/* kcmp(2) orders descriptions, so that sorting finds the equal ones. Those of one description have the
 * same inode, which is compared first and without a system call. Our duplicates are compared, which
 * needs no right over the target. */
static int by_description(const void *a, const void *b, void *user)
{
	const pid_t *self = user;
	const struct kage_fd_seen *x = *(const struct kage_fd_seen *const *)a;
	const struct kage_fd_seen *y = *(const struct kage_fd_seen *const *)b;
	int r;

	if (x->st.st_dev != y->st.st_dev)
		return x->st.st_dev < y->st.st_dev ? -1 : 1;
	if (x->st.st_ino != y->st.st_ino)
		return x->st.st_ino < y->st.st_ino ? -1 : 1;
	r = x->ours == y->ours ? 0 : compare_ours(*self, x->ours, y->ours);
	if (r == 1 || r == 2)
		return r == 1 ? -1 : 1;
	return by_number(x, y); /* equal, or not to be told: see same_description() */
}

/* Without kcmp in the kernel: two of one file with one offset and the same flags are taken for one.
 * Objects without a name all share an inode, there nothing can be told and nothing is shared. */
static bool same_description(pid_t self, const struct kage_fd_seen *a, const struct kage_fd_seen *b)
{
	uint64_t pos_a, pos_b;
	int r;

	if (a->st.st_dev != b->st.st_dev || a->st.st_ino != b->st.st_ino)
		return false;
	r = compare_ours(self, a->ours, b->ours);
	if (r >= 0)
		return r == 0;
	return strncmp(a->link, "anon_inode:", 11) != 0 &&
	       (kage_fds_flags(a) & ~(uint32_t)O_CLOEXEC) ==
		       (kage_fds_flags(b) & ~(uint32_t)O_CLOEXEC) &&
	       kage_text_u64(a->info, "pos", 10, &pos_a) &&
	       kage_text_u64(b->info, "pos", 10, &pos_b) && pos_a == pos_b;
}

static struct kage_err *describe(struct kage_capture *c, struct kage_fd_seen *fd)
{
	Kage__Description *d = msg_append(&c->image->arena, c->image->msg, descriptions,
					  Kage__Description, kage__description__init);
	struct f_owner_ex owner;
	uint64_t pos = 0;
	int signal;

	if (!d)
		return kage_err_nomem();
	d->id = (uint32_t)c->image->msg->n_descriptions;
	d->flags = kage_fds_flags(fd) & ~(uint32_t)O_CLOEXEC;
	if (kage_text_u64(fd->info, "pos", 10, &pos))
		d->offset = pos;
	if (!(d->flags & O_PATH) && fcntl(fd->ours, F_GETOWN_EX, &owner) == 0 && owner.pid) {
		d->owner_type = (uint32_t)owner.type;
		d->owner = owner.pid;
	}
	signal = d->flags & O_PATH ? 0 : fcntl(fd->ours, F_GETSIG);
	d->owner_signal = signal > 0 ? (uint32_t)signal : 0;
	fd->description = d;
	return NULL;
}

static struct kage_err *add_descriptor(struct kage_capture *c, const struct kage_fd_seen *fd)
{
	Kage__Descriptor *n = msg_append(&c->image->arena, c->process, descriptors,
					 Kage__Descriptor, kage__descriptor__init);

	if (!n)
		return kage_err_nomem();
	n->fd = (uint32_t)fd->fd;
	n->description = fd->description->id;
	n->close_on_exec = fd->close_on_exec;
	return NULL;
}

/* FIRST[i] is the index of the lowest descriptor that shares descriptor i's description. */
static struct kage_err *find_shared(const struct kage_capture *c, size_t *first)
{
	_cleanup_free_ const struct kage_fd_seen **sorted = calloc(c->n_fds + 1, sizeof(*sorted));
	pid_t self = getpid();

	if (!sorted)
		return kage_err_nomem();
	for (size_t i = 0; i < c->n_fds; i++)
		sorted[i] = &c->fds[i];
	qsort_r(sorted, c->n_fds, sizeof(*sorted), by_description, &self);
	for (size_t i = 0; i < c->n_fds; i++) {
		size_t at = (size_t)(sorted[i] - c->fds);

		first[at] = at;
		if (i && same_description(self, sorted[i - 1], sorted[i]))
			first[at] = first[sorted[i - 1] - c->fds];
	}
	return NULL;
}

static struct kage_err *group(struct kage_capture *c)
{
	_cleanup_free_ size_t *first = calloc(c->n_fds + 1, sizeof(*first));

	if (!first)
		return kage_err_nomem();
	TRY(find_shared(c, first));
	for (size_t i = 0; i < c->n_fds; i++) {
		if (first[i] == i)
			TRY(describe(c, &c->fds[i]));
		else
			c->fds[i].description = c->fds[first[i]].description;
		TRY(add_descriptor(c, &c->fds[i]));
	}
	return NULL;
}

/* --- capture ------------------------------------------------------------------------------------ */

static const struct kage_fd_kind *kind_for(const struct kage_fd_seen *fd)
{
	for (const struct kage_fd_kind *const *k = kage_fd_kinds; *k; k++)
		if ((*k)->match && (*k)->match(fd))
			return *k;
	return NULL;
}

/* Whether FD is the lowest number of its description. Descriptions are numbered in that order. */
static bool leads(const struct kage_capture *c, size_t i, size_t n_seen)
{
	return c->fds[i].description->id == n_seen + 1;
}

static struct kage_err *capture_all(struct kage_capture *c)
{
	for (size_t i = 0, seen = 0; i < c->n_fds; i++) {
		const struct kage_fd_kind *k;

		if (!leads(c, i, seen))
			continue;
		seen++;
		k = kind_for(&c->fds[i]);
		if (!k)
			return kage_err_new(KAGE_UNSUPPORTED, "fd %d (%s): no kind knows it",
					    c->fds[i].fd, c->fds[i].link);
		TRY_WRAP(k->capture(c, &c->fds[i], c->fds[i].description), "fd %d (%s)",
			 c->fds[i].fd, c->fds[i].link);
	}
	return NULL;
}

static struct kage_err *capture_links(struct kage_capture *c)
{
	for (size_t i = 0, seen = 0; i < c->n_fds; i++) {
		const struct kage_fd_kind *k;

		if (!leads(c, i, seen))
			continue;
		seen++;
		k = kage_fd_kind_of(c->fds[i].description);
		if (k && k->capture_links)
			TRY_WRAP(k->capture_links(c, &c->fds[i], c->fds[i].description),
				 "fd %d (%s)", c->fds[i].fd, c->fds[i].link);
	}
	return NULL;
}

struct kage_err *kage_fds_scan(struct kage_capture *c)
{
	kage_fds_raise_limit();
	TRY(look_at_all(c));
	check_tables(c);
	TRY(group(c));
	TRY(capture_all(c));
	return capture_links(c);
}

struct kage_err *kage_fds_see(struct kage_ctx *ctx, struct kage_target *t, struct kage_capture *c)
{
	c->ctx = ctx;
	c->target = t;
	kage_fds_raise_limit();
	TRY(kage_image_create(&c->image));
	c->process = msg_append(&c->image->arena, c->image->msg, processes, Kage__Process,
				kage__process__init);
	if (!c->process)
		return kage_err_nomem();
	TRY(look_at_all(c));
	return group(c);
}

void kage_fds_unsee(struct kage_capture *c)
{
	kage_fds_free(c);
	kage_image_close(c->image);
}

struct kage_err *kage_fds_finish(struct kage_capture *c)
{
	return kage_files_finish(c);
}

void kage_fds_free(struct kage_capture *c)
{
	for (size_t i = 0; i < c->n_fds; i++) {
		close_fd(c->fds[i].ours);
		free(c->fds[i].link);
		free(c->fds[i].info);
	}
	free(c->fds);
	c->fds = NULL;
	c->n_fds = 0;
	kage_noted_free(c);
}
