/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ways from an image to the nearest keyframe of its history.
 *
 * Each pack with a difference is an edge between its image and the neighbour that the difference leads
 * to; it can be gone both ways. A neighbour has a lower number, so the edges form trees, and
 * between two images there is one way at most. A neighbour that is not there any more, or whose
 * number was given to another image (the id tells), ends a tree and is nothing wrong.
 */
#ifndef STORE_WAY_H
#define STORE_WAY_H

#include "store/difference.h"
#include "store/dir.h"

struct way_node {
	uint64_t number;
	bool loaded;
	struct kage_err *damage; /* why its header or SUMMARY cannot be read, or NULL */
	bool keyframe;
	bool doubtful; /* the file belongs to another user, or others may write to it */
	uint8_t id[IMAGE_ID_BYTES];
	struct difference_place place; /* offset 0: no difference */
	bool leaning;                  /* its description may need that of its neighbour */
	bool encrypted;
	uint8_t recipient[RECIPIENT_BYTES];
	struct pack_key key;     /* of an encrypted pack that could be opened */
	struct kage_err *locked; /* why it could not, or NULL */
	uint64_t file_bytes;
	uint8_t *bytes; /* the records of the difference, if they came along */

	/* What was found damaged later is not gone over. */
	bool bad_pages, bad_difference;

	/* The search: how this node was reached, and at what cost. */
	bool seen;
	uint64_t cost;
	size_t via;  /* the node before this one on the way from the image */
	size_t edge; /* the node whose difference leads from there to here */
};

struct way_map {
	const struct history *h;
	struct way_node *nodes; /* ascending by number */
	size_t n;
	uint8_t *buffer;
	struct kage_err *first; /* the first damage that was met */
};

#define NO_NODE SIZE_MAX

void kage_way_deinit(struct way_map *m);
#define _cleanup_way_ _cleanup_(kage_way_deinit)

/** The images of H, which is borrowed; nothing of their packs is read yet. */
struct kage_err *kage_way_init(const struct history *h, struct way_map *ret_map) _must_check_;

/** The node of image NUMBER, or NO_NODE. */
size_t kage_way_node(const struct way_map *m, uint64_t number);

/** Reads header and SUMMARY of node I, once, and opens its key. Damage is kept in the node, and what no key opens;
 *  fails only otherwise. */
struct kage_err *kage_way_load(struct way_map *m, size_t i) _must_check_;
struct kage_err *kage_way_load_all(struct way_map *m) _must_check_;

/** Reads node I again, whose pack was written anew and is whole now. */
struct kage_err *kage_way_reload(struct way_map *m, size_t i) _must_check_;

/** The node of the neighbour that the difference of I leads to, or NO_NODE. Both are loaded. */
size_t kage_way_base(const struct way_map *m, size_t i);

/** Finds the cheapest way from node I to a keyframe. *ret_key is NO_NODE when there is none. From it
 *  via and edge lead back to I. */
struct kage_err *kage_way_find(struct way_map *m, size_t i, size_t *ret_key) _must_check_;

/** KAGE_PERM when node I, which is loaded, is encrypted and no key opened it; else NULL. */
struct kage_err *kage_way_locked(const struct way_map *m, size_t i) _must_check_;

/** Opens the difference of node I. KEEP_FD as for kage_difference_open(). */
struct kage_err *kage_way_difference(struct way_map *m, size_t i, bool keep_fd,
				     struct difference *ret_difference) _must_check_;

#endif
