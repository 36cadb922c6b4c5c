/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a pack, as kage-pack(5) describes them, and parsers that check all that can be
 * checked within one piece. The parsers are pure: they look at nothing but the bytes that they are
 * given. Offsets in messages are those of the file: parsers get the offset at which their bytes
 * stand there.
 */
#ifndef STORE_FORMAT_H
#define STORE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/types.h"
#include "image/pages.h"
#include "store/xor.h"

enum {
	PACK_HEADER_BYTES = 64,
	PACK_HEADER_MAX = 4096,
	RECORD_BYTES = 48,
	FOOTER_BYTES = 56,
	FOOTER_RECORD_BYTES = RECORD_BYTES + FOOTER_BYTES,
	SUMMARY_FIXED_BYTES = 120,
	SUMMARY_WITH_DIFFERENCE_BYTES = 112, /* of packs that do not say how they were taken */
	SUMMARY_OLD_BYTES = 56,              /* of packs that know no differences */
	SUMMARY_STRING_MAX = 16384,
	DIRTY_FIXED_BYTES = 32,
	INDEX_FIXED_BYTES = 48,
	GROUP_PAGES = 256,
	GROUP_BYTES = GROUP_PAGES * KAGE_PAGE_BYTES,
	DELTA_BYTES = GROUP_PAGES * XOR_PAGE_MAX, /* of a group of differences, at most */
	IMAGE_ID_BYTES = 16,
	RECORD_TAG_BYTES = 16, /* by which an encrypted payload is longer */
	RECIPIENT_BYTES = 32,
	KEY_BOX_BYTES = 80,
	SEAL_BYTES = 32,
	KEY_BYTES = 152, /* the payload of KEY */
	KEY_MAX = 4096,
};

enum record_type {
	RECORD_SUMMARY = 1,
	RECORD_IMAGE = 2,
	RECORD_PAGES = 3,
	RECORD_INDEX = 4,
	RECORD_FOOTER = 5,
	RECORD_DELTA = 6,
	RECORD_DIRTY = 7,
	RECORD_KEY = 9,
};

enum { RECORD_ZSTD = 1, RECORD_ENCRYPTED = 2, RECORD_LEANING = 4 };

/* Incompatible features. */
enum { FEATURE_NO_KEYFRAME = 1, FEATURE_ENCRYPTED = 2, FEATURE_LEANING = 8 };

/* So many descriptions lean on each other at most. */
enum { LEANING_MAX = 64 };

enum { KEY_METHOD = 1 };

enum extent_kind {
	EXTENT_STORED = 0,
	EXTENT_ZERO = 1,
	EXTENT_NEIGHBOUR = 3,
};

struct pack_header {
	uint8_t magic[8];
	le32 header_bytes;
	le32 zero1;
	le64 compatible;
	le64 incompatible;
	uint8_t id[16];
	le64 zero2;
	le64 checksum;
};

struct record_header {
	le32 type;
	le32 flags;
	le64 stored_bytes;
	le64 raw_bytes;
	le64 argument;
	le64 payload_checksum;
	le64 checksum;
};

struct summary_fixed {
	le32 fixed_bytes;
	le32 pid;
	le64 realtime_ns;
	le64 pause_ns;
	le64 memory_bytes;
	le32 n_threads;
	le32 string_bytes[5];
	le64 changed_pages;
	le64 difference_offset;
	le64 difference_bytes;
	le64 dirty_offset;
	le64 base_number;
	uint8_t base_id[16];
	le32 tracking; /* Source.Tracking of image.proto */
	le32 zero;
};

struct key_record {
	le32 method;
	le32 zero;
	uint8_t recipient[RECIPIENT_BYTES];
	uint8_t box[KEY_BOX_BYTES];
	uint8_t seal[SEAL_BYTES];
};

struct dirty_fixed {
	le32 fixed_bytes;
	le32 group_pages;
	le64 n_groups;
	le64 n_runs;
	le64 n_pages;
};

struct index_fixed {
	le32 fixed_bytes;
	le32 group_pages;
	le64 n_groups;
	le64 n_runs;
	le64 n_extents;
	le64 n_slots;
	le64 n_pages;
};

struct index_group {
	le64 offset;
	le64 stored_bytes;
};

struct index_run {
	le32 space;
	le32 n_extents;
	le64 first;
	le64 count;
};

struct index_extent {
	le64 slot;
	le32 count;
	le32 kind;
};

struct footer {
	le64 total_bytes;
	le64 image_offset;
	le64 index_offset;
	le64 n_records;
	le64 chain[2];
	uint8_t magic[8];
};

_Static_assert(sizeof(struct pack_header) == PACK_HEADER_BYTES, "kage-pack(5)");
_Static_assert(sizeof(struct record_header) == RECORD_BYTES, "kage-pack(5)");
_Static_assert(sizeof(struct summary_fixed) == SUMMARY_FIXED_BYTES, "kage-pack(5)");
_Static_assert(sizeof(struct key_record) == KEY_BYTES, "kage-pack(5)");
_Static_assert(sizeof(struct dirty_fixed) == DIRTY_FIXED_BYTES, "kage-pack(5)");
_Static_assert(sizeof(struct index_fixed) == INDEX_FIXED_BYTES, "kage-pack(5)");
_Static_assert(sizeof(struct index_group) == 16, "kage-pack(5)");
_Static_assert(sizeof(struct index_run) == 24, "kage-pack(5)");
_Static_assert(sizeof(struct index_extent) == 16, "kage-pack(5)");
_Static_assert(sizeof(struct footer) == FOOTER_BYTES, "kage-pack(5)");

/* --- as numbers ------------------------------------------------------------------------------- */

/* A record's 48 bytes, checked. */
struct record {
	uint64_t offset; /* of the 48 bytes */
	uint32_t type;
	bool compressed, encrypted;
	bool leaning; /* an IMAGE that is read with the neighbour's description before it */
	uint64_t stored_bytes, raw_bytes, argument, payload_checksum;
};

static inline uint64_t record_end(const struct record *r)
{
	return r->offset + RECORD_BYTES + r->stored_bytes;
}

/* Size of the payload without the tag of its encryption. */
static inline uint64_t record_inner_bytes(const struct record *r)
{
	return r->stored_bytes - (r->encrypted ? RECORD_TAG_BYTES : 0);
}

/* What the header says. */
struct pack_head {
	uint32_t header_bytes;
	bool keyframe; /* has contents for all its pages */
	bool encrypted;
	bool leaning; /* IMAGE may need the neighbour's */
	uint8_t id[IMAGE_ID_BYTES];
};

/* Where the difference to the neighbour is: DELTA records and then the DIRTY record, without a gap. */
struct difference_place {
	uint64_t offset; /* 0: there is none */
	uint64_t bytes;
	uint64_t dirty_offset;
	uint64_t changed_pages;
	uint64_t base_number;
	uint8_t base_id[IMAGE_ID_BYTES];
};

/* What SUMMARY says. Strings are borrowed from the payload and have no terminator. */
struct summary_string {
	const char *bytes;
	size_t size;
};
struct summary {
	int32_t pid;
	uint32_t n_threads;
	uint64_t realtime_ns, pause_ns, memory_bytes;
	uint32_t tracking; /* Source.Tracking of image.proto; may be a newer one */
	struct summary_string name, comm, command, message, reason;
	struct difference_place difference;
};

struct extent {
	uint64_t slot;
	uint32_t count;
	uint32_t kind; /* enum extent_kind */
	uint64_t at;   /* pages of its run that come before it */
};

struct group {
	uint64_t offset, stored_bytes;
	uint32_t n_pages;
};

/* INDEX, decoded. Extent i of run r is extents[run_extents[r] + i]. */
struct pack_index {
	uint32_t group_pages;
	uint64_t n_slots, n_pages;
	bool keyframe; /* no extent refers to the neighbour */
	struct group *groups;
	size_t n_groups;
	struct page_run *runs;
	size_t n_runs;
	struct extent *extents;
	size_t n_extents;
	size_t *run_extents; /* n_runs + 1 */
};

void kage_format_index_deinit(struct pack_index *index);

struct footer_numbers {
	uint64_t image_offset, index_offset, n_records;
	uint64_t chain[2];
};

/* --- parsers ---------------------------------------------------------------------------------- */

/** KAGE_CORRUPT, naming OFFSET in the words of every report: "offset 64: …". */
struct kage_err *kage_format_damage(uint64_t offset, const char *fmt, ...) _printf_(2, 3)
	_must_check_;

/** Checks the header at the beginning of SIZE bytes, which are the file's first PACK_HEADER_MAX or
 *  all of it. KAGE_VERSION when it needs features that this reader does not have. */
struct kage_err *kage_format_header(const uint8_t *bytes, size_t size, struct pack_head *ret_head)
	_must_check_;

/** Checks the 48 bytes of a record at OFFSET, of which at most ROOM bytes (they included) can belong
 *  to the record. The payload is not looked at. */
struct kage_err *kage_format_record(const uint8_t *bytes, uint64_t offset, uint64_t room,
				    struct record *ret_record) _must_check_;

/** Compares the payload's checksum, PAYLOAD being stored_bytes of R. */
struct kage_err *kage_format_payload(const struct record *r, const uint8_t *payload) _must_check_;

/** Parses the payload of SUMMARY, which stands at OFFSET. Strings are borrowed from it. */
struct kage_err *kage_format_summary(const uint8_t *bytes, size_t size, uint64_t offset,
				     struct summary *ret_summary) _must_check_;

/** Parses the payload of KEY, which stands at OFFSET. KAGE_VERSION for a method that is not known. */
struct kage_err *kage_format_key(const uint8_t *bytes, size_t size, uint64_t offset,
				 struct key_record *ret_key) _must_check_;

/** Parses and checks the decompressed INDEX, whose record stands at OFFSET; groups must lie before
 *  it. */
struct kage_err *kage_format_index(const uint8_t *bytes, size_t size, uint64_t offset,
				   struct pack_index *ret_index) _must_check_;

/** Parses the payload of a FOOTER whose record stands at OFFSET in a file of FILE_BYTES. */
struct kage_err *kage_format_footer(const uint8_t *bytes, uint64_t offset, uint64_t file_bytes,
				    struct footer_numbers *ret_footer) _must_check_;

/* --- the other direction ---------------------------------------------------------------------- */

/** A header for the image HEAD->id. */
void kage_format_put_header(const struct pack_head *head, struct pack_header *ret_header);

/** The 48 bytes of R. */
void kage_format_put_record(const struct record *r, struct record_header *ret_bytes);

extern const uint8_t kage_format_footer_magic[8];

/** Whether the payload of a record of TYPE is encrypted in an encrypted pack. */
bool kage_format_is_secret(uint32_t type);

/** Whether the payload of a record of TYPE may be compressed. */
bool kage_format_may_compress(uint32_t type);

/** The largest decompressed payload of a record of TYPE; 0 for types that are not known. */
uint64_t kage_format_raw_limit(uint32_t type);

#endif
