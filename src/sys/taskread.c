/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The task iterator: loaded or taken from its pin, then run over one process.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <linux/magic.h>

#include "base/cleanup.h"
#include "sys/taskread.h"
#include "task.lskel.h"

enum {
	READ_BYTES = 64 * 1024, /* the kernel gives at most 32 KiB at once */
	READ_MAX = 1 << 30,
	TRIES = 8,
};

struct kage_taskread {
	int prog;
	bool was_pinned;
	uint64_t tick_ns;
};

/* --- the program ------------------------------------------------------------------------------- */

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
		strndup(KAGE_TASKREAD_OWN_PINS, strlen(KAGE_TASKREAD_OWN_PINS) - strlen("/bpf"));

	if (!parent || geteuid() != 0)
		return -1;
	if (mkdir(parent, 0700) < 0 && errno != EEXIST)
		return -1;
	if (mkdir(KAGE_TASKREAD_OWN_PINS, 0700) < 0 && errno != EEXIST)
		return -1;
	if (mount("bpf", KAGE_TASKREAD_OWN_PINS, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "mode=0700") < 0)
		return -1;
	return open_pins(KAGE_TASKREAD_OWN_PINS);
}

/* Where pins are, or -1; MAKE: makes a place for them if need be. */
static int find_pins(const char *pins, bool make)
{
	bool usual = !strcmp(pins, KAGE_TASKREAD_PINS);
	int dir = open_pins(pins);

	if (dir < 0 && make)
		dir = make_pins(pins);
	if (dir < 0 && usual)
		dir = open_pins(KAGE_TASKREAD_OWN_PINS);
	if (dir < 0 && usual && make)
		dir = mount_pins();
	return dir;
}

/* The pin through the descriptor, so that nobody can put another directory in its place. */
static void pin_path(int dir, char ret_path[static 128])
{
	snprintf(ret_path, 128, "/proc/self/fd/%d/%s", dir, TASK_BPF_HASH);
}

static bool is_our_program(int fd)
{
	struct bpf_prog_info info = { 0 };
	union bpf_attr attr = { 0 };

	attr.info.bpf_fd = (uint32_t)fd;
	attr.info.info_len = sizeof(info);
	attr.info.info = (uint64_t)(uintptr_t)&info;
	return skel_sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) == 0 &&
	       info.type == BPF_PROG_TYPE_TRACING && !strcmp(info.name, "kage_task");
}

static int get_pinned(int dir)
{
	_cleanup_fd_ int fd = -1;
	union bpf_attr attr = { 0 };
	char path[128];

	pin_path(dir, path);
	attr.pathname = (uint64_t)(uintptr_t)path;
	fd = skel_sys_bpf(BPF_OBJ_GET, &attr, sizeof(attr));
	return fd >= 0 && is_our_program(fd) ? take_fd(&fd) : -1;
}

/* Failing is no harm: the next open loads again. */
static void pin(int dir, int prog)
{
	union bpf_attr attr = { 0 };
	char path[128];

	pin_path(dir, path);
	attr.pathname = (uint64_t)(uintptr_t)path;
	attr.bpf_fd = (uint32_t)prog;
	(void)skel_sys_bpf(BPF_OBJ_PIN, &attr, sizeof(attr));
}

static struct kage_err *load(int *ret_prog)
{
	struct task_bpf *skel;
	int num;

	errno = 0;
	skel = task_bpf__open_and_load();
	num = errno;
	if (!skel && (num == EPERM || num == EACCES))
		return kage_err_new(KAGE_PERM, "reading threads without stopping them needs root "
					       "(CAP_BPF and CAP_PERFMON)");
	if (!skel && num == ENOMEM)
		return kage_err_nomem();
	if (!skel)
		return kage_err_new(KAGE_UNSUPPORTED,
				    "this kernel does not take the BPF task iterator (%s), which "
				    "reads threads without stopping them",
				    strerror(num));
	*ret_prog = fcntl(skel->progs.kage_task.prog_fd, F_DUPFD_CLOEXEC, 3);
	num = errno;
	task_bpf__destroy(skel);
	return *ret_prog < 0 ? kage_err_sys(num, "duplicate a descriptor") : NULL;
}

/* Timeouts that are counted in ticks are found as such; the coarse clocks advance once a tick. */
static uint64_t tick_ns(void)
{
	struct timespec ts;

	if (clock_getres(CLOCK_MONOTONIC_COARSE, &ts) < 0 || ts.tv_sec || !ts.tv_nsec)
		return 10000000;
	return (uint64_t)ts.tv_nsec;
}

struct kage_err *kage_taskread_open(const char *pins, struct kage_taskread **ret_reader)
{
	_cleanup_fd_ int dir = -1, prog = -1;
	struct kage_taskread *r;
	bool was_pinned;

	if (pins)
		dir = find_pins(pins, false);
	if (dir >= 0)
		prog = get_pinned(dir);
	was_pinned = prog >= 0;
	if (!was_pinned) {
		TRY(load(&prog));
		if (pins && dir < 0)
			dir = find_pins(pins, true);
		if (dir >= 0)
			pin(dir, prog);
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		return kage_err_nomem();
	r->prog = take_fd(&prog);
	r->was_pinned = was_pinned;
	r->tick_ns = tick_ns();
	*ret_reader = r;
	return NULL;
}

bool kage_taskread_was_pinned(const struct kage_taskread *reader)
{
	return reader->was_pinned;
}

void kage_taskread_close(struct kage_taskread *reader)
{
	if (!reader)
		return;
	close(reader->prog);
	free(reader);
}

/* --- reading ------------------------------------------------------------------------------------- */

/* An open iterator over the threads of TGID. */
static struct kage_err *start(int prog, pid_t tgid, int *ret_iter)
{
	union bpf_iter_link_info link_info = { .task = { .pid = (uint32_t)tgid } };
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

/* Kernels that do not know the parameter visit every thread there is. */
static struct kage_err *check_tgid(const char *buf, size_t size, pid_t tgid)
{
	struct kage_task_thread t;

	if (size < sizeof(struct task_record) + sizeof(t))
		return NULL;
	memcpy(&t, buf + sizeof(struct task_record), sizeof(t));
	if (t.tgid == tgid)
		return NULL;
	return kage_err_new(KAGE_UNSUPPORTED,
			    "this kernel's task iterator cannot visit one process alone");
}

static struct kage_err *read_once(const struct kage_taskread *r, pid_t tgid,
				  struct kage_taskinfo **ret_info)
{
	_cleanup_free_ char *buf = NULL;
	_cleanup_fd_ int iter = -1;
	size_t size = 0, capacity = 0;
	bool more = true;

	TRY(start(r->prog, tgid, &iter));
	while (more) {
		TRY(read_some(iter, &buf, &size, &capacity, &more));
		TRY(check_tgid(buf, size, tgid));
	}
	return kage_taskinfo_parse(buf, size, r->tick_ns, ret_info);
}

struct kage_err *kage_taskread_read(const struct kage_taskread *reader, pid_t tgid,
				    struct kage_taskinfo **ret_info)
{
	for (int i = 0; i < TRIES; i++) {
		struct kage_taskinfo *info;

		TRY_WRAP(read_once(reader, tgid, &info), "read threads of process %d", tgid);
		if (!info->torn) {
			*ret_info = info;
			return NULL;
		}
		kage_taskinfo_free(info);
	}
	return kage_err_new(KAGE_BUSY, "signals of process %d come and go too fast to be read",
			    tgid);
}
