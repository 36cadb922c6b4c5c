/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life of a capture (DESIGN.md has the whole story):
 *
 *	look	  beside the running target: memory map with flags, how much there is to copy; room
 *		  for it is made and faulted in
 *	freeze	  all threads stand
 *	see	  registers, what only the kernel knows, descriptors, every kind in turn
 *	copy	  memory that is the process's own
 *	thaw	  the target goes on
 *	finish	  beside it again: what needs no instant
 */
#include "capture/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "capture/source.h"
#include "kind/fds.h"
#include "kind/memory.h"
#include "kind/obstacles.h"
#include "kind/timers.h"
#include "sys/taskread.h"

enum { STATUS_MAX = 1 << 20 };

static void deinit(struct kage_capture *c)
{
	kage_fds_free(c);
	kage_maps_deinit(&c->maps);
	kage_inside_deinit(&c->inside);
	kage_taskread_close(c->reader);
	free(c->status);
	kage_image_close(c->image);
	if (c->pages)
		kage_pages_destroy(kage_mem_pages_finish(c->pages));
}

static struct kage_err *init(struct kage_capture *c)
{
	TRY(kage_image_create(&c->image));
	TRY(kage_mem_pages_create(&c->pages));
	c->process = msg_append(&c->image->arena, c->image->msg, processes, Kage__Process,
				kage__process__init);
	return c->process ? NULL : kage_err_nomem();
}

/* The kernel's own knowledge if we may have it; else the target will have to be asked. */
static struct kage_err *open_reader(struct kage_capture *c)
{
	const char *forced = secure_getenv("KAGE_RUNG"); /* for tests */
	struct kage_err *e;

	if (forced && strcmp(forced, "2") == 0)
		return NULL;
	e = kage_taskread_open(KAGE_TASKREAD_PINS, &c->reader);
	if (e && (kage_err_code(e) == KAGE_PERM || kage_err_code(e) == KAGE_UNSUPPORTED)) {
		err_drop(e);
		return NULL;
	}
	return e;
}

/* Beside the running target. Flags of mappings are slow to read (a walk over all page tables), so
 * they are read here and are good as long as the map is the same in the freeze. */
static struct kage_err *look(struct kage_capture *c)
{
	uint64_t bytes = 0;

	TRY(open_reader(c));
	TRY(kage_maps_read(c->target->proc_fd, true, &c->maps));
	if (c->checking)
		return NULL;
	TRY(kage_memory_estimate(c->target, &c->maps, &bytes));
	return kage_mem_pages_reserve(c->pages, bytes);
}

static struct kage_err *reread_maps(struct kage_capture *c)
{
	_cleanup_(kage_maps_deinit) struct kage_maps now = { 0 };

	TRY(kage_maps_read(c->target->proc_fd, false, &now));
	if (kage_maps_equal(&now, &c->maps))
		return NULL;
	kage_maps_deinit(&c->maps);
	return kage_maps_read(c->target->proc_fd, true, &c->maps);
}

static struct kage_err *ask_inside(struct kage_capture *c)
{
	const Kage__Process *p = c->process;
	_cleanup_free_ int32_t *ids = NULL;

	ids = calloc(p->n_posix_timers + 1, sizeof(*ids));
	if (!ids)
		return kage_err_nomem();
	for (size_t i = 0; i < p->n_posix_timers; i++)
		ids[i] = p->posix_timers[i]->id;
	TRY(kage_inside_ask(c->target, ids, p->n_posix_timers, &c->inside));
	kage_site_leave(c->target);
	return NULL;
}

/* What neither /proc nor ptrace tells, by the rung that changes least. */
static struct kage_err *learn_inside(struct kage_capture *c)
{
	bool complete = false;

	TRY(kage_timers_list(c));
	if (c->reader)
		TRY(kage_inside_read(c->reader, c->target, &c->inside, &complete));
	return complete ? NULL : ask_inside(c);
}

/* The target stands still. */
static struct kage_err *see(struct kage_capture *c)
{
	size_t size;

	TRY(kage_target_read_threads(c->target));
	TRY(kage_file_slurp(c->target->proc_fd, "status", STATUS_MAX, &c->status, &size));
	TRY(reread_maps(c));
	TRY(source_instant(c));
	TRY(learn_inside(c));
	TRY(kage_fds_scan(c));
	for (const struct kage_kind *const *k = kage_kinds; *k; k++)
		if ((*k)->capture)
			TRY_WRAP((*k)->capture(c), "%s", (*k)->name);
	if (c->checking)
		return NULL;
	TRY(kage_obstacles_refuse(c->obstacles));
	return kage_memory_copy(c);
}

static struct kage_err *take(struct kage_capture *c, bool keep_still)
{
	struct kage_err *e;

	TRY(look(c));
	TRY(kage_ctx_poll(c->ctx));
	TRY(kage_target_freeze(c->target));
	e = see(c);
	if (!e)
		source_pause(c);
	if (e || !keep_still)
		kage_target_thaw(c->target, false);
	TRY(e);
	TRY(kage_fds_finish(c));
	TRY(source_fill(c));
	c->image->pages = kage_mem_pages_finish(take_ptr(c->pages));
	c->image->msg->source->copied_bytes = kage_pages_total(c->image->pages) * KAGE_PAGE_BYTES;
	return c->checking ? NULL : kage_image_validate(c->image);
}

struct kage_err *kage_capture(struct kage_ctx *ctx, struct kage_target *t,
			      const struct capture_options *options,
			      struct kage_obstacles *obstacles, struct kage_image **ret_image)
{
	struct kage_capture c = { .ctx = ctx,
				  .target = t,
				  .carry = options->carry,
				  .checking = options->checking,
				  .obstacles = obstacles };
	struct kage_err *e = init(&c);

	if (!e)
		e = take(&c, options->keep_still);
	if (!e)
		*ret_image = take_ptr(c.image);
	else if (t->frozen)
		kage_target_thaw(t, false);
	deinit(&c);
	return e;
}
