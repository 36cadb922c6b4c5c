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

/* --- what the kernel answers ------------------------------------------------------------------- */

/* All attributes used here are a byte or one or two 32-bit numbers. */
static void read_attribute(unsigned type, const uint8_t *bytes, size_t n, struct kage_unix_diag *d)
{
	uint32_t words[2] = { 0 };

	memcpy(words, bytes, n < sizeof(words) ? n : sizeof(words));
	switch (type) {
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
		d->shutdown = n ? bytes[0] : 0;
		break;
	default:
		break;
	}
}

static void read_attributes(const uint8_t *bytes, size_t size, struct kage_unix_diag *d)
{
	struct rtattr a;

	while (size >= sizeof(a)) {
		size_t step;

		memcpy(&a, bytes, sizeof(a));
		if (a.rta_len < sizeof(a) || a.rta_len > size)
			return;
		read_attribute(a.rta_type, bytes + sizeof(a), a.rta_len - sizeof(a), d);
		step = RTA_ALIGN(a.rta_len) < size ? RTA_ALIGN(a.rta_len) : size;
		bytes += step;
		size -= step;
	}
}

static struct kage_err *refusal(const uint8_t *body, size_t size)
{
	struct nlmsgerr e = { .error = 0 };

	memcpy(&e, body, size < sizeof(e) ? size : sizeof(e));
	if (e.error == -ENOENT)
		return kage_err_new(KAGE_NOTFOUND, "not in this network namespace");
	return kage_err_new(KAGE_UNSUPPORTED, "the kernel does not tell of UNIX sockets");
}

struct kage_err *kage_unix_diag_parse(const uint8_t *answer, size_t size, size_t *at,
				      struct kage_unix_diag *ret_diag, bool *ret_done)
{
	const size_t fixed = NLMSG_ALIGN(sizeof(struct unix_diag_msg));
	struct kage_unix_diag d = { 0 };
	size_t left = size - *at, body;
	struct nlmsghdr h;

	if (left < sizeof(h))
		return kage_err_new(KAGE_CORRUPT, "an answer of the kernel that is cut off");
	memcpy(&h, answer + *at, sizeof(h));
	if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > left)
		return kage_err_new(KAGE_CORRUPT, "an answer of the kernel that is cut off");
	body = h.nlmsg_len - sizeof(h);
	if (h.nlmsg_type == NLMSG_ERROR)
		return refusal(answer + *at + sizeof(h), body);
	*ret_done = h.nlmsg_type == NLMSG_DONE;
	if (!*ret_done && body < sizeof(struct unix_diag_msg))
		return kage_err_new(KAGE_CORRUPT, "a short answer of the kernel");
	if (!*ret_done && body > fixed)
		read_attributes(answer + *at + sizeof(h) + fixed, body - fixed, &d);
	*at += NLMSG_ALIGN(h.nlmsg_len) < left ? NLMSG_ALIGN(h.nlmsg_len) : left;
	*ret_diag = d;
	return NULL;
}

/* --- asking ------------------------------------------------------------------------------------- */

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
	uint8_t answer[8192];
	struct kage_unix_diag d;
	_cleanup_fd_ int fd = -1;
	size_t n, at = 0;
	bool done;

	TRY(ask(&q, &fd));
	TRY(hear(fd, answer, sizeof(answer), &n));
	TRY(kage_unix_diag_parse(answer, n, &at, &d, &done));
	if (done)
		return kage_err_new(KAGE_UNSUPPORTED, "the kernel does not tell of UNIX sockets");
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
	uint8_t answer[32768];
	_cleanup_fd_ int fd = -1;
	bool bound = false;

	TRY(ask(&q, &fd));
	for (;;) {
		size_t n, at = 0;

		TRY(hear(fd, answer, sizeof(answer), &n));
		do {
			struct kage_unix_diag d;
			bool done;

			TRY(kage_unix_diag_parse(answer, n, &at, &d, &done));
			if (done) {
				*ret_bound = bound;
				return NULL;
			}
			bound = bound || is_file(&d, st);
		} while (at < n);
	}
}
