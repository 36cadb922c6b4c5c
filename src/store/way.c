/* SPDX-License-Identifier: Apache-2.0 */
#include "store/way.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/secret.h"

enum {
	FIRST_BYTES =
		32 * 1024, /* what is read of each pack at once: most differences come along */
	MOST_BYTES = 160 * 1024, /* header and SUMMARY are never more */
	PACK_BYTES = 16 * 1024, /* what opening a pack costs, as bytes that could be read instead */
};

/* --- the map ---------------------------------------------------------------------------------- */

static void release_node(struct way_node *node)
{
	err_drop(node->damage);
	err_drop(node->locked);
	free(node->bytes);
	kage_secret_wipe(&node->key, sizeof(node->key));
}

void kage_way_deinit(struct way_map *m)
{
	for (size_t i = 0; i < m->n; i++)
		release_node(&m->nodes[i]);
	free(m->nodes);
	free(m->buffer);
	err_drop(m->first);
	*m = (struct way_map){ 0 };
}

struct kage_err *kage_way_init(const struct history *h, struct way_map *ret_map)
{
	_cleanup_free_ uint64_t *numbers = NULL;
	struct way_map m = { .h = h };
	size_t n;

	TRY(kage_dir_numbers(h, &numbers, &n));
	m.nodes = calloc(n + 1, sizeof(*m.nodes));
	m.buffer = malloc(MOST_BYTES);
	if (!m.nodes || !m.buffer) {
		kage_way_deinit(&m);
		return kage_err_nomem();
	}
	m.n = n;
	for (size_t i = 0; i < n; i++)
		m.nodes[i].number = numbers[i];
	*ret_map = m;
	return NULL;
}

size_t kage_way_node(const struct way_map *m, uint64_t number)
{
	size_t low = 0, high = m->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (m->nodes[mid].number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return low < m->n && m->nodes[low].number == number ? low : NO_NODE;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* The record of TYPE at OFFSET, verified, with its payload in the buffer, of which the first *GOT bytes are there; the
 * rest is read if need be. */
static struct kage_err *get_record(struct way_map *m, const struct way_node *node, int fd,
				   uint64_t offset, uint32_t type, size_t *got,
				   struct record *ret_record)
{
	struct record r;

	if (offset + RECORD_BYTES > *got)
		TRY(kage_file_read(fd, m->buffer, MOST_BYTES, 0, "it", got));
	if (offset + RECORD_BYTES > *got)
		return kage_format_damage(*got, "it ends here, before record %u", type);
	TRY(kage_format_record(m->buffer + offset, offset, node->file_bytes - offset, &r));
	if (r.type != type)
		return kage_format_damage(r.offset, "a record of type %u where %u should be",
					  r.type, type);
	if (record_end(&r) > *got)
		TRY(kage_file_read(fd, m->buffer, MOST_BYTES, 0, "it", got));
	if (record_end(&r) > *got)
		return kage_format_damage(*got, "it ends here, though it was longer before");
	TRY(kage_format_payload(&r, m->buffer + r.offset + RECORD_BYTES));
	*ret_record = r;
	return NULL;
}

/* Opens the key of an encrypted pack, whose KEY stands behind SUMMARY. */
static struct kage_err *open_key(struct way_map *m, struct way_node *node, int fd,
				 const struct pack_head *head, const struct record *summary,
				 size_t *got)
{
	struct sealed_parts parts = {
		.history = m->h->name,
		.number = node->number,
		.header_bytes = head->header_bytes,
		.summary_bytes = summary->stored_bytes,
	};
	struct key_record key;
	struct kage_err *e;
	struct record r;

	TRY(get_record(m, node, fd, record_end(summary), RECORD_KEY, got, &r));
	TRY(kage_format_key(m->buffer + r.offset + RECORD_BYTES, r.stored_bytes, r.offset, &key));
	parts.header = m->buffer;
	parts.summary = m->buffer + summary->offset + RECORD_BYTES;
	parts.key = &key;
	memcpy(node->recipient, key.recipient, RECIPIENT_BYTES);
	e = kage_keys_open(m->h->store->keys, node->id, &parts, r.offset, &node->key);
	if (e && kage_err_code(e) == KAGE_PERM) {
		node->locked = e;
		return NULL;
	}
	return e;
}

/* Parses header and SUMMARY, of which the first *GOT bytes are in the buffer. */
static struct kage_err *parse_node(struct way_map *m, struct way_node *node, int fd, size_t *got)
{
	struct pack_head head;
	struct summary summary;
	struct record r;

	TRY(kage_format_header(m->buffer, *got < PACK_HEADER_MAX ? *got : PACK_HEADER_MAX, &head));
	TRY(get_record(m, node, fd, head.header_bytes, RECORD_SUMMARY, got, &r));
	TRY(kage_format_summary(m->buffer + r.offset + RECORD_BYTES, r.stored_bytes, r.offset,
				&summary));
	node->keyframe = head.keyframe;
	node->leaning = head.leaning;
	node->encrypted = head.encrypted;
	memcpy(node->id, head.id, sizeof(node->id));
	node->place = summary.difference;
	return head.encrypted ? open_key(m, node, fd, &head, &r, got) : NULL;
}

/* Header and SUMMARY of the pack in FD, and where possible the difference behind them. */
static struct kage_err *read_node(struct way_map *m, struct way_node *node, int fd)
{
	struct stat st;
	size_t got;

	if (fstat(fd, &st) < 0)
		return kage_err_sys(errno, "stat");
	if (!S_ISREG(st.st_mode))
		return kage_err_new(KAGE_CORRUPT, "not a regular file");
	node->file_bytes = (uint64_t)st.st_size;
	node->doubtful =
		(st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH));
	TRY(kage_file_read(fd, m->buffer, FIRST_BYTES, 0, "it", &got));
	TRY(parse_node(m, node, fd, &got));
	if (!node->place.offset || node->place.offset + node->place.bytes > got)
		return NULL;
	node->bytes = malloc(node->place.bytes);
	if (!node->bytes)
		return kage_err_nomem();
	memcpy(node->bytes, m->buffer + node->place.offset, node->place.bytes);
	return NULL;
}

struct kage_err *kage_way_load(struct way_map *m, size_t i)
{
	struct way_node *node = &m->nodes[i];
	_cleanup_free_ char *path = NULL;
	_cleanup_fd_ int fd = -1;
	struct kage_err *e;

	if (node->loaded)
		return NULL;
	e = kage_dir_pack_open(m->h, node->number, &fd);
	if (!e)
		e = read_node(m, node, fd);
	if (e && kage_err_code(e) == KAGE_NOMEM)
		return e;
	node->loaded = true;
	if (!e)
		return NULL;
	path = kage_dir_pack_path(m->h, node->number);
	node->damage = kage_err_wrap(e, "pack %s", path ? path : "");
	return NULL;
}

struct kage_err *kage_way_reload(struct way_map *m, size_t i)
{
	struct way_node *node = &m->nodes[i];

	release_node(node);
	*node = (struct way_node){ .number = node->number };
	return kage_way_load(m, i);
}

struct kage_err *kage_way_load_all(struct way_map *m)
{
	for (size_t i = 0; i < m->n; i++)
		TRY(kage_way_load(m, i));
	return NULL;
}

struct kage_err *kage_way_locked(const struct way_map *m, size_t i)
{
	const struct way_node *node = &m->nodes[i];

	if (!node->locked)
		return NULL;
	return kage_err_new(KAGE_PERM, "%s@%llu cannot be read: %s", m->h->name,
			    (unsigned long long)node->number, kage_err_message(node->locked));
}

struct kage_err *kage_way_difference(struct way_map *m, size_t i, bool keep_fd,
				     struct difference *ret_difference)
{
	struct way_node *node = &m->nodes[i];
	_cleanup_free_ char *path = kage_dir_pack_path(m->h, node->number);
	_cleanup_fd_ int fd = -1;

	if (!path)
		return kage_err_nomem();
	if (node->locked)
		return kage_way_locked(m, i);
	if (!node->bytes)
		TRY(kage_dir_pack_open(m->h, node->number, &fd));
	return kage_difference_open(fd, path, node->file_bytes, &node->place, &node->key,
				    take_ptr(node->bytes), keep_fd, ret_difference);
}

/* --- the search ------------------------------------------------------------------------------- */

size_t kage_way_base(const struct way_map *m, size_t i)
{
	const struct way_node *node = &m->nodes[i];
	const struct way_node *base;
	size_t b;

	if (node->damage || node->bad_difference || !node->place.offset ||
	    node->place.base_number >= node->number)
		return NO_NODE;
	b = kage_way_node(m, node->place.base_number);
	if (b == NO_NODE)
		return NO_NODE;
	base = &m->nodes[b];
	if (!base->loaded || base->damage ||
	    memcmp(base->id, node->place.base_id, IMAGE_ID_BYTES) != 0)
		return NO_NODE;
	return b;
}

struct search {
	struct way_map *m;
	size_t key;
	uint64_t best; /* what it costs, UINT64_MAX while there is none */
};

static void reach(struct search *s, size_t i, size_t via, size_t edge)
{
	struct way_node *node = &s->m->nodes[i];
	const struct way_node *from = &s->m->nodes[via];

	node->seen = true;
	node->via = via;
	node->edge = edge;
	node->cost = i == via ? 0 : from->cost + s->m->nodes[edge].place.bytes + PACK_BYTES;
	if (!node->keyframe || node->bad_pages || node->damage ||
	    node->cost + node->file_bytes >= s->best)
		return;
	s->best = node->cost + node->file_bytes;
	s->key = i;
}

/* From neighbour to neighbour until there is a keyframe; *ret_lowest is where it ended. */
static struct kage_err *go_down(struct search *s, size_t i, size_t *ret_lowest)
{
	struct way_map *m = s->m;

	reach(s, i, i, NO_NODE);
	while (s->key == NO_NODE) {
		size_t b = m->nodes[i].place.offset
				   ? kage_way_node(m, m->nodes[i].place.base_number)
				   : NO_NODE;

		if (b != NO_NODE)
			TRY(kage_way_load(m, b));
		b = kage_way_base(m, i);
		if (b == NO_NODE)
			break;
		reach(s, b, i, i);
		i = b;
	}
	*ret_lowest = i;
	return NULL;
}

/* All nodes from FIRST on whose neighbour was reached: those have lower numbers, so one pass does. Ends
 * where looking further would cost more than the way that is known. */
static struct kage_err *go_up(struct search *s, size_t first)
{
	struct way_map *m = s->m;
	uint64_t looked = 0;

	for (size_t i = first; i < m->n && looked < s->best; i++, looked += PACK_BYTES) {
		size_t b;

		if (m->nodes[i].seen)
			continue;
		TRY(kage_way_load(m, i));
		b = kage_way_base(m, i);
		if (b == NO_NODE || !m->nodes[b].seen)
			continue;
		reach(s, i, b, i);
		if (m->nodes[i].cost >= s->best)
			break;
	}
	return NULL;
}

struct kage_err *kage_way_find(struct way_map *m, size_t i, size_t *ret_key)
{
	struct search s = { .m = m, .key = NO_NODE, .best = UINT64_MAX };
	size_t lowest;

	for (size_t j = 0; j < m->n; j++)
		m->nodes[j].seen = false;
	TRY(kage_way_load(m, i));
	TRY(go_down(&s, i, &lowest));
	if (s.key != i)
		TRY(go_up(&s, s.key == NO_NODE ? lowest + 1 : i + 1));
	*ret_key = s.key;
	return NULL;
}
