/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removing images, under the history's lock.
 *
 * Before a range goes, packs that need it are written anew (prune.h). Then it goes,
 * in one step (removal.h). A whole history first loses its name, so it is there or it is not; what bears a name with
 * removed_prefix is rubbish and goes with the next removal.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "store/prune.h"
#include "store/removal.h"
#include "store/rewrite.h"
#include "store/tags.h"

static const char removed_prefix[] = ".rm-";

static struct kage_err *sync_dir(int fd, const char *path)
{
	if (fsync(fd) < 0)
		return kage_err_sys(errno, "sync the directory %s", path);
	return NULL;
}

/* Empties and removes the directory NAME in IN, which nobody looks at any more, and DEPTH levels of others
 * in it. */
static void remove_directory(int in, const char *name, int depth)
{
	_cleanup_dir_ DIR *dir = kage_file_opendir(in, name);
	const struct dirent *d;

	while (dir && (d = readdir(dir))) {
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(dir), d->d_name, 0) < 0 && errno == EISDIR && depth > 0)
			remove_directory(dirfd(dir), d->d_name, depth - 1);
	}
	unlinkat(in, name, AT_REMOVEDIR);
}

/* Removes what those who were killed in the middle left. */
static void remove_rubbish(const struct kage_store *s)
{
	_cleanup_dir_ DIR *dir = kage_file_opendir(s->fd, ".");
	const struct dirent *d;

	while (dir && (d = readdir(dir)))
		if (strncmp(d->d_name, removed_prefix, strlen(removed_prefix)) == 0)
			remove_directory(s->fd, d->d_name, 1);
}

static struct kage_err *remove_history(struct history *h, size_t n)
{
	const struct kage_store *s = h->store;
	char name[32];
	uint64_t random;

	if (n == 0) {
		kage_dir_history_drop_empty(h);
		return NULL;
	}
	if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return kage_err_sys(errno, "get random bytes for a name");
	snprintf(name, sizeof(name), "%s%016llx", removed_prefix, (unsigned long long)random);
	if (renameat(s->fd, h->name, s->fd, name) < 0)
		return kage_err_sys(errno, "remove the history %s/%s", s->path, h->name);
	TRY(sync_dir(s->fd, s->path));
	remove_rubbish(s);
	return NULL;
}

static struct kage_err *unlink_packs(const struct history *h, const struct removal *r, size_t n)
{
	char name[PACK_NAME_BYTES];

	if (n > 1) {
		TRY(kage_removal_begin(h, r));
		return kage_removal_finish(h);
	}
	kage_dir_pack_name(r->first, name);
	if (unlinkat(h->fd, name, 0) < 0 && errno != ENOENT)
		return kage_err_sys(errno, "remove %s@%llu", h->name, (unsigned long long)r->first);
	return sync_dir(h->fd, h->name);
}

/* All that are GONE of M, one run of neighbours after the other, the newest first. */
static struct kage_err *unlink_gone(const struct way_map *m, const bool *gone)
{
	for (size_t i = m->n; i-- > 0;) {
		struct removal r = { .last = m->nodes[i].number };
		size_t n = 1;

		if (!gone[i])
			continue;
		for (; i > 0 && gone[i - 1]; i--)
			n++;
		r.first = m->nodes[i].number;
		TRY(unlink_packs(m->h, &r, n));
	}
	return NULL;
}

/* Why those that are to go cannot. */
static struct kage_err *cannot_go(const struct way_map *m)
{
	struct kage_err *e = NULL;

	for (size_t i = 0; !e && i < m->n; i++)
		e = kage_way_locked(m, i);
	return kage_err_wrap(e, "images that stay are stored as differences from them");
}

/* What cannot be read just now may be needed by others, and they by it: nothing is removed then. */
static struct kage_err *all_can_be_read(struct way_map *m)
{
	for (size_t i = 0; i < m->n; i++) {
		const struct kage_err *damage = m->nodes[i].damage;

		if (damage && kage_err_code(damage) != KAGE_CORRUPT &&
		    kage_err_code(damage) != KAGE_VERSION)
			return take_ptr(m->nodes[i].damage);
	}
	return NULL;
}

static bool is_no_room(const struct kage_err *e)
{
	return e && (kage_err_errno(e) == ENOSPC || kage_err_errno(e) == EDQUOT);
}

/* Makes ready what stays when GONE go. Where there is no room for what others lean on, that stays, too, if it may. */
static struct kage_err *prepare(struct way_map *m, bool *gone, size_t *spared, bool may_spare)
{
	size_t more = 0;
	struct kage_err *e = kage_prune_prepare(m, gone);

	if (!is_no_room(e) || !may_spare)
		return e;
	kage_prune_spare_leaning(m, gone, &more);
	if (!more)
		return e;
	*spared += more;
	err_drop(e);
	return kage_prune_prepare(m, gone);
}

static struct kage_err *remove_range(const struct history *h, uint64_t first, uint64_t last,
				     size_t *ret_removed, size_t *ret_spared)
{
	_cleanup_way_ struct way_map m = { 0 };
	_cleanup_free_ bool *gone = NULL;
	struct kage_err *e = NULL;
	size_t removed = 0, spared;

	TRY(kage_way_init(h, &m));
	gone = calloc(m.n + 1, sizeof(*gone));
	if (!gone)
		return kage_err_nomem();
	for (size_t i = 0; i < m.n; i++) {
		gone[i] = m.nodes[i].number >= first && m.nodes[i].number <= last;
		removed += gone[i];
	}
	if (removed == 0)
		return kage_err_new(KAGE_NOTFOUND, "%s has no image from %llu to %llu", h->name,
				    (unsigned long long)first, (unsigned long long)last);
	kage_rewrite_clean(h);
	TRY(kage_way_load_all(&m));
	TRY(all_can_be_read(&m));
	TRY(kage_prune_spare(&m, gone, &spared));
	if (spared && !ret_spared)
		return cannot_go(&m);
	if (removed > spared)
		e = prepare(&m, gone, &spared, ret_spared);
	if (ret_spared)
		*ret_spared = spared;
	*ret_removed = removed - spared;
	if (e && kage_err_code(e) == KAGE_CORRUPT)
		e = kage_err_advise(e, "'kage fsck --repair' keeps what can be kept");
	TRY(e);
	return unlink_gone(&m, gone);
}

static struct kage_err *remove_images(struct kage_store *store, const char *name, uint64_t first,
				      uint64_t last, size_t *ret_removed, size_t *ret_spared)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	_cleanup_free_ uint64_t *numbers = NULL;
	size_t n, removed;

	TRY(kage_dir_history_lock(store, name, false, &h));
	TRY(kage_dir_numbers(&h, &numbers, &n));
	TRY(kage_tags_refuse(&h, last ? first : 0, last ? last : UINT64_MAX));
	removed = n;
	if (last == 0 || (n && first <= numbers[0] && last >= numbers[n - 1]))
		TRY(remove_history(&h, n));
	else
		TRY(remove_range(&h, first, last, &removed, ret_spared));
	*ret_removed = removed;
	return NULL;
}

struct kage_err *kage_store_remove(struct kage_store *store, const char *name, uint64_t first,
				   uint64_t last, size_t *ret_removed)
{
	return remove_images(store, name, first, last, ret_removed, NULL);
}

struct kage_err *kage_store_remove_some(struct kage_store *store, const char *name, uint64_t first,
					uint64_t last, size_t *ret_removed, size_t *ret_spared)
{
	*ret_spared = 0;
	return remove_images(store, name, first, last, ret_removed, ret_spared);
}
