/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever no other kind takes: named as an obstacle, with what it is and a way out. It stands last in
 * the table and matches everything.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "kind/fds.h"

/* What /proc/PID/fd shows, how a person calls it, and what can be done about it. */
static const struct {
	const char *link, *why, *cure;
} known[] = {
	{ "anon_inode:[pidfd]", "a pidfd refers to another process", NULL },
	{ "pidfd:", "a pidfd refers to another process", NULL },
	{ "anon_inode:[io_uring]", "an io_uring has requests and buffers inside the kernel",
	  "run the program without io_uring (node: UV_USE_IO_URING=0)" },
	{ "anon_inode:[perf_event]", "a performance counter is tied to processors and processes",
	  "let the program end its measurement" },
	{ "anon_inode:bpf", "BPF programs and maps live in the kernel", NULL },
	{ "anon_inode:[userfaultfd]", "a userfaultfd handles faults of mappings that are gone then",
	  NULL },
	{ "anon_inode:[fanotify]", "fanotify marks are not restored yet", NULL },
	{ "anon_inode:[fscontext]", "a mount in the making lives in the kernel", NULL },
	{ "anon_inode:seccomp", "a seccomp listener answers for other processes", NULL },
	{ "anon_inode:[landlock", "a landlock ruleset cannot be read", NULL },
	{ "anon_inode:kvm", "a virtual machine lives in the kernel", "suspend it first" },
	{ "anon_inode:dma-buf", "the buffer belongs to a device", NULL },
	{ "/dmabuf:", "the buffer belongs to a device", NULL },
	{ "/secretmem", "secret memory can be read by nobody else, which is its purpose", NULL },
	{ "/dev/ptmx", "it is the master of a pseudo-terminal: these are not restored yet",
	  "take an image of the program on that terminal instead" },
	{ "/dev/pts/ptmx", "it is the master of a pseudo-terminal: these are not restored yet",
	  "take an image of the program on that terminal instead" },
	{ "net:[", "it refers to a network namespace", NULL },
	{ "mnt:[", "it refers to a mount namespace", NULL },
	{ "pid:[", "it refers to a PID namespace", NULL },
	{ "user:[", "it refers to a user namespace", NULL },
	{ "socket:[", "sockets of this family are not restored yet", NULL },
};

static bool match(const struct kage_fd_seen *fd)
{
	(void)fd;
	return true;
}

/* Those that look like files but are none. */
static bool match_early(const struct kage_fd_seen *fd)
{
	if (kage_fds_flags(fd) & O_PATH)
		return false;
	if (S_ISCHR(fd->st.st_mode) && fd->st.st_rdev == makedev(5, 2))
		return true;
	return kage_fds_link_is(fd, "/dmabuf:") || kage_fds_link_is(fd, "/secretmem");
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	struct arena *a = &c->image->arena;
	Kage__Unsupported *m = msg_new(a, Kage__Unsupported, kage__unsupported__init);
	const char *why = "kage does not know this kind of object", *cure = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (!kage_fds_link_is(fd, known[i].link))
			continue;
		why = known[i].why;
		cure = known[i].cure;
		break;
	}
	if (!m)
		return kage_err_nomem();
	d->kind_case = KAGE__DESCRIPTION__KIND_UNSUPPORTED;
	d->unsupported = m;
	m->link = arena_strdup(a, fd->link);
	m->why = arena_strdup(a, why);
	if (!m->link || !m->why)
		return kage_err_nomem();
	kage_obstacle(c->obstacles, true, cure ? cure : "let the program close it first",
		      kage_fds_label(c, fd), "%s", why);
	return NULL;
}

static struct kage_err *check(struct kage_restore *r, const Kage__Description *d)
{
	kage_obstacle(r->obstacles, true, "take an image without it", kage_fds_label_of(r, d),
		      "%s: %s", d->unsupported->link, d->unsupported->why);
	return NULL;
}

static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	(void)r;
	(void)ret_fd;
	return kage_err_new(KAGE_UNSUPPORTED, "%s: %s", d->unsupported->link, d->unsupported->why);
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	(void)image;
	fprintf(out, "%s (%s)", d->unsupported->link, d->unsupported->why);
}

const struct kage_fd_kind kage_fd_no_file = {
	.name = "unsupported",
	.which = KAGE__DESCRIPTION__KIND_UNSUPPORTED,
	.match = match_early,
	.capture = capture,
	.check = check,
	.make = make,
	.print = print,
};

const struct kage_fd_kind kage_fd_other = {
	.name = "unsupported",
	.which = KAGE__DESCRIPTION__KIND_UNSUPPORTED,
	.match = match,
	.capture = capture,
	.check = check,
	.make = make,
	.print = print,
};
