/* SPDX-License-Identifier: Apache-2.0 */
/* Listing images and opening one. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/cleanup.h"
#include "image/label.h"
#include "store/chain.h"
#include "store/pack_read.h"
#include "store/tags.h"

/* What stands before the entries that the caller sees. */
struct list_block {
	struct arena arena; /* of the strings */
	struct kage_entry entries[];
};

static struct list_block *block_of(const struct kage_list *list)
{
	return (struct list_block *)((char *)list->entries - offsetof(struct list_block, entries));
}

void kage_list_free(struct kage_list *list)
{
	if (!list || !list->entries)
		return;
	arena_deinit(&block_of(list)->arena);
	free(block_of(list));
	*list = (struct kage_list){ 0 };
}

static struct kage_err *list_create(size_t max, struct kage_list *list)
{
	struct list_block *block = calloc(1, sizeof(*block) + (max + 1) * sizeof(*block->entries));

	if (!block)
		return kage_err_nomem();
	*list = (struct kage_list){ .entries = block->entries };
	return NULL;
}

static const char *keep(struct arena *a, const struct summary_string *s)
{
	char *copy = arena_alloc(a, s->size + 1);

	if (copy)
		memcpy(copy, s->bytes, s->size);
	return copy;
}

static struct kage_err *fill_entry(struct arena *a, const struct pack_glance *g,
				   struct kage_entry *entry)
{
	const struct summary *s = &g->summary;

	entry->realtime_ns = s->realtime_ns;
	entry->pause_ns = s->pause_ns;
	entry->memory_bytes = s->memory_bytes;
	entry->stored_bytes = g->file_bytes;
	entry->tracking = kage_tracking_name(s->tracking);
	entry->pid = s->pid;
	entry->n_threads = s->n_threads;
	entry->keyframe = g->head.keyframe;
	entry->base_number = s->difference.base_number;
	entry->changed_bytes = s->difference.changed_pages * KAGE_PAGE_BYTES;
	if (g->head.encrypted) {
		char text[KEY_TEXT_BYTES];

		kage_keyfile_text(g->recipient, text);
		entry->recipient = arena_strdup(a, text);
		if (!entry->recipient)
			return kage_err_nomem();
	}
	entry->comm = keep(a, &s->comm);
	entry->command = keep(a, &s->command);
	entry->message = keep(a, &s->message);
	entry->reason = keep(a, &s->reason);
	if (!entry->comm || !entry->command || !entry->message || !entry->reason)
		return kage_err_nomem();
	return NULL;
}

static struct kage_err *read_entry(const struct history *h, struct arena *a,
				   struct kage_entry *entry)
{
	_cleanup_(kage_pack_glance_deinit) struct pack_glance g = { 0 };
	_cleanup_free_ char *path = kage_dir_pack_path(h, entry->number);
	_cleanup_fd_ int fd = -1;
	struct kage_err *e;

	if (!path)
		return kage_err_nomem();
	TRY(kage_dir_pack_open(h, entry->number, &fd));
	e = kage_pack_glance(fd, path, &g);
	entry->stored_bytes = g.file_bytes;
	return e ? e : fill_entry(a, &g, entry);
}

/* Notes why the pack of ENTRY tells nothing: because of its bytes, or because they could not be had. */
static struct kage_err *note_trouble(const struct history *h, struct arena *a,
				     const struct kage_err *e, struct kage_entry *entry)
{
	_cleanup_free_ char *path = kage_dir_pack_path(h, entry->number);
	const char *why = arena_strdup(a, kage_dir_without_path(kage_err_message(e), path));

	if (kage_err_code(e) == KAGE_CORRUPT)
		entry->damage = why;
	else
		entry->unreadable = why;
	return why ? NULL : kage_err_nomem();
}

/* Appends image NUMBER of H. One that cannot be read is listed with the reason; one that was removed
 *  meanwhile is not. */
static struct kage_err *add_entry(const struct history *h, uint64_t number, struct kage_list *list)
{
	struct arena *a = &block_of(list)->arena;
	struct kage_entry *entry = &block_of(list)->entries[list->n];
	struct kage_err *e;

	*entry = (struct kage_entry){
		.name = arena_strdup(a, h->name),
		.number = number,
		.tracking = "",
		.comm = "",
		.command = "",
		.message = "",
		.reason = "",
		.tags = "",
	};
	if (!entry->name)
		return kage_err_nomem();
	e = read_entry(h, a, entry);
	if (e && kage_err_code(e) == KAGE_NOTFOUND) {
		err_drop(e);
		return NULL;
	}
	if (e && kage_err_code(e) == KAGE_NOMEM)
		return e;
	if (e) {
		struct kage_err *no_memory = note_trouble(h, a, e, entry);

		err_drop(e);
		TRY(no_memory);
	}
	list->n++;
	return NULL;
}

/* Notes the tags of the entries of LIST from index FROM on, which are of H: "good, tuesday". */
static struct kage_err *add_tags(const struct history *h, struct kage_list *list, size_t from)
{
	_cleanup_(arena_deinit) struct arena own = ARENA_INIT;
	struct arena *a = &block_of(list)->arena;
	struct kage_tag *tags = NULL;
	size_t n = 0, t = 0;

	TRY(kage_tags_read(h, &own, &tags, &n));
	for (size_t i = from; i < list->n; i++) {
		struct kage_entry *entry = &block_of(list)->entries[i];

		while (t < n && tags[t].number < entry->number)
			t++;
		for (; t < n && tags[t].number == entry->number; t++) {
			entry->tags = arena_printf(a, "%s%s%s", entry->tags,
						   *entry->tags ? ", " : "", tags[t].name);
			if (!entry->tags)
				return kage_err_nomem();
		}
	}
	return NULL;
}

static struct kage_err *list_history(struct kage_store *store, const char *name,
				     struct kage_list *list)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	_cleanup_free_ uint64_t *numbers = NULL;
	size_t n;

	TRY(kage_dir_history_open(store, name, &h));
	TRY(kage_dir_numbers(&h, &numbers, &n));
	TRY(list_create(n, list));
	for (size_t i = 0; i < n; i++)
		TRY(add_entry(&h, numbers[i], list));
	return add_tags(&h, list, 0);
}

static struct kage_err *add_newest(struct kage_store *store, const char *name,
				   struct kage_list *list)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	_cleanup_free_ uint64_t *numbers = NULL;
	size_t n, before = list->n;
	struct kage_err *e = kage_dir_history_open(store, name, &h);

	if (e && kage_err_code(e) == KAGE_NOTFOUND) { /* removed meanwhile */
		err_drop(e);
		return NULL;
	}
	if (e)
		return e;
	TRY(kage_dir_numbers(&h, &numbers, &n));
	if (n)
		TRY(add_entry(&h, numbers[n - 1], list));
	return add_tags(&h, list, before);
}

static struct kage_err *list_newest(struct kage_store *store, struct kage_list *list)
{
	char **names = NULL;
	size_t n = 0;
	struct kage_err *e = kage_dir_names(store, &names, &n);

	if (!e)
		e = list_create(n, list);
	for (size_t i = 0; !e && i < n; i++)
		e = add_newest(store, names[i], list);
	kage_dir_free_names(names, n);
	return e;
}

struct kage_err *kage_store_list(struct kage_store *store, const char *name,
				 struct kage_list *ret_list)
{
	struct kage_list list = { 0 };
	struct kage_err *e = name ? list_history(store, name, &list) : list_newest(store, &list);

	if (e) {
		kage_list_free(&list);
		return e;
	}
	*ret_list = list;
	return NULL;
}

/* --- one image -------------------------------------------------------------------------------- */

struct kage_err *kage_image_open(struct kage_store *store, const char *spec,
				 struct kage_image **ret_image)
{
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
	return kage_chain_open(&m, i, ret_image);
}
