/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resources that end with their scope, and ways to hand them on.
 *
 * A variable marked _cleanup_…_ is released on every path out of its block. take_fd() and take_ptr()
 * move the value out and leave the empty value behind. No goto stands beside these.
 */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"

/** Closes FD if it is one; errno survives. */
static inline void close_fd(int fd)
{
	int saved = errno;

	if (fd >= 0)
		close(fd);
	errno = saved;
}

static inline void cleanup_fd_(int *fd)
{
	close_fd(*fd);
}

static inline void cleanup_free_(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_file_(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void cleanup_dir_(DIR **d)
{
	if (*d)
		closedir(*d);
}

static inline void cleanup_err_(struct kage_err **e)
{
	kage_err_free(*e);
}

#define _cleanup_(f)   __attribute__((cleanup(f)))
#define _cleanup_fd_   _cleanup_(cleanup_fd_)
#define _cleanup_free_ _cleanup_(cleanup_free_)
#define _cleanup_file_ _cleanup_(cleanup_file_)
#define _cleanup_dir_  _cleanup_(cleanup_dir_)
#define _cleanup_err_  _cleanup_(cleanup_err_)

static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

#define take_ptr(p)                         \
	({                                  \
		__typeof__(p) taken_ = (p); \
		(p) = NULL;                 \
		taken_;                     \
	})

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
