/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading all of a pack. First as an image, which checks header, SUMMARY, FOOTER, IMAGE, INDEX and
 * what they say about each other; then record by record from the first to the last, which checks
 * that no byte is left out, every payload, and the footer's checksum over all of it.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "store/pack_file.h"
#include "store/pack_read.h"

#include <xxhash.h>
#include <zstd.h>

struct checker {
	struct pack_file file;
	XXH3_state_t *chain;
	ZSTD_DCtx *zstd;
	uint8_t *stored, *raw; /* grow as needed */
	size_t stored_size, raw_size;
	uint64_t n_records, n_groups;
	kage_pack_finding_fn *fn;
	void *user;
};

static struct kage_err *grow(uint8_t **buffer, size_t *size, uint64_t need)
{
	uint8_t *grown = *size < need ? realloc(*buffer, need) : *buffer;

	if (*size >= need)
		return NULL;
	if (!grown)
		return kage_err_nomem();
	*buffer = grown;
	*size = need;
	return NULL;
}

static struct kage_err *check_payload(struct checker *c, const struct record *r)
{
	if (r->stored_bytes > UINT32_MAX) /* only a record of an unknown type can claim that */
		return kage_err_new(
			KAGE_LIMIT, "a record of %llu bytes at offset %llu is not checked",
			(unsigned long long)r->stored_bytes, (unsigned long long)r->offset);
	TRY(grow(&c->stored, &c->stored_size, r->stored_bytes + 1));
	TRY(kage_pack_read_at(&c->file, r->offset + RECORD_BYTES, r->stored_bytes, c->stored));
	TRY(kage_format_payload(r, c->stored));
	if (r->type == RECORD_PAGES && r->argument != c->n_groups)
		return kage_format_damage(r->offset, "group %llu of pages where %llu should be",
					  (unsigned long long)r->argument,
					  (unsigned long long)c->n_groups);
	if (!r->compressed || kage_format_raw_limit(r->type) == 0)
		return NULL;
	TRY(grow(&c->raw, &c->raw_size, r->raw_bytes));
	return kage_pack_decompress(c->zstd, r, c->stored, c->raw);
}

/* Hands E to the caller of the check, unless it is ours to fail with. */
static struct kage_err *report(struct checker *c, struct kage_err *e)
{
	if (!e || (kage_err_code(e) != KAGE_CORRUPT && kage_err_code(e) != KAGE_VERSION &&
		   kage_err_code(e) != KAGE_LIMIT))
		return e;
	c->fn(c->user, kage_err_wrap(e, "pack %s", c->file.path));
	return NULL;
}

static struct kage_err *check_end(struct checker *c, bool whole)
{
	XXH128_hash_t chain = XXH3_128bits_digest(c->chain);
	const struct footer_numbers *f = &c->file.footer;

	if (!whole)
		return NULL;
	if (chain.low64 != f->chain[0] || chain.high64 != f->chain[1])
		return kage_format_damage(c->file.footer_offset + RECORD_BYTES,
					  "the footer's checksum of all is wrong");
	if (c->n_records + 1 != f->n_records)
		return kage_format_damage(c->file.footer_offset + RECORD_BYTES,
					  "the footer speaks of %llu records, there are %llu",
					  (unsigned long long)f->n_records,
					  (unsigned long long)c->n_records + 1);
	return NULL;
}

/* All records before the footer. Behind one whose head is damaged nothing can be found. */
static struct kage_err *check_records(struct checker *c)
{
	uint64_t at = c->file.header_bytes;
	uint8_t bytes[PACK_HEADER_MAX];
	struct record r;
	bool whole = true;

	TRY(kage_pack_read_at(&c->file, 0, at, bytes));
	XXH3_128bits_update(c->chain, bytes, at);
	while (at < c->file.footer_offset) {
		struct kage_err *e =
			kage_pack_read_head(&c->file, at, c->file.footer_offset, 0, &r);

		whole = !e;
		if (e) {
			TRY(report(c, e));
			break;
		}
		TRY(kage_pack_read_at(&c->file, at, RECORD_BYTES, bytes));
		XXH3_128bits_update(c->chain, bytes, RECORD_BYTES);
		TRY(report(c, check_payload(c, &r)));
		c->n_records++;
		c->n_groups += r.type == RECORD_PAGES;
		at = record_end(&r);
	}
	return report(c, check_end(c, whole));
}

static struct kage_err *check_image(struct checker *c)
{
	struct kage_image *image = NULL;
	int fd = dup(c->file.fd);
	struct kage_err *e;

	if (fd < 0)
		return kage_err_nomem();
	e = kage_pack_open(fd, c->file.path, &image);
	kage_image_close(image);
	return e;
}

static struct kage_err *check(struct checker *c)
{
	_cleanup_free_ uint8_t *payload = NULL;
	struct kage_err *e;
	struct summary summary;

	c->chain = XXH3_createState();
	c->zstd = ZSTD_createDCtx();
	if (!c->chain || !c->zstd)
		return kage_err_nomem();
	XXH3_128bits_reset(c->chain);
	e = check_image(c);
	if (e && kage_err_code(e) != KAGE_CORRUPT && kage_err_code(e) != KAGE_VERSION)
		return e;
	if (e)
		c->fn(c->user, e);
	e = kage_pack_open_file(&c->file, 0, &payload, &summary);
	if (!e)
		return check_records(c);
	if (kage_err_code(e) != KAGE_CORRUPT && kage_err_code(e) != KAGE_VERSION)
		return e;
	err_drop(e); /* the same was said above */
	return NULL;
}

struct kage_err *kage_pack_check(int fd, const char *path, kage_pack_finding_fn *fn, void *user)
{
	struct checker c = {
		.file = { .fd = fd, .direct_fd = -1, .path = path },
		.fn = fn,
		.user = user,
	};
	struct kage_err *e = check(&c);

	free(c.file.head);
	XXH3_freeState(c.chain);
	ZSTD_freeDCtx(c.zstd);
	free(c.stored);
	free(c.raw);
	return e;
}
