/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading all of a pack. First as an image, which checks header, SUMMARY, FOOTER, IMAGE, INDEX and
 * what they say about each other; then record by record from the first to the last, which checks
 * that no byte is left out, every payload, and the footer's checksum over all of it.
 *
 * Behind a damaged head the next whole one is searched byte by byte: its checksum counts its place in,
 * so nothing else looks like it. So all damage is told, with or without header and footer.
 *
 * An encrypted pack that no key opens is judged by its checksums, which are those of the bytes as they are
 * stored: damaged is then what a damaged record can hold.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "store/difference.h"
#include "store/pack_file.h"
#include "store/pack_read.h"

#include <xxhash.h>
#include <zstd.h>

enum { WINDOW_BYTES = 64 * 1024 };

struct checker {
	struct pack_file file;
	const struct pack_place *place;
	bool has_difference;
	bool closed; /* nothing can be said of what is in the records */
	uint32_t
		bad; /* bits of types of records that are damaged; all, where a type is not known */
	char *said;  /* what reading it as an image and as a difference found, or NULL */
	bool whole;  /* no record was passed over so far */
	bool adrift; /* records were passed over since the last group of its type */
	XXH3_state_t *chain;
	ZSTD_DCtx *zstd;
	uint8_t *stored, *raw; /* grow as needed */
	size_t stored_size, raw_size;
	uint64_t n_records, n_groups, n_deltas;
	uint64_t n_good, n_needed; /* groups of pages */
	struct pack_health health;
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

/* Groups are numbered in their order. */
static struct kage_err *check_group(struct checker *c, const struct record *r)
{
	uint64_t *n = r->type == RECORD_DELTA ? &c->n_deltas : &c->n_groups;
	uint64_t expected = c->adrift ? r->argument : *n;

	if (r->type != RECORD_PAGES && r->type != RECORD_DELTA)
		return NULL;
	c->adrift = false;
	*n = expected + 1;
	if (r->argument != expected)
		return kage_format_damage(r->offset, "group %llu where %llu should be",
					  (unsigned long long)r->argument,
					  (unsigned long long)expected);
	return NULL;
}

/* What is in the payload, of which C has the stored bytes. */
static struct kage_err *check_contents(struct checker *c, const struct record *r)
{
	if (!kage_format_raw_limit(r->type))
		return NULL;
	if (kage_format_is_secret(r->type))
		TRY(kage_seal_decrypt(&c->file.key, r, c->stored, c->stored));
	/* What leans on another description was read with that by check_image(). */
	if (!r->compressed || r->leaning)
		return NULL;
	TRY(grow(&c->raw, &c->raw_size, r->raw_bytes));
	return kage_pack_decompress(c->zstd, r, c->stored, c->raw);
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
	if (!c->closed)
		TRY(check_contents(c, r));
	c->n_good += r->type == RECORD_PAGES;
	return NULL;
}

/* Hands E to the caller of the check, unless it is ours to fail with, or was said already. */
static struct kage_err *report(struct checker *c, struct kage_err *e)
{
	if (!e || (kage_err_code(e) != KAGE_CORRUPT && kage_err_code(e) != KAGE_VERSION &&
		   kage_err_code(e) != KAGE_LIMIT))
		return e;
	if (c->said && strstr(c->said, kage_err_message(e)))
		err_drop(e);
	else
		c->fn(c->user, kage_err_wrap(e, "pack %s", c->file.path));
	return NULL;
}

static struct kage_err *check_end(struct checker *c)
{
	XXH128_hash_t chain = XXH3_128bits_digest(c->chain);
	const struct footer_numbers *f = &c->file.footer;

	if (!c->whole || !c->file.footer_offset)
		return NULL;
	/* Something is missing, or too much; what, the rest may not tell. */
	if (chain.low64 != f->chain[0] || chain.high64 != f->chain[1] ||
	    c->n_records + 1 != f->n_records)
		c->bad = UINT32_MAX;
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

/* Whether a whole head of a type that we know stands at BYTES. */
static bool is_head(const uint8_t *bytes, uint64_t offset, uint64_t end)
{
	struct record_header h;
	struct kage_err *e;
	struct record r;
	bool good;

	memcpy(&h, bytes, sizeof(h));
	if (!kage_format_raw_limit(le32_get(h.type)) ||
	    (le32_get(h.flags) & ~(uint32_t)(RECORD_ZSTD | RECORD_ENCRYPTED | RECORD_LEANING)))
		return false;
	e = kage_format_record(bytes, offset, end - offset, &r);
	good = !e;
	err_drop(e);
	return good;
}

/* The first whole head from *AT on, or END. */
static struct kage_err *find_head(struct checker *c, uint64_t end, uint64_t *at)
{
	TRY(grow(&c->stored, &c->stored_size, WINDOW_BYTES));
	while (*at < end && end - *at >= RECORD_BYTES) {
		size_t n = end - *at < WINDOW_BYTES ? (size_t)(end - *at) : WINDOW_BYTES;

		TRY(kage_pack_read_at(&c->file, *at, n, c->stored));
		for (size_t i = 0; i + RECORD_BYTES <= n; i++, ++*at)
			if (is_head(c->stored + i, *at, end))
				return NULL;
	}
	*at = end;
	return NULL;
}

/* The same for what is wrong with record R. */
static struct kage_err *report_of(struct checker *c, const struct record *r, struct kage_err *e)
{
	if (e && r->type < 32)
		c->bad |= 1u << r->type;
	return report(c, e);
}

/* The record at *AT, and *AT behind it. */
static struct kage_err *check_record(struct checker *c, uint64_t end, uint64_t *at)
{
	uint8_t bytes[RECORD_BYTES];
	struct record r;
	struct kage_err *e = kage_pack_read_head(&c->file, *at, end, 0, &r);

	if (e) {
		c->whole = false;
		c->adrift = true;
		c->bad = UINT32_MAX;
		TRY(report(c, e));
		++*at;
		return find_head(c, end, at);
	}
	TRY(kage_pack_read_at(&c->file, *at, RECORD_BYTES, bytes));
	XXH3_128bits_update(c->chain, bytes, RECORD_BYTES);
	TRY(report_of(c, &r, check_group(c, &r)));
	TRY(report_of(c, &r, check_payload(c, &r)));
	c->n_records++;
	*at = record_end(&r);
	return NULL;
}

/* All records before the footer; without a header from where the first one stands today, without a
 * footer to the end of the file. */
static struct kage_err *check_records(struct checker *c)
{
	uint64_t at = c->file.pack.header_bytes ? c->file.pack.header_bytes : PACK_HEADER_BYTES;
	uint64_t end = c->file.footer_offset ? c->file.footer_offset : c->file.size;
	uint8_t header[PACK_HEADER_MAX];

	c->whole = c->file.pack.header_bytes != 0;
	if (c->whole) {
		TRY(kage_pack_read_at(&c->file, 0, at, header));
		XXH3_128bits_update(c->chain, header, at);
	}
	while (at < end)
		TRY(check_record(c, end, &at));
	return report(c, check_end(c));
}

/* Hands E to the caller of the check, and keeps it in mind. */
static struct kage_err *say(struct checker *c, struct kage_err *e)
{
	char *said;

	if (asprintf(&said, "%s\n%s", c->said ? c->said : "", kage_err_message(e)) < 0) {
		err_drop(e);
		return kage_err_nomem();
	}
	free(c->said);
	c->said = said;
	c->fn(c->user, e);
	return NULL;
}

static struct kage_err *check_image(struct checker *c)
{
	struct kage_image *image = NULL;
	int fd = dup(c->file.fd);
	struct kage_err *e;

	if (fd < 0)
		return kage_err_nomem();
	e = kage_pack_open(fd, c->file.path, c->place, &image, NULL);
	kage_image_close(image);
	c->health.image = !e;
	return e;
}

/* How many groups a keyframe needs to be whole. What is wrong with its index was told already. */
static struct kage_err *look_at_pages(struct checker *c)
{
	struct kage_pages *pages = NULL;
	int fd = dup(c->file.fd);
	struct kage_err *e;

	if (fd < 0)
		return kage_err_nomem();
	e = kage_pack_open_pages(fd, c->file.path, c->place, &pages);
	c->health.pages = !e;
	c->n_needed = pages ? kage_pack_count_groups(pages) : 0;
	kage_pages_destroy(pages);
	err_drop(e);
	return NULL;
}

/* All of the difference at PLACE, if there is one. */
static struct kage_err *check_difference(struct checker *c, const struct difference_place *place)
{
	_cleanup_(kage_difference_reader_deinit) struct difference_reader reader = { 0 };
	_cleanup_(kage_difference_deinit) struct difference d = DIFFERENCE_INIT;
	struct kage_err *e;

	if (!place->offset)
		return NULL;
	e = kage_difference_open(c->file.fd, c->file.path, c->file.size, place, &c->file.key, NULL,
				 false, &d);
	c->health.difference = !e;
	for (size_t i = 0; i < d.dirty.n_groups; i++) {
		e = kage_difference_each(&d, i, &reader, NULL, NULL);
		if (!e)
			continue;
		c->health.difference = false;
		if (kage_err_code(e) != KAGE_CORRUPT)
			break;
		TRY(say(c, e));
		e = NULL;
	}
	return e && kage_err_code(e) == KAGE_CORRUPT ? say(c, e) : e;
}

/* Whether a pack with the problem E is searched for more of them: what a newer version wrote is not ours
 * to judge. */
static bool goes_on(const struct kage_err *e)
{
	return !e || kage_err_code(e) == KAGE_CORRUPT;
}

static struct kage_err *begin(struct checker *c)
{
	c->chain = XXH3_createState();
	c->zstd = ZSTD_createDCtx();
	if (!c->chain || !c->zstd)
		return kage_err_nomem();
	XXH3_128bits_reset(c->chain);
	return NULL;
}

/* Opens the file, and its key if it has one that can be opened. */
static struct kage_err *open_file(struct checker *c, uint8_t **ret_payload, struct summary *summary)
{
	struct kage_err *e;

	TRY(kage_pack_open_file(&c->file, 0, ret_payload, summary));
	c->health.encrypted = c->file.pack.encrypted;
	c->has_difference = summary->difference.offset;
	e = kage_pack_unlock(&c->file, *ret_payload, c->place);
	if (e && kage_err_code(e) == KAGE_PERM) {
		c->health.locked = true;
		err_drop(e);
		return NULL;
	}
	return e;
}

/* Parts are whole of which no record is damaged. */
static void judge_locked(struct checker *c)
{
	const uint32_t image = 1u << RECORD_IMAGE | 1u << RECORD_INDEX | 1u << RECORD_KEY,
		       pages = 1u << RECORD_PAGES | 1u << RECORD_INDEX | 1u << RECORD_KEY,
		       difference = 1u << RECORD_DELTA | 1u << RECORD_DIRTY | 1u << RECORD_KEY;

	c->health.image = !(c->bad & image);
	c->health.pages = c->file.pack.keyframe && !(c->bad & pages);
	c->health.difference = c->has_difference && !(c->bad & difference);
}

static struct kage_err *check_open(struct checker *c, const struct difference_place *difference)
{
	struct kage_err *e = check_image(c);

	if (e && !goes_on(e) && kage_err_code(e) != KAGE_VERSION)
		return e;
	if (e)
		TRY(say(c, e));
	TRY(look_at_pages(c));
	return check_difference(c, difference);
}

static struct kage_err *check(struct checker *c)
{
	_cleanup_free_ uint8_t *payload = NULL;
	struct summary summary = { 0 };
	struct kage_err *e;

	TRY(begin(c));
	e = open_file(c, &payload, &summary);
	if (e && kage_err_code(e) == KAGE_VERSION) {
		TRY(say(c, kage_err_wrap(e, "pack %s", c->file.path)));
		return NULL;
	}
	if (!goes_on(e))
		return e;
	c->closed = e || c->health.locked;
	if (e)
		TRY(say(c, kage_err_wrap(e, "pack %s", c->file.path)));
	else if (!c->health.locked)
		TRY(check_open(c, &summary.difference));
	TRY(check_records(c));
	if (c->health.locked)
		judge_locked(c);
	else
		c->health.pages = c->health.pages && c->n_good == c->n_needed;
	return NULL;
}

struct kage_err *kage_pack_check(int fd, const char *path, const struct pack_place *place,
				 kage_pack_finding_fn *fn, void *user,
				 struct pack_health *ret_health)
{
	struct checker c = {
		.file = { .fd = fd, .direct_fd = -1, .path = path },
		.place = place,
		.fn = fn,
		.user = user,
	};
	struct kage_err *e = check(&c);

	if (ret_health)
		*ret_health = c.health;
	kage_pack_file_deinit(&c.file);
	free(c.said);
	XXH3_freeState(c.chain);
	ZSTD_freeDCtx(c.zstd);
	free(c.stored);
	free(c.raw);
	return e;
}
