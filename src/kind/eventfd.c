/* SPDX-License-Identifier: Apache-2.0 */
/* eventfd(2). Count and mode stand in fdinfo (proc_pid_fdinfo(5)). */
#include <errno.h>
#include <inttypes.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/fds.h"
#include "sys/text.h"

static bool match(const struct kage_fd_seen *fd)
{
	return kage_fds_link_is(fd, "anon_inode:[eventfd]");
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	Kage__EventFd *m = msg_new(&c->image->arena, Kage__EventFd, kage__event_fd__init);
	uint64_t semaphore;

	if (!m)
		return kage_err_nomem();
	d->kind_case = KAGE__DESCRIPTION__KIND_EVENTFD;
	d->eventfd = m;
	if (!kage_text_u64(fd->info, "eventfd-count", 16, &m->count))
		return kage_err_new(KAGE_UNSUPPORTED, "this kernel does not show the count");
	if (kage_text_u64(fd->info, "eventfd-semaphore", 10, &semaphore))
		m->semaphore = semaphore;
	else /* shown since 6.5 */
		kage_obstacle(
			c->obstacles, false, "none is needed for an ordinary one",
			kage_fds_label(c, fd),
			"this kernel does not tell whether it is a semaphore (EFD_SEMAPHORE)");
	return NULL;
}

/* The initial value of eventfd(2) has 32 bits, the count 64, so it is written. */
static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	const Kage__EventFd *m = d->eventfd;
	_cleanup_fd_ int fd =
		eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (m->semaphore ? EFD_SEMAPHORE : 0));

	(void)r;
	if (fd < 0)
		return kage_err_sys(errno, "eventfd");
	if (m->count)
		TRY(kage_file_write(fd, &m->count, sizeof(m->count), -1, "the count"));
	*ret_fd = take_fd(&fd);
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	(void)image;
	fprintf(out, "count %" PRIu64 "%s", d->eventfd->count,
		d->eventfd->semaphore ? ", semaphore" : "");
}

const struct kage_fd_kind kage_fd_eventfd = {
	.name = "eventfd",
	.which = KAGE__DESCRIPTION__KIND_EVENTFD,
	.match = match,
	.capture = capture,
	.make = make,
	.print = print,
};
