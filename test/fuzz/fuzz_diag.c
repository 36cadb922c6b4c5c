/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of sock_diag(7): whatever comes, it is walked to its end; what was understood, written again,
 * is understood as the same. */
#include "kind/unix_diag.h"
#include "lib/fuzzing.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>

struct attribute {
	struct rtattr head;
	uint32_t words[2];
};

static struct attribute attribute(unsigned short type, uint32_t a, uint32_t b)
{
	return (struct attribute){ { sizeof(struct attribute), type }, { a, b } };
}

static void check_again(const struct kage_unix_diag *d)
{
	struct {
		struct nlmsghdr head;
		struct unix_diag_msg fixed;
		struct attribute attributes[4];
	} answer = { .head = { .nlmsg_len = sizeof(answer), .nlmsg_type = SOCK_DIAG_BY_FAMILY },
		     .attributes = { attribute(UNIX_DIAG_PEER, d->peer_ino, 0),
				     attribute(UNIX_DIAG_VFS, d->vfs_ino, d->vfs_dev),
				     attribute(UNIX_DIAG_RQLEN, d->waiting, d->backlog),
				     attribute(UNIX_DIAG_SHUTDOWN, d->shutdown, 0) } };
	struct kage_unix_diag again;
	bool done;
	size_t at = 0;

	holds(!fuzz_refused(kage_unix_diag_parse((const uint8_t *)&answer, sizeof(answer), &at,
						 &again, &done)));
	holds(!done && at == sizeof(answer));
	holds(again.peer_ino == d->peer_ino && again.vfs_ino == d->vfs_ino &&
	      again.vfs_dev == d->vfs_dev && again.waiting == d->waiting &&
	      again.backlog == d->backlog && again.shutdown == d->shutdown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ uint8_t *answer = fuzz_bytes(data, size);
	size_t at = 0;
	bool done = false;

	while (at < size && !done) {
		struct kage_unix_diag d;
		size_t before = at;

		if (fuzz_refused(kage_unix_diag_parse(answer, size, &at, &d, &done)))
			return 0;
		holds(at > before && at <= size);
		check_again(&d);
	}
	return 0;
}
