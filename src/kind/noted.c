/* SPDX-License-Identifier: Apache-2.0 */
#include "kind/noted.h"

#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"

enum { FIRST_SLOTS = 64 };

static size_t slot_of(const struct kage_noted *k, uint64_t dev, uint64_t ino)
{
	uint64_t h = (ino ^ dev << 40 ^ dev) * 0x9e3779b97f4a7c15ull;

	return (size_t)(h >> 32) & (k->n_slots - 1);
}

struct kage_noted_entry *kage_noted_find(const struct kage_capture *c, const struct stat *st,
					 bool is_space)
{
	const struct kage_noted *k = c->noted;

	if (!k || !k->n_slots)
		return NULL;
	for (size_t s = slot_of(k, st->st_dev, st->st_ino); k->slots[s];
	     s = (s + 1) & (k->n_slots - 1)) {
		struct kage_noted_entry *e = &k->entries[k->slots[s] - 1];

		if (e->dev == st->st_dev && e->ino == st->st_ino && e->is_space == is_space)
			return e;
	}
	return NULL;
}

static void insert(struct kage_noted *k, size_t i)
{
	size_t s = slot_of(k, k->entries[i].dev, k->entries[i].ino);

	while (k->slots[s])
		s = (s + 1) & (k->n_slots - 1);
	k->slots[s] = (uint32_t)i + 1;
}

/* At most half of the slots are taken, so that a search ends soon. */
static bool make_room(struct kage_noted *k)
{
	size_t max = k->max ? k->max * 2 : FIRST_SLOTS / 2;
	struct kage_noted_entry *entries;
	uint32_t *slots;

	if (k->n < k->max)
		return true;
	slots = calloc(max * 2, sizeof(*slots));
	entries = reallocarray(k->entries, max, sizeof(*entries));
	if (entries)
		k->entries = entries;
	if (!slots || !entries) {
		free(slots);
		return false;
	}
	free(k->slots);
	k->slots = slots;
	k->n_slots = max * 2;
	k->max = max;
	for (size_t i = 0; i < k->n; i++)
		insert(k, i);
	return true;
}

struct kage_err *kage_noted_add(struct kage_capture *c, const struct stat *st, bool is_space,
				uint32_t id, int fd)
{
	_cleanup_fd_ int copy = -1;

	if (!c->noted)
		c->noted = calloc(1, sizeof(*c->noted));
	if (!c->noted || !make_room(c->noted))
		return kage_err_nomem();
	if (fd >= 0) {
		copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (copy < 0)
			return kage_err_sys(errno, "keep a descriptor");
	}
	c->noted->entries[c->noted->n++] = (struct kage_noted_entry){ .dev = st->st_dev,
								      .ino = st->st_ino,
								      .id = id,
								      .is_space = is_space,
								      .fd = take_fd(&copy),
								      .looked_fd = -1 };
	insert(c->noted, c->noted->n - 1);
	return NULL;
}

void kage_noted_free(struct kage_capture *c)
{
	struct kage_noted *k = c->noted;

	if (!k)
		return;
	for (size_t i = 0; i < k->n; i++)
		close_fd(k->entries[i].fd);
	free(k->entries);
	free(k->slots);
	free(k);
	c->noted = NULL;
}
