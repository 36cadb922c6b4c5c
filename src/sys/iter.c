/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/iter.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <bpf/skel_internal.h>
#include <linux/magic.h>

#include "base/cleanup.h"

enum {
	READ_BYTES = 64 * 1024, /* the kernel gives at most 32 KiB at once */
	READ_MAX = 1 << 30,
};

/* --- programs ---------------------------------------------------------------------------------- */

/* The directory of pins as a descriptor, -1 when it is missing or not safe. */
static int open_pins(const char *dir)
{
	_cleanup_fd_ int fd = -1;
	struct statfs fs;
	struct stat st;

	fd = open(dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return -1;
	if ((unsigned long)fs.f_type != BPF_FS_MAGIC || st.st_uid != 0 || st.st_mode & 077)
		return -1;
	return take_fd(&fd);
}

/* Makes the directory of pins, if its parent is a BPF file system. */
static int make_pins(const char *dir)
{
	_cleanup_free_ char *parent = strdup(dir);
	char *slash = parent ? strrchr(parent, '/') : NULL;
	struct statfs fs;

	if (!slash || slash == parent || geteuid() != 0)
		return -1;
	*slash = 0;
	if (statfs(parent, &fs) < 0 || (unsigned long)fs.f_type != BPF_FS_MAGIC)
		return -1;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return -1;
	return open_pins(dir);
}

/* Mounts a file system for pins, for machines (containers mostly) that have none at the usual place. */
static int mount_pins(void)
{
	_cleanup_free_ char *parent =
		strndup(KAGE_ITER_OWN_PINS, strlen(KAGE_ITER_OWN_PINS) - strlen("/bpf"));

	if (!parent || geteuid() != 0)
		return -1;
	if (mkdir(parent, 0700) < 0 && errno != EEXIST)
		return -1;
	if (mkdir(KAGE_ITER_OWN_PINS, 0700) < 0 && errno != EEXIST)
		return -1;
	if (mount("bpf", KAGE_ITER_OWN_PINS, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") <
	    0)
		return -1;
	return open_pins(KAGE_ITER_OWN_PINS);
}

/* Where pins are, or -1; MAKE: makes a place for them if need be. */
static int find_pins(const char *pins, bool make)
{
	bool usual = !strcmp(pins, KAGE_ITER_PINS);
	int dir = open_pins(pins);

	if (dir < 0 && make)
		dir = make_pins(pins);
	if (dir < 0 && usual)
		dir = open_pins(KAGE_ITER_OWN_PINS);
	if (dir < 0 && usual && make)
		dir = mount_pins();
	return dir;
}

/* The pin through the descriptor, so that nobody can put another directory in its place. */
static void pin_path(int dir, const char *hash, char ret_path[static 128])
{
	snprintf(ret_path, 128, "/proc/self/fd/%d/%s", dir, hash);
}

static bool is_program(int fd, const char *name)
{
	struct bpf_prog_info info = { 0 };
	union bpf_attr attr = { 0 };

	attr.info.bpf_fd = (uint32_t)fd;
	attr.info.info_len = sizeof(info);
	attr.info.info = (uint64_t)(uintptr_t)&info;
	return skel_sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) == 0 &&
	       info.type == BPF_PROG_TYPE_TRACING && !strcmp(info.name, name);
}

static int get_pinned(int dir, const struct kage_iter_program *p)
{
	_cleanup_fd_ int fd = -1;
	union bpf_attr attr = { 0 };
	char path[128];

	pin_path(dir, p->hash, path);
	attr.pathname = (uint64_t)(uintptr_t)path;
	fd = skel_sys_bpf(BPF_OBJ_GET, &attr, sizeof(attr));
	return fd >= 0 && is_program(fd, p->name) ? take_fd(&fd) : -1;
}

/* Failing is no harm: the next open loads again. */
static void pin(int dir, const char *hash, int prog)
{
	union bpf_attr attr = { 0 };
	char path[128];

	pin_path(dir, hash, path);
	attr.pathname = (uint64_t)(uintptr_t)path;
	attr.bpf_fd = (uint32_t)prog;
	(void)skel_sys_bpf(BPF_OBJ_PIN, &attr, sizeof(attr));
}

struct kage_err *kage_iter_open(const char *pins, const struct kage_iter_program *p, int *ret_prog,
				bool *ret_was_pinned)
{
	_cleanup_fd_ int dir = -1, prog = -1;

	if (pins)
		dir = find_pins(pins, false);
	if (dir >= 0)
		prog = get_pinned(dir, p);
	*ret_was_pinned = prog >= 0;
	if (prog < 0) {
		TRY(p->load(&prog));
		if (pins && dir < 0)
			dir = find_pins(pins, true);
		if (dir >= 0)
			pin(dir, p->hash, prog);
	}
	*ret_prog = take_fd(&prog);
	return NULL;
}

/* --- reading ------------------------------------------------------------------------------------- */

static struct kage_err *start(int prog, union bpf_iter_link_info link_info, int *ret_iter)
{
	_cleanup_fd_ int link = -1;
	union bpf_attr attr = { 0 };

	attr.link_create.prog_fd = (uint32_t)prog;
	attr.link_create.attach_type = BPF_TRACE_ITER;
	attr.link_create.iter_info = (uint64_t)(uintptr_t)&link_info;
	attr.link_create.iter_info_len = sizeof(link_info);
	link = skel_sys_bpf(BPF_LINK_CREATE, &attr, sizeof(attr));
	if (link < 0 && errno == EINVAL)
		return kage_err_new(KAGE_UNSUPPORTED,
				    "this kernel's task iterator cannot visit one process alone");
	if (link < 0)
		return kage_err_sys(errno, "attach the task iterator");
	memset(&attr, 0, sizeof(attr));
	attr.iter_create.link_fd = (uint32_t)link;
	*ret_iter = skel_sys_bpf(BPF_ITER_CREATE, &attr, sizeof(attr));
	return *ret_iter < 0 ? kage_err_sys(errno, "start the task iterator") : NULL;
}

/* One round of reading into a buffer that grows. *RET_MORE: it was not yet the end. */
static struct kage_err *read_some(int iter, char **buf, size_t *size, size_t *capacity,
				  bool *ret_more)
{
	ssize_t n;

	if (*capacity - *size < READ_BYTES) {
		size_t want = *capacity ? *capacity * 2 : 2 * READ_BYTES;
		char *grown = want <= READ_MAX ? realloc(*buf, want) : NULL;

		if (!grown)
			return kage_err_nomem();
		*buf = grown;
		*capacity = want;
	}
	n = read(iter, *buf + *size, READ_BYTES);
	*ret_more = n != 0;
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return NULL;
	if (n < 0 && errno == E2BIG)
		return kage_err_new(KAGE_LIMIT,
				    "a thread has more state than the iterator can hold");
	if (n < 0)
		return kage_err_sys(errno, "read the task iterator");
	*size += (size_t)n;
	return NULL;
}

static struct kage_err *read_all(int prog, union bpf_iter_link_info visit, size_t enough,
				 char **buf, size_t *size)
{
	_cleanup_fd_ int iter = -1;
	size_t capacity = 0;
	bool more = true;

	TRY(start(prog, visit, &iter));
	while (more && *size < enough)
		TRY(read_some(iter, buf, size, &capacity, &more));
	return NULL;
}

static struct kage_err *read_it(int prog, union bpf_iter_link_info visit, size_t enough,
				char **ret_buf, size_t *ret_size)
{
	_cleanup_free_ char *buf = NULL;

	*ret_size = 0;
	TRY(read_all(prog, visit, enough, &buf, ret_size));
	*ret_buf = take_ptr(buf);
	return NULL;
}

struct kage_err *kage_iter_read_process(int prog, pid_t tgid, char **ret_buf, size_t *ret_size)
{
	union bpf_iter_link_info visit = { .task = { .pid = (uint32_t)tgid } };

	return read_it(prog, visit, SIZE_MAX, ret_buf, ret_size);
}

struct kage_err *kage_iter_read_thread(int prog, pid_t tid, char **ret_buf, size_t *ret_size)
{
	union bpf_iter_link_info visit = { .task = { .tid = (uint32_t)tid } };

	return read_it(prog, visit, SIZE_MAX, ret_buf, ret_size);
}

struct kage_err *kage_iter_read_enough(int prog, pid_t tid, size_t enough, char **ret_buf,
				       size_t *ret_size)
{
	union bpf_iter_link_info visit = { .task = { .tid = (uint32_t)tid } };

	return read_it(prog, visit, enough, ret_buf, ret_size);
}
