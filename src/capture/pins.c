/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/pins.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/text.h"

enum { STATUS_MAX = 1 << 20, INFO_MAX = 1 << 24, LINK_MAX = 64 };

/* Of a descriptor, by its fdinfo (proc(5)) and, if need be, by the beginning of its link. */
static bool is_ring(const char *info)
{
	size_t size;

	return kage_text_field(info, "UserBufs", &size);
}

static bool is_direct(const char *info)
{
	uint64_t flags;

	return kage_text_u64(info, "flags", 8, &flags) && flags & O_DIRECT && !(flags & O_PATH) &&
	       (flags & O_ACCMODE) != O_WRONLY;
}

/* Pipes have the same flag; there it means packets (pipe2(2)). */
static bool is_pipe(const char *link)
{
	return strncmp(link, "pipe:", 5) == 0;
}

static bool is_uffd(const char *link)
{
	return strcmp(link, "anon_inode:[userfaultfd]") == 0;
}

/* What VmPin counts: memory of devices (RDMA, for one). */
static bool counts_pins(const char *status)
{
	uint64_t n;

	return kage_text_u64(status, "VmPin", 10, &n) && n;
}

/* The beginning of what descriptor NUMBER leads to, "" if it is closed meanwhile. */
static void read_link(struct kage_target *t, const char *number, char link[LINK_MAX])
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "fd/%.20s", number);
	n = readlinkat(t->proc_fd, path, link, LINK_MAX - 1);
	link[n < 0 ? 0 : n] = '\0';
}

/* Looks at one descriptor; sets *RET_FOUND, or leaves it. */
typedef struct kage_err *look_fn(struct kage_target *t, const char *number, bool *ret_found);

static struct kage_err *look_for_pins(struct kage_target *t, const char *number, bool *ret_found)
{
	_cleanup_free_ char *info = NULL;
	char path[64], link[LINK_MAX];
	struct kage_err *e;
	size_t size;

	snprintf(path, sizeof(path), "fdinfo/%.20s", number);
	e = kage_file_slurp(t->proc_fd, path, INFO_MAX, &info, &size);
	if (e) { /* closed meanwhile */
		err_drop(e);
		return kage_target_alive(t);
	}
	if (is_direct(info)) {
		read_link(t, number, link);
		*ret_found |= !is_pipe(link);
	}
	*ret_found |= is_ring(info);
	return NULL;
}

static struct kage_err *look_for_uffd(struct kage_target *t, const char *number, bool *ret_found)
{
	char link[LINK_MAX];

	read_link(t, number, link);
	*ret_found |= is_uffd(link);
	return NULL;
}

static struct kage_err *look_at_fds(struct kage_target *t, look_fn *fn, bool *ret_found)
{
	_cleanup_dir_ DIR *dir = kage_file_opendir(t->proc_fd, "fd");
	struct kage_err *e = NULL;
	struct dirent *d;

	if (!dir)
		return kage_err_sys(errno, "open /proc/%d/fd", t->pid);
	while (!e && !*ret_found && (d = readdir(dir)))
		if (d->d_name[0] != '.')
			e = fn(t, d->d_name, ret_found);
	return e;
}

struct kage_err *kage_pins_look(struct kage_target *t, bool *ret_pinned)
{
	_cleanup_free_ char *status = NULL;
	bool pinned = false;
	size_t size;

	TRY(kage_file_slurp(t->proc_fd, "status", STATUS_MAX, &status, &size));
	pinned = counts_pins(status);
	if (!pinned)
		TRY(look_at_fds(t, look_for_pins, &pinned));
	*ret_pinned = pinned;
	return NULL;
}

bool kage_pins_under_way(const struct kage_capture *c)
{
	for (size_t i = 0; i < c->n_fds; i++)
		if (is_ring(c->fds[i].info))
			return true;
	/* The rings of io_setup(2) have no descriptor. */
	for (size_t i = 0; i < c->maps.n; i++)
		if (strncmp(c->maps.vmas[i].path, "/[aio]", 6) == 0)
			return true;
	return false;
}

bool kage_pins_seen(const struct kage_capture *c)
{
	for (size_t i = 0; i < c->n_fds; i++)
		if (is_direct(c->fds[i].info) && !is_pipe(c->fds[i].link))
			return true;
	return kage_pins_under_way(c) || counts_pins(c->status);
}

struct kage_err *kage_pins_find_uffd(struct kage_target *t, bool *ret_found)
{
	*ret_found = false;
	return look_at_fds(t, look_for_uffd, ret_found);
}

bool kage_pins_uffd_seen(const struct kage_capture *c)
{
	for (size_t i = 0; i < c->n_fds; i++)
		if (is_uffd(c->fds[i].link))
			return true;
	return false;
}
