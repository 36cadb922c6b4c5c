/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thinning a history by rules. Images that stay are as restorable as before; see remove.c for how.
 */
#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "store/retention.h"
#include "store/store.h"

/* Removes neighbouring images in one go, so that what follows them is rewritten once. The last ones go first: those
 * before them are then removed without rewriting them again. */
static struct kage_err *remove_others(struct kage_store *s, const char *name,
				      const struct kage_list *list, const bool *keep,
				      size_t *ret_removed, size_t *ret_spared)
{
	for (size_t i = list->n; i-- > 0;) {
		size_t last = i, removed = 0, spared = 0;

		if (keep[i])
			continue;
		while (i > 0 && !keep[i - 1])
			i--;
		TRY(kage_store_remove_some(s, name, list->entries[i].number,
					   list->entries[last].number, &removed, &spared));
		*ret_removed += removed;
		*ret_spared += spared;
	}
	return NULL;
}

static uint64_t bytes_of(const struct kage_list *list)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < list->n; i++)
		bytes += list->entries[i].stored_bytes;
	return bytes;
}

/* One round; *RET_BEFORE is what the history took before it. */
static struct kage_err *prune(struct kage_store *s, const char *name,
			      const struct kage_retention *rules, uint64_t *ret_before,
			      size_t *ret_removed, size_t *ret_spared)
{
	struct kage_list list = { 0 };
	_cleanup_free_ bool *keep = NULL;
	struct kage_err *e;

	*ret_removed = *ret_spared = 0;
	TRY(kage_store_list(s, name, &list));
	*ret_before = bytes_of(&list);
	keep = calloc(list.n + 1, sizeof(*keep));
	e = keep ? NULL : kage_err_nomem();
	if (!e) {
		kage_retention_choose(rules, list.entries, list.n, kage_clock_ns(CLOCK_REALTIME),
				      keep);
		if (!rules->dry_run) {
			e = remove_others(s, name, &list, keep, ret_removed, ret_spared);
		} else {
			for (size_t i = 0; i < list.n; i++)
				*ret_removed += !keep[i];
		}
	}
	kage_list_free(&list);
	return e;
}

struct kage_err *kage_store_prune(struct kage_store *s, const char *name,
				  const struct kage_retention *rules,
				  struct kage_prune_result *ret_result)
{
	struct kage_prune_result result = { 0 };
	size_t removed;
	uint64_t bytes;

	if (!rules->keep_last && !rules->n_tiers && !rules->max_bytes)
		return kage_err_new(KAGE_INVALID,
				    "prune '%s': no rule says what is to be kept, so all would "
				    "be; to remove a history use kage rm",
				    name);
	TRY_WRAP(prune(s, name, rules, &result.bytes_before, &removed, &result.n_spared),
		 "prune '%s'", name);
	result.n_removed = removed;
	/* What became a keyframe because the one before it went is larger: once more for the size. */
	while (removed && rules->max_bytes && !rules->dry_run) {
		TRY_WRAP(prune(s, name, rules, &bytes, &removed, &result.n_spared), "prune '%s'",
			 name);
		result.n_removed += removed;
	}
	if (!rules->dry_run) {
		struct kage_list list = { 0 };

		TRY(kage_store_list(s, name, &list));
		result.bytes_after = bytes_of(&list);
		result.n_kept = list.n;
		kage_list_free(&list);
	}
	*ret_result = result;
	return NULL;
}
