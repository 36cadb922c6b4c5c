/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kage_snap(): an image of a live process, stored. And the check for what would stand in its way.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "capture/capture.h"
#include "capture/follow.h"
#include "capture/versions.h"
#include "image/label.h"
#include "kind/obstacles.h"
#include "store/keyfile.h"
#include "store/store.h"
#include "sys/text.h"

static struct kage_err *set_words(struct kage_image *image, const struct kage_snap_options *o)
{
	Kage__Source *s = image->msg->source;

	s->message = arena_strdup(&image->arena, o->message ? o->message : "");
	s->reason = arena_strdup(&image->arena, o->reason ? o->reason : "snap");
	return s->message && s->reason ? NULL : kage_err_nomem();
}

struct kage_err *kage_snap_store(struct kage_ctx *ctx, struct kage_store *store,
				 struct versions *versions, struct kage_image *image,
				 const struct kage_snap_options *o, struct kage_snap_result *result)
{
	struct kage_put_options put = { .compression = o->compression };
	uint8_t recipient[RECIPIENT_BYTES];
	struct kage_put_result stored;

	if (o->name)
		snprintf(result->name, sizeof(result->name), "%s", o->name);
	else
		kage_store_default_name(image->msg->processes[0]->comm, result->name);
	if (o->recipient) {
		TRY(kage_keyfile_recipient(o->recipient, recipient));
		put.recipient = recipient;
	}
	TRY(set_words(image, o));
	TRY(kage_versions_put(versions, ctx, store, result->name, image, &put, &stored,
			      result->git_commit));
	result->number = stored.number;
	result->stored_bytes = stored.stored_bytes;
	result->pause_ns = image->msg->source->pause_ns;
	result->rung = image->msg->source->rung;
	result->tracking = kage_tracking_name(image->msg->source->tracking);
	result->memory_bytes = image->msg->source->copied_bytes;
	result->pid = image->msg->processes[0]->pid;
	result->n_threads = (uint32_t)image->msg->processes[0]->n_threads;
	return NULL;
}

/* Copying so much would stop the target for longer than it takes to have its writes tracked. */
enum { LARGE_KB = 64 * 1024 };

/* For a target with much memory of its own, what follows it while it runs; else NULL. One that is to
 * end is stopped until its image is stored, so its pause does not matter; and tests force a rung. */
static struct kage_err *follow_large(const struct kage_target *t, const struct kage_snap_options *o,
				     struct follow **ret_follow)
{
	_cleanup_free_ char *status = NULL;
	uint64_t kb = 0;
	size_t size;

	*ret_follow = NULL;
	if (o->kill || secure_getenv("KAGE_RUNG"))
		return NULL;
	if (secure_getenv("KAGE_TRACK"))
		return follow_create(-1, false, ret_follow);
	TRY(kage_file_slurp(t->proc_fd, "status", 1 << 20, &status, &size));
	if (!kage_text_u64(status, "RssAnon", 10, &kb) || kb < LARGE_KB)
		return NULL;
	return follow_create(-1, false, ret_follow);
}

static struct kage_err *capture_and_store(struct kage_ctx *ctx, struct kage_store *into,
					  struct kage_target *t, const struct kage_snap_options *o,
					  struct follow *follow, struct versions *versions,
					  struct kage_snap_result *result)
{
	_cleanup_(kage_obstacles_cleanup) struct kage_obstacles *obstacles =
		kage_obstacles_create();
	const struct capture_options co = { .carry = o->carry,
					    .keep_still = o->kill,
					    .follow = follow };
	struct kage_image *image = NULL;
	struct kage_err *e;

	if (!obstacles)
		return kage_err_nomem();
	TRY(kage_capture(ctx, t, &co, obstacles, &image));
	follow_let_go(follow);
	e = kage_snap_store(ctx, into, versions, image, o, result);
	if (o->kill)
		kage_target_thaw(t, e == NULL);
	kage_image_close(image);
	return e;
}

static struct kage_err *snap(struct kage_ctx *ctx, struct kage_store *into, struct kage_target *t,
			     const struct kage_snap_options *o, struct kage_snap_result *result)
{
	_cleanup_(kage_versions_close) struct versions versions = { 0 };
	struct follow *follow;
	struct kage_err *e;

	TRY(kage_versions_open(&versions, o->git, o->recipient));
	TRY(follow_large(t, o, &follow));
	e = capture_and_store(ctx, into, t, o, follow, &versions, result);
	follow_destroy(follow);
	return e;
}

/* Root would not restore what others could have written: better to hear that now. */
static void warn_trust(struct kage_ctx *ctx, const struct kage_store *into,
		       const struct kage_snap_result *result)
{
	_cleanup_free_ char *path = NULL;
	struct kage_err *e;

	if (geteuid() != 0)
		return;
	if (asprintf(&path, "%s/%s/%010llu.kage", kage_store_path(into), result->name,
		     (unsigned long long)result->number) < 0) {
		path = NULL;
		return;
	}
	e = kage_store_check_trust(path);
	if (e && kage_err_code(e) == KAGE_PERM)
		kage_ctx_notice(
			ctx,
			"%s; root restores it only with --trust: keep images in a directory "
			"to which only root may write",
			kage_err_message(e));
	err_drop(e);
}

/* *RET_REPLACED: the program executed another one meanwhile, or ended its twin. */
static struct kage_err *open_and_snap(struct kage_ctx *ctx, struct kage_store *into, pid_t pid,
				      const struct kage_snap_options *o,
				      struct kage_snap_result *result, bool *ret_replaced)
{
	struct kage_target *t = NULL;
	struct kage_err *e;

	*ret_replaced = false;
	TRY(kage_capture_open(ctx, pid, &t));
	e = snap(ctx, into, t, o, result);
	/* Of a twin that is of no use another one is made. */
	if (e)
		*ret_replaced = kage_target_replaced(t) || kage_err_code(e) == KAGE_CHANGED;
	kage_target_close(t);
	return e;
}

struct kage_err *kage_snap(struct kage_ctx *ctx, struct kage_store *into, pid_t pid,
			   const struct kage_snap_options *options,
			   struct kage_snap_result *ret_result)
{
	static const struct kage_snap_options defaults;
	struct kage_snap_result result = { 0 };
	uint64_t begin = kage_clock_mono_ns();
	bool replaced = true;
	struct kage_err *e = NULL;

	options = options ? options : &defaults;
	if (options->name)
		TRY(kage_store_check_name(options->name));
	if (options->recipient) /* before anything is done to the target */
		TRY(kage_keyfile_recipient(options->recipient, (uint8_t[RECIPIENT_BYTES]){ 0 }));
	/* Who executes another program in the middle is taken as that: the PID was named. */
	for (int i = 0; i < KAGE_EXEC_TRIES && replaced; i++) {
		err_drop(e);
		result = (struct kage_snap_result){ 0 };
		e = open_and_snap(ctx, into, pid, options, &result, &replaced);
	}
	if (e && replaced)
		e = kage_err_advise(e, "it executed another program meanwhile, again and again; "
				       "try once more");
	if (e)
		return kage_err_wrap(e, "take an image of process %d", pid);
	result.total_ns = kage_clock_mono_ns() - begin;
	warn_trust(ctx, into, &result);
	*ret_result = result;
	return NULL;
}

struct kage_err *kage_check_process(struct kage_ctx *ctx, pid_t pid, struct kage_report *ret_report)
{
	_cleanup_(kage_obstacles_cleanup) struct kage_obstacles *obstacles =
		kage_obstacles_create();
	const struct capture_options co = { .checking = true };
	struct kage_image *image = NULL;
	struct kage_target *t = NULL;
	struct kage_err *e;

	if (!obstacles)
		return kage_err_nomem();
	TRY_WRAP(kage_target_open(ctx, pid, &t), "check process %d", pid);
	e = kage_capture(ctx, t, &co, obstacles, &image);
	kage_target_close(t);
	if (e)
		return kage_err_wrap(e, "check process %d", pid);
	kage_image_close(image);
	return kage_obstacles_report(obstacles, ret_report);
}
