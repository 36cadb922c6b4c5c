/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KEY record of a pack that is being written: the pack's new key, for its recipient, and the seal, which
 * binds the pack to the number that it is to get.
 */
#ifndef STORE_PACK_KEY_H
#define STORE_PACK_KEY_H

#include "store/seal.h"

/* What a pack is encrypted with. In locked memory. */
struct pack_sealing {
	uint8_t recipient[RECIPIENT_BYTES];
	uint64_t number; /* of the image, which the seal binds */
	struct pack_key key;
};

/** A new key for the pack of image NUMBER, for RECIPIENT; free it by kage_secret_free(). */
struct kage_err *kage_pack_sealing_create(const uint8_t recipient[RECIPIENT_BYTES], uint64_t number,
					  struct pack_sealing **ret_sealing) _must_check_;

/** All of KEY but the seal. */
struct kage_err *kage_pack_key_begin(const struct pack_sealing *sealing, struct key_record *ret_key)
	_must_check_;

/** The seal of KEY, and the head of its record, which stands behind the SUMMARY. PARTS are complete but for
 *  number and key. */
void kage_pack_key_finish(const struct pack_sealing *sealing, struct sealed_parts *parts,
			  struct key_record *key, struct record_header *ret_head);

/** Makes the pack in FD, which is open for both and named PATH in messages, that of the number of history NAME
 *  that SEALING says now. Nothing is synced. */
struct kage_err *kage_pack_key_renumber(int fd, const char *path, const char *name,
					const struct pack_sealing *sealing) _must_check_;

#endif
