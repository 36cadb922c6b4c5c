/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order of the steps is that of the file: header, SUMMARY, IMAGE, PAGES, INDEX, FOOTER. Records
 * collect in one buffer, which goes to the file when it is full: a small pack is a single write.
 */
#include "store/pack_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <xxhash.h>
#include <zstd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "store/dedupe.h"
#include "store/format.h"

enum {
	DEFAULT_LEVEL = 1,
	OUT_BYTES = 4 << 20,
	WRITEBACK_BYTES = 8 << 20, /* the disk is set to work each time so much is written */
};

/* Where the page in a slot came from: its bytes are still there for a comparison. */
struct origin {
	uint32_t space;
	uint64_t page;
};

struct pack_writer {
	const struct kage_ctx *ctx;
	int fd;
	const char *path;
	ZSTD_CCtx *zstd;
	XXH3_state_t *chain; /* over header and records' heads */
	uint64_t n_records, image_offset, index_offset;

	unsigned char *out; /* what is not written yet */
	size_t out_used, out_size;
	uint64_t flushed;   /* bytes written: the offset of out[0] */
	uint64_t writeback; /* bytes that the disk was told to write */

	struct kage_pages *pages;
	uint64_t n_pages, n_done;
	struct dedupe dedupe;
	struct origin *origins; /* of each slot */
	uint64_t n_slots;
	uint64_t zero_hash;
	unsigned char *group; /* pages of the group that is being filled */
	size_t group_used;    /* pages */
	unsigned char *piece; /* pages of a source that does not lend */
	unsigned char *other; /* one page likewise */
	struct index_group *groups;
	size_t n_groups;
	struct index_run *runs;
	size_t n_runs;
	struct extent *extents;
	size_t n_extents, max_extents;
};

static const unsigned char zero_page[KAGE_PAGE_BYTES];

static void writer_deinit(struct pack_writer *w)
{
	ZSTD_freeCCtx(w->zstd);
	XXH3_freeState(w->chain);
	kage_dedupe_deinit(&w->dedupe);
	free(w->out);
	free(w->origins);
	free(w->group);
	free(w->piece);
	free(w->other);
	free(w->groups);
	free(w->runs);
	free(w->extents);
}

/* --- bytes and records ------------------------------------------------------------------------ */

static struct kage_err *flush(struct pack_writer *w)
{
	TRY(kage_file_write(w->fd, w->out, w->out_used, -1, w->path));
	w->flushed += w->out_used;
	w->out_used = 0;
	if (w->flushed - w->writeback < WRITEBACK_BYTES)
		return NULL;
	/* So that the disk works while we compress. Not a promise: that is for fdatasync. */
	sync_file_range(w->fd, (off_t)w->writeback, (off_t)(w->flushed - w->writeback),
			SYNC_FILE_RANGE_WRITE);
	w->writeback = w->flushed;
	return NULL;
}

/* Makes room for SIZE more bytes in the buffer. */
static struct kage_err *make_room(struct pack_writer *w, size_t size)
{
	if (w->out_size - w->out_used >= size)
		return NULL;
	TRY(flush(w));
	if (w->out_size < size) {
		unsigned char *grown = realloc(w->out, size);

		if (!grown)
			return kage_err_nomem();
		w->out = grown;
		w->out_size = size;
	}
	return NULL;
}

static uint64_t offset_of(const struct pack_writer *w)
{
	return w->flushed + w->out_used;
}

/* Puts PAYLOAD of R behind the place of R's head: compressed if that makes it smaller. */
static void put_payload(struct pack_writer *w, struct record *r, const void *payload,
			unsigned char *at)
{
	size_t n = 0;

	if (r->type != RECORD_SUMMARY && r->type != RECORD_FOOTER && r->raw_bytes > 1) {
		n = ZSTD_compress2(w->zstd, at, r->raw_bytes - 1, payload, r->raw_bytes);
		r->compressed = !ZSTD_isError(n); /* it did not fit: it would not be smaller */
	}
	if (!r->compressed)
		memcpy(at, payload, r->raw_bytes);
	r->stored_bytes = r->compressed ? n : r->raw_bytes;
}

static struct kage_err *put_record(struct pack_writer *w, enum record_type type, uint64_t argument,
				   const void *payload, size_t size, struct record *ret_record)
{
	struct record r = { .type = type, .raw_bytes = size, .argument = argument };
	struct record_header head;

	if (size > kage_format_raw_limit(type))
		return kage_err_new(KAGE_LIMIT,
				    "a record of %zu bytes is more than a pack can hold", size);
	TRY(make_room(w, RECORD_BYTES + size));
	r.offset = offset_of(w);
	put_payload(w, &r, payload, w->out + w->out_used + RECORD_BYTES);
	kage_format_put_record(&r, w->out + w->out_used + RECORD_BYTES, &head);
	memcpy(w->out + w->out_used, &head, sizeof(head));
	if (type != RECORD_FOOTER)
		XXH3_128bits_update(w->chain, &head, sizeof(head));
	w->out_used += RECORD_BYTES + r.stored_bytes;
	w->n_records++;
	if (ret_record)
		*ret_record = r;
	return NULL;
}

/* --- header, SUMMARY, IMAGE ------------------------------------------------------------------- */

static struct kage_err *put_header(struct pack_writer *w)
{
	struct pack_header h;

	TRY(kage_format_new_header(&h));
	memcpy(w->out, &h, sizeof(h));
	w->out_used = sizeof(h);
	XXH3_128bits_update(w->chain, &h, sizeof(h));
	return NULL;
}

static struct kage_err *put_summary(struct pack_writer *w, const Kage__Image *msg,
				    const char *history)
{
	const Kage__Source *source = msg->source;
	const Kage__Process *leader = msg->n_processes ? msg->processes[0] : NULL;
	const char *strings[] = { history, leader ? leader->comm : "",
				  source ? source->command : "", source ? source->message : "",
				  source ? source->reason : "" };
	unsigned char payload[SUMMARY_FIXED_BYTES + ARRAY_SIZE(strings) * SUMMARY_STRING_MAX];
	struct summary_fixed f = {
		.fixed_bytes = le32_of(sizeof(f)),
		.pid = le32_of(leader ? (uint32_t)leader->pid : 0),
		.realtime_ns = le64_of(source ? source->realtime_ns : 0),
		.pause_ns = le64_of(source ? source->pause_ns : 0),
		.memory_bytes = le64_of(w->n_pages * KAGE_PAGE_BYTES),
		.n_threads = le32_of(leader ? (uint32_t)leader->n_threads : 0),
	};
	size_t at = sizeof(f);

	for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
		size_t n = strnlen(strings[i], SUMMARY_STRING_MAX);

		memcpy(payload + at, strings[i], n);
		f.string_bytes[i] = le32_of((uint32_t)n);
		at += n;
	}
	memcpy(payload, &f, sizeof(f));
	return put_record(w, RECORD_SUMMARY, 0, payload, at, NULL);
}

static struct kage_err *put_image(struct pack_writer *w, const struct kage_image *image)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t size;

	TRY(kage_image_encode(image, &bytes, &size));
	w->image_offset = offset_of(w);
	return put_record(w, RECORD_IMAGE, 0, bytes, size, NULL);
}

/* --- PAGES ------------------------------------------------------------------------------------ */

static struct kage_err *put_group(struct pack_writer *w)
{
	struct record r;

	if (w->group_used == 0)
		return NULL;
	TRY(kage_ctx_poll(w->ctx));
	TRY(put_record(w, RECORD_PAGES, w->n_groups, w->group, w->group_used * KAGE_PAGE_BYTES,
		       &r));
	w->groups[w->n_groups++] = (struct index_group){
		.offset = le64_of(r.offset),
		.stored_bytes = le64_of(r.stored_bytes),
	};
	w->group_used = 0;
	kage_ctx_progress(w->ctx, "store", w->n_done * KAGE_PAGE_BYTES,
			  w->n_pages * KAGE_PAGE_BYTES);
	return NULL;
}

static struct kage_err *put_extent(struct pack_writer *w, bool fresh, uint64_t slot, uint32_t kind)
{
	struct extent *last = w->n_extents ? &w->extents[w->n_extents - 1] : NULL;

	if (last && !fresh && last->kind == kind && last->count < UINT32_MAX &&
	    (kind == EXTENT_ZERO || last->slot + last->count == slot)) {
		last->count++;
		return NULL;
	}
	if (w->n_extents == w->max_extents) {
		size_t n = w->max_extents ? w->max_extents * 2 : 64;
		struct extent *grown = realloc(w->extents, n * sizeof(*grown));

		if (!grown)
			return kage_err_nomem();
		w->extents = grown;
		w->max_extents = n;
	}
	w->extents[w->n_extents++] = (struct extent){ .slot = slot, .count = 1, .kind = kind };
	return NULL;
}

/* Whether the page that went to SLOT has the same bytes as PAGE. */
static struct kage_err *compare_slot(struct pack_writer *w, uint64_t slot, const void *page,
				     bool *ret_same)
{
	const struct origin *o = &w->origins[slot];
	const void *old = NULL;

	if (w->pages->ops->borrow)
		old = w->pages->ops->borrow(w->pages, o->space, o->page, 1);
	if (!old) {
		TRY(w->pages->ops->read(w->pages, o->space, o->page, 1, w->other));
		old = w->other;
	}
	*ret_same = memcmp(old, page, KAGE_PAGE_BYTES) == 0;
	return NULL;
}

static struct kage_err *put_page(struct pack_writer *w, bool fresh, const struct origin *o,
				 const unsigned char *page, uint64_t hash)
{
	uint64_t slot = w->n_slots, seen;

	if (hash == w->zero_hash && memcmp(page, zero_page, sizeof(zero_page)) == 0)
		return put_extent(w, fresh, 0, EXTENT_ZERO);
	seen = kage_dedupe_note(&w->dedupe, hash, slot);
	if (seen != slot) {
		bool same;

		TRY(compare_slot(w, seen, page, &same));
		if (same)
			return put_extent(w, fresh, seen, EXTENT_STORED);
	}
	w->origins[w->n_slots++] = *o;
	memcpy(w->group + w->group_used * KAGE_PAGE_BYTES, page, KAGE_PAGE_BYTES);
	TRY(put_extent(w, fresh, slot, EXTENT_STORED));
	if (++w->group_used == GROUP_PAGES)
		return put_group(w);
	return NULL;
}

/* COUNT pages of run R, from its page DONE on. */
static struct kage_err *put_piece(struct pack_writer *w, const struct page_run *r, uint64_t done,
				  uint64_t count)
{
	uint64_t first = r->first + done, hashes[KAGE_PAGES_PIECE];
	const unsigned char *bytes = NULL;

	if (w->pages->ops->borrow)
		bytes = w->pages->ops->borrow(w->pages, r->space, first, count);
	if (!bytes) {
		TRY(w->pages->ops->read(w->pages, r->space, first, count, w->piece));
		bytes = w->piece;
	}
	for (uint64_t i = 0; i < count; i++) {
		hashes[i] = XXH3_128bits(bytes + i * KAGE_PAGE_BYTES, KAGE_PAGE_BYTES).low64;
		kage_dedupe_prefetch(&w->dedupe, hashes[i]);
	}
	for (uint64_t i = 0; i < count; i++) {
		struct origin o = { .space = r->space, .page = first + i };

		w->n_done++;
		TRY(put_page(w, done == 0 && i == 0, &o, bytes + i * KAGE_PAGE_BYTES, hashes[i]));
	}
	return NULL;
}

static struct kage_err *put_run(struct pack_writer *w, const struct page_run *r)
{
	size_t before = w->n_extents;

	for (uint64_t done = 0, n; done < r->count; done += n) {
		n = r->count - done < KAGE_PAGES_PIECE ? r->count - done : KAGE_PAGES_PIECE;
		TRY(put_piece(w, r, done, n));
	}
	w->runs[w->n_runs++] = (struct index_run){
		.space = le32_of(r->space),
		.n_extents = le32_of((uint32_t)(w->n_extents - before)),
		.first = le64_of(r->first),
		.count = le64_of(r->count),
	};
	return NULL;
}

/* What a reader will insist on. */
static struct kage_err *check_runs(const struct kage_image *image)
{
	const struct kage_pages *p = image->pages;

	for (size_t i = 0; p && i < p->n_runs; i++) {
		const struct page_run *r = &p->runs[i], *before = i ? r - 1 : NULL;

		if (r->count == 0 || !kage_image_space(image, r->space))
			return kage_err_new(KAGE_INVALID,
					    "pages of space %u, which the image does not "
					    "have",
					    r->space);
		if (before &&
		    (before->space > r->space ||
		     (before->space == r->space && before->first + before->count > r->first)))
			return kage_err_new(KAGE_INVALID,
					    "pages %#llx of space %u come twice or too late",
					    (unsigned long long)r->first, r->space);
	}
	return NULL;
}

static struct kage_err *pages_init(struct pack_writer *w)
{
	size_t group = w->n_pages < GROUP_PAGES ? w->n_pages : GROUP_PAGES;

	w->zero_hash = XXH3_128bits(zero_page, sizeof(zero_page)).low64;
	TRY(kage_dedupe_init(&w->dedupe, w->n_pages));
	w->origins = malloc(w->n_pages * sizeof(*w->origins));
	w->group = malloc(group * KAGE_PAGE_BYTES);
	w->piece = malloc((size_t)KAGE_PAGES_PIECE * KAGE_PAGE_BYTES);
	w->other = malloc(KAGE_PAGE_BYTES);
	w->groups = calloc(w->n_pages / GROUP_PAGES + 1, sizeof(*w->groups));
	w->runs = calloc(w->pages->n_runs, sizeof(*w->runs));
	if (!w->origins || !w->group || !w->piece || !w->other || !w->groups || !w->runs)
		return kage_err_nomem();
	return NULL;
}

static struct kage_err *put_pages(struct pack_writer *w)
{
	if (w->n_pages == 0)
		return NULL;
	TRY(pages_init(w));
	for (size_t i = 0; i < w->pages->n_runs; i++)
		TRY(put_run(w, &w->pages->runs[i]));
	return put_group(w);
}

/* --- INDEX, FOOTER ---------------------------------------------------------------------------- */

static void *put_bytes(void *at, const void *from, size_t size)
{
	if (size)
		memcpy(at, from, size);
	return (unsigned char *)at + size;
}

static struct kage_err *put_index(struct pack_writer *w)
{
	size_t size = INDEX_FIXED_BYTES + w->n_groups * sizeof(struct index_group) +
		      w->n_runs * sizeof(struct index_run) +
		      w->n_extents * sizeof(struct index_extent);
	_cleanup_free_ unsigned char *payload = malloc(size);
	struct index_fixed f = {
		.fixed_bytes = le32_of(sizeof(f)),
		.group_pages = le32_of(GROUP_PAGES),
		.n_groups = le64_of(w->n_groups),
		.n_runs = le64_of(w->n_runs),
		.n_extents = le64_of(w->n_extents),
		.n_slots = le64_of(w->n_slots),
		.n_pages = le64_of(w->n_pages),
	};
	unsigned char *at = payload;

	if (!payload)
		return kage_err_nomem();
	at = put_bytes(at, &f, sizeof(f));
	at = put_bytes(at, w->groups, w->n_groups * sizeof(*w->groups));
	at = put_bytes(at, w->runs, w->n_runs * sizeof(*w->runs));
	for (size_t i = 0; i < w->n_extents; i++) {
		struct index_extent e = {
			.slot = le64_of(w->extents[i].slot),
			.count = le32_of(w->extents[i].count),
			.kind = le32_of(w->extents[i].kind),
		};
		at = put_bytes(at, &e, sizeof(e));
	}
	w->index_offset = offset_of(w);
	return put_record(w, RECORD_INDEX, 0, payload, size, NULL);
}

static struct kage_err *put_footer(struct pack_writer *w)
{
	XXH128_hash_t chain = XXH3_128bits_digest(w->chain);
	struct footer f = {
		.total_bytes = le64_of(offset_of(w) + FOOTER_RECORD_BYTES),
		.image_offset = le64_of(w->image_offset),
		.index_offset = le64_of(w->index_offset),
		.n_records = le64_of(w->n_records + 1),
		.chain = { le64_of(chain.low64), le64_of(chain.high64) },
	};

	memcpy(f.magic, kage_format_footer_magic, sizeof(f.magic));
	return put_record(w, RECORD_FOOTER, 0, &f, sizeof(f), NULL);
}

/* --- all of it -------------------------------------------------------------------------------- */

static struct kage_err *writer_init(struct pack_writer *w, int level)
{
	w->out_size = OUT_BYTES;
	w->out = malloc(w->out_size);
	w->chain = XXH3_createState();
	w->zstd = ZSTD_createCCtx();
	if (!w->out || !w->chain || !w->zstd)
		return kage_err_nomem();
	XXH3_128bits_reset(w->chain);
	if (ZSTD_isError(ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel,
						level ? level : DEFAULT_LEVEL)))
		return kage_err_new(KAGE_INVALID, "zstd has no compression level %d", level);
	return NULL;
}

static struct kage_err *write_all(struct pack_writer *w, const struct kage_image *image,
				  const char *history, int level)
{
	TRY(kage_image_validate(image));
	TRY(check_runs(image));
	TRY(writer_init(w, level));
	TRY(put_header(w));
	TRY(put_summary(w, image->msg, history));
	TRY(put_image(w, image));
	TRY(put_pages(w));
	TRY(put_index(w));
	TRY(put_footer(w));
	return flush(w);
}

struct kage_err *kage_pack_write(const struct kage_ctx *ctx, int fd, const char *path,
				 const struct kage_image *image, const char *history, int level,
				 uint64_t *ret_bytes)
{
	struct pack_writer w = {
		.ctx = ctx,
		.fd = fd,
		.path = path,
		.pages = image->pages,
		.n_pages = image->pages ? kage_pages_total(image->pages) : 0,
	};
	struct kage_err *e = write_all(&w, image, history, level);

	if (!e)
		*ret_bytes = w.flushed;
	writer_deinit(&w);
	return e;
}
