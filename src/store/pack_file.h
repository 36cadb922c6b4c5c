/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of a pack: its records, each verified before anybody sees its contents.
 */
#ifndef STORE_PACK_FILE_H
#define STORE_PACK_FILE_H

#include <zstd.h>

#include "store/format.h"
#include "store/keys.h"

struct pack_file {
	int fd;        /* borrowed or owned, as the user of this has it */
	int direct_fd; /* the same file past the page cache, -1 where that is not worth it */
	const char *path;
	uint64_t size;
	uint8_t *head; /* the first head_bytes of the file */
	size_t head_bytes;
	struct pack_head pack; /* what the header says */
	struct footer_numbers footer;
	uint64_t footer_offset;
	uint64_t summary_bytes;   /* of the payload */
	struct key_record sealed; /* what KEY says, of an encrypted pack; else zero */
	struct pack_key key;      /* not set before kage_pack_unlock() */
};

/** Frees what is in F, but not its descriptors and path. */
void kage_pack_file_deinit(struct pack_file *f);

/** Reads header, SUMMARY, KEY and FOOTER of F, whose fd and path are set. A file of at most SMALL bytes is
 *  read in one go, of others the first PACK_HEADER_MAX. *ret_payload is fresh, *ret_summary borrows
 *  from it. Deinit also after failure. */
struct kage_err *kage_pack_open_file(struct pack_file *f, size_t small, uint8_t **ret_payload,
				     struct summary *ret_summary) _must_check_;

/** Makes the records of F readable, if it is encrypted: opens its key and compares the seal. SUMMARY is the
 *  payload that kage_pack_open_file() gave. KAGE_PERM when no key at PLACE opens it. */
struct kage_err *kage_pack_unlock(struct pack_file *f, const uint8_t *summary,
				  const struct pack_place *place) _must_check_;

/** SIZE bytes at OFFSET. KAGE_CORRUPT when they are not all there. */
struct kage_err *kage_pack_read_at(const struct pack_file *f, uint64_t offset, size_t size,
				   void *buffer) _must_check_;

/** Reads and checks the head of the record at OFFSET, which ends at END at the latest. TYPE 0 takes
 *  any. */
struct kage_err *kage_pack_read_head(const struct pack_file *f, uint64_t offset, uint64_t end,
				     uint32_t type, struct record *ret_record) _must_check_;

/** The payload of R, verified, decrypted and decompressed, as fresh bytes. */
struct kage_err *kage_pack_read_payload(const struct pack_file *f, const struct record *r,
					uint8_t **ret_bytes) _must_check_;

/** The same of R that leans on a description, which is the SIZE bytes at BEFORE. */
struct kage_err *kage_pack_read_leaning(const struct pack_file *f, const struct record *r,
					const uint8_t *before, size_t size, uint8_t **ret_bytes)
	_must_check_;

/** Decompresses STORED, the payload of R after decryption, to its raw_bytes at RAW. */
struct kage_err *kage_pack_decompress(ZSTD_DCtx *zstd, const struct record *r,
				      const uint8_t *stored, uint8_t *raw) _must_check_;

#endif
