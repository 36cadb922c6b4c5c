/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/cloned.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/types.h"
#include "capture/twinned.h"
#include "image/layers.h"
#include "image/runs.h"
#include "kind/memory.h"

static size_t n_filters(const struct kage_capture *c, const struct kage_thread *thread)
{
	for (size_t i = 0; i < c->process->n_threads; i++)
		if (c->process->threads[i]->tid == thread->tid)
			return c->process->threads[i]->n_seccomp_filters;
	return SIZE_MAX;
}

/* Filters cannot be taken away, so lives are born with those of the thread that has fewest. NULL: it does not stand.
 * One that has ended (a leader) never does. */
static struct kage_thread *choose(const struct kage_capture *c)
{
	struct kage_thread *best = kage_target_who_stands(c->target);
	size_t fewest = best ? n_filters(c, best) : SIZE_MAX;

	for (size_t i = 0; i < c->target->n_own; i++) {
		struct kage_thread *t = c->target->threads[i];
		bool stands = t->stopped && t->attached;

		if (n_filters(c, t) >= fewest || (c->target->stop_all && !stands))
			continue;
		best = stands ? t : NULL;
		fewest = n_filters(c, t);
	}
	return best;
}

void cloned_instant_deinit(struct cloned_instant *instant)
{
	kage_maps_deinit(&instant->maps);
	kage_fds_ids_free(instant->fds, instant->n_fds);
	kage_runs_deinit(&instant->own);
	free(instant->children);
	*instant = (struct cloned_instant){ 0 };
}

struct kage_err *cloned_copy(struct kage_capture *c, bool *ret_still)
{
	struct cloning *k = c->clone;
	struct kage_thread *thread = choose(c);
	const char *why = twinned_kept_obstacle(c);

	/* Of an attempt before this one. */
	kage_twin_end(take_ptr(k->twin));
	cloned_instant_deinit(&k->instant);
	if (why)
		return kage_err_new(KAGE_UNSUPPORTED, "process %d must not be forked: %s",
				    c->target->pid, why);
	if (!thread && c->target->stop_all)
		return kage_err_new(KAGE_LIMIT, "no thread of process %d could be stopped",
				    c->target->pid);
	if (!thread) {
		c->stop_all |= ++k->n_asleep > 1;
		*ret_still = false;
		return NULL;
	}
	k->n_asleep = 0;
	c->tracking = KAGE__SOURCE__TRACKING__TWIN;
	TRY(kage_children(c->target, &k->instant.children, &k->instant.n_children));
	TRY(kage_memory_copy(c, c->target, kage_memory_is_not_carried));
	return kage_twin_fork(c->target, thread, true, &k->twin);
}

struct kage_err *cloned_finish(struct kage_capture *c)
{
	struct cloned_instant *instant = &c->clone->instant;

	TRY(twinned_check(c, c->clone->twin));
	TRY(kage_memory_guards(c, c->clone->twin->process));
	TRY(kage_fds_ids(c, &instant->fds, &instant->n_fds));
	instant->maps = c->maps;
	c->maps = (struct kage_maps){ 0 };
	return NULL;
}

/* --- an image for a store ---------------------------------------------------------------------- */

static struct kage_err *read_twin(struct kage_ctx *ctx, struct kage_image *image,
				  const struct kage_twin *twin, struct kage_pages **ret_pages)
{
	struct kage_capture c = { .ctx = ctx, .image = image, .process = image->msg->processes[0] };
	struct kage_err *e;

	TRY(kage_mem_pages_create(&c.pages));
	e = kage_memory_copy(&c, twin->process, kage_memory_is_carried);
	if (!e)
		e = kage_twin_check(twin);
	if (e)
		kage_mem_pages_destroy(c.pages);
	else
		*ret_pages = kage_mem_pages_finish(c.pages);
	return e;
}

static struct kage_err *join(struct cloned_whole *w, struct kage_pages **ret_pages)
{
	struct kage_pages *const layers[] = { w->rest, w->memory };
	struct page_runs all = { 0 };
	struct kage_err *e = NULL;

	for (size_t i = 0; !e && i < ARRAY_SIZE(layers); i++)
		e = kage_runs_add_all(&all, layers[i]->runs, layers[i]->n_runs);
	kage_runs_sort(&all);
	if (!e)
		e = kage_layers_create(all.v, all.n, layers, ARRAY_SIZE(layers), ret_pages);
	kage_runs_deinit(&all);
	return e;
}

struct kage_err *kage_cloned_begin(struct kage_ctx *ctx, struct kage_image *image,
				   const struct kage_twin *twin, struct cloned_whole *ret_whole)
{
	struct kage_pages *whole;

	*ret_whole = (struct cloned_whole){ .rest = image->pages };
	TRY(read_twin(ctx, image, twin, &ret_whole->memory));
	TRY(join(ret_whole, &whole));
	image->pages = whole;
	return NULL;
}

void kage_cloned_end(struct kage_image *image, struct cloned_whole *w)
{
	if (image->pages != w->rest)
		kage_pages_destroy(image->pages);
	image->pages = w->rest;
	kage_pages_destroy(w->memory);
	*w = (struct cloned_whole){ .rest = image->pages };
}
