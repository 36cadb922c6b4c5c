/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From text of /proc to messages: the pure half of some captures, each defined in the file of its
 * kind. The text may be anything; KAGE_CORRUPT says that it is not what the kernel writes.
 */
#ifndef KIND_PARSE_H
#define KIND_PARSE_H

#include <fcntl.h>

#include "image/image.h"

/** The identity in STATUS, a text of /proc/PID/status; securebits stand elsewhere. */
struct kage_err *kage_credentials_parse(struct arena *a, const char *status, Kage__Credentials *m)
	_must_check_;

/** Appends every limit of TEXT (/proc/PID/limits) to P. */
struct kage_err *kage_limits_parse(struct arena *a, const char *text, Kage__Process *p)
	_must_check_;

/** Gives P the POSIX timers of TEXT (/proc/PID/timers), ascending by number; how much time is left
 *  stands elsewhere. */
struct kage_err *kage_timers_parse(struct arena *a, const char *text, Kage__Process *p)
	_must_check_;

enum { KAGE_HANDLE_MAX_BYTES = 128 }; /* MAX_HANDLE_SZ */

/* A watch as the fdinfo of an inotify shows it. */
struct kage_inotify_line {
	int32_t wd;
	uint32_t mask;
	uint64_t ino;
	uint32_t dev_major, dev_minor;
	struct {
		struct file_handle head;
		uint8_t bytes[KAGE_HANDLE_MAX_BYTES];
	} handle; /* head.handle_bytes 0: none */
};

/** Parses the line that begins at TEXT. */
struct kage_err *kage_inotify_parse(const char *text, struct kage_inotify_line *ret_line)
	_must_check_;

/** A mount point of the file system of L in MOUNTS, a text of /proc/PID/mountinfo; NULL when there is
 *  none. */
char *kage_inotify_mount(struct arena *a, const char *mounts, const struct kage_inotify_line *l);

#endif
