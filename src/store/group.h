/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading groups of pages: one, or many in ascending order, then by several threads ahead of the one
 * that uses them.
 */
#ifndef STORE_GROUP_H
#define STORE_GROUP_H

#include <zstd.h>

#include "store/pack_file.h"

/* What reading needs besides the pack; any number of them can read one pack at the same time. */
struct group_reader {
	ZSTD_DCtx *zstd;
	uint8_t *stored, *raw;
};

/** Allocates what is missing; releases it. */
struct kage_err *kage_group_prepare(struct group_reader *r) _must_check_;
void kage_group_reader_deinit(struct group_reader *r);

/** Reads and verifies group NUMBER. *ret_bytes are its pages, within R, until R is used again. */
struct kage_err *kage_group_read(const struct pack_file *f, const struct pack_index *x,
				 size_t number, struct group_reader *r, const uint8_t **ret_bytes)
	_must_check_;

/* Reading ahead. */
struct group_ahead;

/** Starts up to N_THREADS threads that read the N groups NUMBERS, which ascend and are borrowed like F and
 *  X. NULL in *ret_ahead when no thread could be had: then read one by one. */
struct kage_err *kage_group_ahead_create(const struct pack_file *f, const struct pack_index *x,
					 const size_t *numbers, size_t n, unsigned n_threads,
					 struct group_ahead **ret_ahead) _must_check_;

/** The pages of the next group, valid until the next call. Not more often than there are groups. */
struct kage_err *kage_group_ahead_next(struct group_ahead *a, const uint8_t **ret_bytes)
	_must_check_;

void kage_group_ahead_destroy(struct group_ahead *a);

#endif
