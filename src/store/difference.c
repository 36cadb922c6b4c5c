/* SPDX-License-Identifier: Apache-2.0 */
#include "store/difference.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/secret.h"
#include "store/pack_file.h"

enum { KEEP_BYTES = 1 << 20 }; /* from here on a descriptor is kept rather than the bytes */

void kage_difference_deinit(struct difference *d)
{
	kage_dirty_deinit(&d->dirty);
	free(d->path);
	free(d->bytes);
	close_fd(d->fd);
	kage_secret_wipe(&d->key, sizeof(d->key));
	*d = DIFFERENCE_INIT;
}

void kage_difference_reader_deinit(struct difference_reader *r)
{
	ZSTD_freeDCtx(r->zstd);
	free(r->stored);
	free(r->raw);
	*r = (struct difference_reader){ 0 };
}

/* --- groups ----------------------------------------------------------------------------------- */

static struct kage_err *prepare(struct difference_reader *r)
{
	if (!r->zstd)
		r->zstd = ZSTD_createDCtx();
	if (!r->stored)
		r->stored = malloc(RECORD_BYTES + DELTA_BYTES + RECORD_TAG_BYTES);
	if (!r->raw)
		r->raw = malloc(DELTA_BYTES);
	return r->zstd && r->stored && r->raw ? NULL : kage_err_nomem();
}

/* Checks the record of group NUMBER, which is at BYTES. */
static struct kage_err *verify_group(const struct difference *d, size_t number,
				     const uint8_t *bytes, struct record *ret_record)
{
	const struct group *g = &d->dirty.groups[number];
	struct record r;

	TRY(kage_format_record(bytes, g->offset, RECORD_BYTES + g->stored_bytes, &r));
	if (r.type != RECORD_DELTA || r.argument != number || r.stored_bytes != g->stored_bytes)
		return kage_format_damage(g->offset, "not the group of differences that the list "
						     "of changes speaks of");
	TRY(kage_format_payload(&r, bytes + RECORD_BYTES));
	if (r.encrypted != d->key.set)
		return kage_format_damage(g->offset, "a group of differences that is %sencrypted",
					  r.encrypted ? "" : "not ");
	*ret_record = r;
	return NULL;
}

static struct kage_err *read_group(const struct difference *d, size_t number,
				   struct difference_reader *reader, const uint8_t **ret_code,
				   size_t *ret_size)
{
	const struct group *g = &d->dirty.groups[number];
	struct pack_file f = { .fd = d->fd, .direct_fd = -1, .path = d->path, .size = UINT64_MAX };
	const uint8_t *bytes = d->bytes + (g->offset - d->place.offset);
	struct record r;

	TRY(prepare(reader));
	if (!d->bytes) {
		TRY(kage_pack_read_at(&f, g->offset, RECORD_BYTES + g->stored_bytes,
				      reader->stored));
		bytes = reader->stored;
	}
	TRY(verify_group(d, number, bytes, &r));
	if (d->key.set) { /* what is in memory stays as it is: it may be asked for again */
		TRY(kage_seal_decrypt(&d->key, &r, bytes + RECORD_BYTES,
				      reader->stored + RECORD_BYTES));
		bytes = reader->stored;
	}
	if (r.compressed)
		TRY(kage_pack_decompress(reader->zstd, &r, bytes + RECORD_BYTES, reader->raw));
	*ret_code = r.compressed ? reader->raw : bytes + RECORD_BYTES;
	*ret_size = r.raw_bytes;
	return NULL;
}

struct kage_err *kage_difference_group(const struct difference *d, size_t number,
				       struct difference_reader *r, const uint8_t **ret_code,
				       size_t *ret_size)
{
	TRY_WRAP(read_group(d, number, r, ret_code, ret_size), "pack %s", d->path);
	return NULL;
}

static size_t run_of(const struct dirty *d, uint64_t page)
{
	size_t low = 0, high = d->n_runs - 1;

	while (low < high) {
		size_t mid = high - (high - low) / 2;

		if (d->at[mid] <= page)
			low = mid;
		else
			high = mid - 1;
	}
	return low;
}

static struct kage_err *no_code(const struct difference *d, size_t number)
{
	struct kage_err *e = kage_format_damage(d->dirty.groups[number].offset,
						"a group of differences that is no code");

	return kage_err_wrap(e, "pack %s", d->path);
}

struct kage_err *kage_difference_each(const struct difference *d, size_t number,
				      struct difference_reader *r, kage_difference_fn *fn,
				      void *user)
{
	uint64_t page = (uint64_t)number * d->dirty.group_pages;
	uint64_t end = page + d->dirty.groups[number].n_pages;
	size_t run = run_of(&d->dirty, page), at = 0, size, n;
	const uint8_t *code;

	TRY(kage_difference_group(d, number, r, &code, &size));
	for (; page < end; page++, at += n) {
		const struct page_run *now = &d->dirty.runs[run];
		uint64_t in = page - d->dirty.at[run];

		n = kage_xor_apply(code + at, size - at, NULL);
		if (n == 0)
			return no_code(d, number);
		if (fn)
			TRY(fn(user, now->space, now->first + in, code + at, n));
		run += in + 1 == now->count;
	}
	return at == size ? NULL : no_code(d, number);
}

uint64_t kage_difference_code_bytes(const struct difference *d)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < d->dirty.n_groups; i++) {
		struct record_header head;

		if (!d->bytes) {
			bytes += DELTA_BYTES;
			continue;
		}
		memcpy(&head, d->bytes + (d->dirty.groups[i].offset - d->place.offset),
		       sizeof(head));
		bytes += le64_get(head.raw_bytes);
	}
	return bytes;
}

/* --- opening ---------------------------------------------------------------------------------- */

/* SIZE bytes at OFFSET of the file into BUFFER. */
static struct kage_err *read_at(const struct pack_file *f, const struct difference *d,
				uint64_t offset, size_t size, void *buffer)
{
	if (!d->bytes)
		return kage_pack_read_at(f, offset, size, buffer);
	memcpy(buffer, d->bytes + (offset - d->place.offset), size);
	return NULL;
}

static struct kage_err *read_dirty(const struct pack_file *f, struct difference *d)
{
	const struct difference_place *p = &d->place;
	uint64_t room = p->offset + p->bytes - p->dirty_offset;
	_cleanup_free_ uint8_t *payload = NULL;
	uint8_t head[RECORD_BYTES];
	struct record r;

	TRY(read_at(f, d, p->dirty_offset, sizeof(head), head));
	TRY(kage_format_record(head, p->dirty_offset, room, &r));
	if (r.type != RECORD_DIRTY || record_end(&r) != p->offset + p->bytes)
		return kage_format_damage(p->dirty_offset,
					  "not the list of changes that the summary speaks of");
	payload = malloc(r.stored_bytes + 1);
	if (!payload)
		return kage_err_nomem();
	TRY(read_at(f, d, r.offset + RECORD_BYTES, r.stored_bytes, payload));
	TRY(kage_format_payload(&r, payload));
	TRY(kage_seal_decrypt(&d->key, &r, payload, payload));
	TRY(kage_dirty_parse(payload, record_inner_bytes(&r), r.offset, p->offset, &d->dirty));
	if (d->dirty.n_pages != p->changed_pages)
		return kage_format_damage(r.offset, "%llu changed pages, and %llu in the summary",
					  (unsigned long long)d->dirty.n_pages,
					  (unsigned long long)p->changed_pages);
	return NULL;
}

static struct kage_err *open_difference(const struct pack_file *f, bool keep_fd,
					struct difference *d)
{
	const struct difference_place *p = &d->place;
	struct record r;

	if (p->offset > f->size || p->bytes > f->size - p->offset)
		return kage_format_damage(f->size, "it ends here, before its difference does");
	if (!d->bytes && keep_fd && p->bytes >= KEEP_BYTES) {
		d->fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);
		if (d->fd < 0)
			return kage_err_sys(errno, "keep a pack open");
	} else if (!d->bytes) {
		_cleanup_free_ uint8_t *bytes = malloc(p->bytes);

		if (!bytes)
			return kage_err_nomem();
		TRY(kage_pack_read_at(f, p->offset, p->bytes, bytes));
		d->bytes = take_ptr(bytes);
	}
	TRY(read_dirty(f, d));
	/* What is in memory is verified at once: then there may still be another way. */
	for (size_t i = 0; d->bytes && i < d->dirty.n_groups; i++)
		TRY(verify_group(d, i, d->bytes + (d->dirty.groups[i].offset - p->offset), &r));
	return NULL;
}

struct kage_err *kage_difference_open(int fd, const char *path, uint64_t file_bytes,
				      const struct difference_place *place,
				      const struct pack_key *key, uint8_t *bytes, bool keep_fd,
				      struct difference *ret_difference)
{
	struct pack_file f = { .fd = fd, .direct_fd = -1, .path = path, .size = file_bytes };
	struct difference d = { .place = *place, .bytes = bytes, .fd = -1, .key = *key };
	struct kage_err *e;

	d.path = strdup(path);
	e = d.path ? open_difference(&f, keep_fd, &d) : kage_err_nomem();
	if (e) {
		kage_difference_deinit(&d);
		return kage_err_wrap(e, "pack %s", path);
	}
	*ret_difference = d;
	return NULL;
}
