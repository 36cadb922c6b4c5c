/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The context: what the caller wants to be told, and whether it wants us to stop. First in the
 * argument list of whatever may take long.
 */
#ifndef BASE_CTX_H
#define BASE_CTX_H

#include <kage/kage.h>

#include "base/err.h"

struct kage_ctx {
	const volatile sig_atomic_t *interrupt;
	kage_progress_fn *progress;
	void *progress_user;
	kage_notice_fn *notice;
	void *notice_user;
};

/** Whether the caller's flag is raised; CTX may be NULL. */
bool kage_ctx_is_interrupted(const struct kage_ctx *ctx);

/** KAGE_INTERRUPTED once the caller's flag is raised. */
struct kage_err *kage_ctx_poll(const struct kage_ctx *ctx) _must_check_;

/** Tells the caller how far WHAT is. */
void kage_ctx_progress(const struct kage_ctx *ctx, const char *what, uint64_t done, uint64_t total);

/** Tells the caller one thing worth knowing. */
void kage_ctx_notice(const struct kage_ctx *ctx, const char *fmt, ...) _printf_(2, 3);

#endif
