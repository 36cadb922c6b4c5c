/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Versions of written files in a git repository: one commit an image, on the branch kage/HISTORY.
 *
 * What is committed comes from the image, so it is what the files held at its instant, and the program does not
 * wait for it. Nothing but objects and that branch is written: no index, no working tree, no configuration, and no hook
 * runs.
 *
 *	var/lib/app/data		/var/lib/app/data
 *	.unlinked/tmp/work.81923	the file of inode 81923 that was /tmp/work and has no name any more
 *
 * A commit is made in two steps, so that no branch ever leads to one whose image was not stored.
 */
#ifndef GIT_GIT_H
#define GIT_GIT_H

#include "base/err.h"
#include "image/image.h"

enum { KAGE_GIT_ID_BYTES = 41 }; /* hexadecimal, with its end */

struct kage_git;

/** Opens the repository in DIR, bare or not; with CREATE makes a bare one, mode 0700, where DIR does not exist or is
 *  empty. */
struct kage_err *kage_git_open(const char *dir, bool create, struct kage_git **ret_git)
	_must_check_;
void kage_git_close(struct kage_git *g);

/** The absolute path of DIR. */
const char *kage_git_dir(const struct kage_git *g);

/** Writes what IMAGE, that is to be NAME@NUMBER, has of files that the program had open for writing or that have no
 *  name, and a commit of them. What it did not have in another version since G was opened is not read. */
struct kage_err *kage_git_commit(struct kage_git *g, const struct kage_image *image,
				 const char *name, uint64_t number, char ret_id[KAGE_GIT_ID_BYTES])
	_must_check_;

/** Moves the branch of history NAME to the commit that was made last. */
struct kage_err *kage_git_publish(struct kage_git *g, const char *name) _must_check_;

/** Whether the commit that IMAGE names is there and has the image's files; else KAGE_NOTFOUND or KAGE_CHANGED. */
struct kage_err *kage_git_compare(struct kage_git *g, const struct kage_image *image) _must_check_;

#endif
