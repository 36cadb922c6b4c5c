/* SPDX-License-Identifier: Apache-2.0 */
#include "image/layers.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/types.h"

struct layers {
	struct kage_pages base;
	struct page_run *runs;
	struct kage_pages **layers;
	size_t n;
};

/* Where FIRST to FIRST + COUNT of SPACE is, as far as it is in one place: the layer (NULL: nowhere), and
 * in *RET_N for how many pages that holds. */
static struct kage_pages *find_layer(const struct layers *l, uint32_t space, uint64_t first,
				     uint64_t count, uint64_t *ret_n)
{
	for (size_t i = 0; i < l->n; i++) {
		struct kage_pages *p = l->layers[i];
		size_t at = kage_pages_find(p, space, first);
		const struct page_run *r = &p->runs[at];

		if (at == p->n_runs || r->space != space || r->first >= first + count)
			continue;
		if (r->first <= first) {
			uint64_t left = r->first + r->count - first;

			*ret_n = left < count ? left : count;
			return p;
		}
		count = r->first - first; /* from there on it is this layer's */
	}
	*ret_n = count;
	return NULL;
}

static struct kage_err *layers_read(struct kage_pages *base, uint32_t space, uint64_t first,
				    uint64_t count, void *buffer)
{
	struct layers *l = (struct layers *)base;
	unsigned char *to = buffer;

	for (uint64_t done = 0, n; done < count; done += n) {
		struct kage_pages *p = find_layer(l, space, first + done, count - done, &n);

		if (p)
			TRY(p->ops->read(p, space, first + done, n, to + done * KAGE_PAGE_BYTES));
		else
			memset(to + done * KAGE_PAGE_BYTES, 0, n * KAGE_PAGE_BYTES);
	}
	return NULL;
}

static const void *layers_borrow(struct kage_pages *base, uint32_t space, uint64_t first,
				 uint64_t count)
{
	struct layers *l = (struct layers *)base;
	uint64_t n;
	struct kage_pages *p = find_layer(l, space, first, count, &n);

	return p && n == count && p->ops->borrow ? p->ops->borrow(p, space, first, count) : NULL;
}

static void layers_destroy(struct kage_pages *base)
{
	struct layers *l = (struct layers *)base;

	free(l->runs);
	free(l->layers);
	free(l);
}

static const struct kage_pages_ops layers_ops = {
	.read = layers_read,
	.borrow = layers_borrow,
	.destroy = layers_destroy,
};

struct kage_err *kage_layers_create(const struct page_run *runs, size_t n_runs,
				    struct kage_pages *const *layers, size_t n,
				    struct kage_pages **ret_pages)
{
	struct layers *l = calloc(1, sizeof(*l));

	if (!l)
		return kage_err_nomem();
	l->base.ops = &layers_ops;
	l->runs = calloc(n_runs + 1, sizeof(*l->runs));
	l->layers = calloc(n + 1, sizeof(struct kage_pages *));
	if (!l->runs || !l->layers) {
		layers_destroy(&l->base);
		return kage_err_nomem();
	}
	if (n_runs)
		memcpy(l->runs, runs, n_runs * sizeof(*runs));
	if (n)
		memcpy(l->layers, layers, n * sizeof(struct kage_pages *));
	l->n = n;
	l->base.runs = l->runs;
	l->base.n_runs = n_runs;
	*ret_pages = &l->base;
	return NULL;
}
