/* SPDX-License-Identifier: Apache-2.0 */
#include "store/format.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/cleanup.h"

static const uint8_t header_magic[8] = { 0x89, 'K', 'A', 'G', 'E', 0x0d, 0x0a, 0x1a };
const uint8_t kage_format_footer_magic[8] = { 'K', 'A', 'G', 'E', 'E', 'N', 'D', '\n' };

/* Features that this reader honours. */
static const uint64_t known_incompatible =
	FEATURE_NO_KEYFRAME | FEATURE_ENCRYPTED | FEATURE_LEANING;

static const uint64_t max_page = (uint64_t)1 << 52; /* pages of a 64-bit address space */
static const uint64_t max_slots = (uint64_t)1 << 40;
static const uint64_t max_file = (uint64_t)1 << 60;

struct kage_err *kage_format_damage(uint64_t offset, const char *fmt, ...)
{
	_cleanup_free_ char *what = NULL;
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = vasprintf(&what, fmt, ap);
	va_end(ap);
	if (r < 0) {
		what = NULL;
		return kage_err_nomem();
	}
	return kage_err_new(KAGE_CORRUPT, "damaged at offset %llu: %s", (unsigned long long)offset,
			    what);
}

uint64_t kage_format_raw_limit(uint32_t type)
{
	switch (type) {
	case RECORD_SUMMARY:
		return 128 * 1024;
	case RECORD_IMAGE:
		return 256u << 20;
	case RECORD_PAGES:
		return GROUP_BYTES;
	case RECORD_INDEX:
		return 1u << 30;
	case RECORD_FOOTER:
		return FOOTER_BYTES;
	case RECORD_DELTA:
		return DELTA_BYTES;
	case RECORD_DIRTY:
		return 256u << 20;
	case RECORD_KEY:
		return KEY_MAX;
	default:
		return 0;
	}
}

bool kage_format_may_compress(uint32_t type)
{
	return type != RECORD_SUMMARY && type != RECORD_FOOTER && type != RECORD_DIRTY &&
	       type != RECORD_KEY;
}

bool kage_format_is_secret(uint32_t type)
{
	return type != RECORD_SUMMARY && type != RECORD_FOOTER && type != RECORD_KEY;
}

/* --- header ----------------------------------------------------------------------------------- */

static uint64_t header_checksum(const uint8_t *bytes, size_t size)
{
	uint8_t copy[PACK_HEADER_MAX];

	memcpy(copy, bytes, size);
	memset(copy + offsetof(struct pack_header, checksum), 0, sizeof(le64));
	return XXH3_64bits(copy, size);
}

struct kage_err *kage_format_header(const uint8_t *bytes, size_t size, struct pack_head *ret_head)
{
	struct pack_header h;
	uint64_t unknown;
	uint32_t n;

	if (size < sizeof(h))
		return kage_format_damage(size, "it ends within its header");
	memcpy(&h, bytes, sizeof(h));
	if (memcmp(h.magic, header_magic, sizeof(h.magic)) != 0)
		return kage_format_damage(0, "it does not begin as a pack does");
	n = le32_get(h.header_bytes);
	if (n < PACK_HEADER_BYTES || n > PACK_HEADER_MAX || n > size)
		return kage_format_damage(offsetof(struct pack_header, header_bytes),
					  "a header of %u bytes", n);
	if (header_checksum(bytes, n) != le64_get(h.checksum))
		return kage_format_damage(0, "the header's checksum is wrong");
	unknown = le64_get(h.incompatible) & ~known_incompatible;
	if (unknown)
		return kage_err_new(
			KAGE_VERSION,
			"made by a newer kage: it needs features %#llx, which this version "
			"(%s) does not have",
			(unsigned long long)unknown, KAGE_VERSION_STRING);
	if (le32_get(h.zero1) || le64_get(h.zero2))
		return kage_format_damage(0, "a reserved field of the header is not zero");
	ret_head->header_bytes = n;
	ret_head->keyframe = !(le64_get(h.incompatible) & FEATURE_NO_KEYFRAME);
	ret_head->encrypted = le64_get(h.incompatible) & FEATURE_ENCRYPTED;
	ret_head->leaning = le64_get(h.incompatible) & FEATURE_LEANING;
	memcpy(ret_head->id, h.id, sizeof(h.id));
	return NULL;
}

void kage_format_put_header(const struct pack_head *head, struct pack_header *ret_header)
{
	struct pack_header h = {
		.header_bytes = le32_of(PACK_HEADER_BYTES),
		.incompatible = le64_of((head->keyframe ? 0 : FEATURE_NO_KEYFRAME) |
					(head->encrypted ? FEATURE_ENCRYPTED : 0) |
					(head->leaning ? FEATURE_LEANING : 0)),
	};

	memcpy(h.magic, header_magic, sizeof(h.magic));
	memcpy(h.id, head->id, sizeof(h.id));
	h.checksum = le64_of(header_checksum((const uint8_t *)&h, sizeof(h)));
	*ret_header = h;
}

/* --- records ---------------------------------------------------------------------------------- */

static uint64_t record_checksum(const struct record_header *h, uint64_t offset)
{
	return XXH3_64bits_withSeed(h, offsetof(struct record_header, checksum), offset);
}

void kage_format_put_record(const struct record *r, struct record_header *ret_bytes)
{
	struct record_header h = {
		.type = le32_of(r->type),
		.flags = le32_of((r->compressed ? RECORD_ZSTD : 0) |
				 (r->encrypted ? RECORD_ENCRYPTED : 0) |
				 (r->leaning ? RECORD_LEANING : 0)),
		.stored_bytes = le64_of(r->stored_bytes),
		.raw_bytes = le64_of(r->raw_bytes),
		.argument = le64_of(r->argument),
		.payload_checksum = le64_of(r->payload_checksum),
	};

	h.checksum = le64_of(record_checksum(&h, r->offset));
	*ret_bytes = h;
}

/* Sizes of a record whose checksum is right. Unknown types are only bounded by the file. */
static struct kage_err *check_record(const struct record *r, uint32_t flags, uint64_t room)
{
	uint64_t limit = kage_format_raw_limit(r->type), inner = record_inner_bytes(r);

	if (r->stored_bytes > room - RECORD_BYTES)
		return kage_format_damage(r->offset, "a record of %llu bytes does not fit",
					  (unsigned long long)r->stored_bytes);
	if (!limit)
		return NULL;
	if (flags & ~(uint32_t)(RECORD_ZSTD | RECORD_ENCRYPTED | RECORD_LEANING))
		return kage_format_damage(r->offset, "unknown flags %#x", flags);
	if (r->encrypted && (r->stored_bytes < RECORD_TAG_BYTES || !kage_format_is_secret(r->type)))
		return kage_format_damage(r->offset, "a record that cannot be encrypted is");
	if (r->leaning && (r->type != RECORD_IMAGE || !r->compressed))
		return kage_format_damage(r->offset, "a record that cannot lean on another does");
	if (r->raw_bytes > limit)
		return kage_format_damage(r->offset, "a record with %llu bytes in it",
					  (unsigned long long)r->raw_bytes);
	if (r->compressed ? inner >= r->raw_bytes : inner != r->raw_bytes)
		return kage_format_damage(r->offset, "the sizes of a record contradict each other");
	if (r->compressed && !kage_format_may_compress(r->type))
		return kage_format_damage(r->offset, "a record that may not be compressed is");
	if (r->argument && r->type != RECORD_PAGES && r->type != RECORD_DELTA)
		return kage_format_damage(r->offset, "a reserved field of a record is not zero");
	return NULL;
}

struct kage_err *kage_format_record(const uint8_t *bytes, uint64_t offset, uint64_t room,
				    struct record *ret_record)
{
	struct record_header h;
	struct record r = { .offset = offset };

	if (room < sizeof(h))
		return kage_format_damage(offset, "no room for a record");
	memcpy(&h, bytes, sizeof(h));
	if (record_checksum(&h, offset) != le64_get(h.checksum))
		return kage_format_damage(offset, "the checksum of a record's head is wrong");
	r.type = le32_get(h.type);
	r.compressed = le32_get(h.flags) & RECORD_ZSTD;
	r.encrypted = le32_get(h.flags) & RECORD_ENCRYPTED;
	r.leaning = le32_get(h.flags) & RECORD_LEANING;
	r.stored_bytes = le64_get(h.stored_bytes);
	r.raw_bytes = le64_get(h.raw_bytes);
	r.argument = le64_get(h.argument);
	r.payload_checksum = le64_get(h.payload_checksum);
	TRY(check_record(&r, le32_get(h.flags), room));
	*ret_record = r;
	return NULL;
}

struct kage_err *kage_format_payload(const struct record *r, const uint8_t *payload)
{
	if (XXH3_64bits(payload, r->stored_bytes) != r->payload_checksum)
		return kage_format_damage(r->offset + RECORD_BYTES,
					  "the checksum of the %llu bytes from here is wrong",
					  (unsigned long long)r->stored_bytes);
	return NULL;
}

/* --- summary ---------------------------------------------------------------------------------- */

/* Where the difference is, as F says, whose SUMMARY stands at OFFSET. Whether it is in the file is seen
 * when it is read. */
static struct kage_err *summary_difference(const struct summary_fixed *f, uint64_t offset,
					   struct difference_place *ret_place)
{
	struct difference_place p = {
		.offset = le64_get(f->difference_offset),
		.bytes = le64_get(f->difference_bytes),
		.dirty_offset = le64_get(f->dirty_offset),
		.changed_pages = le64_get(f->changed_pages),
		.base_number = le64_get(f->base_number),
	};

	memcpy(p.base_id, f->base_id, sizeof(p.base_id));
	if (p.offset == 0)
		return NULL;
	if (p.offset < PACK_HEADER_BYTES || p.offset > max_file || p.bytes > max_file ||
	    p.bytes < RECORD_BYTES + DIRTY_FIXED_BYTES || p.dirty_offset < p.offset ||
	    p.dirty_offset - p.offset > p.bytes - RECORD_BYTES - DIRTY_FIXED_BYTES ||
	    p.changed_pages > max_slots || p.base_number == 0)
		return kage_format_damage(offset, "a summary whose difference makes no sense");
	*ret_place = p;
	return NULL;
}

struct kage_err *kage_format_summary(const uint8_t *bytes, size_t size, uint64_t offset,
				     struct summary *ret_summary)
{
	struct summary s = { 0 };
	struct summary_string *strings[] = { &s.name, &s.comm, &s.command, &s.message, &s.reason };
	struct summary_fixed f = { 0 };
	size_t at;

	if (size < SUMMARY_OLD_BYTES)
		return kage_format_damage(offset, "a summary of %zu bytes", size);
	memcpy(&f, bytes, SUMMARY_OLD_BYTES);
	at = le32_get(f.fixed_bytes);
	if (at < SUMMARY_OLD_BYTES || at > size)
		return kage_format_damage(offset, "a summary whose strings begin at %zu", at);
	memcpy(&f, bytes, at < sizeof(f) ? at : sizeof(f));
	if (at >= SUMMARY_WITH_DIFFERENCE_BYTES)
		TRY(summary_difference(&f, offset, &s.difference));
	for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
		size_t n = le32_get(f.string_bytes[i]);

		if (n > SUMMARY_STRING_MAX || n > size - at)
			return kage_format_damage(offset, "a summary with a string of %zu bytes",
						  n);
		*strings[i] = (struct summary_string){ (const char *)bytes + at, n };
		at += n;
	}
	if (at != size)
		return kage_format_damage(offset, "a summary with %zu bytes too many", size - at);
	s.pid = (int32_t)le32_get(f.pid);
	s.n_threads = le32_get(f.n_threads);
	s.realtime_ns = le64_get(f.realtime_ns);
	s.pause_ns = le64_get(f.pause_ns);
	s.memory_bytes = le64_get(f.memory_bytes);
	s.tracking = le32_get(f.tracking);
	*ret_summary = s;
	return NULL;
}

/* --- key -------------------------------------------------------------------------------------- */

struct kage_err *kage_format_key(const uint8_t *bytes, size_t size, uint64_t offset,
				 struct key_record *ret_key)
{
	struct key_record k;

	if (size < sizeof(k))
		return kage_format_damage(offset, "a key of %zu bytes", size);
	memcpy(&k, bytes, sizeof(k));
	if (le32_get(k.method) != KEY_METHOD)
		return kage_err_new(KAGE_VERSION,
				    "made by a newer kage: it is encrypted by method %u, which "
				    "this version (%s) does not have",
				    le32_get(k.method), KAGE_VERSION_STRING);
	if (le32_get(k.zero) || size != sizeof(k))
		return kage_format_damage(offset, "a key whose fields make no sense");
	*ret_key = k;
	return NULL;
}

/* --- index ------------------------------------------------------------------------------------ */

void kage_format_index_deinit(struct pack_index *index)
{
	free(index->groups);
	free(index->runs);
	free(index->extents);
	free(index->run_extents);
	*index = (struct pack_index){ 0 };
}

static struct kage_err *index_counts(const uint8_t *bytes, size_t size, uint64_t offset,
				     struct pack_index *x, size_t *ret_tables)
{
	struct index_fixed f;
	uint64_t left, fixed, groups, runs, extents;

	if (size < sizeof(f))
		return kage_format_damage(offset, "an index of %zu bytes", size);
	memcpy(&f, bytes, sizeof(f));
	fixed = le32_get(f.fixed_bytes);
	groups = le64_get(f.n_groups);
	runs = le64_get(f.n_runs);
	extents = le64_get(f.n_extents);
	x->group_pages = le32_get(f.group_pages);
	x->n_slots = le64_get(f.n_slots);
	x->n_pages = le64_get(f.n_pages);
	if (fixed < sizeof(f) || fixed > size)
		return kage_format_damage(offset, "an index whose tables begin at %llu",
					  (unsigned long long)fixed);
	left = size - fixed;
	if (groups > left / sizeof(struct index_group) || runs > left / sizeof(struct index_run) ||
	    extents > left / sizeof(struct index_extent) ||
	    groups * sizeof(struct index_group) + runs * sizeof(struct index_run) +
			    extents * sizeof(struct index_extent) !=
		    left)
		return kage_format_damage(offset, "an index whose tables do not fill it");
	if (x->group_pages < 1 || x->group_pages > GROUP_PAGES || x->n_slots > max_slots ||
	    groups != (x->n_slots + x->group_pages - 1) / x->group_pages)
		return kage_format_damage(offset, "an index of %llu pages in %llu groups",
					  (unsigned long long)x->n_slots,
					  (unsigned long long)groups);
	x->n_groups = groups;
	x->n_runs = runs;
	x->n_extents = extents;
	*ret_tables = fixed;
	return NULL;
}

/* Groups lie between the header and the index, ascending, without overlap. */
static struct kage_err *index_groups(const uint8_t *at, uint64_t offset, struct pack_index *x)
{
	uint64_t end = PACK_HEADER_BYTES;

	for (size_t i = 0; i < x->n_groups; i++) {
		struct group *g = &x->groups[i];
		struct index_group b;
		uint64_t left = x->n_slots - i * x->group_pages;

		memcpy(&b, at + i * sizeof(b), sizeof(b));
		g->offset = le64_get(b.offset);
		g->stored_bytes = le64_get(b.stored_bytes);
		g->n_pages = left < x->group_pages ? (uint32_t)left : x->group_pages;
		if (g->offset < end || g->offset >= offset ||
		    g->stored_bytes > GROUP_BYTES + RECORD_TAG_BYTES ||
		    g->stored_bytes + RECORD_BYTES > offset - g->offset)
			return kage_format_damage(offset,
						  "an index whose group %zu is not in the "
						  "pack",
						  i);
		end = g->offset + RECORD_BYTES + g->stored_bytes;
	}
	return NULL;
}

static struct kage_err *index_extents(const uint8_t *at, uint64_t offset, struct pack_index *x)
{
	size_t n_neighbour = 0;

	for (size_t i = 0; i < x->n_extents; i++) {
		struct extent *e = &x->extents[i];
		struct index_extent b;
		bool good;

		memcpy(&b, at + i * sizeof(b), sizeof(b));
		*e = (struct extent){
			.slot = le64_get(b.slot),
			.count = le32_get(b.count),
			.kind = le32_get(b.kind),
		};
		if (e->kind == EXTENT_STORED)
			good = e->slot < x->n_slots && e->count <= x->n_slots - e->slot;
		else
			good = (e->kind == EXTENT_ZERO || e->kind == EXTENT_NEIGHBOUR) &&
			       e->slot == 0;
		if (!good || e->count == 0)
			return kage_format_damage(offset, "an index whose extent %zu leads nowhere",
						  i);
		n_neighbour += e->kind == EXTENT_NEIGHBOUR;
	}
	x->keyframe = n_neighbour == 0;
	if (n_neighbour && (n_neighbour < x->n_extents || x->n_slots))
		return kage_format_damage(offset,
					  "an index of a keyframe and of a difference at once");
	return NULL;
}

static struct kage_err *index_runs(const uint8_t *at, uint64_t offset, struct pack_index *x)
{
	uint64_t total = 0, before = 0;
	uint32_t space = 0;
	size_t next = 0;

	for (size_t i = 0; i < x->n_runs; i++) {
		struct page_run *r = &x->runs[i];
		struct index_run b;
		uint64_t n, pages = 0;

		memcpy(&b, at + i * sizeof(b), sizeof(b));
		*r = (struct page_run){ le32_get(b.space), le64_get(b.first), le64_get(b.count) };
		n = le32_get(b.n_extents);
		x->run_extents[i] = next;
		if (r->space == 0 || r->count == 0 || r->first > max_page ||
		    r->count > max_page - r->first || r->space < space ||
		    (r->space == space && r->first < before) || n > x->n_extents - next)
			return kage_format_damage(offset, "an index whose run %zu makes no sense",
						  i);
		for (; n > 0; n--) {
			x->extents[next].at = pages;
			pages += x->extents[next++].count;
		}
		if (pages != r->count)
			return kage_format_damage(offset, "an index whose run %zu does not add up",
						  i);
		space = r->space;
		before = r->first + r->count;
		total += r->count;
	}
	x->run_extents[x->n_runs] = next;
	if (next != x->n_extents || total != x->n_pages)
		return kage_format_damage(offset, "an index whose runs do not add up");
	return NULL;
}

static struct kage_err *index_tables(const uint8_t *at, uint64_t offset, struct pack_index *x)
{
	const uint8_t *runs = at + x->n_groups * sizeof(struct index_group);
	const uint8_t *extents = runs + x->n_runs * sizeof(struct index_run);

	x->groups = calloc(x->n_groups + 1, sizeof(*x->groups));
	x->runs = calloc(x->n_runs + 1, sizeof(*x->runs));
	x->extents = calloc(x->n_extents + 1, sizeof(*x->extents));
	x->run_extents = calloc(x->n_runs + 1, sizeof(*x->run_extents));
	if (!x->groups || !x->runs || !x->extents || !x->run_extents)
		return kage_err_nomem();
	TRY(index_groups(at, offset, x));
	TRY(index_extents(extents, offset, x));
	return index_runs(runs, offset, x);
}

struct kage_err *kage_format_index(const uint8_t *bytes, size_t size, uint64_t offset,
				   struct pack_index *ret_index)
{
	struct pack_index x = { 0 };
	struct kage_err *e;
	size_t tables = 0;

	TRY(index_counts(bytes, size, offset, &x, &tables));
	e = index_tables(bytes + tables, offset, &x);
	if (e) {
		kage_format_index_deinit(&x);
		return e;
	}
	*ret_index = x;
	return NULL;
}

/* --- footer ----------------------------------------------------------------------------------- */

struct kage_err *kage_format_footer(const uint8_t *bytes, uint64_t offset, uint64_t file_bytes,
				    struct footer_numbers *ret_footer)
{
	struct footer_numbers n;
	struct footer f;

	memcpy(&f, bytes, sizeof(f));
	n.image_offset = le64_get(f.image_offset);
	n.index_offset = le64_get(f.index_offset);
	n.n_records = le64_get(f.n_records);
	n.chain[0] = le64_get(f.chain[0]);
	n.chain[1] = le64_get(f.chain[1]);
	if (memcmp(f.magic, kage_format_footer_magic, sizeof(f.magic)) != 0)
		return kage_format_damage(offset, "the footer's magic is wrong");
	if (le64_get(f.total_bytes) != file_bytes)
		return kage_format_damage(offset,
					  "the footer speaks of %llu bytes, the file has %llu",
					  (unsigned long long)le64_get(f.total_bytes),
					  (unsigned long long)file_bytes);
	if (n.image_offset < PACK_HEADER_BYTES || n.image_offset >= offset ||
	    n.index_offset < PACK_HEADER_BYTES || n.index_offset >= offset ||
	    n.n_records > file_bytes / RECORD_BYTES)
		return kage_format_damage(offset, "the footer's numbers make no sense");
	*ret_footer = n;
	return NULL;
}
