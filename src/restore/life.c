/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life of a restore (DESIGN.md has the whole story):
 *
 *	check	  every obstacle is named; nothing was touched until here
 *	prepare	  files, shared objects and descriptors are made in our own process
 *	stub	  a copy of ourselves that inherits them, held by ptrace, dies with us
 *	memory	  emptied, mapped, filled, or left to a pager to fill (lazy.c)
 *	build	  what the process has once; descriptors to their numbers
 *	threads	  made; what runs with time is started; each gets its own; rights go away
 *	release	  the terminal is the program's; registers, masks, go
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "git/git.h"
#include "kind/fds.h"
#include "kind/files.h"
#include "kind/memory.h"
#include "kind/obstacles.h"
#include "kind/terminal.h"
#include "restore/lazy.h"
#include "restore/numbers.h"
#include "restore/restore.h"
#include "restore/wake.h"

enum {
	AREA_BASE_BYTES = 1 << 20,
	AREA_BYTES_PER_OBJECT = 2048, /* a mapping, descriptor or timer takes a few calls */
	AREA_MAX_BYTES = 1 << 30,
};

/* Room for the largest batch. */
struct kage_err *restore_area_bytes(const struct kage_image *image, size_t *ret_bytes)
{
	const Kage__Process *p = image->msg->processes[0];
	size_t objects = p->memory->n_mappings + p->n_descriptors + p->n_threads + p->n_pending +
			 image->msg->n_descriptions + p->n_posix_timers + p->n_locks;
	size_t bytes = 0;

	for (size_t i = 0; i < p->n_threads; i++)
		for (size_t k = 0; k < p->threads[i]->n_seccomp_filters; k++)
			objects += p->threads[i]->seccomp_filters[k]->n_instructions / 64 + 1;
	for (size_t i = 0; i < p->n_posix_timers; i++)
		if (p->posix_timers[i]->id > 0)
			objects += (size_t)p->posix_timers[i]->id % 10000;
	if (__builtin_mul_overflow(objects, (size_t)AREA_BYTES_PER_OBJECT, &bytes) ||
	    bytes > AREA_MAX_BYTES)
		return kage_err_new(KAGE_LIMIT, "the image has too many objects (%zu)", objects);
	*ret_bytes = bytes + AREA_BASE_BYTES;
	return NULL;
}

static int *no_fds(size_t n)
{
	int *fds = malloc((n + 1) * sizeof(*fds));

	for (size_t i = 0; fds && i < n; i++)
		fds[i] = -1;
	return fds;
}

static void close_all(int *fds, size_t n)
{
	for (size_t i = 0; fds && i < n; i++)
		close_fd(fds[i]);
	free(fds);
}

void restore_deinit(struct kage_restore *r)
{
	const Kage__Image *m = r->image->msg;

	lazy_destroy(r->lazy);
	close_all(r->fds, m->n_descriptions);
	close_all(r->given, r->options->n_fds);
	close_all(r->files, m->n_files);
	close_all(r->spaces, m->n_spaces);
	close_fd(r->tty_fd);
	free(r->tty_before);
	arena_deinit(&r->scratch);
	kage_obstacles_destroy(r->obstacles);
}

struct kage_err *restore_init(struct kage_restore *r, struct kage_ctx *ctx,
			      struct kage_image *image, const struct kage_restore_options *options)
{
	static const struct kage_restore_options defaults;
	const Kage__Image *m = image->msg;

	*r = (struct kage_restore){ .ctx = ctx,
				    .image = image,
				    .process = m->processes[0],
				    .options = options ? options : &defaults,
				    .event = { .fd = -1 },
				    .tty_fd = -1,
				    .kept_fd = -1 };
	r->fds = no_fds(m->n_descriptions);
	r->given = no_fds(r->options->n_fds);
	r->files = no_fds(m->n_files);
	r->spaces = no_fds(m->n_spaces);
	r->obstacles = kage_obstacles_create();
	if (!r->fds || !r->given || !r->files || !r->spaces || !r->obstacles)
		return kage_err_nomem();
	return NULL;
}

/* --- steps ------------------------------------------------------------------------------------- */

static struct kage_err *prepare(struct kage_restore *r)
{
	for (const struct kage_kind *const *k = kage_kinds; *k; k++)
		if ((*k)->prepare && !restore_has(r, *k))
			TRY_WRAP((*k)->prepare(r), "prepare %s", (*k)->name);
	return kage_fds_make(r);
}

/* What the caller wants to be otherwise than in the image. */
static struct kage_err *patch_memory(struct kage_restore *r)
{
	for (size_t i = 0; i < r->options->n_patches; i++) {
		const struct kage_patch *p = &r->options->patches[i];

		TRY_WRAP(kage_target_write(r->stub, addr(p->address), p->bytes, p->size),
			 "change memory at %#llx", (unsigned long long)p->address);
	}
	return NULL;
}

static struct kage_err *build_memory(struct kage_restore *r, const struct stub_area *area)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;
	_cleanup_(kage_maps_deinit) struct kage_maps now = { 0 };

	kage_batch_init(&b);
	TRY(kage_maps_read(r->stub->proc_fd, false, &now));
	TRY(kage_memory_build(r, &now, area->spare, &b));
	TRY(kage_batch_run(r->stub, r->stub->threads[0], &b));
	TRY(lazy_prepare(r, &r->lazy));
	TRY(restore_fill(r, r->lazy));
	return lazy_start(r->lazy);
}

/* Runs in the leader what B has gathered. */
static struct kage_err *flush(struct kage_restore *r, struct kage_batch *b)
{
	struct kage_err *e = kage_batch_run(r->stub, r->stub->threads[0], b);

	kage_batch_reset(b);
	return e;
}

/* Collects the calls of one step of all kinds. */
struct kage_err *restore_say_step(struct kage_restore *r, bool finish, struct kage_batch *b)
{
	for (const struct kage_kind *const *k = kage_kinds; *k; k++) {
		struct kage_err *(*fn)(struct kage_restore *, struct kage_batch *) =
			finish ? (*k)->finish : (*k)->build;

		if (fn && !restore_has(r, *k))
			TRY_WRAP(fn(r, b), "%s", (*k)->name);
	}
	return NULL;
}

/* A stub's memory is all to be made; a life's is there but for some. */
static struct kage_err *memory(struct kage_restore *r, struct stub_area *area, struct kage_batch *b)
{
	if (!r->twin) {
		TRY(build_memory(r, area));
		return patch_memory(r);
	}
	TRY(wake_say_descriptors(r, b));
	TRY(kage_memory_build_rest(r, b));
	if (!r->image->pages->n_runs && !r->options->n_patches)
		return NULL;
	TRY(flush(r, b));
	TRY(restore_fill(r, NULL));
	return patch_memory(r);
}

/* Each flush takes some stops and goes of a thread, so there are no more than needed. */
static struct kage_err *build(struct kage_restore *r, struct stub_area *area,
			      struct numbers *numbers)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;

	kage_batch_init(&b);
	TRY(memory(r, area, &b));
	TRY(kage_ctx_poll(r->ctx));
	TRY(restore_say_step(r, false, &b));
	TRY(kage_fds_place(r, &b));
	if (r->process->n_threads > 1) {
		TRY(flush(r, &b));
		TRY(threads_make(r));
	}
	if (numbers)
		TRY(numbers_of_threads(r, numbers));
	TRY(restore_say_step(r, true, &b));
	TRY(wake_finish(r, &b));
	TRY(threads_build(r, &b));
	TRY(kage_fds_start(r));
	TRY(kage_ctx_poll(r->ctx));
	TRY(kage_session_begin(r));
	return threads_release(r, area, r->options->stopped || r->process->stopped);
}

static struct kage_err *bring_up(struct kage_restore *r, struct stub_area *area)
{
	struct numbers *numbers = NULL;
	struct kage_err *e = NULL;

	if (r->own_numbers)
		e = numbers_begin(r, &numbers);
	if (!e)
		e = build(r, area, numbers);
	numbers_end(r, numbers);
	return e;
}

/* The process that becomes the program, and what batches reach it through. */
static struct kage_err *make(struct kage_restore *r, struct stub_area *area)
{
	size_t bytes = 0;

	if (r->twin) {
		*area = (struct stub_area){ r->twin->area, r->twin->area_bytes, 0 };
		TRY(wake_make(r, &r->stub));
		return stub_choose_event(r, &r->stub->site->event_signal);
	}
	TRY(restore_area_bytes(r->image, &bytes));
	TRY(stub_area_map(r, bytes, area));
	return stub_make(r, area, &r->stub);
}

static struct kage_err *live(struct kage_restore *r, struct kage_life *ret_life)
{
	struct stub_area area = { 0 };
	struct kage_err *e;

	TRY(restore_check(r));
	TRY(prepare(r));
	e = make(r, &area);
	if (!e)
		e = bring_up(r, &area);
	if (e) {
		kage_session_undo(r);
		stub_destroy(r->stub);
	} else {
		ret_life->pid = r->stub->pid;
		ret_life->redraw = r->redraw;
		ret_life->pidfd = take_fd(&r->stub->pidfd);
		kage_target_close(r->stub);
	}
	if (!r->twin)
		stub_area_unmap(&area);
	return e;
}

/* What is put back comes from the image: that the commit has the same is all that is asked of a repository, into
 * which others may have written. */
static struct kage_err *use_commit(const struct kage_image *image, const char *dir)
{
	struct kage_git *git;
	struct kage_err *e;

	TRY(kage_git_open(dir, false, &git));
	e = kage_git_compare(git, image);
	kage_git_close(git);
	return e;
}

struct kage_err *kage_restore(struct kage_ctx *ctx, struct kage_image *image,
			      const struct kage_restore_options *options,
			      struct kage_life *ret_life)
{
	uint64_t begin = kage_clock_mono_ns();
	struct kage_restore_options how = options ? *options : (struct kage_restore_options){ 0 };
	struct kage_life life = { .pidfd = -1 };
	struct kage_restore r;
	struct kage_err *e = NULL;

	if (how.git) {
		TRY_WRAP(use_commit(image, how.git), "restore %s",
			 image->label ? image->label : "image");
		how.files = KAGE_FILES_RESTORE;
	}
	e = restore_init(&r, ctx, image, &how);

	if (!e)
		e = kage_files_settle(&r, live(&r, &life));
	restore_deinit(&r);
	if (e)
		return kage_err_wrap(e, "restore %s", image->label ? image->label : "image");
	life.total_ns = kage_clock_mono_ns() - begin;
	*ret_life = life;
	return NULL;
}

/* The message of the thread that forked the twin, whose rights a life is born with. */
static const Kage__Thread *forker(const Kage__Process *p, const struct kage_twin *twin)
{
	for (size_t i = 0; i < p->n_threads; i++)
		if (p->threads[i]->tid == twin->born_of)
			return p->threads[i];
	return p->threads[0];
}

static struct kage_err *wake(struct kage_ctx *ctx, struct kage_image *image, struct kage_twin *twin,
			     const struct wake_options *options, struct kage_life *ret_life)
{
	struct kage_restore r;
	struct kage_err *e = restore_init(&r, ctx, image, options->restore);

	r.twin = twin;
	r.born_as = forker(r.process, twin);
	/* Only so is it learnt at once when a thread stops. */
	kage_target_block_signals(twin->process);
	if (!e)
		e = wake_choose_event(&r, options->event, options->event_value);
	if (!e)
		e = kage_files_settle(&r, live(&r, ret_life));
	if (e)
		kage_twin_take_back(twin);
	kage_target_unblock_signals(twin->process);
	restore_deinit(&r);
	return e;
}

/* With other descriptors in place of some: what was behind those is not made at all. */
static struct kage_err *wake_otherwise(struct kage_ctx *ctx, const struct kage_image *image,
				       struct kage_twin *twin, const struct wake_options *options,
				       struct kage_life *ret_life)
{
	struct kage_image *copy = NULL;
	_cleanup_free_ uint8_t *bytes = NULL;
	struct kage_err *e;
	size_t size;

	TRY(kage_image_encode(image, &bytes, &size));
	TRY(kage_image_decode(bytes, size, &copy));
	copy->pages = image->pages; /* borrowed */
	for (size_t i = 0; i < options->restore->n_fds; i++)
		kage_image_drop_fd(copy, options->restore->fds[i].fd);
	e = wake(ctx, copy, twin, options, ret_life);
	copy->pages = NULL;
	kage_image_close(copy);
	return e;
}

struct kage_err *kage_wake(struct kage_ctx *ctx, struct kage_image *image, struct kage_twin *twin,
			   const struct wake_options *options, struct kage_life *ret_life)
{
	uint64_t begin = kage_clock_mono_ns();
	struct kage_life life = { .pidfd = -1 };

	if (options->restore->n_fds)
		TRY(wake_otherwise(ctx, image, twin, options, &life));
	else
		TRY(wake(ctx, image, twin, options, &life));
	life.total_ns = kage_clock_mono_ns() - begin;
	*ret_life = life;
	return NULL;
}

struct kage_err *kage_wake_area_bytes(const struct kage_image *image, size_t *ret_bytes)
{
	return restore_area_bytes(image, ret_bytes);
}

struct kage_err *kage_check_image(struct kage_ctx *ctx, struct kage_image *image,
				  const struct kage_restore_options *options,
				  struct kage_report *ret_report)
{
	struct kage_restore r;
	struct kage_err *e = restore_init(&r, ctx, image, options);

	if (!e)
		e = restore_look(&r);
	if (!e)
		e = kage_obstacles_report(r.obstacles, ret_report);
	restore_deinit(&r);
	return e;
}
