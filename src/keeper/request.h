/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking keepers: a request, what is replied, and a keeper that is started if there is none.
 */
#ifndef KEEPER_REQUEST_H
#define KEEPER_REQUEST_H

#include "keeper/talk.h"

typedef Kage__Keeper__Request Request;
typedef Kage__Keeper__Reply Reply;

void request_reply_free(Reply *r);
void request_reply_cleanup(Reply **r);
#define _cleanup_reply_ __attribute__((cleanup(request_reply_cleanup)))

/** Asks Q of the keeper at FD, with N descriptors. A descriptor that comes along goes to RET_FD, which may be NULL. KAGE_GONE
 *  when the keeper ended instead; what it refuses is the error. */
struct kage_err *request_ask(struct kage_ctx *ctx, int fd, const Request *q, const int *fds,
			     size_t n, Reply **ret_reply, int *ret_fd) _must_check_;

/** The next reply to it, where `more` were said to come. */
struct kage_err *request_next_reply(struct kage_ctx *ctx, int fd, Reply **ret_reply, int *ret_fd)
	_must_check_;

/** When process PID started, and its command. KAGE_NOTFOUND. */
struct kage_err *request_start_of(pid_t pid, uint64_t *ret_ticks, char *ret_comm, size_t size)
	_must_check_;

struct request_program {
	pid_t pid;
	const char *comm;
	const char *name;    /* of its keeper; NULL: by its command */
	const char *program; /* path of kage(1); NULL: "kage" in PATH */
};

/** Asks the keeper of P, or a new one. */
struct kage_err *request_of_program(struct kage_ctx *ctx, const struct request_program *p,
				    const Request *q, Reply **ret_reply) _must_check_;

#endif
