/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/brood.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "capture/capture.h"
#include "capture/cloned.h"
#include "kind/obstacles.h"
#include "restore/wake.h"
#include "store/resolve.h"
#include "sys/cgroup.h"
#include "sys/text.h"

enum {
	ROLLUP_MAX = 1 << 16,
	SHORT_SHARE = 50,       /* below this share of its memory left a machine is short of it */
	SHORT_BYTES = 32 << 20, /* and a control group below so much */
};

static void destroy(struct brood_twin *t)
{
	kage_twin_end(t->twin);
	kage_image_close(t->image);
	cloned_instant_deinit(&t->instant);
	free(t);
}

void brood_deinit(struct brood *b)
{
	kage_back_untrack(&b->tracking);
	for (size_t i = 0; i < b->n; i++)
		destroy(b->v[i]);
	free(b->v);
	kage_target_close(b->program);
	*b = (struct brood){ .ctx = b->ctx };
}

/* Those that are not about to end. */
static size_t n_kept(const struct brood *b)
{
	size_t n = 0;

	for (size_t i = 0; i < b->n; i++)
		n += !b->v[i]->dropped;
	return n;
}

/* --- making ----------------------------------------------------------------------------------- */

static struct kage_err *capture(struct brood *b, struct brood_twin *t)
{
	_cleanup_(kage_obstacles_cleanup) struct kage_obstacles *obstacles =
		kage_obstacles_create();
	struct cloning cloning = { 0 };
	const struct capture_options how = { .clone = &cloning, .lenient = true };
	struct kage_err *e;

	if (!obstacles)
		return kage_err_nomem();
	e = kage_capture(b->ctx, b->program, &how, obstacles, &t->image);
	t->twin = cloning.twin;
	t->instant = cloning.instant;
	return e;
}

/* A program that executes another one in the middle is taken as that. */
static struct kage_err *capture_again(struct brood *b, struct brood_twin *t)
{
	struct kage_err *e = capture(b, t);

	for (int i = 1; i < KAGE_EXEC_TRIES && e; i++) {
		pid_t pid = b->program->pid;

		if (b->program->held ||
		    (!kage_target_replaced(b->program) && kage_err_code(e) != KAGE_CHANGED))
			break;
		err_drop(e);
		kage_twin_end(take_ptr(t->twin));
		cloned_instant_deinit(&t->instant);
		kage_target_close(take_ptr(b->program));
		TRY(kage_capture_open(b->ctx, pid, &b->program));
		e = capture(b, t);
	}
	return e;
}

static struct kage_err *hold(struct brood_twin *t)
{
	size_t bytes = 0;

	TRY(kage_wake_area_bytes(t->image, &bytes));
	return kage_twin_hold(t->twin, bytes);
}

static void tell_obstacle(const struct brood *b, const Kage__Image *m)
{
	if (m->n_obstacles)
		kage_ctx_notice(
			b->ctx,
			"the twin cannot be woken as it is, but the program be rolled back to it: %s: "
			"%s",
			m->obstacles[0]->object, m->obstacles[0]->why);
}

static struct kage_err *make(struct brood *b, struct brood_twin *t)
{
	uint64_t begin = kage_clock_mono_ns();

	/* A fork of what is registered with a userfaultfd is refused, whosever that is. */
	kage_back_untrack(&b->tracking);
	TRY(capture_again(b, t));
	tell_obstacle(b, t->image->msg);
	TRY(hold(t));
	t->total_ns = kage_clock_mono_ns() - begin;
	snprintf(b->comm, sizeof(b->comm), "%s", t->image->msg->processes[0]->comm);
	return NULL;
}

/* All twins are of one process. One that is gone gives its number to others. */
struct kage_err *brood_open(struct brood *b, pid_t pid, uint64_t start_ticks)
{
	if (b->program && (b->program->pid != pid || b->program->start_ticks != start_ticks))
		return kage_err_new(
			KAGE_BUSY,
			"these are twins of process %d (%s); choose another name (--name)",
			b->program->pid, b->comm);
	if (!b->program)
		TRY(kage_capture_open(b->ctx, pid, &b->program));
	if (b->program->start_ticks != start_ticks)
		return kage_err_new(KAGE_GONE, "process %d has ended", pid);
	if (!b->comm[0])
		kage_target_comm(b->program, b->comm);
	return NULL;
}

struct kage_err *brood_add(struct brood *b, pid_t pid, uint64_t start_ticks,
			   struct brood_twin **ret_twin, size_t *ret_dropped)
{
	struct brood_twin *t = calloc(1, sizeof(*t));
	struct brood_twin **grown = realloc(b->v, (b->n + 1) * sizeof(*b->v));
	struct kage_err *e;

	if (grown)
		b->v = grown;
	if (!t || !grown) {
		free(t);
		return kage_err_nomem();
	}
	e = brood_open(b, pid, start_ticks);
	if (!e)
		e = make(b, t);
	if (e) {
		destroy(t);
		return e;
	}
	t->number = ++b->last_number;
	b->v[b->n++] = t;
	*ret_dropped = brood_fit(b);
	/* The limits may be such that not even it may stay. */
	if (n_kept(b) == 0)
		return kage_err_new(
			KAGE_LIMIT,
			"its limits (--max-memory), or what memory is left, do not allow a twin");
	*ret_twin = t;
	return NULL;
}

/* --- finding and ending ----------------------------------------------------------------------- */

static struct kage_err *unknown(const struct brood *b, uint64_t number)
{
	return kage_err_new(KAGE_NOTFOUND,
			    "there is no twin %s@%" PRIu64 "; there are %" PRIu64 " to %" PRIu64,
			    b->name, number, b->v[0]->number, b->v[b->n - 1]->number);
}

/* The I-th from the end that is not about to end. */
static struct brood_twin *from_end(const struct brood *b, uint64_t i)
{
	for (size_t k = b->n; k-- > 0;)
		if (!b->v[k]->dropped && i-- == 0)
			return b->v[k];
	return NULL;
}

static struct brood_twin *find(const struct brood *b, const struct kage_which *w)
{
	uint64_t now = kage_clock_real_ns();

	if (w->kind == KAGE_WHICH_BEFORE)
		return from_end(b, w->n);
	for (size_t k = 0; k < b->n; k++) {
		/* For an age the newest that is old enough, so from the end. */
		size_t i = w->kind == KAGE_WHICH_AGE ? b->n - 1 - k : k;
		struct brood_twin *t = b->v[i];

		if (t->dropped)
			continue;
		if (w->kind == KAGE_WHICH_FIRST ||
		    (w->kind == KAGE_WHICH_NUMBER && t->number == w->n) ||
		    (w->kind == KAGE_WHICH_AGE && t->image->msg->source->realtime_ns + w->n <= now))
			return t;
	}
	return NULL;
}

struct kage_err *brood_find(struct brood *b, const char *which, struct brood_twin **ret_twin)
{
	struct kage_which w = { KAGE_WHICH_BEFORE, 0 };

	if (which[0])
		TRY(kage_which_parse(which, &w));
	*ret_twin = find(b, &w);
	if (*ret_twin)
		return NULL;
	if (w.kind == KAGE_WHICH_NUMBER && b->n)
		return unknown(b, w.n);
	return kage_err_new(KAGE_NOTFOUND, "there is no %s@%s among its %zu twins", b->name, which,
			    b->n);
}

static void remove_at(struct brood *b, size_t i)
{
	if (b->tracking.twin == b->v[i]->twin)
		kage_back_untrack(&b->tracking);
	destroy(b->v[i]);
	memmove(b->v + i, b->v + i + 1, (--b->n - i) * sizeof(*b->v));
}

void brood_drop(struct brood *b, struct brood_twin *t)
{
	t->dropped = true;
	for (size_t i = 0; i < b->n && !t->reader; i++)
		if (b->v[i] == t) {
			remove_at(b, i);
			return;
		}
}

void brood_unread(struct brood *b, pid_t reader)
{
	for (size_t i = 0; i < b->n; i++) {
		struct brood_twin *t = b->v[i];

		if (t->reader != reader)
			continue;
		t->reader = 0;
		if (t->dropped)
			remove_at(b, i);
		return;
	}
}

void brood_bury(struct brood *b)
{
	for (size_t i = b->n; i-- > 0;) {
		struct kage_err *e = kage_twin_check(b->v[i]->twin);

		if (!e)
			continue;
		kage_ctx_notice(b->ctx, "%s@%" PRIu64 " is gone: %s", b->name, b->v[i]->number,
				kage_err_message(e));
		err_drop(e);
		brood_drop(b, b->v[i]);
	}
}

bool brood_program_lives(const struct brood *b)
{
	struct kage_err *e = b->program ? kage_target_alive(b->program) : NULL;
	bool lives = b->program && !e;

	err_drop(e);
	return lives;
}

/* --- memory ----------------------------------------------------------------------------------- */

/* Bytes of proc_pid_smaps_rollup(5): what is of nobody else, and the share of anonymous memory. */
static bool read_rollup(int proc_fd, uint64_t *ret_own, uint64_t *ret_share, uint64_t *ret_all)
{
	_cleanup_free_ char *text = NULL;
	uint64_t clean = 0, dirty = 0, share = 0, all = 0;
	size_t size;
	struct kage_err *e = kage_file_slurp(proc_fd, "smaps_rollup", ROLLUP_MAX, &text, &size);

	if (e) {
		err_drop(e);
		return false;
	}
	kage_text_u64(text, "Private_Clean", 10, &clean);
	kage_text_u64(text, "Private_Dirty", 10, &dirty);
	kage_text_u64(text, "Anonymous", 10, &all);
	if (!kage_text_u64(text, "Pss_Anon", 10, &share)) /* before 5.4 */
		share = all;
	*ret_own = (clean + dirty) * 1024;
	*ret_share = share * 1024;
	*ret_all = all * 1024;
	return true;
}

/* What there is only because of twins: what all have together, each page once, without what the program has. Pages
 * that twins share among themselves count, which no twin has alone. */
static uint64_t count(struct brood *b)
{
	uint64_t own, share, all, together = 0, program = 0;

	for (size_t i = 0; i < b->n; i++) {
		if (!read_rollup(b->v[i]->twin->process->proc_fd, &own, &share, &all))
			continue;
		b->v[i]->own_bytes = own;
		together += share;
	}
	if (brood_program_lives(b) && read_rollup(b->program->proc_fd, &own, &share, &all)) {
		together += share;
		program = all;
	}
	return together > program ? together - program : 0;
}

void brood_count(struct brood *b)
{
	(void)count(b);
}

static bool memory_is_short(const struct brood *b)
{
	_cleanup_free_ char *text = NULL;
	uint64_t total = 0, left = 0;
	size_t size;
	struct kage_err *e = kage_file_slurp(AT_FDCWD, "/proc/meminfo", ROLLUP_MAX, &text, &size);
	bool is_short = !e && kage_text_u64(text, "MemTotal", 10, &total) &&
			kage_text_u64(text, "MemAvailable", 10, &left) &&
			left < total / SHORT_SHARE;

	err_drop(e);
	/* Copies that the program makes when it writes are charged to its own group. */
	return is_short || (brood_program_lives(b) &&
			    kage_cgroup_memory_left(b->program->proc_fd) < SHORT_BYTES);
}

static bool drop_oldest(struct brood *b, const char *why)
{
	for (size_t i = 0; i < b->n; i++) {
		struct brood_twin *t = b->v[i];

		if (t->dropped)
			continue;
		/* Else it was asked for. */
		if (why)
			kage_ctx_notice(b->ctx, "%s@%" PRIu64 " is dropped: %s", b->name, t->number,
					why);
		brood_drop(b, t);
		return true;
	}
	return false;
}

size_t brood_fit(struct brood *b)
{
	size_t n = 0;

	while (b->keep && n_kept(b) > b->keep && drop_oldest(b, NULL))
		n++;
	while (n_kept(b) && b->max_memory && count(b) > b->max_memory &&
	       drop_oldest(b, "twins have more memory than they may"))
		n++;
	while (n_kept(b) && memory_is_short(b) && drop_oldest(b, "memory is short"))
		n++;
	return n;
}
