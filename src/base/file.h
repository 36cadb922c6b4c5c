/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole reads and writes, small files, and the clock. Every loop here goes on after EINTR and short
 * transfers.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "base/err.h"

/** Writes all SIZE bytes to FD, at OFFSET or at the file position when OFFSET is -1. NAME is for the
 *  message. */
struct kage_err *kage_file_write(int fd, const void *p, size_t size, off_t offset, const char *name)
	_must_check_;

/** Reads until SIZE bytes or the end of file; *ret_n tells how many came. */
struct kage_err *kage_file_read(int fd, void *p, size_t size, off_t offset, const char *name,
				size_t *ret_n) _must_check_;

/** Reads all of the file at DIRFD and PATH (such as one of /proc, whose size is not known) into a
 *  fresh buffer, which has a zero byte after its *ret_size bytes. Fails with KAGE_LIMIT beyond
 *  MAX bytes. The caller frees *ret_text. */
struct kage_err *kage_file_slurp(int dirfd, const char *path, size_t max, char **ret_text,
				 size_t *ret_size) _must_check_;

/** The same for an open descriptor, from its beginning by pread. */
struct kage_err *kage_file_slurp_fd(int fd, const char *name, size_t max, char **ret_text,
				    size_t *ret_size) _must_check_;

/** Opens the directory at DIRFD and PATH (never by a link in its place); NULL with errno. */
DIR *kage_file_opendir(int dirfd, const char *path);

/** The target of a symbolic link, as a fresh string. */
struct kage_err *kage_file_readlink(int dirfd, const char *path, char **ret_target) _must_check_;

/** Clock ID, CLOCK_MONOTONIC, and CLOCK_REALTIME, in nanoseconds. */
uint64_t kage_clock_ns(clockid_t id);
uint64_t kage_clock_mono_ns(void);
uint64_t kage_clock_real_ns(void);

#endif
