/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How keepers of twins are found and spoken to: messages of proto/keeper.proto over a socket of the directory
 * `twins` in $KAGE_RUN, else /run/kage for root and $XDG_RUNTIME_DIR/kage (else /tmp/kage-UID) for others, one socket
 * a name.
 *
 * That directory is the user's own and nobody else's (0700), and both sides look who the other is (SO_PEERCRED): a
 * keeper serves its own user and root, and is believed when it is of the caller's own user or of root.
 */
#ifndef KEEPER_TALK_H
#define KEEPER_TALK_H

#include <sys/un.h>

#include "base/ctx.h"
#include "keeper.pb-c.h"

enum {
	TALK_NAME_BYTES = 64, /* of twins, with the zero */
	TALK_FDS = 16,        /* in one message, at most */
	TALK_BYTES = 64 * 1024,
};

/* A message as it came. */
struct talk_fds {
	int v[TALK_FDS];
	size_t n;
};
void talk_fds_close(struct talk_fds *fds);

/** KAGE_INVALID unless NAME can be one of twins: that of a history, and not too long. */
struct kage_err *talk_check_name(const char *name) _must_check_;

/** Opens the directory; made if need be, when MAKE. -1 in *RET_DIR where there is none. */
struct kage_err *talk_open_dir(bool make, int *ret_dir) _must_check_;

/** The names for which there is a socket, ascending, also such as nobody listens on any more. The strings and
 *  the list are the caller's to free. */
struct kage_err *talk_names(char ***ret_names, size_t *ret_n) _must_check_;

/** Connects to the keeper of NAME. KAGE_NOTFOUND where there is none. */
struct kage_err *talk_connect(const char *name, int *ret_fd) _must_check_;

/** Makes the socket for NAME and listens; who has it already keeps it (KAGE_CHANGED). *RET_LOCK holds the name as long
 *  as it is open. */
struct kage_err *talk_listen(const char *name, int *ret_fd, int *ret_lock) _must_check_;

/** Takes the socket away again, while the lock is held. The file of the lock stays: who has opened it and who makes it
 *  anew would both have one. */
void talk_unlisten(const char *name);

/** Whether the one at the other end of FD may ask things of us. */
struct kage_err *talk_check_peer(int fd) _must_check_;

/** Sends M, with N descriptors. */
struct kage_err *talk_send(int fd, const ProtobufCMessage *m, const int *fds, size_t n)
	_must_check_;

/** Receives one message of at most TALK_BYTES, and what came with it. *RET_M is NULL at the end of the connection. */
struct kage_err *talk_receive(int fd, const ProtobufCMessageDescriptor *type,
			      ProtobufCMessage **ret_m, struct talk_fds *ret_fds) _must_check_;

#endif
