/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Storing images, and with each a commit of the files that the target writes (git/git.h), if that is asked for.
 */
#ifndef CAPTURE_VERSIONS_H
#define CAPTURE_VERSIONS_H

#include "git/git.h"
#include "store/store.h"

struct versions {
	struct kage_git *git; /* NULL: no commits */
	bool failing;         /* the last commit failed, which was told */
};

/** Opens the repository in DIR, or makes it; NULL for none. KAGE_INVALID when images are SECRET: git would keep the
 *  files in clear. */
struct kage_err *kage_versions_open(struct versions *v, const char *dir, bool secret) _must_check_;
void kage_versions_close(struct versions *v);

/** kage_store_put(), after a commit that IMAGE then names. A commit that fails is told once and keeps no image from
 *  being stored. RET_COMMIT: its number, "" without one. */
struct kage_err *kage_versions_put(struct versions *v, struct kage_ctx *ctx,
				   struct kage_store *store, const char *name,
				   struct kage_image *image, const struct kage_put_options *options,
				   struct kage_put_result *ret_result,
				   char ret_commit[KAGE_GIT_ID_BYTES]) _must_check_;

/** Stores IMAGE as kage_snap() does, with OPTIONS' words and name; fills RESULT but for its total_ns. */
struct kage_err *kage_snap_store(struct kage_ctx *ctx, struct kage_store *store,
				 struct versions *versions, struct kage_image *image,
				 const struct kage_snap_options *options,
				 struct kage_snap_result *result) _must_check_;

#endif
