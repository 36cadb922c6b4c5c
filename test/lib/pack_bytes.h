/* SPDX-License-Identifier: Apache-2.0 */
/* Packs as bytes in memory: made, altered, sealed again with right checksums, and read as a whole. */
#ifndef LIB_PACK_BYTES_H
#define LIB_PACK_BYTES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include "store/format.h"
#include "store/pack_read.h"

/* A nameless file with these bytes. */
static inline int pack_file_of(const uint8_t *bytes, size_t size)
{
	int fd = memfd_create("pack", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 || pwrite(fd, bytes, size, 0) != (ssize_t)size)
		abort();
	return fd;
}

static inline uint8_t *pack_slurp(int fd, size_t *ret_size)
{
	struct stat st;
	uint8_t *bytes;

	if (fstat(fd, &st) < 0)
		abort();
	*ret_size = (size_t)st.st_size;
	bytes = malloc(*ret_size + 1);
	if (!bytes || pread(fd, bytes, *ret_size, 0) != st.st_size)
		abort();
	return bytes;
}

/* Makes every checksum right that can be found by walking from the header on. */
static inline void pack_seal(uint8_t *bytes, size_t size)
{
	struct pack_header h;
	struct record_header r;
	XXH3_state_t *chain = XXH3_createState();
	size_t at;

	if (size < sizeof(h) + sizeof(r) || !chain) {
		XXH3_freeState(chain);
		return;
	}
	XXH3_128bits_reset(chain);
	memcpy(&h, bytes, sizeof(h));
	at = le32_get(h.header_bytes);
	if (at < sizeof(h) || at > PACK_HEADER_MAX || at > size)
		at = sizeof(h);
	memset(bytes + offsetof(struct pack_header, checksum), 0, 8);
	h.checksum = le64_of(XXH3_64bits(bytes, at));
	memcpy(bytes + offsetof(struct pack_header, checksum), &h.checksum, 8);
	XXH3_128bits_update(chain, bytes, at);
	while (size - at >= sizeof(r)) {
		uint64_t n;

		memcpy(&r, bytes + at, sizeof(r));
		n = le64_get(r.stored_bytes);
		if (n > size - at - sizeof(r))
			break;
		if (le32_get(r.type) == RECORD_FOOTER && n == FOOTER_BYTES) {
			XXH128_hash_t all = XXH3_128bits_digest(chain);
			le64 parts[2] = { le64_of(all.low64), le64_of(all.high64) };

			memcpy(bytes + at + sizeof(r) + offsetof(struct footer, chain), parts, 16);
		}
		r.payload_checksum = le64_of(XXH3_64bits(bytes + at + sizeof(r), n));
		r.checksum = le64_of(XXH3_64bits_withSeed(&r, 40, at));
		memcpy(bytes + at, &r, sizeof(r));
		XXH3_128bits_update(chain, &r, sizeof(r));
		at += sizeof(r) + n;
	}
	XXH3_freeState(chain);
}

static inline struct kage_err *pack_ignore_pages(void *user, uint32_t space, uint64_t first,
						 uint64_t count, const void *bytes)
{
	(void)space;
	(void)first;
	(void)bytes;
	*(uint64_t *)user += count;
	return NULL;
}

/* Opens the pack and reads all its pages. */
static inline struct kage_err *pack_read_all(const uint8_t *bytes, size_t size)
{
	struct kage_image *image = NULL;
	struct kage_err *e =
		kage_pack_open(pack_file_of(bytes, size), "memory", NULL, &image, NULL);
	uint64_t n = 0;

	if (!e)
		e = kage_pages_each(image->pages, 0, pack_ignore_pages, &n);
	kage_image_close(image);
	return e;
}

static inline void pack_first_finding(void *user, struct kage_err *e)
{
	struct kage_err **first = user;

	if (*first)
		kage_err_free(e);
	else
		*first = e;
}

/* The first thing that a whole check finds. */
static inline struct kage_err *pack_check_all(const uint8_t *bytes, size_t size)
{
	struct kage_err *finding = NULL, *e;
	int fd = pack_file_of(bytes, size);

	e = kage_pack_check(fd, "memory", NULL, pack_first_finding, &finding, NULL);
	close(fd);
	if (!e)
		return finding;
	kage_err_free(finding);
	return e;
}

#endif
