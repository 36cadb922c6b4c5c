/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages of an image differ from those of its neighbour, from the DIRTY record alone. */
#include <stdlib.h>

#include "base/cleanup.h"
#include "store/way.h"

void kage_change_list_free(struct kage_change_list *list)
{
	free((struct kage_change *)list->runs);
	*list = (struct kage_change_list){ 0 };
}

static struct kage_err *list_runs(const struct difference *d, struct kage_change_list *ret_list)
{
	struct kage_change *runs = calloc(d->dirty.n_runs + 1, sizeof(*runs));

	if (!runs)
		return kage_err_nomem();
	for (size_t i = 0; i < d->dirty.n_runs; i++) {
		const struct page_run *r = &d->dirty.runs[i];

		runs[i] = (struct kage_change){ r->space, r->first, r->count };
	}
	*ret_list = (struct kage_change_list){ d->place.base_number, runs, d->dirty.n_runs };
	return NULL;
}

struct kage_err *kage_store_changes(struct kage_store *store, const char *spec,
				    struct kage_change_list *ret_list)
{
	_cleanup_(kage_difference_deinit) struct difference d = DIFFERENCE_INIT;
	_cleanup_history_ struct history h = HISTORY_INIT;
	_cleanup_way_ struct way_map m = { 0 };
	_cleanup_free_ char *name = NULL;
	uint64_t number;
	size_t i;

	TRY(kage_store_resolve(store, spec, &name, &number));
	TRY(kage_dir_history_share(store, name, &h));
	TRY(kage_way_init(&h, &m));
	i = kage_way_node(&m, number);
	if (i == NO_NODE)
		return kage_dir_no_image(&h, number);
	TRY(kage_way_load(&m, i));
	if (m.nodes[i].damage)
		return take_ptr(m.nodes[i].damage);
	if (m.nodes[i].place.offset)
		TRY(kage_way_difference(&m, i, true, &d));
	return list_runs(&d, ret_list);
}
