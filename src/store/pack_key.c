/* SPDX-License-Identifier: Apache-2.0 */
#include "store/pack_key.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/secret.h"
#include "store/pack_file.h"

struct kage_err *kage_pack_sealing_create(const uint8_t recipient[RECIPIENT_BYTES], uint64_t number,
					  struct pack_sealing **ret_sealing)
{
	struct pack_sealing *s = NULL;
	struct kage_err *e;

	TRY(kage_secret_alloc(sizeof(*s), &s));
	memcpy(s->recipient, recipient, RECIPIENT_BYTES);
	s->number = number;
	e = kage_seal_new_key(&s->key);
	if (e) {
		kage_secret_free(s);
		return e;
	}
	*ret_sealing = s;
	return NULL;
}

struct kage_err *kage_pack_key_begin(const struct pack_sealing *sealing, struct key_record *ret_key)
{
	*ret_key = (struct key_record){ .method = le32_of(KEY_METHOD) };
	memcpy(ret_key->recipient, sealing->recipient, RECIPIENT_BYTES);
	return kage_seal_put_box(sealing->recipient, &sealing->key, ret_key->box);
}

void kage_pack_key_finish(const struct pack_sealing *sealing, struct sealed_parts *parts,
			  struct key_record *key, struct record_header *ret_head)
{
	struct record r = {
		.offset = parts->header_bytes + RECORD_BYTES + parts->summary_bytes,
		.type = RECORD_KEY,
		.raw_bytes = sizeof(*key),
		.stored_bytes = sizeof(*key),
	};

	parts->number = sealing->number;
	parts->key = key;
	kage_seal_of(&sealing->key, parts, key->seal);
	r.payload_checksum = XXH3_64bits(key, sizeof(*key));
	kage_format_put_record(&r, ret_head);
}

/* --- another number --------------------------------------------------------------------------- */

/* The footer's checksum of all, once more. */
static struct kage_err *add_heads(const struct pack_file *f, XXH3_state_t *state)
{
	uint64_t at = f->pack.header_bytes;
	uint8_t head[RECORD_BYTES];
	struct record r;

	XXH3_128bits_update(state, f->head, at);
	for (; at < f->footer_offset; at = record_end(&r)) {
		TRY(kage_pack_read_head(f, at, f->footer_offset, 0, &r));
		TRY(kage_pack_read_at(f, at, RECORD_BYTES, head));
		XXH3_128bits_update(state, head, RECORD_BYTES);
	}
	return NULL;
}

static struct kage_err *write_footer(const struct pack_file *f, XXH128_hash_t chain)
{
	uint8_t bytes[FOOTER_RECORD_BYTES];
	struct record_header head;
	struct footer footer;
	struct record r;

	TRY(kage_pack_read_head(f, f->footer_offset, f->size, RECORD_FOOTER, &r));
	TRY(kage_pack_read_at(f, f->footer_offset + RECORD_BYTES, sizeof(footer), &footer));
	footer.chain[0] = le64_of(chain.low64);
	footer.chain[1] = le64_of(chain.high64);
	r.payload_checksum = XXH3_64bits(&footer, sizeof(footer));
	kage_format_put_record(&r, &head);
	memcpy(bytes, &head, sizeof(head));
	memcpy(bytes + sizeof(head), &footer, sizeof(footer));
	return kage_file_write(f->fd, bytes, sizeof(bytes), (off_t)f->footer_offset, f->path);
}

static struct kage_err *write_key(const struct pack_file *f, const uint8_t *summary,
				  const char *name, const struct pack_sealing *sealing)
{
	struct sealed_parts parts = {
		.history = name,
		.header = f->head,
		.header_bytes = f->pack.header_bytes,
		.summary = summary,
		.summary_bytes = f->summary_bytes,
	};
	struct key_record key = f->sealed;
	uint8_t bytes[RECORD_BYTES + KEY_BYTES];
	struct record_header head;

	kage_pack_key_finish(sealing, &parts, &key, &head);
	memcpy(bytes, &head, sizeof(head));
	memcpy(bytes + sizeof(head), &key, sizeof(key));
	return kage_file_write(f->fd, bytes, sizeof(bytes),
			       (off_t)(parts.header_bytes + RECORD_BYTES + parts.summary_bytes),
			       f->path);
}

static struct kage_err *renumber(struct pack_file *f, const char *name,
				 const struct pack_sealing *sealing)
{
	_cleanup_free_ uint8_t *payload = NULL;
	struct summary summary;
	XXH3_state_t *state;
	struct kage_err *e;

	TRY(kage_pack_open_file(f, 0, &payload, &summary));
	TRY(write_key(f, payload, name, sealing));
	state = XXH3_createState();
	if (!state)
		return kage_err_nomem();
	XXH3_128bits_reset(state);
	f->head_bytes = f->pack.header_bytes; /* what is behind is read anew */
	e = add_heads(f, state);
	if (!e)
		e = write_footer(f, XXH3_128bits_digest(state));
	XXH3_freeState(state);
	return e;
}

struct kage_err *kage_pack_key_renumber(int fd, const char *path, const char *name,
					const struct pack_sealing *sealing)
{
	struct pack_file f = { .fd = fd, .direct_fd = -1, .path = path };
	struct kage_err *e = renumber(&f, name, sealing);

	kage_pack_file_deinit(&f);
	return e;
}
