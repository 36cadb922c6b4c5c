/* SPDX-License-Identifier: Apache-2.0 */
#include "store/prune.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "store/rewrite.h"

/* The trees that images and their neighbours make. */
struct trees {
	size_t *base; /* of each node its neighbour, or NO_NODE */
	size_t *root; /* and the first of its tree */
	bool *key;    /* of each root: there is a keyframe in its tree */
	bool *locked; /* of each node: something from it to its base is encrypted, and no key opened it */
};

static void trees_deinit(struct trees *t)
{
	free(t->base);
	free(t->root);
	free(t->key);
	free(t->locked);
}

static bool is_key(const struct way_node *node)
{
	return node->keyframe && !node->damage && !node->bad_pages;
}

/* The neighbour of node I without the images that are GONE. A keyframe whose differences cannot be joined does
 * without. */
static size_t base_without(const struct way_map *m, size_t i, const bool *gone, struct trees *t)
{
	size_t b = kage_way_base(m, i);

	t->locked[i] = m->nodes[i].locked;
	if (!gone || b == NO_NODE || !gone[b])
		return b;
	t->locked[i] |= t->locked[b];
	return t->locked[i] && !gone[i] && is_key(&m->nodes[i]) ? NO_NODE : t->base[b];
}

/* The trees of M without the images that are GONE (NULL: none), past which neighbours are joined. */
static struct kage_err *trees_init(struct way_map *m, const bool *gone, struct trees *t)
{
	t->base = calloc(m->n + 1, sizeof(*t->base));
	t->root = calloc(m->n + 1, sizeof(*t->root));
	t->key = calloc(m->n + 1, sizeof(*t->key));
	t->locked = calloc(m->n + 1, sizeof(*t->locked));
	if (!t->base || !t->root || !t->key || !t->locked)
		return kage_err_nomem();
	for (size_t i = 0; i < m->n; i++) { /* neighbours come before those whose they are */
		size_t b = base_without(m, i, gone, t);

		t->base[i] = b;
		t->root[i] = b == NO_NODE ? i : t->root[b];
		if (!gone || !gone[i])
			t->key[t->root[i]] |= is_key(&m->nodes[i]);
	}
	return NULL;
}

struct kage_err *kage_prune_reachable(struct way_map *m, bool **ret_reachable)
{
	_cleanup_(trees_deinit) struct trees t = { 0 };
	bool *reachable = calloc(m->n + 1, sizeof(*reachable));
	struct kage_err *e = reachable ? trees_init(m, NULL, &t) : kage_err_nomem();

	if (e) {
		free(reachable);
		return e;
	}
	for (size_t i = 0; i < m->n; i++)
		reachable[i] = t.key[t.root[i]];
	*ret_reachable = reachable;
	return NULL;
}

/* --- what cannot be read ---------------------------------------------------------------------- */

/* Whether all from node I to the keyframe nearest to it can be read; else those images are not GONE any more. */
static struct kage_err *spare_way(struct way_map *m, size_t i, bool *gone, size_t *spared)
{
	bool locked = m->nodes[i].locked;
	size_t key;

	TRY(kage_way_find(m, i, &key));
	if (key == NO_NODE)
		return NULL;
	for (size_t at = key; at != i; at = m->nodes[at].via)
		locked |= m->nodes[at].locked != NULL;
	for (size_t at = key; locked && at != i; at = m->nodes[at].via) {
		*spared += gone[at];
		gone[at] = false;
	}
	return NULL;
}

/* One pass; counts in *SPARED what it gave back. */
static struct kage_err *spare_once(struct way_map *m, bool *gone, const bool *reachable,
				   size_t *spared)
{
	_cleanup_(trees_deinit) struct trees t = { 0 };

	TRY(trees_init(m, gone, &t));
	for (size_t i = 0; i < m->n; i++) {
		size_t b = kage_way_base(m, i);

		if (gone[i])
			continue;
		if (t.base[i] != NO_NODE && t.base[i] != b && t.locked[i]) {
			gone[b] = false;
			++*spared;
		} else if (!t.key[t.root[i]] && reachable[i]) {
			TRY(spare_way(m, i, gone, spared));
		}
	}
	return NULL;
}

struct kage_err *kage_prune_spare(struct way_map *m, bool *gone, size_t *ret_spared)
{
	_cleanup_free_ bool *reachable = NULL;
	size_t before, spared = 0;

	TRY(kage_prune_reachable(m, &reachable));
	do {
		before = spared;
		TRY(spare_once(m, gone, reachable, &spared));
	} while (spared > before);
	*ret_spared = spared;
	return NULL;
}

void kage_prune_spare_leaning(const struct way_map *m, bool *gone, size_t *ret_spared)
{
	for (size_t i = m->n; i-- > 0;) { /* those whose neighbours they are come first */
		size_t b = kage_way_base(m, i);

		if (gone[i] || !m->nodes[i].leaning || b == NO_NODE || !gone[b])
			continue;
		gone[b] = false;
		++*ret_spared;
	}
}

/* --- writing anew ----------------------------------------------------------------------------- */

struct kage_err *kage_prune_prepare(struct way_map *m, const bool *gone)
{
	_cleanup_(trees_deinit) struct trees t = { 0 };
	_cleanup_free_ bool *reachable = NULL;

	TRY(kage_prune_reachable(m, &reachable));
	TRY(trees_init(m, gone, &t));
	for (size_t i = 0; i < m->n; i++) {
		if (gone[i] || t.key[t.root[i]] || !reachable[i])
			continue;
		TRY(kage_rewrite_as_keyframe(m, i));
		t.key[t.root[i]] = true;
	}
	for (size_t i = 0; i < m->n; i++) {
		size_t b = kage_way_base(m, i);

		if (gone[i])
			continue;
		if (t.base[i] != NO_NODE && t.base[i] != b)
			TRY(kage_rewrite_neighbour(m, i, t.base[i]));
		else if (m->nodes[i].leaning && b != NO_NODE && gone[b])
			TRY(kage_rewrite_neighbour(m, i, b)); /* so that it leans on none */
	}
	return NULL;
}
