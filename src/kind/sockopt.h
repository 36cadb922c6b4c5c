/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Socket options. Those that differ from a fresh socket of the same kind are kept, read by
 * getsockopt(2) through our duplicate; none of the options read here changes anything by being read
 * (SO_ERROR would, and is left alone).
 */
#ifndef KIND_SOCKOPT_H
#define KIND_SOCKOPT_H

#include "kind/kind.h"

/** The options of socket OURS that a fresh one of DOMAIN, TYPE and PROTOCOL has otherwise. */
struct kage_err *kage_sockopt_capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				      int domain, int type, int protocol,
				      Kage__SocketOptions **ret_options) _must_check_;

/** Frees what is known of fresh sockets (kage_capture.usual_options), which outlives a capture. */
void kage_sockopt_forget(struct kage_sockopt_usual *usual);

/** Sets them on FD, which is fresh. NULL is fine. */
struct kage_err *kage_sockopt_restore(int fd, const Kage__SocketOptions *options) _must_check_;

/** Sets SO_REUSEADDR to what OPTIONS say, after a bind for which it was switched on. */
void kage_sockopt_settle(int fd, const Kage__SocketOptions *options);

/** Reads an option that is a plain number. False when there is none such. */
bool kage_sockopt_int(int fd, int level, int name, int *ret_value);

#endif
