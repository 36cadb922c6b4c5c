/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The recorder: images of one target, one after the other, each stored as its difference from the one
 * before.
 *
 * It holds the tracker and the shadow (capture/follow.h). Between images nothing of it runs in the
 * target; when it dies the tracking ends with it. The first image of a recorder is a keyframe,
 * because only what it has seen itself can be the base of a difference.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "capture/capture.h"
#include "capture/follow.h"
#include "capture/versions.h"
#include "image/changes.h"
#include "image/label.h"
#include "keeper/claim.h"
#include "kind/obstacles.h"
#include "store/dir.h"

struct kage_recorder {
	struct kage_ctx *ctx;
	struct kage_store *store;
	pid_t pid;
	char name[KAGE_NAME_BYTES];
	char *message;
	int compression;
	bool verify;
	struct follow *follow;
	struct versions versions;
	struct claim claim;
	struct kage_since_keyframe since;
	uint64_t keyframe_every_ns, keyframe_bytes, keyframe_at_ns;
	uint64_t keyframe_images, keyframe_period_ns;
	uint64_t last_realtime_ns; /* of the image before; 0: none */
	bool encrypted;
	uint8_t recipient[RECIPIENT_BYTES];
	uint64_t base_number;
	uint8_t base_id[16];
	struct kage_description description; /* of that image */
};

/* Whether an image of REALTIME_NS is the first of its period, as retention counts them. */
static bool begins_period(const struct kage_recorder *r, uint64_t realtime_ns)
{
	uint64_t period = r->keyframe_period_ns;

	return period && realtime_ns / period != r->last_realtime_ns / period;
}

static bool wants_keyframe(const struct kage_recorder *r, uint64_t realtime_ns)
{
	uint64_t age = kage_clock_mono_ns() - r->keyframe_at_ns;

	return kage_store_wants_keyframe(&r->since) ||
	       (r->keyframe_every_ns && age >= r->keyframe_every_ns) ||
	       (r->keyframe_bytes && r->since.difference_bytes >= r->keyframe_bytes) ||
	       (r->keyframe_images && r->since.n_packs >= r->keyframe_images) ||
	       begins_period(r, realtime_ns);
}

static void note_stored(struct kage_recorder *r, const struct kage_put_result *stored,
			uint64_t n_pages)
{
	r->base_number = stored->number;
	memcpy(r->base_id, stored->id, sizeof(r->base_id));
	if (stored->keyframe) {
		r->keyframe_at_ns = kage_clock_mono_ns();
		r->since = (struct kage_since_keyframe){ .keyframe_bytes = stored->stored_bytes,
							 .keyframe_pages = n_pages };
	} else {
		r->since.difference_bytes += stored->stored_bytes;
		r->since.n_packs++;
		r->since.changed_pages += stored->changed_pages;
	}
}

static struct kage_err *set_options(struct kage_recorder *r, const struct kage_record_options *o)
{
	snprintf(r->name, sizeof(r->name), "%s", o->name ? o->name : "");
	r->message = strdup(o->message ? o->message : "");
	r->compression = o->compression;
	r->verify = o->verify;
	r->keyframe_every_ns = o->keyframe_every_ns;
	r->keyframe_bytes = o->keyframe_bytes;
	r->keyframe_images = o->keyframe_images;
	r->keyframe_period_ns = o->keyframe_period_ns;
	r->encrypted = o->recipient;
	return o->recipient ? kage_keyfile_recipient(o->recipient, r->recipient) : NULL;
}

/* The name that the history gets when none was given. A process that is gone is told by the first image. */
static void name_by_comm(struct kage_recorder *r)
{
	_cleanup_free_ char *comm = NULL;
	char path[64];
	size_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/comm", r->pid);
	err_drop(kage_file_slurp(AT_FDCWD, path, 256, &comm, &n));
	if (!comm)
		return;
	comm[strcspn(comm, "\n")] = '\0';
	kage_store_default_name(comm, r->name);
}

/* Who has encrypted so far may have forgotten to say so this time. */
static void note_clear(const struct kage_recorder *r)
{
	struct kage_list list = { 0 };
	struct kage_err *e;

	if (r->encrypted || !r->name[0])
		return;
	e = kage_store_list(r->store, r->name, &list);
	if (!e && list.n && list.entries[list.n - 1].recipient)
		kage_ctx_notice(r->ctx,
				"'%s' was encrypted so far, and what is recorded now is not "
				"(--recipient)",
				r->name);
	err_drop(e);
	kage_list_free(&list);
}

static struct kage_err *prepare(struct kage_recorder *r, const struct kage_record_options *options)
{
	if (options)
		TRY(set_options(r, options));
	if (!r->name[0])
		name_by_comm(r);
	note_clear(r);
	if (r->name[0])
		TRY(kage_claim_take(r->store, r->name, r->pid, &r->claim));
	TRY(kage_versions_open(&r->versions, options ? options->git : NULL, r->encrypted));
	return follow_create(r->store->fd, r->encrypted, &r->follow);
}

struct kage_err *kage_recorder_create(struct kage_ctx *ctx, struct kage_store *store, pid_t pid,
				      const struct kage_record_options *options,
				      struct kage_recorder **ret_recorder)
{
	struct kage_recorder *r;
	struct kage_err *e;

	if (options && options->name)
		TRY(kage_store_check_name(options->name));
	r = calloc(1, sizeof(*r));
	if (!r)
		return kage_err_nomem();
	r->ctx = ctx;
	r->store = store;
	r->pid = pid;
	r->claim = CLAIM_INIT;
	e = prepare(r, options);
	if (e) {
		kage_recorder_destroy(r);
		return kage_err_wrap(e, "record process %d", pid);
	}
	*ret_recorder = r;
	return NULL;
}

void kage_recorder_destroy(struct kage_recorder *r)
{
	if (!r)
		return;
	follow_destroy(r->follow);
	kage_versions_close(&r->versions);
	kage_claim_release(&r->claim);
	kage_description_deinit(&r->description);
	free(r->message);
	free(r);
}

const char *kage_recorder_name(const struct kage_recorder *r)
{
	return r->name;
}

static struct kage_err *set_words(struct kage_recorder *r, struct kage_image *image)
{
	Kage__Source *s = image->msg->source;

	s->message = arena_strdup(&image->arena, r->message ? r->message : "");
	s->reason = arena_strdup(&image->arena, "record");
	if (!r->name[0])
		kage_store_default_name(image->msg->processes[0]->comm, r->name);
	return s->message && s->reason ? NULL : kage_err_nomem();
}

struct reading_back {
	struct kage_pages *captured;
	uint64_t number;
};

static struct kage_err *compare_piece(void *user, uint32_t space, uint64_t first, uint64_t count,
				      const void *bytes)
{
	const struct reading_back *b = user;
	_cleanup_free_ uint8_t *ours = malloc(count * KAGE_PAGE_BYTES);

	if (!ours)
		return kage_err_nomem();
	TRY(kage_pages_read(b->captured, space, first, count, ours));
	for (uint64_t i = 0; i < count * KAGE_PAGE_BYTES; i++)
		if (ours[i] != (bytes ? ((const uint8_t *)bytes)[i] : 0))
			return kage_err_new(KAGE_CORRUPT,
					    "image %llu differs from what was stored, in space %u "
					    "at %#llx",
					    (unsigned long long)b->number, space,
					    (unsigned long long)(first * KAGE_PAGE_BYTES + i));
	return NULL;
}

/* Whether image NUMBER holds what was captured, read as anybody else would. */
static struct kage_err *read_back(struct kage_recorder *r, uint64_t number,
				  struct kage_pages *captured)
{
	struct reading_back b = { .captured = captured, .number = number };
	char spec[KAGE_NAME_BYTES + 24];
	struct kage_image *stored = NULL;
	struct kage_err *e;

	snprintf(spec, sizeof(spec), "%s@%llu", r->name, (unsigned long long)number);
	TRY(kage_image_open(r->store, spec, &stored));
	if (kage_pages_total(stored->pages) != kage_pages_total(captured))
		e = kage_err_new(KAGE_CORRUPT, "image %llu has %llu pages, not %llu",
				 (unsigned long long)number,
				 (unsigned long long)kage_pages_total(stored->pages),
				 (unsigned long long)kage_pages_total(captured));
	else
		e = kage_pages_each(stored->pages, 0, compare_piece, &b);
	kage_image_close(stored);
	return e;
}

/* Stores IMAGE, and makes it the one that the next is compared with. */
static struct kage_err *store(struct kage_recorder *r, struct kage_image *image,
			      struct kage_record_result *result)
{
	const struct page_runs *runs = follow_changes(r->follow);
	struct kage_changes changes = { .base_number = r->base_number,
					.runs = runs->v,
					.n_runs = runs->n,
					.before = follow_before(r->follow) };
	bool linked = follow_has_before(r->follow);
	uint64_t realtime_ns = image->msg->source->realtime_ns;
	struct kage_put_options put = { .compression = r->compression,
					.changes = linked ? &changes : NULL,
					.recipient = r->encrypted ? r->recipient : NULL,
					.remember = true,
					.description = r->encrypted ? NULL : &r->description,
					.keyframe = wants_keyframe(r, realtime_ns) };
	struct kage_put_result stored;
	struct kage_err *e;

	memcpy(changes.base_id, r->base_id, sizeof(changes.base_id));
	TRY(set_words(r, image));
	e = kage_versions_put(&r->versions, r->ctx, r->store, r->name, image, &put, &stored,
			      result->git_commit);
	if (e &&
	    kage_err_code(e) == KAGE_CHANGED) { /* somebody removed the image before this one */
		err_drop(e);
		put.changes = NULL;
		e = kage_versions_put(&r->versions, r->ctx, r->store, r->name, image, &put, &stored,
				      result->git_commit);
	}
	TRY(e);
	note_stored(r, &stored, kage_pages_total(image->pages));
	r->last_realtime_ns = realtime_ns;
	result->number = stored.number;
	result->stored_bytes = stored.stored_bytes;
	result->keyframe = stored.keyframe;
	result->changed_bytes = linked ? stored.changed_pages * KAGE_PAGE_BYTES
				       : kage_pages_total(image->pages) * KAGE_PAGE_BYTES;
	if (r->verify)
		TRY(read_back(r, stored.number, image->pages));
	return follow_commit(r->follow);
}

static struct kage_err *take(struct kage_recorder *r, struct kage_target *t,
			     struct kage_record_result *result)
{
	_cleanup_(kage_obstacles_cleanup) struct kage_obstacles *obstacles =
		kage_obstacles_create();
	const struct capture_options how = { .follow = r->follow,
					     .verify = r->verify,
					     .lenient = true };
	struct kage_image *image = NULL;
	const Kage__Source *source;
	struct kage_err *e;

	if (!obstacles)
		return kage_err_nomem();
	TRY(kage_capture(r->ctx, t, &how, obstacles, &image));
	source = image->msg->source;
	result->pause_ns = source->pause_ns;
	result->rung = source->rung;
	result->tracking = kage_tracking_name(source->tracking);
	result->memory_bytes = source->copied_bytes;
	result->n_threads = (uint32_t)image->msg->processes[0]->n_threads;
	e = store(r, image, result);
	kage_image_close(image);
	return e;
}

/* *RET_REPLACED: the program executed another one meanwhile, or ended its twin. */
static struct kage_err *open_and_take(struct kage_recorder *r, struct kage_record_result *result,
				      bool *ret_replaced)
{
	struct kage_target *t = NULL;
	struct kage_err *e;

	*ret_replaced = false;
	TRY(kage_dir_still_there(r->store));
	TRY(kage_capture_open(r->ctx, r->pid, &t));
	e = take(r, t, result);
	/* Of a twin that is of no use another one is made. */
	if (e)
		*ret_replaced = kage_target_replaced(t) || kage_err_code(e) == KAGE_CHANGED;
	kage_target_close(t);
	return e;
}

struct kage_err *kage_recorder_take(struct kage_recorder *r, struct kage_record_result *ret_result)
{
	struct kage_record_result result = { 0 };
	uint64_t begin = kage_clock_mono_ns();
	bool replaced = true;
	struct kage_err *e = NULL;

	/* Who executes another program in the middle is taken as that. */
	for (int i = 0; i < KAGE_EXEC_TRIES && replaced; i++) {
		err_drop(e);
		result = (struct kage_record_result){ 0 };
		e = open_and_take(r, &result, &replaced);
	}
	if (e)
		return kage_err_wrap(e, "record process %d", r->pid);
	result.total_ns = kage_clock_mono_ns() - begin;
	*ret_result = result;
	return NULL;
}
