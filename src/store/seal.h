/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cryptography of a pack (kage-pack(5), ENCRYPTION): its key, the box that the key is in, the seal that
 * binds the pack to its place, and its records. libsodium does all of it. Pure, but for random bytes.
 */
#ifndef STORE_SEAL_H
#define STORE_SEAL_H

#include "store/format.h"

enum { PACK_KEY_BYTES = 32 };

/* The key of one pack, and what is derived from it for records. Not set: the pack is not encrypted. */
struct pack_key {
	bool set;
	uint8_t master[PACK_KEY_BYTES];
	uint8_t data[PACK_KEY_BYTES];
};

/** A new random key. */
struct kage_err *kage_seal_new_key(struct pack_key *ret_key) _must_check_;

/** The key that MASTER is. */
void kage_seal_key_of(const uint8_t master[PACK_KEY_BYTES], struct pack_key *ret_key);

/** Puts KEY into a box that RECIPIENT's secret key opens. KAGE_INVALID when RECIPIENT is no public key. */
struct kage_err *kage_seal_put_box(const uint8_t recipient[RECIPIENT_BYTES],
				   const struct pack_key *key, uint8_t ret_box[KEY_BOX_BYTES])
	_must_check_;

/** Opens BOX. False when it was not made for this pair of keys, or is damaged. */
bool kage_seal_open_box(const uint8_t recipient[RECIPIENT_BYTES],
			const uint8_t secret[RECIPIENT_BYTES], const uint8_t box[KEY_BOX_BYTES],
			struct pack_key *ret_key);

/* What is bound together. All is borrowed. */
struct sealed_parts {
	const char *history;
	uint64_t number;
	const uint8_t *header; /* of header_bytes */
	size_t header_bytes;
	const uint8_t *summary; /* the payload */
	size_t summary_bytes;
	const struct key_record *key;
};

/** The seal of PARTS under KEY. */
void kage_seal_of(const struct pack_key *key, const struct sealed_parts *parts,
		  uint8_t ret_seal[SEAL_BYTES]);

/** Whether PARTS bear the seal that they must have. */
bool kage_seal_is_right(const struct pack_key *key, const struct sealed_parts *parts);

/** Encrypts the record_inner_bytes(R) at PLAIN to the stored_bytes of R at STORED; both may begin at the
 *  same place. */
void kage_seal_encrypt(const struct pack_key *key, const struct record *r, const uint8_t *plain,
		       uint8_t *stored);

/** Decrypts the stored_bytes of R at STORED to its record_inner_bytes(R) at PLAIN, likewise; with a KEY that is
 *  not set both are the same place, and nothing is done. KAGE_CORRUPT when they are not what was encrypted,
 *  or R is encrypted and the pack is not, or the other way round. */
struct kage_err *kage_seal_decrypt(const struct pack_key *key, const struct record *r,
				   const uint8_t *stored, uint8_t *plain) _must_check_;

#endif
