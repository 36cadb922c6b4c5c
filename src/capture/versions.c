/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/versions.h"

#include <string.h>

#include "base/ctx.h"

struct kage_err *kage_versions_open(struct versions *v, const char *dir, bool secret)
{
	if (dir && secret)
		return kage_err_new(KAGE_INVALID, "git would keep in clear what is encrypted for a "
						  "recipient; leave one of the two out");
	return dir ? kage_git_open(dir, true, &v->git) : NULL;
}

void kage_versions_close(struct versions *v)
{
	kage_git_close(v->git);
	v->git = NULL;
}

/* Takes E. */
static void tell(struct versions *v, struct kage_ctx *ctx, struct kage_err *e)
{
	if (e && !v->failing)
		kage_ctx_notice(ctx, "%s; images are stored all the same, without commits",
				kage_err_message(e));
	v->failing = e != NULL;
	err_drop(e);
}

/* Gives IMAGE the name of a new commit, or of none. */
static struct kage_err *commit(struct versions *v, struct kage_ctx *ctx, const char *name,
			       uint64_t number, struct kage_image *image,
			       char id[KAGE_GIT_ID_BYTES])
{
	Kage__Source *s = image->msg->source;
	struct kage_err *e = kage_git_commit(v->git, image, name, number, id);

	if (e)
		id[0] = '\0';
	tell(v, ctx, e);
	s->git_commit = arena_strdup(&image->arena, id);
	s->git_dir = arena_strdup(&image->arena, id[0] ? kage_git_dir(v->git) : "");
	return s->git_commit && s->git_dir ? NULL : kage_err_nomem();
}

struct kage_err *kage_versions_put(struct versions *v, struct kage_ctx *ctx,
				   struct kage_store *store, const char *name,
				   struct kage_image *image, const struct kage_put_options *options,
				   struct kage_put_result *ret_result,
				   char ret_commit[KAGE_GIT_ID_BYTES])
{
	struct kage_put_options put = *options;
	struct kage_err *e;

	ret_commit[0] = '\0';
	if (!v->git)
		return kage_store_put(store, name, image, options, ret_result);
	/* The commit names the number, and the image the commit. Should somebody else take the number meanwhile,
	 * another commit is made, to which no branch leads either until its image is stored. */
	for (bool again = true; again;) {
		TRY(kage_store_next_number(store, name, &put.number));
		TRY(commit(v, ctx, name, put.number, image, ret_commit));
		e = kage_store_put(store, name, image, &put, ret_result);
		again = e && kage_err_code(e) == KAGE_BUSY && !kage_err_errno(e);
		if (again)
			err_drop(e);
	}
	if (!e && ret_commit[0])
		tell(v, ctx, kage_git_publish(v->git, name));
	return e;
}
