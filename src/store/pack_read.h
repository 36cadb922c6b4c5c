/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a pack (kage-pack(5)). Not a byte of it is trusted, and it is never mapped: a file that
 * somebody cuts short meanwhile would end us.
 */
#ifndef STORE_PACK_READ_H
#define STORE_PACK_READ_H

#include <stdlib.h>

#include "image/image.h"
#include "store/keys.h"

/* The parts that a list needs. */
struct pack_glance {
	struct summary summary; /* borrowed from payload */
	uint8_t *payload;
	uint64_t file_bytes;
	struct pack_head head;
	uint8_t recipient[RECIPIENT_BYTES]; /* of an encrypted pack */
};

static inline void kage_pack_glance_deinit(struct pack_glance *g)
{
	free(g->payload);
	g->payload = NULL;
}

/** Reads header, SUMMARY and FOOTER of the pack in FD. PATH is for messages. */
struct kage_err *kage_pack_glance(int fd, const char *path, struct pack_glance *ret_glance)
	_must_check_;

/** Reads the pack in FD, which is taken in any case, as an image whose pages are read as they are
 *  asked for. PLACE tells where it stands, and who opens it if it is encrypted; NULL: nobody. Of a pack that is no keyframe only the runs are told: asking for contents is
 *  KAGE_INVALID. RET_KEYFRAME may be NULL. */
struct kage_err *kage_pack_open(int fd, const char *path, const struct pack_place *place,
				struct kage_image **ret_image, bool *ret_keyframe) _must_check_;

/** Only the pages of a keyframe, without its image. FD is taken in any case. */
struct kage_err *kage_pack_open_pages(int fd, const char *path, const struct pack_place *place,
				      struct kage_pages **ret_pages) _must_check_;

/* What the whole reading of one pack found. */
typedef void kage_pack_finding_fn(void *user, struct kage_err *e);

/* What of a pack can be used, whatever else is damaged. */
struct pack_health {
	bool image;      /* all that says what the image is: IMAGE, INDEX */
	bool pages;      /* a keyframe, and each of its pages can be read */
	bool difference; /* there is one, and all of it can be read */
	bool encrypted;
	bool locked; /* and no key opened it: then all this goes by checksums alone */
};

/** Reads every byte of the pack in FD and checks it. FN takes each problem found; reading goes on
 *  behind one where that is possible. Fails only when the reading itself does. RET_HEALTH may be
 *  NULL. */
struct kage_err *kage_pack_check(int fd, const char *path, const struct pack_place *place,
				 kage_pack_finding_fn *fn, void *user,
				 struct pack_health *ret_health) _must_check_;

/** How many groups the pages have that kage_pack_open_pages() gave. */
size_t kage_pack_count_groups(struct kage_pages *pages);

#endif
