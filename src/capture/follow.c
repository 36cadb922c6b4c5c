/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/follow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "capture/look.h"
#include "capture/pins.h"
#include "capture/room.h"
#include "capture/shadow.h"
#include "capture/tracking.h"
#include "capture/twinned.h"
#include "image/layers.h"
#include "kind/looked.h"
#include "kind/memory.h"
#include "kind/sockopt.h"
#include "sys/vmaread.h"

enum {
	MAX_ROUNDS = 8,
	FEW_PAGES = 256, /* a stop looks at them and copies them in a millisecond or two */
	FEW_LEFT = 64,   /* another round is not worth it for so few */
	RESERVE_PAGES = 2048,
	FILL_PAGES = 8192, /* at most so many are in memory on their way to the shadow */
	SPARE_PAGES = 256,
	SPAN_NS = 1000 * 1000,
	COPY_BYTES_PER_NS = 8,
};

struct follow {
	struct look look;
	struct shadow *shadow;
	bool once;      /* for one image: the shadow is empty, and all is in layers */
	bool filled;    /* the shadow holds what there was when tracking began, or more */
	bool committed; /* it holds an image */
	bool untracked; /* there is neither, and there will be none */
	bool twins;     /* then a twin of the target is read; else it stands while all is copied */
	bool twins_forced;      /* also of a small target */
	bool told;              /* that it had none, and why */
	struct kage_twin *twin; /* of the image that is being taken, or NULL */
	unsigned n_asleep;      /* attempts at which nobody stood who could have made it */
	bool gives_way;         /* the program has a userfaultfd itself */
	bool pinned; /* pages may have changed without the tracker's telling (capture/pins.h) */
	struct kage_pages **layers; /* of private memory, the latest last */
	size_t n_layers;
	struct mem_pages *next; /* for the next layer, or NULL */
	struct room room;
	uint64_t looked_ns; /* CLOCK_MONOTONIC: the last look; 0: none */
	uint64_t expected;  /* pages that the next image will have to copy, going by the last one */
	struct kage_pages *others; /* the rest of the captured image, or NULL */
	size_t n_before;           /* layers that were there before what the stop has copied */
	struct page_runs later;    /* of those, what is read from the twin instead */
	struct page_runs image;    /* all pages of the captured image */
	struct page_runs changes;  /* those that may differ from the shadow */
	struct kage_maps maps;     /* of the last capture */
	struct kage_looked *looked;
	struct kage_sockopt_usual *usual_options;
	struct kage_space_ids ids;
};

/* --- making and unmaking ---------------------------------------------------------------------- */

struct kage_err *follow_create(int dir_fd, bool secret, struct follow **ret_follow)
{
	struct follow *f = calloc(1, sizeof(*f));
	struct kage_err *e;

	if (!f)
		return kage_err_nomem();
	f->once = dir_fd < 0;
	e = shadow_create(dir_fd, secret, &f->shadow);
	if (e) {
		follow_destroy(f);
		return e;
	}
	*ret_follow = f;
	return NULL;
}

static void drop_layers(struct follow *f)
{
	room_begin(&f->room);
	for (size_t i = 0; i < f->n_layers; i++)
		room_give(&f->room, kage_mem_pages_of(f->layers[i]));
	f->n_layers = 0;
	room_give(&f->room, kage_mem_pages_of(f->others));
	f->others = NULL;
}

void follow_destroy(struct follow *f)
{
	struct kage_capture c = { .looked = f ? f->looked : NULL };

	if (!f)
		return;
	look_deinit(&f->look);
	kage_twin_end(f->twin);
	drop_layers(f);
	kage_mem_pages_destroy(f->next);
	room_deinit(&f->room);
	free(f->layers);
	shadow_destroy(f->shadow);
	kage_runs_deinit(&f->later);
	kage_runs_deinit(&f->image);
	kage_runs_deinit(&f->changes);
	kage_maps_deinit(&f->maps);
	kage_looked_free(&c);
	kage_sockopt_forget(f->usual_options);
	free(f->ids.v);
	free(f);
}

void follow_let_go(struct follow *f)
{
	if (f)
		look_untrack(&f->look);
}

bool follow_has_before(const struct follow *f)
{
	return f->committed;
}

const struct page_runs *follow_changes(const struct follow *f)
{
	return &f->changes;
}

struct kage_pages *follow_before(struct follow *f)
{
	return shadow_pages(f->shadow);
}

/* --- the tracker ------------------------------------------------------------------------------ */

/* All contents have to be copied anew: another program, or the first look at all. */
static void start_over(struct follow *f)
{
	look_untrack(&f->look);
	f->filled = false;
}

/* --- looking ---------------------------------------------------------------------------------- */

static bool is_not_in_twin(const struct kage_vma *v)
{
	return !twinned_takes(v);
}

/* One look at all of MAPS in the target: what is there, and what was written since the last look. If there is a twin, at
 * what that has not. */
static struct kage_err *look_around(struct kage_capture *c, const struct kage_maps *maps,
				    bool sliced)
{
	struct follow *f = c->follow;
	struct kage_err *e = NULL;

	kage_runs_clear(&f->look.populated);
	if (f->look.soft)
		e = kage_softdirty_begin(f->look.soft, c->target);
	if (!e)
		e = look_in(&f->look, c->target, maps, f->twin ? is_not_in_twin : NULL, sliced);
	/* What it has protected without telling would be missed: then all is copied anew. */
	if (e)
		f->filled = false;
	return e;
}

/* --- copying ---------------------------------------------------------------------------------- */

static struct kage_err *push_layer(struct follow *f, struct mem_pages *m)
{
	struct kage_pages **grown = reallocarray(f->layers, f->n_layers + 1, sizeof(*grown));

	if (!grown)
		return kage_err_nomem();
	f->layers = grown;
	f->layers[f->n_layers++] = kage_mem_pages_finish(m);
	return NULL;
}

/* Copies what was written into a new layer, from the target or its twin. */
static struct kage_err *copy_written(struct kage_capture *c, struct kage_target *from, bool loose)
{
	struct follow *f = c->follow;
	struct mem_pages *m;
	struct kage_err *e;

	if (!f->look.written.n)
		return NULL;
	if (!f->next)
		TRY(room_take(&f->room, &f->next));
	m = take_ptr(f->next);
	e = room_fill(from, f->look.written.v, f->look.written.n, loose, m);
	if (!e)
		e = push_layer(f, m);
	if (e)
		kage_mem_pages_destroy(m);
	else
		kage_runs_clear(&f->look.written);
	return e;
}

/* PIECE goes to the shadow while the target runs, from it or from its twin. */
static struct kage_err *fill_piece(struct kage_capture *c, const struct page_runs *piece)
{
	struct follow *f = c->follow;
	struct mem_pages *m = NULL;
	struct kage_err *e;

	TRY(kage_ctx_poll(c->ctx));
	TRY(room_take(&f->room, &m));
	e = f->twin ? room_fill(f->twin->process, piece->v, piece->n, false, m)
		    : room_fill(c->target, piece->v, piece->n, true, m);
	if (!e)
		e = shadow_write_all(f->shadow, kage_mem_pages_finish(m));
	room_give(&f->room, m);
	return e;
}

/* The same into a layer. */
static struct kage_err *fill_layer(struct kage_capture *c)
{
	struct follow *f = c->follow;

	kage_runs_clear(&f->look.written);
	TRY(kage_runs_add_all(&f->look.written, f->look.populated.v, f->look.populated.n));
	if (!f->next)
		TRY(room_take(&f->room, &f->next));
	TRY(kage_mem_pages_reserve(f->next, kage_runs_total(&f->look.written) * KAGE_PAGE_BYTES));
	TRY(copy_written(c, c->target, true));
	f->filled = true;
	return NULL;
}

/* RUNS go to the shadow. What else is there lies in a layer. */
static struct kage_err *fill_shadow(struct kage_capture *c, const struct page_runs *runs)
{
	struct follow *f = c->follow;
	uint64_t total = kage_runs_total(runs), n_done = 0, done = 0;
	struct page_runs piece = { 0 };
	struct kage_err *e = NULL;
	size_t i = 0;

	while (!e && i < runs->n) {
		e = kage_runs_take(runs, &i, &done, FILL_PAGES, &piece);
		if (!e)
			e = fill_piece(c, &piece);
		n_done += kage_runs_total(&piece);
		kage_ctx_progress(c->ctx, "copy", n_done * KAGE_PAGE_BYTES,
				  total * KAGE_PAGE_BYTES);
	}
	kage_runs_deinit(&piece);
	if (e)
		return e;
	TRY(shadow_set_runs(f->shadow, f->look.populated.v, f->look.populated.n));
	kage_runs_clear(&f->look.written);
	f->filled = true;
	return NULL;
}

/* The first round copies everything, so it does not stay in memory. */
static struct kage_err *fill(struct kage_capture *c)
{
	struct follow *f = c->follow;

	f->committed = false;
	drop_layers(f);
	return f->once ? fill_layer(c) : fill_shadow(c, &f->look.populated);
}

/* --- beside the running target ---------------------------------------------------------------- */

/* Flags of mappings are slow to read where only smaps tells them (a walk over all page tables): as long as the map is the
 * same they are then taken to be. */
static struct kage_err *read_maps(struct kage_capture *c)
{
	struct follow *f = c->follow;
	struct kage_maps now = { 0 };
	bool same;

	if (c->vmas)
		TRY(kage_vmaread_maps(c->vmas, c->target->proc_fd, c->target->pid, &now));
	else
		TRY(kage_maps_read(c->target->proc_fd, false, &now));
	same = f->looked && kage_maps_equal(&now, &f->maps);
	if (same)
		c->looked = take_ptr(f->looked);
	/* What a fork takes along must be known as it is (twinned_check()). */
	if (same && !now.has_flags && !f->twins) {
		c->maps = f->maps;
		f->maps = (struct kage_maps){ 0 };
		kage_maps_deinit(&now);
		return NULL;
	}
	c->maps = now;
	if (!now.has_flags) {
		kage_maps_deinit(&c->maps);
		TRY(kage_maps_read(c->target->proc_fd, true, &c->maps));
	}
	return same ? NULL : kage_looked_look(c);
}

/* Room for what the stop will copy is made and faulted in. EXPECTED pages, about. */
static struct kage_err *reserve(struct kage_capture *c, uint64_t expected)
{
	struct follow *f = c->follow;

	c->span_ns = SPAN_NS + expected * KAGE_PAGE_BYTES / COPY_BYTES_PER_NS;
	if (!f->next)
		TRY(room_take(&f->room, &f->next));
	return kage_mem_pages_reserve(f->next,
				      (expected + expected / 2 + SPARE_PAGES) * KAGE_PAGE_BYTES);
}

/* How many pages will be written in the time that the round took which began at BEGIN_NS and found FOUND pages, going by
 * those that were written since the look before. */
static uint64_t predict(const struct follow *f, uint64_t begin_ns, uint64_t found)
{
	uint64_t span = begin_ns - f->looked_ns, took = kage_clock_mono_ns() - begin_ns;

	return f->looked_ns && span ? found * took / span : found;
}

/* Between the look and the copy: what is under way, and does not begin after the one and end before the other, is seen
 * then. */
static struct kage_err *look_for_pins(struct kage_capture *c)
{
	struct follow *f = c->follow;

	return f->pinned ? NULL : kage_pins_look(c->target, &f->pinned);
}

/* There is one round: for what was cleared, all that is there is copied. */
static struct kage_err *run_soft_round(struct kage_capture *c)
{
	struct follow *f = c->follow;
	bool cleared;

	TRY(kage_softdirty_start(f->look.soft, c->target, !f->filled, &cleared));
	if (!cleared)
		return reserve(c, f->expected);
	TRY(look_around(c, &c->maps, false));
	TRY(look_for_pins(c));
	TRY(fill(c));
	return reserve(c, f->pinned ? kage_runs_total(&f->look.populated) : RESERVE_PAGES);
}

/* Rounds go on while they help. Each costs both sides something: a page that was written faults once more, and for
 * each 2 MiB with such pages the processors tell each other. So there is none where the stop can copy all, if
 * this image is like the last one, and no further one that would find little. */
static struct kage_err *run_rounds(struct kage_capture *c)
{
	struct follow *f = c->follow;
	uint64_t now = f->expected;

	if (f->look.soft)
		return run_soft_round(c);
	if (!f->look.tracker || (f->filled && f->committed && f->expected <= FEW_PAGES))
		return reserve(c, f->expected);
	for (int round = 0; round < MAX_ROUNDS; round++) {
		uint64_t begin = kage_clock_mono_ns(), next;

		TRY(look_around(c, &c->maps, true));
		TRY(look_for_pins(c));
		now = kage_runs_total(&f->look.written);
		if (!f->filled)
			TRY(fill(c));
		else if (!f->committed && !f->once && !f->n_layers)
			TRY(fill_shadow(c, &f->look.written));
		else
			TRY(copy_written(c, c->target, true));
		next = predict(f, begin, now);
		if (next <= FEW_LEFT || (f->looked_ns && next > now / 2))
			break;
		f->looked_ns = begin;
	}
	now = f->pinned ? kage_runs_total(&f->look.populated) : now;
	return reserve(c, now < RESERVE_PAGES ? now : RESERVE_PAGES);
}

/* The rungs of tracking, for tests KAGE_TRACK names one. */
static bool is_forced(const char *rung)
{
	const char *forced = secure_getenv("KAGE_TRACK");

	return forced && strcmp(forced, rung) == 0;
}

/* Where there is no tracker (a kernel before 6.7, a program whose seccomp filter forbids it), all memory is read and
 * compared: from a twin, or where there can be none in the stop, which is long then. */
static void do_without(struct kage_capture *c, const char *why)
{
	struct follow *f = c->follow;

	f->untracked = true;
	f->filled = true;
	f->twins = !is_forced("copy");
	f->twins_forced = is_forced("twin");
	if (!f->once)
		kage_ctx_notice(
			c->ctx,
			"what process %d writes cannot be tracked%s%s; all of its memory is "
			"read for each image",
			c->target->pid, why[0] ? ": " : "", why);
}

static bool cannot_be_had(const struct kage_err *e)
{
	return e && (kage_err_code(e) == KAGE_UNSUPPORTED || kage_err_code(e) == KAGE_PERM);
}

/* What is below a tracker, which could not be made because of E (taken). */
static struct kage_err *make_next_best(struct kage_capture *c, struct kage_err *e)
{
	struct kage_err *also = kage_softdirty_create(c->target, &c->follow->look.soft);

	if (also && !cannot_be_had(also)) {
		err_drop(e);
		return also;
	}
	if (also)
		do_without(c, kage_err_message(e ? e : also));
	err_drop(also);
	err_drop(e);
	return NULL;
}

static struct kage_err *make_tracker_if_possible(struct kage_capture *c)
{
	struct kage_err *e = NULL;

	if (is_forced("copy") || is_forced("twin")) {
		do_without(c, "");
		return NULL;
	}
	if (is_forced("softdirty"))
		return make_next_best(c, NULL);
	e = tracking_begin(c, &c->follow->look.tracker);
	return cannot_be_had(e) ? make_next_best(c, e) : e;
}

/* What is registered with our userfaultfd a program cannot register with its own (EBUSY). */
static struct kage_err *give_way(struct kage_capture *c)
{
	struct follow *f = c->follow;

	if (f->untracked)
		return NULL;
	if (!f->look.tracker && !f->look.soft)
		TRY(kage_pins_find_uffd(c->target, &f->gives_way));
	if (!f->gives_way)
		return NULL;
	look_untrack(&f->look);
	do_without(c, "it has a userfaultfd itself");
	return NULL;
}

static bool try_again(struct kage_capture *c)
{
	kage_looked_free(c);
	kage_maps_deinit(&c->maps);
	c->maps = (struct kage_maps){ 0 };
	return true;
}

struct kage_err *follow_take_room(struct follow *f, struct mem_pages **ret_pages)
{
	return room_take(&f->room, ret_pages);
}

struct kage_err *follow_look(struct kage_capture *c)
{
	struct follow *f = c->follow;

	c->space_ids = &f->ids;
	if (!c->usual_options)
		c->usual_options = take_ptr(f->usual_options);
	if (!f->ids.n) { /* the address space is number 1 */
		f->ids.v = calloc(1, sizeof(*f->ids.v));
		if (!f->ids.v)
			return kage_err_nomem();
		f->ids.v[f->ids.n++].kind = KAGE__SPACE__KIND__ADDRESS_SPACE;
	}
	/* Once more if the process has become another program (execve(2)). */
	do {
		if (f->look.tracker && kage_tracker_is_dead(f->look.tracker))
			start_over(f);
		TRY(give_way(c));
		if (!f->look.tracker && !f->look.soft && !f->untracked)
			TRY(make_tracker_if_possible(c));
		if (!c->maps.n)
			TRY(read_maps(c));
		TRY(run_rounds(c));
	} while (f->look.tracker && kage_tracker_is_dead(f->look.tracker) && try_again(c));
	return kage_mem_pages_reserve(c->pages, (uint64_t)SPARE_PAGES * KAGE_PAGE_BYTES);
}

/* --- while it stands -------------------------------------------------------------------------- */

/* What is there and in no layer: nothing, if the tracker tells all; but a page of which nothing is known must
 * never be left out. */
static struct kage_err *add_unknown(struct follow *f)
{
	const struct kage_pages *known = shadow_pages(f->shadow);
	struct page_runs left = { 0 };
	struct kage_err *e = kage_runs_minus(f->look.populated.v, f->look.populated.n, known->runs,
					     known->n_runs, &left);

	for (size_t i = 0; i < f->n_layers && left.n && !e; i++) {
		struct page_runs before = left;

		left = (struct page_runs){ 0 };
		known = f->layers[i];
		e = kage_runs_minus(before.v, before.n, known->runs, known->n_runs, &left);
		kage_runs_deinit(&before);
	}
	if (!e)
		e = kage_runs_add_all(&f->look.written, left.v, left.n);
	kage_runs_sort(&f->look.written);
	kage_runs_deinit(&left);
	return e;
}

/* What was told as written, was not copied then, and is gone by now. */
static struct kage_err *drop_gone(struct follow *f)
{
	struct page_runs left = { 0 };
	struct kage_err *e = kage_runs_common(&f->look.written, &f->look.populated, &left);

	kage_runs_deinit(e ? &left : &f->look.written);
	if (!e)
		f->look.written = left;
	return e;
}

static struct kage_err *add_all(struct follow *f)
{
	TRY(kage_runs_add_all(&f->look.written, f->look.populated.v, f->look.populated.n));
	kage_runs_sort(&f->look.written);
	return NULL;
}

/* What has to be copied in the stop. */
static struct kage_err *choose_written(struct follow *f)
{
	TRY(drop_gone(f));
	TRY(add_unknown(f));
	if (f->pinned)
		TRY(add_all(f));
	f->expected = kage_runs_total(&f->look.written);
	for (size_t i = 0; i < f->n_layers; i++)
		f->expected += kage_pages_total(f->layers[i]);
	return NULL;
}

static struct kage_err *note_guards(struct kage_capture *c)
{
	const struct page_runs *guards = &c->follow->look.guards;

	for (size_t i = 0; i < guards->n; i++) {
		const struct page_run *r = &guards->v[i];

		TRY(kage_memory_note_guard(c, r->first << KAGE_PAGE_SHIFT,
					   (r->first + r->count) << KAGE_PAGE_SHIFT));
	}
	return NULL;
}

/* It may have one next time, so this is said once. */
static void without_twin(struct kage_capture *c, const char *why)
{
	struct follow *f = c->follow;

	if (!f->once && !f->told)
		kage_ctx_notice(
			c->ctx,
			"process %d is not forked: %s; it is stopped until all of its memory "
			"is copied",
			c->target->pid, why);
	f->told = true;
}

static struct kage_err *fork_off(struct kage_capture *c, struct kage_thread *thread)
{
	struct follow *f = c->follow;
	struct kage_err *e = kage_twin_fork(c->target, thread, false, &f->twin);

	if (e && (kage_err_code(e) == KAGE_UNSUPPORTED || kage_err_code(e) == KAGE_PERM ||
		  kage_err_code(e) == KAGE_LIMIT)) {
		without_twin(c, kage_err_message(e));
		err_drop(e);
		return NULL;
	}
	return e;
}

/* Of the thread that made it the kernel has written the struct rseq since, or might yet: for all that is
 * compared with the target it is copied in the stop. */
static struct kage_err *note_rseq(struct kage_capture *c, const struct kage_thread *thread)
{
	uint64_t page = page_floor(kage_thread_rseq(thread));
	const struct kage_vma *v = kage_maps_find(&c->maps, page);

	if (!page || !v || !kage_memory_is_private(v) || !twinned_takes(v))
		return NULL;
	return look_at_page(&c->follow->look, c->target, page);
}

/* Makes a twin, and looks at what it has not. */
static struct kage_err *take_twin(struct kage_capture *c, struct kage_thread *thread)
{
	struct follow *f = c->follow;

	TRY(fork_off(c, thread));
	if (!f->twin)
		return NULL;
	TRY(look_around(c, &c->maps, false));
	return note_rseq(c, thread);
}

/* Makes a twin if that is to be, and looks at what it has not. *RET_STILL false: a thread must stand that can make it. */
static struct kage_err *split_off(struct kage_capture *c, bool *ret_still)
{
	struct follow *f = c->follow;
	struct kage_thread *thread = kage_target_who_stands(c->target);
	const char *why = twinned_obstacle(c);

	/* Of an attempt before this one: nothing of it is known to be so still. */
	drop_layers(f);
	kage_runs_clear(&f->look.written);
	if (!f->twins_forced && twinned_is_small(c))
		return NULL;
	if (why) {
		without_twin(c, why);
		return NULL;
	}
	if (!thread) {
		c->stop_all |= ++f->n_asleep > 1;
		*ret_still = false;
		return NULL;
	}
	f->n_asleep = 0;
	return take_twin(c, thread);
}

/* Layers of an earlier attempt may hold pages of what would be read from a twin. That is put below layers, or left out
 * where it is as in the image before; only if there is one image alone it comes on top. */
static bool has_older(const struct follow *f)
{
	return f->n_layers && !f->once;
}

/* Where the page map is long and empty it is not read in the stop: a fork copies the bits, too. What others write from
 * before the fork on is told the next time as well. */
static struct kage_err *split_off_sparse(struct kage_capture *c)
{
	struct follow *f = c->follow;
	struct kage_thread *thread = kage_target_who_stands(c->target);

	if (f->pinned || has_older(f) || !thread || !twinned_is_sparse(c) || twinned_obstacle(c))
		return NULL;
	TRY(kage_softdirty_begin(f->look.soft, c->target));
	return take_twin(c, thread);
}

/* Too much to be copied while the target stands is read from a twin, if it may have one. */
static struct kage_err *put_off(struct kage_capture *c)
{
	struct follow *f = c->follow;
	struct kage_thread *thread = kage_target_who_stands(c->target);
	struct page_runs all = f->look.written;
	struct kage_err *e;

	if (!f->look.soft || f->twin || f->pinned || has_older(f) || !thread ||
	    !twinned_saves(c, kage_runs_total(&all)) || twinned_obstacle(c))
		return NULL;
	TRY(fork_off(c, thread));
	if (!f->twin)
		return NULL;
	f->look.written = (struct page_runs){ 0 };
	e = note_rseq(c, thread);
	if (!e)
		e = twinned_split(c, &all, &f->look.written, &f->later);
	kage_runs_deinit(&all);
	return e;
}

/* What an attempt before this one has put off, and nobody has read. */
static void forget_twin(struct follow *f)
{
	if (f->look.soft && f->twin)
		kage_softdirty_distrust(f->look.soft);
	kage_twin_end(f->twin);
	f->twin = NULL;
	kage_runs_clear(&f->later);
}

static Kage__Source__Tracking how_known(const struct follow *f)
{
	if (f->twin && !f->look.soft)
		return KAGE__SOURCE__TRACKING__TWIN;
	if (f->pinned || f->untracked)
		return KAGE__SOURCE__TRACKING__COPY;
	return f->look.soft ? KAGE__SOURCE__TRACKING__SOFT_DIRTY
			    : KAGE__SOURCE__TRACKING__WRITE_PROTECT;
}

struct kage_err *follow_copy(struct kage_capture *c, bool *ret_still)
{
	struct follow *f = c->follow;

	forget_twin(f);
	if (f->untracked && f->twins)
		TRY(split_off(c, ret_still));
	if (f->look.soft)
		TRY(split_off_sparse(c));
	if (!*ret_still)
		return NULL;
	if (!f->twin)
		TRY(look_around(c, &c->maps, false));
	f->looked_ns = kage_clock_mono_ns();
	TRY(choose_written(f));
	TRY(put_off(c));
	c->tracking = how_known(f);
	f->n_before = f->n_layers;
	TRY(copy_written(c, c->target, false));
	/* What is under way in this instant may arrive after it. */
	f->pinned = kage_pins_seen(c);
	f->gives_way |= kage_pins_uffd_seen(c);
	if (f->look.soft)
		TRY(kage_softdirty_clear(f->look.soft, c->target, ret_still));
	return note_guards(c);
}

/* --- afterwards ------------------------------------------------------------------------------- */

/* What is in the twin and was not copied in the stop. */
static struct kage_err *choose_in_twin(struct kage_capture *c)
{
	struct follow *f = c->follow;
	struct page_runs all = { 0 };
	const struct kage_pages *here;
	struct kage_err *e;

	if (f->later.n) {
		f->look.written = f->later;
		f->later = (struct page_runs){ 0 };
		return NULL;
	}
	TRY(look_in(&f->look, f->twin->process, &c->maps, twinned_takes, false));
	TRY(add_unknown(f));
	TRY(note_guards(c));
	if (f->n_layers == f->n_before)
		return NULL;
	here = f->layers[f->n_before];
	all = f->look.written;
	f->look.written = (struct page_runs){ 0 };
	e = kage_runs_minus(all.v, all.n, here->runs, here->n_runs, &f->look.written);
	kage_runs_deinit(&all);
	return e;
}

/* Into a new layer what differs from the image before. */
static struct kage_err *compare_twin(struct kage_capture *c)
{
	struct follow *f = c->follow;
	struct mem_pages *m = NULL;
	struct kage_err *e;

	TRY(room_take(&f->room, &m));
	e = twinned_compare(c, f->twin, &f->look.written, f->shadow, m);
	if (!e)
		e = push_layer(f, m);
	if (e)
		kage_mem_pages_destroy(m);
	kage_runs_clear(&f->look.written);
	return e;
}

/* Reads the twin, while the target runs, and ends it. What was copied in the stop lies in a layer and so above what
 * comes to the shadow here. */
static struct kage_err *drain(struct kage_capture *c)
{
	struct follow *f = c->follow;

	TRY(twinned_check(c, f->twin));
	TRY(choose_in_twin(c));
	if (f->once)
		TRY(copy_written(c, f->twin->process, false));
	else if (f->committed)
		TRY(compare_twin(c));
	else
		TRY(fill_shadow(c, &f->look.written));
	TRY(kage_twin_check(f->twin));
	kage_twin_end(f->twin);
	f->twin = NULL;
	return NULL;
}

static struct kage_err *find_changes(struct follow *f)
{
	const struct kage_pages *before = shadow_pages(f->shadow);

	kage_runs_clear(&f->changes);
	for (size_t i = 0; i < f->n_layers; i++)
		TRY(kage_runs_add_all(&f->changes, f->layers[i]->runs, f->layers[i]->n_runs));
	TRY(kage_runs_add_all(&f->changes, f->others->runs, f->others->n_runs));
	/* Those that only one of the images has. */
	TRY(kage_runs_minus(before->runs, before->n_runs, f->image.v, f->image.n, &f->changes));
	TRY(kage_runs_minus(f->image.v, f->image.n, before->runs, before->n_runs, &f->changes));
	kage_runs_sort(&f->changes);
	return NULL;
}

static struct kage_err *put_together(struct follow *f, struct kage_pages **ret_pages)
{
	_cleanup_free_ struct kage_pages **all =
		calloc(f->n_layers + 2, sizeof(struct kage_pages *));
	size_t n = 0;

	if (!all)
		return kage_err_nomem();
	all[n++] = f->others;
	for (size_t i = f->n_layers; i-- > 0;)
		all[n++] = f->layers[i];
	all[n++] = shadow_pages(f->shadow);
	return kage_layers_create(f->image.v, f->image.n, all, n, ret_pages);
}

struct kage_err *follow_finish(struct kage_capture *c)
{
	struct follow *f = c->follow;

	if (f->twin)
		TRY(drain(c));
	kage_pages_destroy(f->others);
	f->others = kage_mem_pages_finish(take_ptr(c->pages));
	kage_runs_clear(&f->image);
	TRY(kage_runs_add_all(&f->image, f->look.populated.v, f->look.populated.n));
	TRY(kage_runs_add_all(&f->image, f->others->runs, f->others->n_runs));
	kage_runs_sort(&f->image);
	TRY(find_changes(f));
	return put_together(f, &c->image->pages);
}

void follow_keep(struct kage_capture *c)
{
	struct follow *f = c->follow;

	forget_twin(f);
	kage_maps_deinit(&f->maps);
	f->maps = c->maps;
	c->maps = (struct kage_maps){ 0 };
	if (c->usual_options)
		f->usual_options = take_ptr(c->usual_options);
	/* Of the map that had changed in the freeze nothing was opened beforehand. */
	if (!c->maps_changed)
		f->looked = take_ptr(c->looked);
}

struct kage_err *follow_commit(struct follow *f)
{
	for (size_t i = 0; i < f->n_layers; i++)
		TRY(shadow_write_all(f->shadow, f->layers[i]));
	if (f->others)
		TRY(shadow_write_all(f->shadow, f->others));
	TRY(shadow_set_runs(f->shadow, f->image.v, f->image.n));
	f->committed = true;
	drop_layers(f);
	return NULL;
}
