/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order of the steps is that of the file: header, SUMMARY, IMAGE, PAGES, INDEX, FOOTER. Records
 * collect in one buffer, which goes to the file when it is full: a small pack is one or two writes.
 * PAGES are compressed by threads when there are many; they are put in the order of their numbers.
 */
#include "store/pack_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "store/dedupe.h"
#include "store/format.h"
#include "store/squeeze.h"

enum {
	DEFAULT_LEVEL = 1,
	OUT_BYTES = 4 << 20,
	SMALL_BYTES = 1 << 20,     /* one buffer does for an image with so much in it */
	LARGE_PAGES = 8192,        /* from here on threads and direct writing are worth it */
	WRITEBACK_BYTES = 8 << 20, /* the disk is set to work each time so much is written */
	BLOCK_BYTES = 4096,        /* direct writes begin and end at such */
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
	struct squeeze squeeze;
	XXH3_state_t *chain; /* over header and records' heads */
	uint64_t n_records, image_offset, index_offset;

	bool direct;        /* O_DIRECT is set: flush() keeps to blocks */
	unsigned char *out; /* what is not written yet, beginning at a block */
	size_t out_used, out_size;
	uint64_t flushed;   /* bytes written: the offset of out[0] */
	uint64_t writeback; /* bytes that the disk was told to write */

	struct kage_pages *pages;
	uint64_t n_pages, n_done;
	struct dedupe dedupe;
	struct origin *origins; /* of each slot */
	uint64_t n_slots;
	uint64_t zero_hash;
	unsigned char *group; /* pages of the group that is being filled, a job's */
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
	kage_squeeze_deinit(&w->squeeze);
	XXH3_freeState(w->chain);
	kage_dedupe_deinit(&w->dedupe);
	free(w->out);
	free(w->origins);
	free(w->piece);
	free(w->other);
	free(w->groups);
	free(w->runs);
	free(w->extents);
}

/* --- bytes and records ------------------------------------------------------------------------ */

/* Large packs go past the page cache: nobody may read them soon, pages for them would have to be
 * found and filled, and the memory is better left to the programs. */
static void set_direct(struct pack_writer *w, bool on)
{
	int flags = fcntl(w->fd, F_GETFL);

	if (on == w->direct || flags < 0)
		return;
	flags = on ? flags | O_DIRECT : flags & ~O_DIRECT;
	if (fcntl(w->fd, F_SETFL, flags) == 0) /* not every file system can */
		w->direct = on;
}

/* So that the disk works while we compress. Not a promise: that is for fdatasync. */
static void start_writeback(struct pack_writer *w)
{
	if (w->direct || w->flushed - w->writeback < WRITEBACK_BYTES)
		return;
	sync_file_range(w->fd, (off_t)w->writeback, (off_t)(w->flushed - w->writeback),
			SYNC_FILE_RANGE_WRITE);
	w->writeback = w->flushed;
}

/* Writes what is in the buffer; of the last block, if it is not full, only when ALL. */
static struct kage_err *flush(struct pack_writer *w, bool all)
{
	size_t blocks = w->out_used / BLOCK_BYTES * BLOCK_BYTES;
	struct kage_err *e = kage_file_write(w->fd, w->out, blocks, -1, w->path);

	if (e && w->direct && kage_err_errno(e) == EINVAL) { /* larger blocks than ours */
		err_drop(e);
		set_direct(w, false);
		e = kage_file_write(w->fd, w->out, blocks, (off_t)w->flushed, w->path);
		if (!e && lseek(w->fd, (off_t)(w->flushed + blocks), SEEK_SET) < 0)
			e = kage_err_sys(errno, "seek in %s", w->path);
	}
	TRY(e);
	w->out_used -= blocks;
	memmove(w->out, w->out + blocks, w->out_used);
	w->flushed += blocks;
	start_writeback(w);
	if (!all)
		return NULL;
	set_direct(w, false);
	TRY(kage_file_write(w->fd, w->out, w->out_used, -1, w->path));
	w->flushed += w->out_used;
	w->out_used = 0;
	return NULL;
}

/* Makes the buffer SIZE bytes large, keeping what is in it. */
static struct kage_err *resize(struct pack_writer *w, size_t size)
{
	unsigned char *grown;

	size = (size + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
	grown = aligned_alloc(BLOCK_BYTES, size);
	if (!grown)
		return kage_err_nomem();
	if (w->out_used)
		memcpy(grown, w->out, w->out_used);
	free(w->out);
	w->out = grown;
	w->out_size = size;
	return NULL;
}

/* Makes room for SIZE more bytes in the buffer. */
static struct kage_err *make_room(struct pack_writer *w, size_t size)
{
	if (w->out_size - w->out_used >= size)
		return NULL;
	TRY(flush(w, false));
	return w->out_size - w->out_used >= size ? NULL : resize(w, w->out_used + size);
}

static uint64_t offset_of(const struct pack_writer *w)
{
	return w->flushed + w->out_used;
}

/* Puts the head of R, whose payload already stands behind its place. */
static void put_head(struct pack_writer *w, const struct record *r)
{
	struct record_header head;

	kage_format_put_record(r, &head);
	memcpy(w->out + w->out_used, &head, sizeof(head));
	if (r->type != RECORD_FOOTER)
		XXH3_128bits_update(w->chain, &head, sizeof(head));
	w->out_used += RECORD_BYTES + r->stored_bytes;
	w->n_records++;
}

/* A record with PAYLOAD, compressed if its type may be and that makes it smaller. */
static struct kage_err *put_record(struct pack_writer *w, enum record_type type,
				   const void *payload, size_t size)
{
	struct record r = { .type = type, .raw_bytes = size, .stored_bytes = size };
	unsigned char *at;

	if (size > kage_format_raw_limit(type))
		return kage_err_new(KAGE_LIMIT,
				    "a record of %zu bytes is more than a pack can hold", size);
	TRY(make_room(w, RECORD_BYTES + size));
	r.offset = offset_of(w);
	at = w->out + w->out_used + RECORD_BYTES;
	if (type != RECORD_SUMMARY && type != RECORD_FOOTER)
		r.stored_bytes = kage_squeeze_now(w->squeeze.zstd, payload, size, at);
	r.compressed = r.stored_bytes && r.stored_bytes < size;
	if (!r.compressed) {
		memcpy(at, payload, size);
		r.stored_bytes = size;
	}
	r.payload_checksum = XXH3_64bits(at, r.stored_bytes);
	put_head(w, &r);
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
	return put_record(w, RECORD_SUMMARY, payload, at);
}

static struct kage_err *put_image(struct pack_writer *w, const struct kage_image *image)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t size;

	TRY(kage_image_encode(image, &bytes, &size));
	w->image_offset = offset_of(w);
	return put_record(w, RECORD_IMAGE, bytes, size);
}

/* --- PAGES ------------------------------------------------------------------------------------ */

/* Puts the oldest group that was given to the compressor, if any. */
static struct kage_err *put_oldest(struct pack_writer *w)
{
	const struct squeeze_job *job = kage_squeeze_take(&w->squeeze);
	struct record r = { .type = RECORD_PAGES, .argument = w->n_groups };

	if (!job)
		return NULL;
	r.raw_bytes = job->raw_bytes;
	r.stored_bytes = job->stored_bytes;
	r.compressed = job->stored_bytes < job->raw_bytes;
	r.payload_checksum = job->checksum;
	TRY(make_room(w, RECORD_BYTES + r.stored_bytes));
	r.offset = offset_of(w);
	memcpy(w->out + w->out_used + RECORD_BYTES, job->stored, r.stored_bytes);
	put_head(w, &r);
	w->groups[w->n_groups++] = (struct index_group){
		.offset = le64_of(r.offset),
		.stored_bytes = le64_of(r.stored_bytes),
	};
	return NULL;
}

/* The group that is being filled is complete. */
static struct kage_err *end_group(struct pack_writer *w)
{
	TRY(kage_ctx_poll(w->ctx));
	kage_squeeze_submit(&w->squeeze, w->group_used * KAGE_PAGE_BYTES);
	w->group_used = 0;
	if (kage_squeeze_full(&w->squeeze))
		TRY(put_oldest(w));
	w->group = kage_squeeze_raw(&w->squeeze);
	kage_ctx_progress(w->ctx, "store", w->n_done * KAGE_PAGE_BYTES,
			  w->n_pages * KAGE_PAGE_BYTES);
	return NULL;
}

static struct kage_err *end_groups(struct pack_writer *w)
{
	if (w->group_used)
		TRY(end_group(w));
	while (w->n_groups < w->squeeze.n_submitted)
		TRY(put_oldest(w));
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
		return end_group(w);
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
	w->zero_hash = XXH3_128bits(zero_page, sizeof(zero_page)).low64;
	TRY(kage_dedupe_init(&w->dedupe, w->n_pages));
	w->origins = malloc(w->n_pages * sizeof(*w->origins));
	w->group = kage_squeeze_raw(&w->squeeze);
	w->piece = malloc((size_t)KAGE_PAGES_PIECE * KAGE_PAGE_BYTES);
	w->other = malloc(KAGE_PAGE_BYTES);
	w->groups = calloc(w->n_pages / GROUP_PAGES + 1, sizeof(*w->groups));
	w->runs = calloc(w->pages->n_runs, sizeof(*w->runs));
	if (!w->origins || !w->piece || !w->other || !w->groups || !w->runs)
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
	return end_groups(w);
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
	return put_record(w, RECORD_INDEX, payload, size);
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
	return put_record(w, RECORD_FOOTER, &f, sizeof(f));
}

/* --- all of it -------------------------------------------------------------------------------- */

static struct kage_err *writer_init(struct pack_writer *w, int level)
{
	bool large = w->n_pages >= LARGE_PAGES;
	long n_threads = large ? sysconf(_SC_NPROCESSORS_ONLN) : 0;
	uint64_t most = w->n_pages < GROUP_PAGES ? w->n_pages : GROUP_PAGES;

	if (level < ZSTD_minCLevel() || level > ZSTD_maxCLevel())
		return kage_err_new(KAGE_INVALID, "zstd has no compression level %d", level);
	TRY(kage_squeeze_init(&w->squeeze, level ? level : DEFAULT_LEVEL,
			      (most + !most) * KAGE_PAGE_BYTES,
			      n_threads > 0 ? (unsigned)n_threads : 0));
	w->chain = XXH3_createState();
	if (!w->chain)
		return kage_err_nomem();
	XXH3_128bits_reset(w->chain);
	if (large)
		set_direct(w, true);
	return resize(w, large ? OUT_BYTES : SMALL_BYTES);
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
	return flush(w, true);
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
