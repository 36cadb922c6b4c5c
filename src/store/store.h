/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store: a directory of histories, each a directory of packs, one pack an image.
 *
 *	STORE/                  0700
 *	STORE/NAME/             one history
 *	STORE/NAME/0000000042.kage   NAME@42, immutable
 *	STORE/NAME/.tag-TAG     a symbolic link to the pack that NAME@TAG means
 *	STORE/NAME/.lock        held (flock) by whoever adds or removes
 *
 * Invariants: a pack that has its name is whole and durable; a number is used once and never again
 * while a later image exists; who is killed at any instant leaves nothing but complete packs
 * (packs are made without a name, O_TMPFILE, where the file system can).
 * Reading, listing and removing images is public (kage/kage.h).
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <kage/kage.h>

#include "base/ctx.h"
#include "image/changes.h"
#include "image/image.h"
#include "store/description.h"

struct kage_put_options {
	int compression; /* zstd level, 0 for the default */
	/* In what it differs from its neighbour, whose difference is stored in place of all pages; NULL
	 * stores all pages, without a neighbour. */
	const struct kage_changes *changes;
	uint64_t number; /* to be taken, else KAGE_BUSY and nothing is stored; 0: the next one */
	/* The public key for which it is encrypted, RECIPIENT_BYTES of it; NULL: for nobody. */
	const uint8_t *recipient;
	bool remember; /* the key of the pack, until the next keyframe that is put so, for thinning */
	bool keyframe; /* with changes: all pages and the difference, which then leads back from here */
	/* That of the neighbour, on which the image's may lean, or none; afterwards the image's. NULL: it leans on none
	 * and nobody wants it. */
	struct kage_description *description;
};

struct kage_put_result {
	uint64_t number;
	uint64_t stored_bytes;
	uint8_t id[16];         /* of the image, for the changes of the next one */
	uint64_t changed_pages; /* that really differ; 0 without changes */
	bool keyframe;
};

/** Adds IMAGE to history NAME, durably, under the next number, which is always the highest. Whole or not
 *  at all. KAGE_CHANGED when the neighbour is not in the history any more, or another image bears
 *  its number: then a keyframe without changes is due. */
struct kage_err *kage_store_put(struct kage_store *store, const char *name,
				const struct kage_image *image,
				const struct kage_put_options *options,
				struct kage_put_result *ret_result) _must_check_;

/** The number that the next image of history NAME gets, unless somebody else stores one before. */
struct kage_err *kage_store_next_number(struct kage_store *store, const char *name,
					uint64_t *ret_number) _must_check_;

/* What was stored since the last keyframe. */
struct kage_since_keyframe {
	uint64_t keyframe_bytes;   /* of its pack */
	uint64_t difference_bytes; /* of all packs since, together */
	uint64_t n_packs;          /* since */
	uint64_t keyframe_pages;   /* in it */
	uint64_t changed_pages;    /* in all differences since, together */
};

/** Like kage_store_remove(), but images without which others could only be kept by reading what no key opens
 *  stay, too: *ret_spared of them. */
struct kage_err *kage_store_remove_some(struct kage_store *store, const char *name, uint64_t first,
					uint64_t last, size_t *ret_removed, size_t *ret_spared)
	_must_check_;

/** Whether the next image of a history should be a keyframe: so that restoring one takes at most half as long again as
 *  restoring a keyframe, and where thousands of images differ in little, at most
 *  twice as long. */
bool kage_store_wants_keyframe(const struct kage_since_keyframe *since);

/** Whether NAME can be a history's: 1 to 63 characters of A-Z a-z 0-9 . _ + -, beginning with a letter
 *  or digit. KAGE_INVALID says what is wrong with it. */
struct kage_err *kage_store_check_name(const char *name) _must_check_;

enum { KAGE_NAME_BYTES = 64 }; /* with the zero at the end */

/** A name for a history after the program COMM: characters that a name may not have become '-', and
 *  are left out at the beginning. "image" where nothing is left. */
void kage_store_default_name(const char *comm, char name[KAGE_NAME_BYTES]);

/** Fails with KAGE_PERM when somebody other than root and the caller could have written the pack at
 *  PATH: through the file, its directory, or a directory above it. */
struct kage_err *kage_store_check_trust(const char *path) _must_check_;

#endif
