/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys with which a store is read: the user's secret key, read from its file when it is first needed, and
 * keys of single packs that a recording of ours goes on from. Several stores and threads may share them.
 */
#ifndef STORE_KEYS_H
#define STORE_KEYS_H

#include "store/keyfile.h"
#include "store/seal.h"

struct kage_keys;
struct history;

/* Where a pack stands, which its seal binds, and the keys that may open it. Borrowed. */
struct pack_place {
	struct kage_keys *keys;
	const char *history;
	uint64_t number;
	const struct history *h; /* where its neighbours are; NULL: nowhere */
};

struct kage_err *kage_keys_create(struct kage_keys **ret_keys) _must_check_;

/** One more user of K; one less, NULL is fine. */
struct kage_keys *kage_keys_share(struct kage_keys *k);
void kage_keys_release(struct kage_keys *k);

/** Reads the secret key in the file PATH, which is used in place of the one by default. */
struct kage_err *kage_keys_use_file(struct kage_keys *k, const char *path) _must_check_;

/** The key of the pack of image ID that PARTS are of. KAGE_PERM when nothing here opens it, telling what
 *  would; KAGE_CORRUPT, at OFFSET, when the seal is wrong. */
struct kage_err *kage_keys_open(struct kage_keys *k, const uint8_t id[IMAGE_ID_BYTES],
				const struct sealed_parts *parts, uint64_t offset,
				struct pack_key *ret_key) _must_check_;

/* Keys of packs that are remembered: in locked memory, gone with K at the latest. */

/** Remembers KEY as that of image ID, in place of another one of it. */
struct kage_err *kage_keys_remember(struct kage_keys *k, const uint8_t id[IMAGE_ID_BYTES],
				    const struct pack_key *key) _must_check_;

/** The same if one of ID is remembered. */
void kage_keys_renew(struct kage_keys *k, const uint8_t id[IMAGE_ID_BYTES],
		     const struct pack_key *key);

/** Forgets all but that of image ID. */
void kage_keys_forget_others(struct kage_keys *k, const uint8_t id[IMAGE_ID_BYTES]);

#endif
