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
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "capture/cloned.h"
#include "capture/follow.h"
#include "capture/source.h"
#include "capture/verify.h"
#include "kind/fds.h"
#include "kind/looked.h"
#include "kind/memory.h"
#include "kind/obstacles.h"
#include "kind/sockopt.h"
#include "kind/timers.h"
#include "sys/iter.h"
#include "sys/taskread.h"
#include "sys/vmaread.h"

enum {
	STATUS_MAX = 1 << 20,
	/* How long a capture lasts at least, and how fast memory is copied, about: sleepers that would wake
	 * meanwhile are better met at another instant. */
	SPAN_NS = 1000 * 1000,
	COPY_BYTES_PER_NS = 8,
	SLEEPY_ROUNDS = 8,
};

/* What a round has seen. */
static void forget(struct kage_capture *c)
{
	kage_fds_free(c);
	kage_inside_deinit(&c->inside);
	c->inside = (struct kage_inside){ 0 };
	free(c->status);
	c->status = NULL;
	kage_image_close(c->image);
	c->image = NULL;
	if (c->pages)
		kage_mem_pages_clear(c->pages);
}

static void deinit(struct kage_capture *c)
{
	forget(c);
	kage_mem_pages_destroy(c->pages);
	verify_deinit(c);
	if (c->follow)
		follow_keep(c);
	kage_looked_free(c);
	kage_sockopt_forget(c->usual_options);
	kage_maps_deinit(&c->maps);
	kage_taskread_close(c->reader);
	kage_vmaread_close(c->vmas);
}

static struct kage_err *begin_round(struct kage_capture *c)
{
	forget(c);
	kage_obstacles_clear(c->obstacles);
	TRY(kage_image_create(&c->image));
	c->process = msg_append(&c->image->arena, c->image->msg, processes, Kage__Process,
				kage__process__init);
	return c->process ? NULL : kage_err_nomem();
}

/* The kernel's own knowledge if we may have it; else the target will have to be asked. For tests
 * KAGE_RUNG names the highest rung that may be used. */
static struct kage_err *open_reader(struct kage_capture *c)
{
	const char *forced = secure_getenv("KAGE_RUNG");
	struct kage_err *e;

	c->stop_all = c->keep_still || (forced && strcmp(forced, "0") != 0);
	if (forced && strcmp(forced, "2") == 0)
		return NULL;
	e = kage_taskread_open(KAGE_ITER_PINS, &c->reader);
	if (!e)
		e = kage_vmaread_open(KAGE_ITER_PINS, &c->vmas);
	if (e && (kage_err_code(e) == KAGE_PERM || kage_err_code(e) == KAGE_UNSUPPORTED)) {
		err_drop(e);
		return NULL;
	}
	return e;
}

static struct kage_err *read_maps(struct kage_capture *c)
{
	return kage_vmaread_maps(c->vmas, c->target->proc_fd, c->target->pid, &c->maps);
}

/* Beside the running target. Flags of mappings are slow to read (a walk over all page tables), so
 * they are read here and are good as long as the map is the same in the freeze. */
static struct kage_err *look(struct kage_capture *c)
{
	uint64_t bytes = 0;

	TRY(open_reader(c));
	if (c->reader && !c->stop_all)
		TRY(kage_target_get_ready(c->target, c->reader));
	if (c->follow)
		return follow_look(c);
	TRY(read_maps(c));
	TRY(kage_looked_look(c));
	if (c->checking || c->clone)
		return NULL;
	TRY(kage_memory_estimate(c->target, &c->maps, &bytes));
	c->span_ns = SPAN_NS + bytes / COPY_BYTES_PER_NS;
	return kage_mem_pages_reserve(c->pages, bytes);
}

/* In the freeze. Where only smaps tells flags, they are those of the look as long as the map is the same. */
static struct kage_err *reread_maps(struct kage_capture *c)
{
	_cleanup_(kage_maps_deinit) struct kage_maps before = c->maps;
	bool same;

	c->maps = (struct kage_maps){ 0 };
	TRY(c->vmas ? read_maps(c) : kage_maps_read(c->target->proc_fd, false, &c->maps));
	same = kage_maps_equal(&c->maps, &before);
	c->maps_changed |= !same;
	if (c->maps.has_flags)
		return NULL;
	kage_maps_deinit(&c->maps);
	if (!same)
		return read_maps(c);
	c->maps = before;
	before = (struct kage_maps){ 0 };
	return NULL;
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
static struct kage_err *learn_inside(struct kage_capture *c, bool *ret_learnt)
{
	TRY(kage_timers_list(c));
	TRY(kage_inside_read(c->target, &c->inside, ret_learnt));
	if (*ret_learnt)
		return NULL;
	/* Only a target whose threads are all stopped can be asked. */
	*ret_learnt = c->target->stop_all;
	c->stop_all = true;
	return *ret_learnt ? ask_inside(c) : NULL;
}

static struct kage_err *copy_memory(struct kage_capture *c)
{
	c->tracking = KAGE__SOURCE__TRACKING__COPY;
	TRY(kage_memory_copy(c, c->target, NULL));
	return kage_memory_guards(c, c->target);
}

/* The target stands still, or sleeps: *RET_STILL is false when it did not sleep on. */
static struct kage_err *see(struct kage_capture *c, bool *ret_still)
{
	size_t size;

	TRY(kage_target_read_threads(c->target));
	TRY(kage_file_slurp(c->target->proc_fd, "status", STATUS_MAX, &c->status, &size));
	TRY(reread_maps(c));
	TRY(source_instant(c));
	TRY(learn_inside(c, ret_still));
	if (!*ret_still)
		return NULL;
	TRY(kage_fds_scan(c));
	for (const struct kage_kind *const *k = kage_kinds; *k; k++)
		if ((*k)->capture)
			TRY_WRAP((*k)->capture(c), "%s", (*k)->name);
	/* Where much is going to be copied it is good to know before; a look at the threads takes 0.1 ms. */
	if (!c->follow)
		TRY(kage_target_still(c->target, ret_still));
	if (c->checking || !*ret_still)
		return NULL;
	if (!c->lenient)
		TRY(kage_obstacles_refuse(c->obstacles));
	TRY(verify_copy(c, c->verify.before));
	if (c->follow)
		TRY(follow_copy(c, ret_still));
	else if (c->clone)
		TRY(cloned_copy(c, ret_still));
	else
		TRY(copy_memory(c));
	if (!*ret_still)
		return NULL;
	TRY(verify_copy(c, c->verify.after));
	return kage_target_still(c->target, ret_still);
}

/* Whether a thread that was left asleep has run: it may have pulled away what was looked at. */
static bool woke_up(struct kage_target *t)
{
	bool still = true;

	err_drop(kage_target_still(t, &still));
	return !still;
}

/* What was seen while a sleeper woke up is of no single instant. Then that thread is stopped, and all is
 * seen again; at last no thread is left asleep. */
static struct kage_err *see_one_instant(struct kage_capture *c)
{
	struct kage_freeze how = { .reader = c->reader, .span_ns = c->span_ns };
	bool still = false;

	c->stop_all |= !c->reader;
	for (int round = 0; !still; round++) {
		struct kage_err *e;

		how.stop_all = c->stop_all || round >= SLEEPY_ROUNDS;
		TRY(begin_round(c));
		TRY(kage_target_freeze(c->target, &how));
		e = see(c, &still);
		if (e && !woke_up(c->target))
			return e;
		/* It may have failed after the first of its looks at the sleepers. */
		still = still && !e;
		err_drop(e);
	}
	return NULL;
}

static struct kage_err *see_and_let_go(struct kage_capture *c)
{
	struct kage_err *e = see_one_instant(c);

	if (!e)
		source_pause(c);
	if (e || !c->keep_still)
		kage_target_thaw(c->target, false);
	return e;
}

static void *own_thread(void *arg)
{
	const struct sched_param urgent = { .sched_priority = 1 };

	/* Whoever stops others should not have to wait for a processor. It is a wish, not a need. */
	(void)pthread_setschedparam(pthread_self(), SCHED_FIFO, &urgent);
	return see_and_let_go(arg);
}

/* In a thread of its own, whose end lets go of threads of the target that are traced without being
 * stopped (target/ambush.c). Signals have to wait meanwhile, as they do in that thread. */
static struct kage_err *see_in_own_thread(struct kage_capture *c)
{
	sigset_t all, before;
	pthread_t thread;
	void *e = NULL;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&thread, NULL, own_thread, c);
	if (r == 0)
		pthread_join(thread, &e);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r == 0 ? e : kage_err_sys(r, "start a thread");
}

static struct kage_err *take(struct kage_capture *c)
{
	TRY(look(c));
	TRY(kage_ctx_poll(c->ctx));
	/* A target that is to be kept stays with the thread that has stopped it, one that is held with its tracer. */
	if (c->keep_still || c->target->held)
		TRY(see_and_let_go(c));
	else
		TRY(see_in_own_thread(c));
	TRY(kage_fds_finish(c));
	TRY(source_fill(c));
	if (c->lenient)
		TRY(kage_obstacles_note(c->obstacles, c->image));
	if (c->clone)
		TRY(cloned_finish(c));
	if (c->follow)
		TRY(follow_finish(c));
	else
		c->image->pages = kage_mem_pages_finish(take_ptr(c->pages));
	TRY(verify_compare(c));
	c->image->msg->source->copied_bytes = kage_pages_total(c->image->pages) * KAGE_PAGE_BYTES;
	return c->checking ? NULL : kage_image_validate(c->image);
}

/* Whatever failed because the process ended meanwhile, that is what to say. */
static struct kage_err *why(const struct kage_target *t, struct kage_err *e)
{
	struct kage_err *gone = kage_target_alive(t);

	if (!gone)
		return e;
	err_drop(e);
	return gone;
}

struct kage_err *kage_capture(struct kage_ctx *ctx, struct kage_target *t,
			      const struct capture_options *options,
			      struct kage_obstacles *obstacles, struct kage_image **ret_image)
{
	struct kage_capture c = { .ctx = ctx,
				  .target = t,
				  .carry = options->carry,
				  .keep_still = options->keep_still,
				  .checking = options->checking,
				  .lenient = options->lenient,
				  .follow = options->follow,
				  .clone = options->clone,
				  .obstacles = obstacles };
	struct kage_err *e =
		c.follow ? follow_take_room(c.follow, &c.pages) : kage_mem_pages_create(&c.pages);

	if (!e && options->verify)
		e = verify_init(&c);
	if (!e)
		e = take(&c);
	if (!e)
		*ret_image = take_ptr(c.image);
	else if (t->frozen)
		kage_target_thaw(t, false);
	deinit(&c);
	return e ? why(t, e) : NULL;
}

struct kage_err *kage_capture_open(struct kage_ctx *ctx, pid_t pid, struct kage_target **ret_t)
{
	struct kage_err *e = kage_target_open(ctx, pid, ret_t);

	for (int i = 1; i < KAGE_EXEC_TRIES && e && kage_err_errno(e) == EFAULT; i++) {
		err_drop(e);
		e = kage_target_open(ctx, pid, ret_t);
	}
	return e;
}
