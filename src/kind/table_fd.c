/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All kinds of descriptors. The first one that matches gets a descriptor, so what looks like a file
 * but is something special stands before files, and what takes everything stands last.
 */
#include "kind/kind.h"

extern const struct kage_fd_kind kage_fd_no_file, kage_fd_terminal, kage_fd_memfd, kage_fd_pipe,
	kage_fd_eventfd, kage_fd_epoll, kage_fd_timerfd, kage_fd_signalfd, kage_fd_inotify,
	kage_fd_inet, kage_fd_unix, kage_fd_file, kage_fd_other;

const struct kage_fd_kind *const kage_fd_kinds[] = {
	&kage_fd_no_file, &kage_fd_terminal,
	&kage_fd_memfd,   &kage_fd_pipe,
	&kage_fd_eventfd, &kage_fd_epoll,
	&kage_fd_timerfd, &kage_fd_signalfd,
	&kage_fd_inotify, &kage_fd_inet,
	&kage_fd_unix,    &kage_fd_file,
	&kage_fd_other,   NULL,
};

const struct kage_fd_kind *kage_fd_kind_of(const Kage__Description *d)
{
	for (const struct kage_fd_kind *const *k = kage_fd_kinds; *k; k++)
		if ((*k)->which == d->kind_case)
			return *k;
	return NULL;
}
