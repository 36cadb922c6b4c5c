/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removing images, under the history's lock.
 *
 * A range goes pack by pack, the newest first: who is killed meanwhile leaves a history that lacks
 * only what was to be removed. A whole history first loses its name, so it is there or it is not;
 * what bears a name with removed_prefix is rubbish and goes with the next removal.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "store/dir.h"
#include "store/tags.h"

static const char removed_prefix[] = ".rm-";

static struct kage_err *sync_dir(int fd, const char *path)
{
	if (fsync(fd) < 0)
		return kage_err_sys(errno, "sync the directory %s", path);
	return NULL;
}

/* Empties and removes the directory NAME of the store, which nobody looks at any more. */
static void remove_directory(const struct kage_store *s, const char *name)
{
	int fd = openat(s->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	_cleanup_dir_ DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *d;

	if (!dir)
		close_fd(fd);
	while (dir && (d = readdir(dir)))
		if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
			unlinkat(dirfd(dir), d->d_name, 0);
	unlinkat(s->fd, name, AT_REMOVEDIR);
}

/* Removes what those who were killed in the middle left. */
static void remove_rubbish(const struct kage_store *s)
{
	int fd = openat(s->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_dir_ DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *d;

	if (!dir)
		close_fd(fd);
	while (dir && (d = readdir(dir)))
		if (strncmp(d->d_name, removed_prefix, strlen(removed_prefix)) == 0)
			remove_directory(s, d->d_name);
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

static struct kage_err *remove_range(const struct history *h, const uint64_t *numbers, size_t n,
				     uint64_t first, uint64_t last, size_t *ret_removed)
{
	size_t removed = 0;

	for (size_t i = n; i-- > 0;) {
		char name[PACK_NAME_BYTES];

		if (numbers[i] < first || numbers[i] > last)
			continue;
		kage_dir_pack_name(numbers[i], name);
		if (unlinkat(h->fd, name, 0) < 0 && errno != ENOENT)
			return kage_err_sys(errno, "remove %s@%llu", h->name,
					    (unsigned long long)numbers[i]);
		removed++;
	}
	if (removed == 0)
		return kage_err_new(KAGE_NOTFOUND, "%s has no image from %llu to %llu", h->name,
				    (unsigned long long)first, (unsigned long long)last);
	*ret_removed = removed;
	return sync_dir(h->fd, h->name);
}

struct kage_err *kage_store_remove(struct kage_store *store, const char *name, uint64_t first,
				   uint64_t last, size_t *ret_removed)
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
		TRY(remove_range(&h, numbers, n, first, last, &removed));
	*ret_removed = removed;
	return NULL;
}
