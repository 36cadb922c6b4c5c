/* SPDX-License-Identifier: Apache-2.0 */
#include "store/removal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"

static const char note_name[] = ".removing";

static struct kage_err *sync_history(const struct history *h)
{
	if (fsync(h->fd) < 0)
		return kage_err_sys(errno, "sync the directory %s/%s", h->store->path, h->name);
	return NULL;
}

struct kage_err *kage_removal_begin(const struct history *h, const struct removal *r)
{
	char range[64];

	snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, r->first, r->last);
	if (symlinkat(range, h->fd, note_name) < 0)
		return kage_err_sys(errno, "note in %s/%s what is to be removed", h->store->path,
				    h->name);
	return sync_history(h);
}

struct removal kage_removal_read(const struct history *h)
{
	char range[64];
	ssize_t n = readlinkat(h->fd, note_name, range, sizeof(range) - 1);
	struct removal r;

	range[n < 0 ? 0 : n] = '\0';
	if (sscanf(range, "%" SCNu64 "-%" SCNu64, &r.first, &r.last) != 2)
		return (struct removal){ 0 };
	return r;
}

static struct kage_err *unlink_pack(const struct history *h, uint64_t number)
{
	char name[PACK_NAME_BYTES];

	kage_dir_pack_name(number, name);
	if (unlinkat(h->fd, name, 0) < 0 && errno != ENOENT)
		return kage_err_sys(errno, "remove %s@%" PRIu64, h->name, number);
	return NULL;
}

/* The newest first: so a history without the note lacks only what was to be removed, at every instant. */
static struct kage_err *unlink_packs(const struct history *h, const struct removal *r)
{
	_cleanup_free_ uint64_t *numbers = NULL;
	size_t n;

	TRY(kage_dir_all_numbers(h, &numbers, &n));
	while (n-- > 0)
		if (numbers[n] >= r->first && numbers[n] <= r->last)
			TRY(unlink_pack(h, numbers[n]));
	return NULL;
}

struct kage_err *kage_removal_finish(const struct history *h)
{
	struct removal r = kage_removal_read(h);

	if (r.last) {
		TRY(unlink_packs(h, &r));
		TRY(sync_history(h));
	}
	/* Should the note come back after a power failure, what it names is gone: numbers that it could hide are
	 * given to new images only when the directory is synced again, and with it this. */
	if (unlinkat(h->fd, note_name, 0) < 0 && errno != ENOENT)
		return kage_err_sys(errno, "remove %s/%s/%s", h->store->path, h->name, note_name);
	return NULL;
}
