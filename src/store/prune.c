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
};

static void trees_deinit(struct trees *t)
{
	free(t->base);
	free(t->root);
	free(t->key);
}

static bool is_key(const struct way_node *node)
{
	return node->keyframe && !node->damage && !node->bad_pages;
}

/* The trees of M without the images that are GONE (NULL: none), past which neighbours are joined. */
static struct kage_err *trees_init(struct way_map *m, const bool *gone, struct trees *t)
{
	t->base = calloc(m->n + 1, sizeof(*t->base));
	t->root = calloc(m->n + 1, sizeof(*t->root));
	t->key = calloc(m->n + 1, sizeof(*t->key));
	if (!t->base || !t->root || !t->key)
		return kage_err_nomem();
	for (size_t i = 0; i < m->n; i++) { /* neighbours come before those whose they are */
		size_t b = kage_way_base(m, i);

		while (gone && b != NO_NODE && gone[b])
			b = t->base[b];
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
	for (size_t i = 0; i < m->n; i++)
		if (!gone[i] && t.base[i] != NO_NODE && t.base[i] != kage_way_base(m, i))
			TRY(kage_rewrite_neighbour(m, i, t.base[i]));
	return NULL;
}
