/* SPDX-License-Identifier: Apache-2.0 */
#include "store/seal.h"

#include <sodium.h>
#include <string.h>

#include "base/secret.h"

enum { SUBKEY_SEAL = 1, SUBKEY_DATA = 2, BOUND_BYTES = 32, NONCE_BYTES = 24 };

_Static_assert(PACK_KEY_BYTES == crypto_kdf_KEYBYTES, "kage-pack(5)");
_Static_assert(RECIPIENT_BYTES == crypto_box_PUBLICKEYBYTES, "kage-pack(5)");
_Static_assert(RECIPIENT_BYTES == crypto_box_SECRETKEYBYTES, "kage-pack(5)");
_Static_assert(KEY_BOX_BYTES == PACK_KEY_BYTES + crypto_box_SEALBYTES, "kage-pack(5)");
_Static_assert(RECORD_TAG_BYTES == crypto_aead_xchacha20poly1305_ietf_ABYTES, "kage-pack(5)");
_Static_assert(NONCE_BYTES == crypto_aead_xchacha20poly1305_ietf_NPUBBYTES, "kage-pack(5)");
_Static_assert(BOUND_BYTES == offsetof(struct record_header, payload_checksum), "kage-pack(5)");

/* --- keys ------------------------------------------------------------------------------------- */

void kage_seal_key_of(const uint8_t master[PACK_KEY_BYTES], struct pack_key *ret_key)
{
	memcpy(ret_key->master, master, PACK_KEY_BYTES);
	crypto_kdf_derive_from_key(ret_key->data, sizeof(ret_key->data), SUBKEY_DATA, "kagedata",
				   ret_key->master);
	ret_key->set = true;
}

struct kage_err *kage_seal_new_key(struct pack_key *ret_key)
{
	TRY(kage_secret_init());
	crypto_kdf_keygen(ret_key->master);
	kage_seal_key_of(ret_key->master, ret_key);
	return NULL;
}

struct kage_err *kage_seal_put_box(const uint8_t recipient[RECIPIENT_BYTES],
				   const struct pack_key *key, uint8_t ret_box[KEY_BOX_BYTES])
{
	if (crypto_box_seal(ret_box, key->master, sizeof(key->master), recipient) != 0)
		return kage_err_new(KAGE_INVALID, "the recipient is no public key");
	return NULL;
}

bool kage_seal_open_box(const uint8_t recipient[RECIPIENT_BYTES],
			const uint8_t secret[RECIPIENT_BYTES], const uint8_t box[KEY_BOX_BYTES],
			struct pack_key *ret_key)
{
	uint8_t master[PACK_KEY_BYTES];
	bool opened = crypto_box_seal_open(master, box, KEY_BOX_BYTES, recipient, secret) == 0;

	if (opened)
		kage_seal_key_of(master, ret_key);
	kage_secret_wipe(master, sizeof(master));
	return opened;
}

/* --- the seal --------------------------------------------------------------------------------- */

static void add_number(crypto_generichash_state *h, uint64_t v)
{
	le64 bytes = le64_of(v);

	crypto_generichash_update(h, bytes.b, sizeof(bytes));
}

static void add_bytes(crypto_generichash_state *h, const void *p, size_t size)
{
	add_number(h, size);
	crypto_generichash_update(h, p, size);
}

void kage_seal_of(const struct pack_key *key, const struct sealed_parts *parts,
		  uint8_t ret_seal[SEAL_BYTES])
{
	uint8_t subkey[PACK_KEY_BYTES];
	crypto_generichash_state h;

	crypto_kdf_derive_from_key(subkey, sizeof(subkey), SUBKEY_SEAL, "kageseal", key->master);
	crypto_generichash_init(&h, subkey, sizeof(subkey), SEAL_BYTES);
	add_number(&h, parts->number);
	add_bytes(&h, parts->history, strlen(parts->history));
	add_bytes(&h, parts->header, parts->header_bytes);
	add_bytes(&h, parts->summary, parts->summary_bytes);
	crypto_generichash_update(&h, (const uint8_t *)parts->key,
				  offsetof(struct key_record, seal));
	crypto_generichash_final(&h, ret_seal, SEAL_BYTES);
	kage_secret_wipe(subkey, sizeof(subkey));
	kage_secret_wipe(&h, sizeof(h));
}

bool kage_seal_is_right(const struct pack_key *key, const struct sealed_parts *parts)
{
	uint8_t seal[SEAL_BYTES];

	kage_seal_of(key, parts, seal);
	return sodium_memcmp(seal, parts->key->seal, sizeof(seal)) == 0;
}

/* --- records ---------------------------------------------------------------------------------- */

/* What is known of R before its payload was looked at. */
static void bind(const struct record *r, struct record_header *ret_bound,
		 uint8_t ret_nonce[NONCE_BYTES])
{
	kage_format_put_record(r, ret_bound);
	memset(ret_nonce, 0, NONCE_BYTES);
	memcpy(ret_nonce, ret_bound->argument.b, sizeof(le64));
	memcpy(ret_nonce + sizeof(le64), ret_bound->type.b, sizeof(le32));
}

void kage_seal_encrypt(const struct pack_key *key, const struct record *r, const uint8_t *plain,
		       uint8_t *stored)
{
	struct record_header bound;
	uint8_t nonce[NONCE_BYTES];

	bind(r, &bound, nonce);
	crypto_aead_xchacha20poly1305_ietf_encrypt(stored, NULL, plain, record_inner_bytes(r),
						   (const uint8_t *)&bound, BOUND_BYTES, NULL,
						   nonce, key->data);
}

struct kage_err *kage_seal_decrypt(const struct pack_key *key, const struct record *r,
				   const uint8_t *stored, uint8_t *plain)
{
	struct record_header bound;
	uint8_t nonce[NONCE_BYTES];

	if (r->encrypted != key->set)
		return kage_format_damage(r->offset,
					  "a record that is %sencrypted in a pack that "
					  "is %s",
					  r->encrypted ? "" : "not ", key->set ? "" : "not");
	if (!key->set)
		return NULL;
	bind(r, &bound, nonce);
	if (crypto_aead_xchacha20poly1305_ietf_decrypt(plain, NULL, NULL, stored, r->stored_bytes,
						       (const uint8_t *)&bound, BOUND_BYTES, nonce,
						       key->data) != 0)
		return kage_format_damage(r->offset + RECORD_BYTES,
					  "the %llu bytes from here are not what was encrypted",
					  (unsigned long long)r->stored_bytes);
	return NULL;
}
