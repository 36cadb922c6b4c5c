/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order of the steps is that of the file: header, SUMMARY, DELTA, DIRTY, IMAGE, PAGES, INDEX, FOOTER.
 * Records collect in one buffer, which goes to the file when it is full: a small pack is one or two
 * writes. DELTA and PAGES are compressed by threads when there are many; they are put in the order of
 * their numbers. The SUMMARY is put empty and filled in at the end, in the buffer or in the file.
 */
#include "store/pack_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/workers.h"
#include "store/dedupe.h"
#include "store/dirty.h"
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
	bool keyframe;
	const struct pack_sealing *sealing; /* NULL: not encrypted */
	const char *history;
	struct key_record key;
	struct squeeze squeeze;
	struct pack_header header;
	struct record_header *heads; /* of all records so far */
	size_t n_heads, max_heads;
	uint64_t image_offset, index_offset;
	uint8_t *summary; /* the payload as it was put */
	size_t summary_bytes;
	struct difference_place place;
	uint64_t *delta_bytes; /* stored_bytes of each DELTA record */
	size_t n_deltas, max_deltas;
	struct page_run *changed; /* the pages that really differ */
	size_t n_changed, max_changed;
	size_t code_used; /* bytes of the group of differences that is being filled, a job's */

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
	const struct kage_description *before; /* to lean on, or NULL */
	struct kage_description description;   /* if it was made here */
};

static const unsigned char zero_page[KAGE_PAGE_BYTES];

static void writer_deinit(struct pack_writer *w)
{
	kage_squeeze_deinit(&w->squeeze);
	kage_dedupe_deinit(&w->dedupe);
	free(w->heads);
	free(w->summary);
	free(w->delta_bytes);
	free(w->changed);
	free(w->out);
	free(w->origins);
	free(w->piece);
	free(w->other);
	free(w->groups);
	free(w->runs);
	free(w->extents);
	kage_description_deinit(&w->description);
}

/* Room for one more element of SIZE bytes in the array at *ARRAY. */
static struct kage_err *grow(void *array, size_t n, size_t *max, size_t size)
{
	size_t more = *max ? *max * 2 : 64;
	void *grown;

	if (n < *max)
		return NULL;
	grown = realloc(*(void **)array, more * size);
	if (!grown)
		return kage_err_nomem();
	*(void **)array = grown;
	*max = more;
	return NULL;
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
static struct kage_err *put_head(struct pack_writer *w, const struct record *r)
{
	TRY(grow(&w->heads, w->n_heads, &w->max_heads, sizeof(*w->heads)));
	kage_format_put_record(r, &w->heads[w->n_heads]);
	memcpy(w->out + w->out_used, &w->heads[w->n_heads++], RECORD_BYTES);
	w->out_used += RECORD_BYTES + r->stored_bytes;
	return NULL;
}

/* What is compressed next may refer to BEFORE. */
static bool lean(ZSTD_CCtx *zstd, const struct kage_description *before)
{
	/* A frame that did not fit is still under way. */
	return !ZSTD_isError(ZSTD_CCtx_reset(zstd, ZSTD_reset_session_only)) &&
	       !ZSTD_isError(ZSTD_CCtx_refPrefix(zstd, before->bytes, before->size));
}

/* A record with PAYLOAD, compressed if its type may be and that makes it smaller, and encrypted if it is to be. */
static struct kage_err *put_record(struct pack_writer *w, enum record_type type,
				   const void *payload, size_t size)
{
	struct record r = {
		.type = type,
		.raw_bytes = size,
		.encrypted = w->sealing && kage_format_is_secret(type),
	};
	unsigned char *at;
	size_t n = 0;

	if (size > kage_format_raw_limit(type))
		return kage_err_new(KAGE_LIMIT,
				    "a record of %zu bytes is more than a pack can hold", size);
	TRY(make_room(w, RECORD_BYTES + size + RECORD_TAG_BYTES));
	r.offset = offset_of(w);
	at = w->out + w->out_used + RECORD_BYTES;
	r.leaning = w->before && type == RECORD_IMAGE && lean(w->squeeze.zstd, w->before);
	if (kage_format_may_compress(type))
		n = kage_squeeze_now(w->squeeze.zstd, payload, size, at);
	r.compressed = n && n < size;
	r.leaning &= r.compressed;
	if (!r.compressed) {
		memcpy(at, payload, size);
		n = size;
	}
	r.stored_bytes = n + (r.encrypted ? RECORD_TAG_BYTES : 0);
	if (r.encrypted)
		kage_seal_encrypt(&w->sealing->key, &r, at, at);
	r.payload_checksum = XXH3_64bits(at, r.stored_bytes);
	return put_head(w, &r);
}

/* --- header, SUMMARY, IMAGE ------------------------------------------------------------------- */

static struct kage_err *put_header(struct pack_writer *w, const struct pack_options *o)
{
	struct pack_head head = {
		.keyframe = w->keyframe,
		.encrypted = w->sealing,
		.leaning = w->before,
	};

	if (o->id)
		memcpy(head.id, o->id, sizeof(head.id));
	else if (getrandom(head.id, sizeof(head.id), 0) != (ssize_t)sizeof(head.id))
		return kage_err_sys(errno, "get random bytes for a pack's id");
	kage_format_put_header(&head, &w->header);
	memcpy(w->out, &w->header, sizeof(w->header));
	w->out_used = sizeof(w->header);
	return NULL;
}

static struct kage_err *put_summary(struct pack_writer *w, const Kage__Image *msg,
				    const char *history)
{
	const Kage__Source *source = msg->source;
	const Kage__Process *leader = msg->n_processes ? msg->processes[0] : NULL;
	bool open = !w->sealing; /* else what tells of the program is in the IMAGE only */
	const char *strings[] = { history, open && leader ? leader->comm : "",
				  open && source ? source->command : "",
				  open && source ? source->message : "",
				  source ? source->reason : "" };
	struct summary_fixed f = {
		.fixed_bytes = le32_of(sizeof(f)),
		.pid = le32_of(leader ? (uint32_t)leader->pid : 0),
		.realtime_ns = le64_of(source ? source->realtime_ns : 0),
		.pause_ns = le64_of(source ? source->pause_ns : 0),
		.memory_bytes = le64_of(w->n_pages * KAGE_PAGE_BYTES),
		.n_threads = le32_of(leader ? (uint32_t)leader->n_threads : 0),
		.tracking = le32_of(source ? (uint32_t)source->tracking : 0),
	};
	size_t at = sizeof(f);

	w->summary = malloc(SUMMARY_FIXED_BYTES + ARRAY_SIZE(strings) * SUMMARY_STRING_MAX);
	if (!w->summary)
		return kage_err_nomem();
	for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
		size_t n = strnlen(strings[i], SUMMARY_STRING_MAX);

		memcpy(w->summary + at, strings[i], n);
		f.string_bytes[i] = le32_of((uint32_t)n);
		at += n;
	}
	memcpy(w->summary, &f, sizeof(f));
	w->summary_bytes = at;
	return put_record(w, RECORD_SUMMARY, w->summary, at);
}

/* Like the SUMMARY, KEY gets its contents at the end: the seal is over what SUMMARY says. */
static struct kage_err *put_key(struct pack_writer *w)
{
	if (!w->sealing)
		return NULL;
	TRY(kage_pack_key_begin(w->sealing, &w->key));
	return put_record(w, RECORD_KEY, &w->key, sizeof(w->key));
}

static void finish_key(struct pack_writer *w)
{
	struct sealed_parts parts = {
		.history = w->history,
		.header = (const uint8_t *)&w->header,
		.header_bytes = sizeof(w->header),
		.summary = w->summary,
		.summary_bytes = w->summary_bytes,
	};

	if (w->sealing)
		kage_pack_key_finish(w->sealing, &parts, &w->key, &w->heads[1]);
}

/* Fills in what was not known when the SUMMARY was put. The record keeps its place and size. */
static void finish_summary(struct pack_writer *w)
{
	struct record r = {
		.offset = PACK_HEADER_BYTES,
		.type = RECORD_SUMMARY,
		.raw_bytes = w->summary_bytes,
		.stored_bytes = w->summary_bytes,
	};
	struct summary_fixed f;

	memcpy(&f, w->summary, sizeof(f));
	f.changed_pages = le64_of(w->place.changed_pages);
	f.difference_offset = le64_of(w->place.offset);
	f.difference_bytes = le64_of(w->place.bytes);
	f.dirty_offset = le64_of(w->place.dirty_offset);
	f.base_number = le64_of(w->place.base_number);
	memcpy(f.base_id, w->place.base_id, sizeof(f.base_id));
	memcpy(w->summary, &f, sizeof(f));
	r.payload_checksum = XXH3_64bits(w->summary, w->summary_bytes);
	kage_format_put_record(&r, &w->heads[0]);
}

/* SIZE bytes in place of those at AT: in the buffer if nothing of it is written, else in the file. */
static struct kage_err *put_again(struct pack_writer *w, uint64_t at, const void *bytes,
				  size_t size)
{
	if (w->flushed)
		return kage_file_write(w->fd, bytes, size, (off_t)at, w->path);
	memcpy(w->out + at, bytes, size);
	return NULL;
}

/* Puts the finished SUMMARY and KEY in the place of the first ones, when all else is there, and writes
 * what is not written yet. */
static struct kage_err *put_summary_again(struct pack_writer *w)
{
	uint64_t at = PACK_HEADER_BYTES, key = at + RECORD_BYTES + w->summary_bytes;

	if (w->flushed)
		TRY(flush(w, true));
	TRY(put_again(w, at, &w->heads[0], RECORD_BYTES));
	TRY(put_again(w, at + RECORD_BYTES, w->summary, w->summary_bytes));
	if (w->sealing) {
		TRY(put_again(w, key, &w->heads[1], RECORD_BYTES));
		TRY(put_again(w, key + RECORD_BYTES, &w->key, sizeof(w->key)));
	}
	return flush(w, true);
}

static struct kage_err *put_image(struct pack_writer *w, const struct kage_image *image,
				  const struct kage_description *d)
{
	struct record_header *head;

	if (!d) {
		d = &w->description;
		TRY(kage_image_encode(image, &w->description.bytes, &w->description.size));
	}
	w->image_offset = offset_of(w);
	TRY(put_record(w, RECORD_IMAGE, d->bytes, d->size));
	head = &w->heads[w->n_heads - 1];
	if (le32_get(head->flags) & RECORD_LEANING)
		w->description.leans = w->before->leans + 1;
	return NULL;
}

/* --- groups ----------------------------------------------------------------------------------- */

/* Puts the oldest group that was given to the compressor as group ORDINAL; *ret_group is where it went. */
static struct kage_err *put_oldest(struct pack_writer *w, enum record_type type, uint64_t ordinal,
				   struct index_group *ret_group)
{
	const struct squeeze_job *job = kage_squeeze_take(&w->squeeze);
	struct record r = { .type = type, .argument = ordinal, .encrypted = w->sealing };
	unsigned char *at;

	r.raw_bytes = job->raw_bytes;
	r.stored_bytes = job->stored_bytes + (r.encrypted ? RECORD_TAG_BYTES : 0);
	r.compressed = job->stored_bytes < job->raw_bytes;
	r.payload_checksum = job->checksum;
	TRY(make_room(w, RECORD_BYTES + r.stored_bytes));
	r.offset = offset_of(w);
	at = w->out + w->out_used + RECORD_BYTES;
	if (r.encrypted) {
		kage_seal_encrypt(&w->sealing->key, &r, job->stored, at);
		r.payload_checksum = XXH3_64bits(at, r.stored_bytes);
	} else {
		memcpy(at, job->stored, r.stored_bytes);
	}
	*ret_group = (struct index_group){
		.offset = le64_of(r.offset),
		.stored_bytes = le64_of(r.stored_bytes),
	};
	return put_head(w, &r);
}

static bool groups_left(const struct pack_writer *w)
{
	return w->squeeze.n_taken < w->squeeze.n_submitted;
}

static bool in_one_run(const struct kage_pages *p, uint32_t space, uint64_t first, uint64_t count)
{
	size_t i = kage_pages_find(p, space, first);
	const struct page_run *r = &p->runs[i];

	return i < p->n_runs && r->space == space && r->first <= first &&
	       count <= r->first + r->count - first;
}

/* COUNT pages from FIRST of SPACE: lent by P where it can, else read into ROOM. NULL is all zero. What is not in P's
 * runs is zero, whatever P may still know of it. */
static struct kage_err *get_pages(struct kage_pages *p, uint32_t space, uint64_t first,
				  uint64_t count, unsigned char *room,
				  const unsigned char **ret_bytes)
{
	*ret_bytes = p && p->ops->borrow && in_one_run(p, space, first, count)
			     ? p->ops->borrow(p, space, first, count)
			     : NULL;
	if (!p || *ret_bytes)
		return NULL;
	*ret_bytes = room;
	return kage_pages_read(p, space, first, count, room);
}

/* --- DELTA, DIRTY ----------------------------------------------------------------------------- */

static struct kage_err *put_oldest_delta(struct pack_writer *w)
{
	struct index_group group;

	TRY(grow(&w->delta_bytes, w->n_deltas, &w->max_deltas, sizeof(*w->delta_bytes)));
	TRY(put_oldest(w, RECORD_DELTA, w->n_deltas, &group));
	w->delta_bytes[w->n_deltas++] = le64_get(group.stored_bytes);
	return NULL;
}

/* The group of differences that is being filled is complete. */
static struct kage_err *end_delta(struct pack_writer *w)
{
	TRY(kage_ctx_poll(w->ctx));
	kage_squeeze_submit(&w->squeeze, w->code_used);
	w->code_used = 0;
	return kage_squeeze_full(&w->squeeze) ? put_oldest_delta(w) : NULL;
}

/* Page PAGE of SPACE, which is A in one image and B in the other (NULL: zeros). */
static struct kage_err *put_difference_page(struct pack_writer *w, uint32_t space, uint64_t page,
					    const unsigned char *a, const unsigned char *b)
{
	struct page_run *last = w->n_changed ? &w->changed[w->n_changed - 1] : NULL;
	uint8_t code[XOR_PAGE_MAX + XOR_SLACK];
	size_t n = a ? kage_xor_encode(a, b, code) : b ? kage_xor_encode(b, NULL, code) : 0;

	if (n == 0)
		return NULL;
	memcpy(kage_squeeze_raw(&w->squeeze) + w->code_used, code, n);
	w->code_used += n;
	if (last && last->space == space && last->first + last->count == page) {
		last->count++;
	} else {
		TRY(grow(&w->changed, w->n_changed, &w->max_changed, sizeof(*w->changed)));
		w->changed[w->n_changed++] = (struct page_run){ space, page, 1 };
	}
	return ++w->place.changed_pages % GROUP_PAGES == 0 ? end_delta(w) : NULL;
}

static struct kage_err *put_difference_run(struct pack_writer *w, const struct pack_difference *d,
					   const struct page_run *r, unsigned char *room)
{
	const unsigned char *a, *b;

	for (uint64_t done = 0, n; done < r->count; done += n) {
		uint64_t first = r->first + done;

		n = r->count - done < KAGE_PAGES_PIECE ? r->count - done : KAGE_PAGES_PIECE;
		TRY(get_pages(d->before, r->space, first, n, room, &a));
		TRY(get_pages(d->after, r->space, first, n, room + GROUP_BYTES, &b));
		for (uint64_t i = 0; i < n; i++)
			TRY(put_difference_page(w, r->space, first + i,
						a ? a + i * KAGE_PAGE_BYTES : NULL,
						b ? b + i * KAGE_PAGE_BYTES : NULL));
	}
	return NULL;
}

static struct kage_err *put_dirty(struct pack_writer *w)
{
	_cleanup_free_ uint8_t *payload = NULL;
	size_t size;

	TRY(kage_dirty_encode(w->changed, w->n_changed, w->delta_bytes, w->n_deltas, &payload,
			      &size));
	w->place.dirty_offset = offset_of(w);
	return put_record(w, RECORD_DIRTY, payload, size);
}

static struct kage_err *put_difference(struct pack_writer *w, const struct pack_difference *d)
{
	_cleanup_free_ unsigned char *room = malloc(2 * (size_t)GROUP_BYTES);

	if (!room)
		return kage_err_nomem();
	w->place.offset = offset_of(w);
	w->place.base_number = d->base_number;
	memcpy(w->place.base_id, d->base_id, sizeof(w->place.base_id));
	for (size_t i = 0; i < d->n_runs; i++)
		TRY(put_difference_run(w, d, &d->runs[i], room));
	if (w->code_used)
		TRY(end_delta(w));
	while (groups_left(w))
		TRY(put_oldest_delta(w));
	TRY(put_dirty(w));
	w->place.bytes = offset_of(w) - w->place.offset;
	return NULL;
}
/* --- PAGES ------------------------------------------------------------------------------------ */

static struct kage_err *put_oldest_group(struct pack_writer *w)
{
	TRY(put_oldest(w, RECORD_PAGES, w->n_groups, &w->groups[w->n_groups]));
	w->n_groups++;
	return NULL;
}

/* The group that is being filled is complete. */
static struct kage_err *end_group(struct pack_writer *w)
{
	TRY(kage_ctx_poll(w->ctx));
	kage_squeeze_submit(&w->squeeze, w->group_used * KAGE_PAGE_BYTES);
	w->group_used = 0;
	if (kage_squeeze_full(&w->squeeze))
		TRY(put_oldest_group(w));
	w->group = kage_squeeze_raw(&w->squeeze);
	kage_ctx_progress(w->ctx, "store", w->n_done * KAGE_PAGE_BYTES,
			  w->n_pages * KAGE_PAGE_BYTES);
	return NULL;
}

static struct kage_err *end_groups(struct pack_writer *w)
{
	if (w->group_used)
		TRY(end_group(w));
	while (groups_left(w))
		TRY(put_oldest_group(w));
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
	TRY(grow(&w->extents, w->n_extents, &w->max_extents, sizeof(*w->extents)));
	w->extents[w->n_extents++] = (struct extent){ .slot = slot, .count = 1, .kind = kind };
	return NULL;
}

/* Whether the page that went to SLOT has the same bytes as PAGE. */
static struct kage_err *compare_slot(struct pack_writer *w, uint64_t slot, const void *page,
				     bool *ret_same)
{
	const struct origin *o = &w->origins[slot];
	const unsigned char *old;

	TRY(get_pages(w->pages, o->space, o->page, 1, w->other, &old));
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
	const unsigned char *bytes;

	TRY(get_pages(w->pages, r->space, first, count, w->piece, &bytes));
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

/* All pages of R are as in the neighbour, or as the difference makes them. */
static struct kage_err *put_run_of_neighbour(struct pack_writer *w, const struct page_run *r)
{
	for (uint64_t done = 0, n; done < r->count; done += n) {
		n = r->count - done < UINT32_MAX ? r->count - done : UINT32_MAX;
		TRY(put_extent(w, true, 0, EXTENT_NEIGHBOUR));
		w->extents[w->n_extents - 1].count = (uint32_t)n;
	}
	return NULL;
}

static struct kage_err *put_run(struct pack_writer *w, const struct page_run *r)
{
	size_t before = w->n_extents;

	for (uint64_t done = 0, n; w->keyframe && done < r->count; done += n) {
		n = r->count - done < KAGE_PAGES_PIECE ? r->count - done : KAGE_PAGES_PIECE;
		TRY(put_piece(w, r, done, n));
	}
	if (!w->keyframe)
		TRY(put_run_of_neighbour(w, r));
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

static struct kage_err *check_difference(const struct pack_difference *d)
{
	if (d->base_number == 0)
		return kage_err_new(KAGE_INVALID, "a difference from an image without a number");
	for (size_t i = 0; i < d->n_runs; i++) {
		const struct page_run *r = &d->runs[i], *before = i ? r - 1 : NULL;

		if (r->count == 0 || r->space == 0 ||
		    (before &&
		     (before->space > r->space ||
		      (before->space == r->space && before->first + before->count > r->first))))
			return kage_err_new(KAGE_INVALID,
					    "changed pages %#llx of space %u come twice or too "
					    "late",
					    (unsigned long long)r->first, r->space);
	}
	return NULL;
}

static struct kage_err *pages_init(struct pack_writer *w)
{
	w->runs = calloc(w->pages->n_runs, sizeof(*w->runs));
	if (!w->runs)
		return kage_err_nomem();
	if (!w->keyframe)
		return NULL;
	w->zero_hash = XXH3_128bits(zero_page, sizeof(zero_page)).low64;
	TRY(kage_dedupe_init(&w->dedupe, w->n_pages));
	w->origins = malloc(w->n_pages * sizeof(*w->origins));
	w->group = kage_squeeze_raw(&w->squeeze);
	w->piece = malloc((size_t)KAGE_PAGES_PIECE * KAGE_PAGE_BYTES);
	w->other = malloc(KAGE_PAGE_BYTES);
	w->groups = calloc(w->n_pages / GROUP_PAGES + 1, sizeof(*w->groups));
	if (!w->origins || !w->piece || !w->other || !w->groups)
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
	return w->keyframe ? end_groups(w) : NULL;
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

/* Over the header and the heads of all records so far. */
static struct kage_err *chain_of(const struct pack_writer *w, XXH128_hash_t *ret_chain)
{
	XXH3_state_t *state = XXH3_createState();

	if (!state)
		return kage_err_nomem();
	XXH3_128bits_reset(state);
	XXH3_128bits_update(state, &w->header, sizeof(w->header));
	XXH3_128bits_update(state, w->heads, w->n_heads * sizeof(*w->heads));
	*ret_chain = XXH3_128bits_digest(state);
	XXH3_freeState(state);
	return NULL;
}

static struct kage_err *put_footer(struct pack_writer *w)
{
	XXH128_hash_t chain;
	struct footer f = {
		.total_bytes = le64_of(offset_of(w) + FOOTER_RECORD_BYTES),
		.image_offset = le64_of(w->image_offset),
		.index_offset = le64_of(w->index_offset),
		.n_records = le64_of(w->n_heads + 1),
	};

	TRY(chain_of(w, &chain));
	f.chain[0] = le64_of(chain.low64);
	f.chain[1] = le64_of(chain.high64);
	memcpy(f.magic, kage_format_footer_magic, sizeof(f.magic));
	return put_record(w, RECORD_FOOTER, &f, sizeof(f));
}

/* --- all of it -------------------------------------------------------------------------------- */

static uint64_t pages_in(const struct page_run *runs, size_t n_runs)
{
	struct kage_pages p = { .runs = runs, .n_runs = n_runs };

	return kage_pages_total(&p);
}

static struct kage_err *writer_init(struct pack_writer *w, const struct pack_options *o)
{
	uint64_t changed = o->difference ? pages_in(o->difference->runs, o->difference->n_runs) : 0;
	uint64_t pages = w->keyframe ? w->n_pages : 0,
		 most = pages < GROUP_PAGES ? pages : GROUP_PAGES;
	bool large = pages >= LARGE_PAGES || changed >= LARGE_PAGES;
	unsigned n_threads = large ? kage_processors() : 0;
	size_t job = (most + !most) * KAGE_PAGE_BYTES;

	if (o->level < ZSTD_minCLevel() || o->level > ZSTD_maxCLevel())
		return kage_err_new(KAGE_INVALID, "zstd has no compression level %d", o->level);
	if (changed > most)
		job = (changed < GROUP_PAGES ? changed : GROUP_PAGES) * XOR_PAGE_MAX;
	else if (changed)
		job = most * XOR_PAGE_MAX;
	TRY(kage_squeeze_init(&w->squeeze, o->level ? o->level : DEFAULT_LEVEL, job, n_threads));
	if (large)
		set_direct(w, true);
	return resize(w, large ? OUT_BYTES : SMALL_BYTES);
}

static struct kage_err *write_all(struct pack_writer *w, const struct kage_image *image,
				  const struct pack_options *o)
{
	TRY(kage_image_validate(image));
	TRY(check_runs(image));
	if (o->difference)
		TRY(check_difference(o->difference));
	TRY(writer_init(w, o));
	TRY(put_header(w, o));
	TRY(put_summary(w, image->msg, o->history));
	TRY(put_key(w));
	if (o->difference)
		TRY(put_difference(w, o->difference));
	TRY(put_image(w, image, o->description));
	TRY(put_pages(w));
	TRY(put_index(w));
	finish_summary(w);
	finish_key(w);
	TRY(put_footer(w));
	return put_summary_again(w);
}

struct kage_err *kage_pack_write(const struct kage_ctx *ctx, int fd, const char *path,
				 const struct kage_image *image, const struct pack_options *options,
				 struct pack_written *ret_written)
{
	struct pack_writer w = {
		.ctx = ctx,
		.fd = fd,
		.path = path,
		.keyframe = options->keyframe || !options->difference,
		.sealing = options->sealing,
		.before = options->before,
		.history = options->history,
		.pages = image->pages,
		.n_pages = image->pages ? kage_pages_total(image->pages) : 0,
	};
	struct kage_err *e;

	if (w.keyframe)
		w.before = NULL;
	e = write_all(&w, image, options);
	if (!e) {
		ret_written->bytes = w.flushed;
		ret_written->changed_pages = w.place.changed_pages;
		ret_written->keyframe = w.keyframe;
		memcpy(ret_written->id, w.header.id, sizeof(w.header.id));
		ret_written->description = (struct kage_description){ 0 };
		if (options->keep) {
			ret_written->description = w.description;
			w.description = (struct kage_description){ 0 };
		}
	}
	writer_deinit(&w);
	return e;
}
