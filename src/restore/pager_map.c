/* SPDX-License-Identifier: Apache-2.0 */
#include "restore/pager_map.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

struct kage_err *pager_map_add_space(struct pager_map *m, int uffd, size_t *ret_space)
{
	struct pager_space *grown;
	size_t i = 0;

	while (i < m->n && m->spaces[i].uffd >= 0)
		i++;
	if (i == m->n) {
		grown = reallocarray(m->spaces, m->n + 1, sizeof(*grown));
		if (!grown)
			return kage_err_nomem();
		m->spaces = grown;
		m->n++;
	}
	m->spaces[i] = (struct pager_space){ .uffd = uffd };
	*ret_space = i;
	return NULL;
}

void pager_map_deinit(struct pager_map *m)
{
	for (size_t i = 0; i < m->n; i++)
		free(m->spaces[i].owed);
	free(m->spaces);
	*m = (struct pager_map){ 0 };
}

size_t pager_map_find(const struct pager_space *s, uint64_t page)
{
	size_t low = 0, high = s->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (s->owed[mid].page + s->owed[mid].count <= page)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct kage_err *insert(struct pager_space *s, const struct owed *o)
{
	size_t at = pager_map_find(s, o->page);

	if (s->n == s->max) {
		size_t max = s->max ? s->max * 2 : 64;
		struct owed *grown = reallocarray(s->owed, max, sizeof(*grown));

		if (!grown)
			return kage_err_nomem();
		s->owed = grown;
		s->max = max;
	}
	memmove(&s->owed[at + 1], &s->owed[at], (s->n - at) * sizeof(*s->owed));
	s->owed[at] = *o;
	s->n++;
	return NULL;
}

struct kage_err *pager_map_owe(struct pager_space *s, uint64_t start, uint64_t end)
{
	return insert(s, &(struct owed){ start >> KAGE_PAGE_SHIFT, (end - start) >> KAGE_PAGE_SHIFT,
					 start });
}

bool pager_map_page(const struct pager_space *s, uint64_t at, uint64_t *ret_page)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct owed *o = &s->owed[i];

		if (at >= o->start && (at - o->start) >> KAGE_PAGE_SHIFT < o->count) {
			*ret_page = o->page + ((at - o->start) >> KAGE_PAGE_SHIFT);
			return true;
		}
	}
	return false;
}

/* What of O lies in START to END. */
static bool overlap(const struct owed *o, uint64_t start, uint64_t end, struct owed *ret_part)
{
	uint64_t o_end = o->start + (o->count << KAGE_PAGE_SHIFT);
	uint64_t from = o->start > start ? o->start : start, to = o_end < end ? o_end : end;

	if (from >= to)
		return false;
	*ret_part = (struct owed){ o->page + ((from - o->start) >> KAGE_PAGE_SHIFT),
				   (to - from) >> KAGE_PAGE_SHIFT, from };
	return true;
}

/* Nothing is owed to START to END any more. What was is put into TAKEN, unless that is NULL. */
static struct kage_err *cut(struct pager_space *s, uint64_t start, uint64_t end,
			    struct pager_space *taken)
{
	for (size_t i = 0; i < s->n;) {
		const struct owed o = s->owed[i];
		struct owed part, rest = o;

		if (!overlap(&o, start, end, &part)) {
			i++;
			continue;
		}
		if (taken)
			TRY(insert(taken, &part));
		/* Before it, and behind it. */
		s->owed[i].count = part.page - o.page;
		rest.page = part.page + part.count;
		rest.start = part.start + (part.count << KAGE_PAGE_SHIFT);
		rest.count = o.page + o.count - rest.page;
		if (s->owed[i].count == 0) {
			memmove(&s->owed[i], &s->owed[i + 1], (s->n - i - 1) * sizeof(*s->owed));
			s->n--;
		}
		if (rest.count)
			TRY(insert(s, &rest));
	}
	return NULL;
}

/* As mremap(2) does: what was at the new place is gone. */
static struct kage_err *move(struct pager_space *s, uint64_t from, uint64_t to, uint64_t bytes)
{
	struct pager_space taken = { 0 };
	struct kage_err *e = cut(s, from, from + bytes, &taken);

	if (!e)
		e = cut(s, to, to + bytes, NULL);
	for (size_t i = 0; !e && i < taken.n; i++) {
		struct owed o = taken.owed[i];

		o.start = o.start - from + to;
		e = insert(s, &o);
	}
	free(taken.owed);
	return e;
}

static struct kage_err *copy_space(struct pager_map *m, size_t from, int uffd)
{
	size_t to;

	TRY(pager_map_add_space(m, uffd, &to));
	for (size_t i = 0; i < m->spaces[from].n; i++)
		TRY(insert(&m->spaces[to], &m->spaces[from].owed[i]));
	return NULL;
}

static void bury(struct pager_space *s)
{
	free(s->owed);
	*s = (struct pager_space){ .uffd = -1, .gone = true };
}

struct kage_err *pager_map_apply(struct pager_map *m, size_t space, const struct uffd_msg *msg)
{
	struct pager_space *s = &m->spaces[space];

	switch (msg->event) {
	case UFFD_EVENT_FORK:
		return copy_space(m, space, (int)msg->arg.fork.ufd);
	case UFFD_EVENT_REMAP:
		return move(s, msg->arg.remap.from, msg->arg.remap.to, msg->arg.remap.len);
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		return cut(s, msg->arg.remove.start, msg->arg.remove.end, NULL);
	case PAGER_EVENT_GONE:
		bury(s);
		return NULL;
	default:
		return kage_err_new(KAGE_UNSUPPORTED, "a userfaultfd tells event %#x", msg->event);
	}
}
