/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing two images: mappings, their contents, descriptors, threads, the rest. */
#include "look/diff.h"

#include "base/cleanup.h"

static void deinit(struct diff *d)
{
	kage_symbols_close(d->sa);
	kage_symbols_close(d->sb);
	arena_deinit(&d->words);
}

void look_diff_tell(struct diff *d, const struct kage_difference *f)
{
	d->fn(d->user, f);
	arena_deinit(&d->words);
	d->words = ARENA_INIT;
}

static struct kage_err *compare(struct diff *d)
{
	TRY(kage_symbols_open(d->a, &d->sa));
	TRY(kage_symbols_open(d->b, &d->sb));
	TRY(look_diff_mappings(d));
	TRY(look_diff_memory(d));
	return look_diff_process(d);
}

struct kage_err *kage_image_diff(struct kage_ctx *ctx, const struct kage_image *before,
				 const struct kage_image *after,
				 const struct kage_diff_options *options, kage_diff_fn *fn,
				 void *user)
{
	_cleanup_(deinit) struct diff d = {
		.ctx = ctx,
		.a = before,
		.b = after,
		.bytes = options && options->bytes,
		.fn = fn,
		.user = user,
	};

	d.pa = before->msg->n_processes ? before->msg->processes[0] : NULL;
	d.pb = after->msg->n_processes ? after->msg->processes[0] : NULL;
	if (!d.pa || !d.pb || !d.pa->memory || !d.pb->memory)
		return kage_err_new(KAGE_INVALID, "there is no process in one of the images");
	return kage_err_wrap(compare(&d), "compare %s with %s", kage_image_label(before),
			     kage_image_label(after));
}
