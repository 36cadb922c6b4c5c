/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spaces are far larger than files can be, and nearly empty. So they are cut into chunks, which get room in
 * the file in the order in which they are first written; the file has holes where a chunk has.
 */
#include "capture/shadow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/types.h"

enum { CHUNK_PAGES = 16384, WRITE_PAGES = 4 };

struct chunk {
	uint64_t number; /* of its first page / CHUNK_PAGES */
	uint32_t space;
	uint32_t place_plus_1; /* in the file; 0: an empty entry */
};

struct shadow {
	struct kage_pages base;
	int fd;
	struct chunk *chunks; /* a table by hash, a power of two */
	size_t mask;          /* entries - 1 */
	uint32_t n_chunks;
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
	if (s->n_chunks * 2 > s->mask)
		TRY(grow(s));
	*entry(s, space, number) = (struct chunk){ number, space, ++s->n_chunks };
	return NULL;
}

/* A write makes folios of its own size in the page cache, and a later write of one page walks through all buffers of
 * its folio (ext4_block_write_begin()): in small pieces, recording takes half the time. */
static struct kage_err *write_piece(struct shadow *s, off_t at, uint64_t n,
				    const unsigned char *from)
{
	for (uint64_t done = 0, k; done < n; done += k) {
		k = n - done < WRITE_PAGES ? n - done : WRITE_PAGES;
		TRY(kage_file_write(s->fd, from + done * KAGE_PAGE_BYTES, k * KAGE_PAGE_BYTES,
				    at + (off_t)(done * KAGE_PAGE_BYTES), "the shadow"));
	}
	return NULL;
}

/* Where page FIRST of a chunk stands in the file, and how many of COUNT from there on. -1: nowhere. */
static off_t place(const struct shadow *s, uint32_t space, uint64_t first, uint64_t count,
		   uint64_t *ret_n)
{
	uint64_t in = first % CHUNK_PAGES, left = CHUNK_PAGES - in;
	const struct chunk *c = entry(s, space, first / CHUNK_PAGES);

	*ret_n = count < left ? count : left;
	if (!c->place_plus_1)
		return -1;
	return (off_t)(((uint64_t)(c->place_plus_1 - 1) * CHUNK_PAGES + in) * KAGE_PAGE_BYTES);
}

static struct kage_err *read_piece(struct shadow *s, off_t at, uint64_t n, unsigned char *to)
{
	size_t got = 0, size = n * KAGE_PAGE_BYTES;

	if (at >= 0)
		TRY(kage_file_read(s->fd, to, size, at, "the shadow", &got));
	memset(to + got, 0, size - got);
	return NULL;
}

static struct kage_err *shadow_read(struct kage_pages *p, uint32_t space, uint64_t first,
				    uint64_t count, void *buffer)
{
	struct shadow *s = shadow_of(p);
	unsigned char *to = buffer;

	for (uint64_t done = 0, n; done < count; done += n) {
		off_t at = place(s, space, first + done, count - done, &n);

		TRY(read_piece(s, at, n, to + done * KAGE_PAGE_BYTES));
	}
	return NULL;
}

struct kage_err *shadow_write(struct shadow *s, uint32_t space, uint64_t first, uint64_t count,
			      const void *bytes)
{
	const unsigned char *from = bytes;

	for (uint64_t done = 0, n; done < count; done += n) {
		off_t at = place(s, space, first + done, count - done, &n);

		if (at < 0) {
			TRY(make_chunk(s, space, (first + done) / CHUNK_PAGES));
			at = place(s, space, first + done, count - done, &n);
		}
		TRY(write_piece(s, at, n, from + done * KAGE_PAGE_BYTES));
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

struct kage_err *shadow_create(int dir_fd, struct shadow **ret_shadow)
{
	struct shadow *s = calloc(1, sizeof(*s));
	struct kage_err *e;

	if (!s)
		return kage_err_nomem();
	s->base.ops = &shadow_ops;
	s->fd = -1;
	e = dir_fd < 0 ? NULL : make_file(dir_fd, &s->fd);
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
