/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/claim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

static struct kage_err *refuse(int fd, const char *name)
{
	char text[64] = "";
	int kage = 0, target = 0;

	if (pread(fd, text, sizeof(text) - 1, 0) > 0 && sscanf(text, "%d %d", &kage, &target) == 2)
		return kage_err_new(KAGE_BUSY,
				    "'%s' is being recorded already: kage %d records process %d "
				    "there; --name records to another history",
				    name, kage, target);
	return kage_err_new(KAGE_BUSY,
			    "'%s' is being recorded already by another kage; --name records to "
			    "another history",
			    name);
}

/* Whether the file that was locked still has its name: who releases a claim takes it away. */
static bool is_there(const struct claim *c)
{
	struct stat here, named;

	return fstat(c->fd, &here) == 0 &&
	       fstatat(c->store->fd, c->file, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       here.st_dev == named.st_dev && here.st_ino == named.st_ino;
}

static struct kage_err *try_to_take(struct claim *c, const char *name)
{
	c->fd = openat(c->store->fd, c->file, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (c->fd < 0)
		return kage_err_sys(errno, "claim %s/%s", c->store->path, name);
	if (flock(c->fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK
			       ? refuse(c->fd, name)
			       : kage_err_sys(errno, "claim %s/%s", c->store->path, name);
	if (!is_there(c))
		close_fd(take_fd(&c->fd));
	return NULL;
}

struct kage_err *kage_claim_take(const struct kage_store *store, const char *name, pid_t pid,
				 struct claim *ret_claim)
{
	struct claim c = { .fd = -1, .store = store };
	char text[64];

	snprintf(c.file, sizeof(c.file), ".recorder-%s", name);
	while (c.fd < 0) {
		struct kage_err *e = try_to_take(&c, name);

		if (e) {
			close_fd(c.fd);
			return e;
		}
	}
	snprintf(text, sizeof(text), "%d %d\n", (int)getpid(), (int)pid);
	if (ftruncate(c.fd, 0) < 0 || pwrite(c.fd, text, strlen(text), 0) < 0) {
		/* A full disk: the second one is told less. */
	}
	*ret_claim = c;
	return NULL;
}

void kage_claim_release(struct claim *c)
{
	if (c->fd < 0)
		return;
	unlinkat(c->store->fd, c->file, 0);
	close_fd(take_fd(&c->fd));
}
