/* SPDX-License-Identifier: Apache-2.0 */
#include "base/ctx.h"

#include <stdarg.h>
#include <stdlib.h>

#include "base/cleanup.h"

struct kage_err *kage_ctx_create(struct kage_ctx **ret_ctx)
{
	struct kage_ctx *ctx = calloc(1, sizeof(*ctx));

	if (!ctx)
		return kage_err_nomem();
	*ret_ctx = ctx;
	return NULL;
}

void kage_ctx_destroy(struct kage_ctx *ctx)
{
	free(ctx);
}

void kage_ctx_set_interrupt(struct kage_ctx *ctx, const volatile sig_atomic_t *flag)
{
	ctx->interrupt = flag;
}

void kage_ctx_set_progress(struct kage_ctx *ctx, kage_progress_fn *fn, void *user)
{
	ctx->progress = fn;
	ctx->progress_user = user;
}

void kage_ctx_set_notice(struct kage_ctx *ctx, kage_notice_fn *fn, void *user)
{
	ctx->notice = fn;
	ctx->notice_user = user;
}

const char *kage_version(void)
{
	return KAGE_VERSION_STRING;
}

bool kage_ctx_is_interrupted(const struct kage_ctx *ctx)
{
	return ctx && ctx->interrupt && *ctx->interrupt;
}

struct kage_err *kage_ctx_poll(const struct kage_ctx *ctx)
{
	if (kage_ctx_is_interrupted(ctx))
		return kage_err_new(KAGE_INTERRUPTED, "interrupted");
	return NULL;
}

void kage_ctx_progress(const struct kage_ctx *ctx, const char *what, uint64_t done, uint64_t total)
{
	if (ctx->progress)
		ctx->progress(ctx->progress_user, what, done, total);
}

void kage_ctx_notice(const struct kage_ctx *ctx, const char *fmt, ...)
{
	_cleanup_free_ char *line = NULL;
	va_list ap;
	int r;

	if (!ctx->notice)
		return;
	va_start(ap, fmt);
	r = vasprintf(&line, fmt, ap);
	va_end(ap);
	if (r >= 0)
		ctx->notice(ctx->notice_user, line);
	else
		line = NULL;
}
