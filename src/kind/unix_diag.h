/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel tells of a UNIX socket by netlink (sock_diag(7)) and no getsockopt(2) does. */
#ifndef KIND_UNIX_DIAG_H
#define KIND_UNIX_DIAG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/err.h"

struct kage_unix_diag {
	uint32_t peer_ino; /* 0: no peer */
	uint32_t vfs_ino;  /* of the socket file, lower 32 bits; 0: none */
	uint32_t vfs_dev;  /* its device as the kernel numbers it */
	uint32_t waiting;  /* a listener's connections not accepted yet; else bytes to read */
	uint32_t backlog;  /* of a listener; else bytes sent and not read yet */
	uint8_t shutdown;  /* 1: for reading, 2: for writing */
};

/** Asks for the socket with inode INO, of this network namespace. KAGE_NOTFOUND when there is none
 *  here, KAGE_UNSUPPORTED when the kernel cannot tell. */
struct kage_err *kage_unix_diag(uint32_t ino, struct kage_unix_diag *ret_diag) _must_check_;

/** Whether some socket of this network namespace is bound to the socket file with stat ST. */
struct kage_err *kage_unix_diag_bound(const struct stat *st, bool *ret_bound) _must_check_;

/** Takes apart the message that begins at *AT of an ANSWER of SIZE bytes, and moves *AT behind it.
 *  *RET_DONE: it says that there are no more. KAGE_NOTFOUND and KAGE_UNSUPPORTED as above when the
 *  message says so; KAGE_CORRUPT when it is none. */
struct kage_err *kage_unix_diag_parse(const uint8_t *answer, size_t size, size_t *at,
				      struct kage_unix_diag *ret_diag, bool *ret_done) _must_check_;

#endif
