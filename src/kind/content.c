/* SPDX-License-Identifier: Apache-2.0 */
#include "kind/content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/file.h"

enum { PIECE_BYTES = 4 << 20, HASH_PIECE_BYTES = 256 * 1024 };

/* The number that the object had in an earlier capture, or the next one. */
static struct kage_err *keep_number(struct kage_space_ids *ids, Kage__Space__Kind kind,
				    const struct stat *st, uint32_t *ret_id)
{
	struct kage_space_id id = { .kind = (int)kind }, *grown;

	if (st) {
		id.dev = st->st_dev;
		id.ino = st->st_ino;
	}
	for (size_t i = 0; i < ids->n; i++)
		if (ids->v[i].kind == id.kind && ids->v[i].dev == id.dev &&
		    ids->v[i].ino == id.ino) {
			*ret_id = (uint32_t)i + 1;
			return NULL;
		}
	grown = reallocarray(ids->v, ids->n + 1, sizeof(*grown));
	if (!grown)
		return kage_err_nomem();
	ids->v = grown;
	ids->v[ids->n++] = id;
	*ret_id = (uint32_t)ids->n;
	return NULL;
}

struct kage_err *kage_content_space(struct kage_capture *c, Kage__Space__Kind kind,
				    const struct stat *st, Kage__Space **ret_space)
{
	Kage__Space *s =
		msg_append(&c->image->arena, c->image->msg, spaces, Kage__Space, kage__space__init);

	if (!s)
		return kage_err_nomem();
	s->id = (uint32_t)c->image->msg->n_spaces;
	if (c->space_ids)
		TRY(keep_number(c->space_ids, kind, st, &s->id));
	s->kind = kind;
	s->size_bytes = st ? (uint64_t)st->st_size : 0;
	*ret_space = s;
	return NULL;
}

/* --- out of a file ------------------------------------------------------------------------------ */

struct copying {
	struct mem_pages *pages;
	uint32_t space;
	int fd;
	XXH3_state_t *hash; /* NULL for none */
	uint64_t hashed;
};

static void hash_zeros(struct copying *k, uint64_t until)
{
	static const char zeros[64 * 1024];

	while (k->hash && k->hashed < until) {
		uint64_t n = until - k->hashed;

		if (n > sizeof(zeros))
			n = sizeof(zeros);
		XXH3_128bits_update(k->hash, zeros, n);
		k->hashed += n;
	}
}

/* FROM is on a page; whole pages are stored, the last one filled up with zeros. */
static struct kage_err *copy_piece(struct copying *k, uint64_t from, uint64_t to)
{
	uint64_t bytes = page_ceil(to) - from;
	void *at;
	size_t n;

	TRY(kage_mem_pages_add(k->pages, k->space, from >> KAGE_PAGE_SHIFT,
			       bytes >> KAGE_PAGE_SHIFT, &at));
	TRY(kage_file_read(k->fd, at, to - from, (off_t)from, "contents of a file", &n));
	memset((char *)at + n, 0, bytes - n);
	if (k->hash) {
		hash_zeros(k, from);
		XXH3_128bits_update(k->hash, at, to - from);
		k->hashed = to;
	}
	return NULL;
}

/* The next stretch of data at or behind FROM. Where the file system cannot tell (EINVAL), all is data,
 * as lseek(2) allows. */
static bool next_data(int fd, uint64_t from, uint64_t size, uint64_t *ret_start, uint64_t *ret_end)
{
	off_t start = lseek(fd, (off_t)from, SEEK_DATA), end;

	if (start < 0 && errno == ENXIO)
		return false;
	if (start < 0) {
		*ret_start = from;
		*ret_end = size;
		return true;
	}
	end = lseek(fd, start, SEEK_HOLE);
	*ret_start = (uint64_t)start;
	*ret_end = end < 0 || (uint64_t)end > size ? size : (uint64_t)end;
	return *ret_start < size;
}

static struct kage_err *copy_data(struct copying *k, uint64_t size)
{
	uint64_t at = 0, start, end;

	while (at < size && next_data(k->fd, at, size, &start, &end)) {
		start = page_floor(start);
		if (start < at)
			start = at;
		end = page_ceil(end) < size ? page_ceil(end) : size;
		for (at = start; at < end;) {
			uint64_t to = end - at > PIECE_BYTES ? at + PIECE_BYTES : end;

			TRY(copy_piece(k, at, to));
			at = to;
		}
	}
	hash_zeros(k, size);
	return NULL;
}

static void finish_hash(XXH3_state_t *state, uint8_t hash[KAGE_HASH_BYTES])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
	memcpy(hash, &canonical, KAGE_HASH_BYTES);
}

static void free_hash(XXH3_state_t **state)
{
	XXH3_freeState(*state);
}

struct kage_err *kage_content_copy(struct kage_capture *c, const Kage__Space *space, int fd,
				   uint64_t size, uint8_t *hash)
{
	_cleanup_(free_hash) XXH3_state_t *state = NULL;
	struct copying k = { .pages = c->pages, .space = space->id, .fd = fd };

	if (hash) {
		state = XXH3_createState();
		if (!state)
			return kage_err_nomem();
		XXH3_128bits_reset(state);
		k.hash = state;
	}
	TRY(copy_data(&k, size));
	if (hash)
		finish_hash(state, hash);
	return NULL;
}

/* --- into a file -------------------------------------------------------------------------------- */

struct filling {
	int fd;
	uint64_t size;
	unsigned char *map; /* hugetlbfs has no write(2), there the object is mapped */
};

static struct kage_err *fill_pages(void *user, uint32_t space, uint64_t first, uint64_t count,
				   const void *bytes)
{
	const struct filling *k = user;
	uint64_t from = first << KAGE_PAGE_SHIFT, n = count << KAGE_PAGE_SHIFT;

	(void)space;
	if (!bytes || from >= k->size)
		return NULL;
	if (n > k->size - from)
		n = k->size - from;
	if (k->map) {
		memcpy(k->map + from, bytes, n);
		return NULL;
	}
	return kage_file_write(k->fd, bytes, n, (off_t)from, "contents of a file");
}

struct kage_err *kage_content_fill(struct kage_pages *pages, const Kage__Space *space, int fd)
{
	struct filling k = { .fd = fd, .size = space->size_bytes };
	struct kage_err *e;

	if (ftruncate(fd, (off_t)space->size_bytes) < 0)
		return kage_err_sys(errno, "give a file its size of %llu bytes",
				    (unsigned long long)space->size_bytes);
	if (!space->size_bytes)
		return NULL;
	if (space->hugetlb_bytes) {
		k.map = mmap(NULL, k.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (k.map == MAP_FAILED)
			return kage_err_sys(errno, "map %llu bytes of huge pages",
					    (unsigned long long)k.size);
	}
	e = kage_pages_each(pages, space->id, fill_pages, &k);
	if (k.map)
		munmap(k.map, k.size);
	return e;
}

/* --- over what a file holds -------------------------------------------------------------------- */

/* Makes what has data in FROM to TO a hole again, or zeros where the file system has no holes. Holes
 * stay: the file may be far larger than its disk. */
static struct kage_err *clear(int fd, uint64_t from, uint64_t to)
{
	static const char zeros[64 * 1024];
	uint64_t start, end;

	while (from < to && next_data(fd, from, to, &start, &end)) {
		from = end;
		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start,
			      (off_t)(end - start)) == 0)
			continue;
		for (uint64_t n; start < end; start += n) {
			n = end - start < sizeof(zeros) ? end - start : sizeof(zeros);
			TRY(kage_file_write(fd, zeros, n, (off_t)start, "zeros of a file"));
		}
	}
	return NULL;
}

/* All that lies between the runs of SPACE. */
static struct kage_err *clear_gaps(const struct kage_pages *pages, const Kage__Space *space, int fd)
{
	uint64_t at = 0, first;

	for (size_t i = kage_pages_find(pages, space->id, 0);
	     i < pages->n_runs && pages->runs[i].space == space->id; i++) {
		first = pages->runs[i].first << KAGE_PAGE_SHIFT;
		TRY(clear(fd, at, first < space->size_bytes ? first : space->size_bytes));
		at = first + (pages->runs[i].count << KAGE_PAGE_SHIFT);
	}
	return clear(fd, at, space->size_bytes);
}

struct refilling {
	int fd;
	uint64_t size;
	unsigned char there[KAGE_PAGES_PIECE * KAGE_PAGE_BYTES];
};

/* The end of those from AT on that are, or are not, what stands in the file. */
static uint64_t end_of(const unsigned char *bytes, const struct refilling *k, uint64_t at,
		       uint64_t n, uint64_t n_there, bool equal)
{
	for (uint64_t step; at < n; at += step) {
		step = n - at < KAGE_PAGE_BYTES ? n - at : KAGE_PAGE_BYTES;
		if (equal != (at + step <= n_there && !memcmp(bytes + at, k->there + at, step)))
			break;
	}
	return at;
}

static struct kage_err *refill_pages(void *user, uint32_t space, uint64_t first, uint64_t count,
				     const void *bytes)
{
	uint64_t from = first << KAGE_PAGE_SHIFT, n = count << KAGE_PAGE_SHIFT, end;
	struct refilling *k = user;
	size_t n_there;

	(void)space;
	if (from >= k->size)
		return NULL;
	n = n < k->size - from ? n : k->size - from;
	if (!bytes)
		return clear(k->fd, from, from + n);
	TRY(kage_file_read(k->fd, k->there, n, (off_t)from, "contents of a file", &n_there));
	for (uint64_t at = 0; at < n; at = end) {
		at = end_of(bytes, k, at, n, n_there, true);
		end = end_of(bytes, k, at, n, n_there, false);
		if (at < end)
			TRY(kage_file_write(k->fd, (const char *)bytes + at, end - at,
					    (off_t)(from + at), "contents of a file"));
	}
	return NULL;
}

struct kage_err *kage_content_refill(struct kage_pages *pages, const Kage__Space *space, int fd)
{
	_cleanup_free_ struct refilling *k = malloc(sizeof(*k));
	struct stat st;

	if (!k)
		return kage_err_nomem();
	k->fd = fd;
	k->size = space->size_bytes;
	if (fstat(fd, &st) < 0)
		return kage_err_sys(errno, "stat a file");
	if ((uint64_t)st.st_size > k->size && ftruncate(fd, (off_t)k->size) < 0)
		return kage_err_sys(errno, "cut a file to %llu bytes", (unsigned long long)k->size);
	TRY(clear_gaps(pages, space, fd));
	TRY(kage_pages_each(pages, space->id, refill_pages, k));
	if ((uint64_t)st.st_size < k->size && ftruncate(fd, (off_t)k->size) < 0)
		return kage_err_sys(errno, "give a file its size of %llu bytes",
				    (unsigned long long)k->size);
	return NULL;
}

/* --- from file to file ------------------------------------------------------------------------- */

/* Where the file system can, without copying (it shares the extents then). */
static struct kage_err *clone_piece(int from, int to, off_t at, size_t size)
{
	char buffer[64 * 1024];
	size_t n;

	while (size > 0) {
		off_t in = at, out = at;
		ssize_t done = copy_file_range(from, &in, to, &out, size, 0);

		if (done <= 0) {
			n = size < sizeof(buffer) ? size : sizeof(buffer);
			TRY(kage_file_read(from, buffer, n, at, "contents of a file", &n));
			if (n == 0)
				return NULL; /* it was cut meanwhile */
			TRY(kage_file_write(to, buffer, n, at, "contents of a file"));
			done = (ssize_t)n;
		}
		at += done;
		size -= (size_t)done;
	}
	return NULL;
}

struct kage_err *kage_content_clone(int from, int to)
{
	uint64_t at = 0, start, end, size;
	struct stat st;

	if (fstat(from, &st) < 0)
		return kage_err_sys(errno, "stat a file");
	size = (uint64_t)st.st_size;
	if (ftruncate(to, 0) < 0 || ftruncate(to, st.st_size) < 0)
		return kage_err_sys(errno, "give a file its size of %llu bytes",
				    (unsigned long long)size);
	while (at < size && next_data(from, at, size, &start, &end)) {
		TRY(clone_piece(from, to, (off_t)start, end - start));
		at = end;
	}
	return NULL;
}

/* --- hashes ------------------------------------------------------------------------------------- */

static struct kage_err *hash_range(int fd, uint64_t offset, uint64_t size, XXH3_state_t *state)
{
	size_t room = size < HASH_PIECE_BYTES ? (size_t)size : HASH_PIECE_BYTES;
	_cleanup_free_ char *buffer = malloc(room + 1);
	size_t n;

	if (!buffer)
		return kage_err_nomem();
	for (uint64_t done = 0; done < size; done += n) {
		n = size - done < room ? (size_t)(size - done) : room;
		TRY(kage_file_read(fd, buffer, n, (off_t)(offset + done), "contents of a file",
				   &n));
		if (n == 0)
			break;
		XXH3_128bits_update(state, buffer, n);
	}
	return NULL;
}

struct kage_err *kage_content_hash(int fd, uint64_t offset, uint64_t size,
				   uint8_t hash[KAGE_HASH_BYTES])
{
	_cleanup_(free_hash) XXH3_state_t *state = XXH3_createState();

	if (!state)
		return kage_err_nomem();
	XXH3_128bits_reset(state);
	TRY(hash_range(fd, offset, size, state));
	finish_hash(state, hash);
	return NULL;
}

struct kage_err *kage_content_tail(int fd, uint64_t size, uint8_t hash[KAGE_HASH_BYTES])
{
	uint64_t n = size < KAGE_TAIL_BYTES ? size : KAGE_TAIL_BYTES;

	return kage_content_hash(fd, size - n, n, hash);
}

struct kage_err *kage_content_set_hash(struct arena *a, const uint8_t hash[KAGE_HASH_BYTES],
				       ProtobufCBinaryData *to)
{
	to->data = arena_dup(a, hash, KAGE_HASH_BYTES);
	if (!to->data)
		return kage_err_nomem();
	to->len = KAGE_HASH_BYTES;
	return NULL;
}

bool kage_content_is_hash(const ProtobufCBinaryData *field, const uint8_t hash[KAGE_HASH_BYTES])
{
	return field->len == KAGE_HASH_BYTES && memcmp(field->data, hash, KAGE_HASH_BYTES) == 0;
}
