/* SPDX-License-Identifier: Apache-2.0 */
#include "kind/unix_diag.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"

struct request {
	struct nlmsghdr head;
	struct unix_diag_req ask;
};

/* Attributes are unaligned bytes of the kernel's; all used here are one or two 32-bit numbers. */
static void read_attribute(const struct rtattr *a, struct kage_unix_diag *d)
{
	uint32_t words[2] = { 0 };
	size_t n = RTA_PAYLOAD(a);

	memcpy(words, RTA_DATA(a), n < sizeof(words) ? n : sizeof(words));
	switch (a->rta_type) {
	case UNIX_DIAG_PEER:
		d->peer_ino = words[0];
		break;
	case UNIX_DIAG_VFS:
		d->vfs_ino = words[0];
		d->vfs_dev = words[1];
		break;
	case UNIX_DIAG_RQLEN:
		d->waiting = words[0];
		d->backlog = words[1];
		break;
	case UNIX_DIAG_SHUTDOWN:
		memcpy(&d->shutdown, RTA_DATA(a), 1);
		break;
	default:
		break;
	}
}

static void read_attributes(const struct nlmsghdr *h, struct kage_unix_diag *d)
{
	const struct rtattr *a = (const struct rtattr *)((const char *)NLMSG_DATA(h) +
							 NLMSG_ALIGN(sizeof(struct unix_diag_msg)));
	int left = (int)h->nlmsg_len - (int)NLMSG_LENGTH(sizeof(struct unix_diag_msg));

	for (; RTA_OK(a, left); a = RTA_NEXT(a, left))
		read_attribute(a, d);
}

static struct kage_err *check_head(const struct nlmsghdr *h, size_t size)
{
	if (!NLMSG_OK(h, size))
		return kage_err_new(KAGE_UNSUPPORTED, "the kernel does not tell of UNIX sockets");
	if (h->nlmsg_type == NLMSG_ERROR) {
		const struct nlmsgerr *e = NLMSG_DATA(h);

		if (h->nlmsg_len >= NLMSG_LENGTH(sizeof(*e)) && e->error == -ENOENT)
			return kage_err_new(KAGE_NOTFOUND, "not in this network namespace");
		return kage_err_new(KAGE_UNSUPPORTED, "the kernel does not tell of UNIX sockets");
	}
	if (h->nlmsg_type != NLMSG_DONE &&
	    h->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
		return kage_err_new(KAGE_CORRUPT, "a short answer of the kernel");
	return NULL;
}

static struct kage_err *ask(const struct request *q, int *ret_fd)
{
	_cleanup_fd_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	if (fd < 0)
		return kage_err_sys(errno, "open a netlink socket");
	if (send(fd, q, sizeof(*q), 0) < 0)
		return kage_err_sys(errno, "ask the kernel for UNIX sockets");
	*ret_fd = take_fd(&fd);
	return NULL;
}

static struct kage_err *hear(int fd, void *answer, size_t room, size_t *ret_size)
{
	ssize_t n;

	do
		n = recv(fd, answer, room, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return kage_err_sys(errno, "hear of UNIX sockets");
	*ret_size = (size_t)n;
	return NULL;
}

struct kage_err *kage_unix_diag(uint32_t ino, struct kage_unix_diag *ret_diag)
{
	const struct request q = { .head = { .nlmsg_len = sizeof(q),
					     .nlmsg_type = SOCK_DIAG_BY_FAMILY,
					     .nlmsg_flags = NLM_F_REQUEST },
				   .ask = { .sdiag_family = AF_UNIX,
					    .udiag_states = ~0u,
					    .udiag_ino = ino,
					    .udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_PEER |
							  UDIAG_SHOW_RQLEN,
					    .udiag_cookie = { ~0u, ~0u } } };
	_Alignas(16) char answer[8192];
	struct kage_unix_diag d = { 0 };
	_cleanup_fd_ int fd = -1;
	size_t n;

	TRY(ask(&q, &fd));
	TRY(hear(fd, answer, sizeof(answer), &n));
	TRY(check_head((const struct nlmsghdr *)answer, n));
	read_attributes((const struct nlmsghdr *)answer, &d);
	*ret_diag = d;
	return NULL;
}

/* The kernel's own numbering of devices has 20 bits for the minor (MKDEV() in linux/kdev_t.h). */
static bool is_file(const struct kage_unix_diag *d, const struct stat *st)
{
	return d->vfs_ino && d->vfs_ino == (uint32_t)st->st_ino &&
	       d->vfs_dev == (major(st->st_dev) << 20 | minor(st->st_dev));
}

struct kage_err *kage_unix_diag_bound(const struct stat *st, bool *ret_bound)
{
	const struct request q = { .head = { .nlmsg_len = sizeof(q),
					     .nlmsg_type = SOCK_DIAG_BY_FAMILY,
					     .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
				   .ask = { .sdiag_family = AF_UNIX,
					    .udiag_states = ~0u,
					    .udiag_show = UDIAG_SHOW_VFS } };
	_Alignas(16) char answer[32768];
	_cleanup_fd_ int fd = -1;
	bool bound = false;
	size_t n;

	TRY(ask(&q, &fd));
	for (;;) {
		const struct nlmsghdr *h = (const struct nlmsghdr *)answer;

		TRY(hear(fd, answer, sizeof(answer), &n));
		do {
			struct kage_unix_diag d = { 0 };

			TRY(check_head(h, n));
			if (h->nlmsg_type == NLMSG_DONE) {
				*ret_bound = bound;
				return NULL;
			}
			read_attributes(h, &d);
			bound = bound || is_file(&d, st);
			h = NLMSG_NEXT(h, n);
		} while (NLMSG_OK(h, n));
	}
}
