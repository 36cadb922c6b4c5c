/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spaces are far larger than files can be, and nearly empty. So they are cut into chunks, which get room in
 * the file in the order in which they are first written; the file has holes where a chunk has.
 *
 * A secret one is encrypted page by page (XChaCha20). Pages are written again and again, and what the disk held before
 * may be found there for long: so that no two contents are ever encrypted alike, the nonce is the page's place in
 * the file and how often it was written. There is no authentication: who could alter the file could do so
 * with the program's memory.
 */
#include "capture/shadow.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/secret.h"
#include "base/types.h"

enum { CHUNK_PAGES = 16384, WRITE_PAGES = 4 };

struct chunk {
	uint64_t number; /* of its first page / CHUNK_PAGES */
	uint32_t space;
	uint32_t place_plus_1; /* in the file; 0: an empty entry */
	uint32_t *written;     /* of a secret shadow: how often each page was; else NULL */
};

struct shadow {
	struct kage_pages base;
	int fd;
	char *name;           /* for messages */
	struct chunk *chunks; /* a table by hash, a power of two */
	size_t mask;          /* entries - 1 */
	uint32_t n_chunks;
	uint8_t *key; /* in locked memory; NULL: not encrypted */
	struct page_run *runs;
};

static struct shadow *shadow_of(struct kage_pages *p)
{
	return (struct shadow *)p;
}

/* The entry of a chunk, or the empty one where it would be. */
static struct chunk *entry(const struct shadow *s, uint32_t space, uint64_t number)
{
	size_t i = (number * 0x9e3779b97f4a7c15ull ^ space * 0xc2b2ae3d27d4eb4full) >> 17 & s->mask;

	while (s->chunks[i].place_plus_1 &&
	       (s->chunks[i].space != space || s->chunks[i].number != number))
		i = (i + 1) & s->mask;
	return &s->chunks[i];
}

static struct kage_err *grow(struct shadow *s)
{
	struct shadow larger = *s;

	larger.mask = s->chunks ? s->mask * 2 + 1 : 255;
	larger.chunks = calloc(larger.mask + 1, sizeof(*larger.chunks));
	if (!larger.chunks)
		return kage_err_nomem();
	for (size_t i = 0; s->chunks && i <= s->mask; i++)
		if (s->chunks[i].place_plus_1)
			*entry(&larger, s->chunks[i].space, s->chunks[i].number) = s->chunks[i];
	free(s->chunks);
	*s = larger;
	return NULL;
}

static struct kage_err *make_chunk(struct shadow *s, uint32_t space, uint64_t number)
{
	uint32_t *written = NULL;

	if (s->n_chunks * 2 > s->mask)
		TRY(grow(s));
	if (s->key) {
		written = calloc(CHUNK_PAGES, sizeof(*written));
		if (!written)
			return kage_err_nomem();
	}
	*entry(s, space, number) = (struct chunk){ number, space, ++s->n_chunks, written };
	return NULL;
}

/* --- secrecy ---------------------------------------------------------------------------------- */

/* Encrypts or decrypts the page at AT of the file, of which this is the WRITTEN-th version. */
static void crypt_page(const struct shadow *s, off_t at, uint32_t written,
		       const unsigned char *from, unsigned char *to)
{
	uint8_t nonce[crypto_stream_xchacha20_NONCEBYTES] = { 0 };
	le64 place = le64_of((uint64_t)at);
	le32 version = le32_of(written);

	memcpy(nonce, place.b, sizeof(place));
	memcpy(nonce + sizeof(place), version.b, sizeof(version));
	crypto_stream_xchacha20_xor(to, from, KAGE_PAGE_BYTES, nonce, s->key);
}

/* N pages from FROM as they are to stand at AT, in ROOM. WRITTEN is of the first of them. */
static struct kage_err *encrypt(const struct shadow *s, off_t at, uint64_t n, uint32_t *written,
				const unsigned char *from, unsigned char *room)
{
	for (uint64_t i = 0; i < n; i++) {
		size_t in = i * KAGE_PAGE_BYTES;

		if (written[i] == UINT32_MAX)
			return kage_err_new(KAGE_LIMIT, "the shadow has no nonce left for a page");
		crypt_page(s, at + (off_t)in, ++written[i], from + in, room + in);
	}
	return NULL;
}

/* The same back, in place. Pages that were never written are zeros. */
static void decrypt(const struct shadow *s, off_t at, uint64_t n, const uint32_t *written,
		    unsigned char *bytes)
{
	for (uint64_t i = 0; i < n; i++) {
		size_t in = i * KAGE_PAGE_BYTES;

		if (written[i])
			crypt_page(s, at + (off_t)in, written[i], bytes + in, bytes + in);
		else
			memset(bytes + in, 0, KAGE_PAGE_BYTES);
	}
}

/* --- pieces ----------------------------------------------------------------------------------- */

/* A write makes folios of its own size in the page cache, and a later write of one page walks through all buffers of
 * its folio (ext4_block_write_begin()): in small pieces, recording takes half the time. */
static struct kage_err *write_piece(struct shadow *s, off_t at, uint64_t n, uint32_t *written,
				    const unsigned char *from)
{
	unsigned char room[WRITE_PAGES * KAGE_PAGE_BYTES];

	for (uint64_t done = 0, k; done < n; done += k) {
		const unsigned char *bytes = from + done * KAGE_PAGE_BYTES;
		off_t to = at + (off_t)(done * KAGE_PAGE_BYTES);

		k = n - done < WRITE_PAGES ? n - done : WRITE_PAGES;
		if (written) {
			TRY(encrypt(s, to, k, written + done, bytes, room));
			bytes = room;
		}
		TRY(kage_file_write(s->fd, bytes, k * KAGE_PAGE_BYTES, to, s->name));
	}
	return NULL;
}

/* Where page FIRST of a chunk stands in the file, and how many of COUNT from there on. -1: nowhere. *RET_WRITTEN is
 * NULL when it is not encrypted. */
static off_t place(const struct shadow *s, uint32_t space, uint64_t first, uint64_t count,
		   uint64_t *ret_n, uint32_t **ret_written)
{
	uint64_t in = first % CHUNK_PAGES, left = CHUNK_PAGES - in;
	const struct chunk *c = entry(s, space, first / CHUNK_PAGES);

	*ret_n = count < left ? count : left;
	*ret_written = c->place_plus_1 && c->written ? c->written + in : NULL;
	if (!c->place_plus_1)
		return -1;
	return (off_t)(((uint64_t)(c->place_plus_1 - 1) * CHUNK_PAGES + in) * KAGE_PAGE_BYTES);
}

static struct kage_err *read_piece(struct shadow *s, off_t at, uint64_t n, const uint32_t *written,
				   unsigned char *to)
{
	size_t got = 0, size = n * KAGE_PAGE_BYTES;

	if (at >= 0)
		TRY(kage_file_read(s->fd, to, size, at, s->name, &got));
	memset(to + got, 0, size - got);
	if (at >= 0 && written)
		decrypt(s, at, n, written, to);
	return NULL;
}

static struct kage_err *shadow_read(struct kage_pages *p, uint32_t space, uint64_t first,
				    uint64_t count, void *buffer)
{
	struct shadow *s = shadow_of(p);
	unsigned char *to = buffer;
	uint32_t *written;

	for (uint64_t done = 0, n; done < count; done += n) {
		off_t at = place(s, space, first + done, count - done, &n, &written);

		TRY(read_piece(s, at, n, written, to + done * KAGE_PAGE_BYTES));
	}
	return NULL;
}

struct kage_err *shadow_write(struct shadow *s, uint32_t space, uint64_t first, uint64_t count,
			      const void *bytes)
{
	const unsigned char *from = bytes;
	uint32_t *written;

	for (uint64_t done = 0, n; done < count; done += n) {
		off_t at = place(s, space, first + done, count - done, &n, &written);

		if (at < 0) {
			TRY(make_chunk(s, space, (first + done) / CHUNK_PAGES));
			at = place(s, space, first + done, count - done, &n, &written);
		}
		TRY(write_piece(s, at, n, written, from + done * KAGE_PAGE_BYTES));
	}
	return NULL;
}

struct kage_err *shadow_write_all(struct shadow *s, struct kage_pages *p)
{
	for (size_t i = 0; i < p->n_runs; i++) {
		const struct page_run *r = &p->runs[i];
		const void *bytes = p->ops->borrow(p, r->space, r->first, r->count);

		TRY(shadow_write(s, r->space, r->first, r->count, bytes));
	}
	return NULL;
}

struct kage_err *shadow_set_runs(struct shadow *s, const struct page_run *runs, size_t n)
{
	struct page_run *copy = calloc(n + 1, sizeof(*copy));

	if (!copy)
		return kage_err_nomem();
	if (n)
		memcpy(copy, runs, n * sizeof(*runs));
	free(s->runs);
	s->base.runs = s->runs = copy;
	s->base.n_runs = n;
	return NULL;
}

struct kage_pages *shadow_pages(struct shadow *s)
{
	return &s->base;
}

static void destroy(struct kage_pages *p)
{
	shadow_destroy(shadow_of(p));
}

void shadow_destroy(struct shadow *s)
{
	if (!s)
		return;
	close_fd(s->fd);
	for (size_t i = 0; s->chunks && i <= s->mask; i++)
		free(s->chunks[i].written);
	kage_secret_free(s->key);
	free(s->name);
	free(s->chunks);
	free(s->runs);
	free(s);
}

static const struct kage_pages_ops shadow_ops = { .read = shadow_read, .destroy = destroy };

/* For file systems that make no files without a name. */
static int make_named(int dir_fd)
{
	char name[48];
	int fd;

	snprintf(name, sizeof(name), ".shadow-%d", (int)getpid());
	fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0)
		unlinkat(dir_fd, name, 0);
	return fd;
}

static struct kage_err *make_file(int dir_fd, int *ret_fd)
{
	int fd = openat(dir_fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

	if (fd < 0)
		fd = make_named(dir_fd);
	if (fd < 0)
		return kage_err_sys(errno, "make a file for the shadow");
	*ret_fd = fd;
	return NULL;
}

static struct kage_err *name_it(struct shadow *s, int dir_fd)
{
	_cleanup_free_ char *dir = NULL;
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", dir_fd);
	TRY(kage_file_readlink(AT_FDCWD, self, &dir));
	if (asprintf(&s->name, "the last image's contents, a file without a name in %s", dir) < 0) {
		s->name = NULL;
		return kage_err_nomem();
	}
	return NULL;
}

static struct kage_err *make_key(uint8_t **ret_key)
{
	uint8_t *key = NULL;

	TRY(kage_secret_alloc(crypto_stream_xchacha20_KEYBYTES, &key));
	crypto_stream_xchacha20_keygen(key);
	*ret_key = key;
	return NULL;
}

struct kage_err *shadow_create(int dir_fd, bool secret, struct shadow **ret_shadow)
{
	struct shadow *s = calloc(1, sizeof(*s));
	struct kage_err *e;

	if (!s)
		return kage_err_nomem();
	s->base.ops = &shadow_ops;
	s->fd = -1;
	e = dir_fd < 0 ? NULL : name_it(s, dir_fd);
	if (!e && dir_fd >= 0)
		e = make_file(dir_fd, &s->fd);
	if (!e && secret)
		e = make_key(&s->key);
	if (!e)
		e = grow(s);
	if (!e)
		e = shadow_set_runs(s, NULL, 0);
	if (e) {
		shadow_destroy(s);
		return e;
	}
	*ret_shadow = s;
	return NULL;
}
