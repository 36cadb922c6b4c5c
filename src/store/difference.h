/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The difference between an image and its neighbour, as it is read from a pack: its DIRTY record, parsed,
 * and its DELTA records, verified and decompressed when they are asked for. It leads both ways.
 *
 * A small one is in memory as a whole and needs no descriptor: a thousand of them can be open.
 */
#ifndef STORE_DIFFERENCE_H
#define STORE_DIFFERENCE_H

#include <zstd.h>

#include "store/dirty.h"
#include "store/seal.h"

struct difference {
	char *path; /* of the pack, for messages */
	struct difference_place place;
	struct dirty dirty;
	uint8_t *bytes; /* all records from place.offset on, or NULL */
	int fd;         /* then this is the pack; else -1 */
	struct pack_key key;
};

#define DIFFERENCE_INIT ((struct difference){ .fd = -1 })

void kage_difference_deinit(struct difference *d);

/** Reads the difference at PLACE of the pack in FD, which has FILE_BYTES; PATH is copied. BYTES are its
 *  records where the caller has them already, fresh, and are taken in any case; NULL reads
 *  them, or keeps a duplicate of FD if they are many and KEEP_FD. KEY is the pack's, copied. */
struct kage_err *kage_difference_open(int fd, const char *path, uint64_t file_bytes,
				      const struct difference_place *place,
				      const struct pack_key *key, uint8_t *bytes, bool keep_fd,
				      struct difference *ret_difference) _must_check_;

/* What reading groups needs. Zero it at first. */
struct difference_reader {
	ZSTD_DCtx *zstd;
	uint8_t *stored, *raw;
};

void kage_difference_reader_deinit(struct difference_reader *r);

/** The code of group NUMBER, its pages one behind the other (xor.h), in R until that is used again, or
 *  in D. */
struct kage_err *kage_difference_group(const struct difference *d, size_t number,
				       struct difference_reader *r, const uint8_t **ret_code,
				       size_t *ret_size) _must_check_;

/** Is given the code of the difference of page PAGE of SPACE (xor.h), which is one. */
typedef struct kage_err *kage_difference_fn(void *user, uint32_t space, uint64_t page,
					    const uint8_t *code, size_t size);

/** Calls FN (or nobody, when NULL) for each page of group NUMBER, ascending. Ends with the first error of
 *  FN. */
struct kage_err *kage_difference_each(const struct difference *d, size_t number,
				      struct difference_reader *r, kage_difference_fn *fn,
				      void *user) _must_check_;

/** How many bytes all its codes have, at most. */
uint64_t kage_difference_code_bytes(const struct difference *d);

#endif
