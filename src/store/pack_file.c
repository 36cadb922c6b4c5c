/* SPDX-License-Identifier: Apache-2.0 */
#include "store/pack_file.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/secret.h"

/* --- bytes ------------------------------------------------------------------------------------ */

struct kage_err *kage_pack_read_at(const struct pack_file *f, uint64_t offset, size_t size,
				   void *buffer)
{
	size_t n;

	if (offset > f->size || size > f->size - offset)
		return kage_format_damage(f->size, "it ends here, within something");
	if (offset + size <= f->head_bytes) {
		memcpy(buffer, f->head + offset, size);
		return NULL;
	}
	TRY(kage_file_read(f->fd, buffer, size, (off_t)offset, f->path, &n));
	if (n < size)
		return kage_format_damage(offset + n, "it ends here, though it was longer before");
	return NULL;
}

/* Reads and checks the head of the record at OFFSET, which ends at END at the latest. TYPE 0 takes
 * any. */
struct kage_err *kage_pack_read_head(const struct pack_file *f, uint64_t offset, uint64_t end,
				     uint32_t type, struct record *ret_record)
{
	uint8_t bytes[RECORD_BYTES];

	if (offset > end || end - offset < RECORD_BYTES)
		return kage_format_damage(offset, "no room for a record");
	TRY(kage_pack_read_at(f, offset, sizeof(bytes), bytes));
	TRY(kage_format_record(bytes, offset, end - offset, ret_record));
	if (type && ret_record->type != type)
		return kage_format_damage(offset, "a record of type %u where %u should be",
					  ret_record->type, type);
	return NULL;
}

struct kage_err *kage_pack_decompress(ZSTD_DCtx *zstd, const struct record *r,
				      const uint8_t *stored, uint8_t *raw)
{
	size_t n = ZSTD_decompressDCtx(zstd, raw, r->raw_bytes, stored, record_inner_bytes(r));

	if (ZSTD_isError(n) || n != r->raw_bytes)
		return kage_format_damage(r->offset + RECORD_BYTES,
					  "zstd cannot decompress it (%s)",
					  ZSTD_isError(n) ? ZSTD_getErrorName(n) : "wrong size");
	return NULL;
}

static struct kage_err *decompress_once(const struct record *r, const uint8_t *before, size_t size,
					const uint8_t *stored, uint8_t *raw)
{
	ZSTD_DCtx *zstd = ZSTD_createDCtx();
	struct kage_err *e;

	if (!zstd)
		return kage_err_nomem();
	if (size && ZSTD_isError(ZSTD_DCtx_refPrefix(zstd, before, size)))
		e = kage_err_nomem();
	else
		e = kage_pack_decompress(zstd, r, stored, raw);
	ZSTD_freeDCtx(zstd);
	return e;
}

struct kage_err *kage_pack_read_leaning(const struct pack_file *f, const struct record *r,
					const uint8_t *before, size_t size, uint8_t **ret_bytes)
{
	_cleanup_free_ uint8_t *stored = malloc(r->stored_bytes ? r->stored_bytes : 1);
	_cleanup_free_ uint8_t *raw = NULL;

	if (!stored)
		return kage_err_nomem();
	TRY(kage_pack_read_at(f, r->offset + RECORD_BYTES, r->stored_bytes, stored));
	TRY(kage_format_payload(r, stored));
	if (kage_format_is_secret(r->type))
		TRY(kage_seal_decrypt(&f->key, r, stored, stored));
	if (!r->compressed) {
		*ret_bytes = take_ptr(stored);
		return NULL;
	}
	raw = malloc(r->raw_bytes);
	if (!raw)
		return kage_err_nomem();
	TRY(decompress_once(r, before, size, stored, raw));
	*ret_bytes = take_ptr(raw);
	return NULL;
}

struct kage_err *kage_pack_read_payload(const struct pack_file *f, const struct record *r,
					uint8_t **ret_bytes)
{
	return kage_pack_read_leaning(f, r, NULL, 0, ret_bytes);
}

/* --- header, SUMMARY, FOOTER ------------------------------------------------------------------ */

static struct kage_err *read_footer(struct pack_file *f)
{
	uint64_t offset = f->size - FOOTER_RECORD_BYTES;
	_cleanup_free_ uint8_t *payload = NULL;
	struct record r;
	struct kage_err *e;

	if (f->size < f->pack.header_bytes + FOOTER_RECORD_BYTES)
		return kage_format_damage(f->size, "it ends here, before its first record");
	e = kage_pack_read_head(f, offset, f->size, RECORD_FOOTER, &r);
	if (!e && record_end(&r) != f->size)
		e = kage_format_damage(offset, "the footer is not the end");
	if (e)
		return kage_err_wrap(
			e, "no whole footer in the last %d of its %llu bytes (cut short?)",
			FOOTER_RECORD_BYTES, (unsigned long long)f->size);
	TRY(kage_pack_read_payload(f, &r, &payload));
	if (r.stored_bytes != FOOTER_BYTES)
		return kage_format_damage(offset, "a footer of %llu bytes",
					  (unsigned long long)r.stored_bytes);
	f->footer_offset = offset;
	return kage_format_footer(payload, offset, f->size, &f->footer);
}

/* KEY stands behind SUMMARY. */
static struct kage_err *read_key(struct pack_file *f, const struct record *summary)
{
	_cleanup_free_ uint8_t *payload = NULL;
	struct record r;

	if (!f->pack.encrypted)
		return NULL;
	TRY(kage_pack_read_head(f, record_end(summary), f->footer_offset, RECORD_KEY, &r));
	TRY(kage_pack_read_payload(f, &r, &payload));
	return kage_format_key(payload, r.stored_bytes, r.offset, &f->sealed);
}

struct kage_err *kage_pack_unlock(struct pack_file *f, const uint8_t *summary,
				  const struct pack_place *place)
{
	struct sealed_parts parts = {
		.history = place ? place->history : "",
		.number = place ? place->number : 0,
		.header = f->head,
		.header_bytes = f->pack.header_bytes,
		.summary = summary,
		.summary_bytes = f->summary_bytes,
		.key = &f->sealed,
	};

	if (!f->pack.encrypted)
		return NULL;
	if (!place)
		return kage_err_new(KAGE_PERM, "it is encrypted, and there is no key");
	return kage_keys_open(place->keys, f->pack.id, &parts,
			      f->pack.header_bytes + RECORD_BYTES + f->summary_bytes, &f->key);
}

void kage_pack_file_deinit(struct pack_file *f)
{
	free(f->head);
	f->head = NULL;
	kage_secret_wipe(&f->key, sizeof(f->key));
}

/* Reads the first HEAD bytes and what they begin with; the summary comes back to the caller. */
struct kage_err *kage_pack_open_file(struct pack_file *f, size_t small, uint8_t **ret_payload,
				     struct summary *ret_summary)
{
	_cleanup_free_ uint8_t *payload = NULL;
	struct record r;
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return kage_err_sys(errno, "stat");
	if (!S_ISREG(st.st_mode))
		return kage_err_new(KAGE_INVALID, "not a regular file");
	f->size = (uint64_t)st.st_size;
	f->head_bytes = f->size <= small ? f->size : PACK_HEADER_MAX;
	f->head_bytes = f->head_bytes < f->size ? f->head_bytes : f->size;
	f->head = malloc(f->head_bytes + 1);
	if (!f->head)
		return kage_err_nomem();
	TRY(kage_file_read(f->fd, f->head, f->head_bytes, 0, f->path, &f->head_bytes));
	TRY(kage_format_header(f->head,
			       f->head_bytes < PACK_HEADER_MAX ? f->head_bytes : PACK_HEADER_MAX,
			       &f->pack));
	TRY(read_footer(f));
	TRY(kage_pack_read_head(f, f->pack.header_bytes, f->footer_offset, RECORD_SUMMARY, &r));
	TRY(kage_pack_read_payload(f, &r, &payload));
	TRY(kage_format_summary(payload, r.stored_bytes, r.offset, ret_summary));
	f->summary_bytes = r.stored_bytes;
	TRY(read_key(f, &r));
	*ret_payload = take_ptr(payload);
	return NULL;
}
