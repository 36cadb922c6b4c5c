/* SPDX-License-Identifier: Apache-2.0 */
/* inotify: watches with their numbers and masks; they go on to tell what happens. */
#include <sys/inotify.h>

#include "lib/kindtest.h"

static bool next(int fd, int wd, uint32_t mask, const char *name)
{
	char bytes[4096] __attribute__((aligned(8)));
	static char rest[8192] __attribute__((aligned(8)));
	static size_t have;
	struct inotify_event *e = (void *)rest;
	bool good;

	if (have == 0) {
		ssize_t n = read(fd, bytes, sizeof(bytes));

		if (n <= 0)
			return false;
		memcpy(rest, bytes, (size_t)n);
		have = (size_t)n;
	}
	good = e->wd == wd && (e->mask & mask) == mask && strcmp(e->len ? e->name : "", name) == 0;
	if (!good)
		kt_fail(__FILE__, __LINE__, "event wd %d mask %x name '%s'", e->wd, e->mask,
			e->len ? e->name : "");
	have -= sizeof(*e) + e->len;
	memmove(rest, rest + sizeof(*e) + e->len, have);
	return good;
}

int main(void)
{
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), dir, file, hole, later;

	KT_NEED(mkdir("watched", 0755) == 0);
	close(open("a file", O_CREAT | O_WRONLY, 0644));
	close(open("other", O_CREAT | O_WRONLY, 0644));
	hole = inotify_add_watch(fd, "other", IN_MODIFY);
	dir = inotify_add_watch(fd, "watched", IN_CREATE | IN_DELETE | IN_MOVE);
	file = inotify_add_watch(fd, "a file", IN_MODIFY | IN_ONESHOT);
	KT_NEED(fd >= 0 && dir > 0 && file > 0 && hole > 0);
	KT_NEED(inotify_rm_watch(fd, hole) == 0);
	KT_NEED(next(fd, hole, IN_IGNORED, ""));

	kt_wait();

	KT(fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(open("watched/new", O_CREAT | O_WRONLY, 0644));
	KT(next(fd, dir, IN_CREATE, "new"));
	KT(rename("watched/new", "watched/newer") == 0);
	KT(next(fd, dir, IN_MOVED_FROM, "new") && next(fd, dir, IN_MOVED_TO, "newer"));
	KT(unlink("watched/newer") == 0 && next(fd, dir, IN_DELETE, "newer"));
	later = open("a file", O_WRONLY | O_APPEND);
	KT(write(later, "x", 1) == 1 && next(fd, file, IN_MODIFY, ""));
	KT(next(fd, file, IN_IGNORED, "")); /* one shot */
	KT(write(later, "x", 1) == 1 && !next(fd, file, IN_MODIFY, ""));
	KT(inotify_add_watch(fd, "watched", IN_CREATE) == dir);
	KT(inotify_add_watch(fd, "other", IN_MODIFY) != dir);
	kt_end();
}
