/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contents of files and shared objects: from a descriptor into a space of the image and back.
 * Only data is read; a hole stays one (reading a hole of a memfd through a mapping would fill it).
 */
#ifndef KIND_CONTENT_H
#define KIND_CONTENT_H

#include "kind/kind.h"

enum { KAGE_HASH_BYTES = 16, KAGE_TAIL_BYTES = 64 * 1024 };

/* Larger files are told from others by size, times and tail only; their holes would be hashed too. */
#define KAGE_HASH_MAX_BYTES ((uint64_t)4 << 30)

/** A new space of KIND in C's image, for the object with ST; NULL for the address space. */
struct kage_err *kage_content_space(struct kage_capture *c, Kage__Space__Kind kind,
				    const struct stat *st, Kage__Space **ret_space) _must_check_;

/** Copies SIZE bytes of FD into SPACE. FD must be a description of our own: its offset moves. With
 *  HASH not NULL, SIZE being at most KAGE_HASH_MAX_BYTES, the XXH3-128 of all bytes, holes as zeros,
 *  big-endian, is written there. */
struct kage_err *kage_content_copy(struct kage_capture *c, const Kage__Space *space, int fd,
				   uint64_t size, uint8_t *hash) _must_check_;

/** Gives FD, which is empty, the size and contents of SPACE. */
struct kage_err *kage_content_fill(struct kage_pages *pages, const Kage__Space *space, int fd)
	_must_check_;

/** The same for an FD that may hold anything: only what differs is written, holes become holes again. */
struct kage_err *kage_content_refill(struct kage_pages *pages, const Kage__Space *space, int fd)
	_must_check_;

/** Gives TO, which may hold anything, the size and contents of FROM. Both are open for what that needs;
 *  their offsets move. */
struct kage_err *kage_content_clone(int from, int to) _must_check_;

/** Hashes SIZE bytes of FD from OFFSET by pread, fewer at the end of the file. */
struct kage_err *kage_content_hash(int fd, uint64_t offset, uint64_t size,
				   uint8_t hash[KAGE_HASH_BYTES]) _must_check_;

/** The hash of the last min(SIZE, KAGE_TAIL_BYTES) of the first SIZE bytes of FD. */
struct kage_err *kage_content_tail(int fd, uint64_t size, uint8_t hash[KAGE_HASH_BYTES])
	_must_check_;

/** Stores HASH into the bytes field TO. */
struct kage_err *kage_content_set_hash(struct arena *a, const uint8_t hash[KAGE_HASH_BYTES],
				       ProtobufCBinaryData *to) _must_check_;

/** Whether FIELD holds HASH. */
bool kage_content_is_hash(const ProtobufCBinaryData *field, const uint8_t hash[KAGE_HASH_BYTES]);

#endif
