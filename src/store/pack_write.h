/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a pack (kage-pack(5)): one sweep from its first byte to its last.
 */
#ifndef STORE_PACK_WRITE_H
#define STORE_PACK_WRITE_H

#include "base/ctx.h"
#include "image/image.h"

/** Writes IMAGE as a pack to FD, an empty file open for writing, whose name for messages is PATH.
 *  HISTORY is the name that the summary gives. LEVEL is zstd's, 0 the default. Nothing is synced. */
struct kage_err *kage_pack_write(const struct kage_ctx *ctx, int fd, const char *path,
				 const struct kage_image *image, const char *history, int level,
				 uint64_t *ret_bytes) _must_check_;

#endif
