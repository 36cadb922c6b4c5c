/* SPDX-License-Identifier: Apache-2.0 */
/* signalfd(2): nothing but a mask. The signals are pending in the process that reads. */
#include <errno.h>
#include <inttypes.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/fds.h"
#include "kind/signals.h"
#include "sys/text.h"

static bool match(const struct kage_fd_seen *fd)
{
	return kage_fds_link_is(fd, "anon_inode:[signalfd]");
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	Kage__SignalFd *m = msg_new(&c->image->arena, Kage__SignalFd, kage__signal_fd__init);

	if (!m)
		return kage_err_nomem();
	d->kind_case = KAGE__DESCRIPTION__KIND_SIGNALFD;
	d->signalfd = m;
	if (!kage_text_u64(fd->info, "sigmask", 16, &m->mask))
		return kage_err_new(KAGE_UNSUPPORTED, "this kernel does not show the mask");
	return NULL;
}

/* By the system call itself: the C library's sigset_t is longer than the kernel's, which has 64 bits. */
static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	uint64_t mask = d->signalfd->mask;
	int fd = (int)syscall(SYS_signalfd4, -1, &mask, sizeof(mask), SFD_CLOEXEC | SFD_NONBLOCK);

	(void)r;
	if (fd < 0)
		return kage_err_sys(errno, "signalfd");
	*ret_fd = fd;
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	(void)image;
	kage_signals_print_set(d->signalfd->mask, out);
}

const struct kage_fd_kind kage_fd_signalfd = {
	.name = "signalfd",
	.which = KAGE__DESCRIPTION__KIND_SIGNALFD,
	.match = match,
	.capture = capture,
	.make = make,
	.print = print,
};
