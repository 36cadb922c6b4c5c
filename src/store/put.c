/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Adding an image. The order from which safety follows:
 *
 *	1. the pack is written to a file that has no name,
 *	2. fdatasync of the file: from here on it is whole and durable,
 *	3. the lock is taken, the file gets its name, the directory is synced, the lock is given back.
 *
 * Before the first pack of a history gets its name, those of the history, of the store and of what is above it are
 * made durable: where there is a pack, the way to it is.
 *
 * Who is killed before 3 leaves nothing; the kernel frees the file. The lock is held only for 3, so
 * that nobody waits for somebody else's compression.
 *
 * File systems without nameless files get a temporary name, under a lock of its own (flock on the
 * file); what is found without that lock was left by a dead writer and is removed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/secret.h"
#include "store/dir.h"
#include "store/pack_read.h"
#include "store/pack_write.h"
#include "store/rewrite.h"

static const char temporary_prefix[] = ".tmp-";

/* A description leans on others in so many steps at most: each of them has to be read with it. */
enum { MOST_LEANS = 15 };

struct new_file {
	const struct kage_store *store;
	int fd;
	char name[32];                /* "" when the file has none */
	struct pack_sealing *sealing; /* NULL: it is not encrypted */
};

static void cleanup_new_file(struct new_file *f)
{
	if (f->name[0])
		unlinkat(f->store->fd, f->name, 0);
	close_fd(f->fd);
	kage_secret_free(f->sealing);
}

static void remove_if_dead(const struct kage_store *s, const char *name)
{
	_cleanup_fd_ int fd = openat(s->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
		unlinkat(s->fd, name, 0);
}

static void remove_dead_files(const struct kage_store *s)
{
	_cleanup_dir_ DIR *dir = kage_file_opendir(s->fd, ".");
	const struct dirent *d;

	while (dir && (d = readdir(dir)))
		if (strncmp(d->d_name, temporary_prefix, strlen(temporary_prefix)) == 0)
			remove_if_dead(s, d->d_name);
}

static struct kage_err *make_named(const struct kage_store *s, struct new_file *f)
{
	uint64_t random;

	remove_dead_files(s);
	if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return kage_err_sys(errno, "get random bytes for a name");
	snprintf(f->name, sizeof(f->name), "%s%016llx", temporary_prefix,
		 (unsigned long long)random);
	f->fd = openat(s->fd, f->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (f->fd < 0) {
		f->name[0] = '\0';
		return kage_err_sys(errno, "make a file in %s", s->path);
	}
	if (flock(f->fd, LOCK_EX | LOCK_NB) < 0)
		return kage_err_sys(errno, "lock a new file in %s", s->path);
	return NULL;
}

static struct kage_err *make_file(const struct kage_store *s, struct new_file *f)
{
	/* In the store and not in the history: that is made only when there is something to put. */
	f->fd = openat(s->fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	if (f->fd >= 0)
		return NULL;
	if (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL || errno == ENOENT)
		return make_named(s, f);
	return kage_err_sys(errno, "make a file in %s", s->path);
}

/* Gives F, which has a temporary name, the name NAME in H. */
static int rename_file(struct new_file *f, const struct history *h, const char *name)
{
	if (renameat2(f->store->fd, f->name, h->fd, name, RENAME_NOREPLACE) == 0) {
		f->name[0] = '\0';
		return 0;
	}
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
	/* This file system cannot rename without replacing. The temporary name goes later. */
	return linkat(f->store->fd, f->name, h->fd, name, 0);
}

/* Gives F the name NAME in H; EEXIST when there is one, which is never replaced. */
static int give_name(struct new_file *f, const struct history *h, const char *name)
{
	char self[32];

	if (f->name[0])
		return rename_file(f, h, name);
	if (linkat(f->fd, "", h->fd, name, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != ENOENT && errno != EPERM && errno != EINVAL)
		return -1;
	/* Before 6.10 that needs CAP_DAC_READ_SEARCH. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", f->fd);
	return linkat(AT_FDCWD, self, h->fd, name, AT_SYMLINK_FOLLOW);
}

static struct kage_err *next_number(const struct history *h, uint64_t *ret_number)
{
	_cleanup_free_ uint64_t *numbers = NULL;
	size_t n;

	TRY(kage_dir_numbers(h, &numbers, &n));
	*ret_number = n ? numbers[n - 1] + 1 : 1;
	return NULL;
}

static struct kage_err *read_id(const struct history *h, uint64_t number,
				uint8_t ret_id[IMAGE_ID_BYTES])
{
	_cleanup_(kage_pack_glance_deinit) struct pack_glance g = { 0 };
	_cleanup_free_ char *path = kage_dir_pack_path(h, number);
	_cleanup_fd_ int fd = -1;

	if (!path)
		return kage_err_nomem();
	TRY(kage_dir_pack_open(h, number, &fd));
	TRY(kage_pack_glance(fd, path, &g));
	memcpy(ret_id, g.head.id, IMAGE_ID_BYTES);
	return NULL;
}

/* The neighbour must be there when the difference to it becomes visible. */
static struct kage_err *check_neighbour(const struct history *h, const struct kage_changes *changes)
{
	uint8_t id[IMAGE_ID_BYTES];
	struct kage_err *e;

	if (!changes)
		return NULL;
	e = read_id(h, changes->base_number, id);
	if (!e && memcmp(id, changes->base_id, sizeof(id)) == 0)
		return NULL;
	if (e && kage_err_code(e) != KAGE_NOTFOUND && kage_err_code(e) != KAGE_CORRUPT)
		return e;
	err_drop(e);
	return kage_err_new(KAGE_CHANGED, "the image %s@%llu, from which it differs, is gone",
			    h->name, (unsigned long long)changes->base_number);
}

/* Makes the names of S's histories durable, and its own, up to the root of its file system: its path may have been
 * made just now, by us or by one who was killed then. What is not ours to open was there before us. */
static struct kage_err *sync_path(const struct kage_store *s)
{
	int fd = openat(s->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat here, above;

	if (fd < 0 || fsync(fd) < 0 || fstat(fd, &here) < 0) {
		int failed = errno;

		close_fd(fd);
		return kage_err_sys(failed, "sync the directory %s", s->path);
	}
	while (fd >= 0) {
		_cleanup_fd_ int below = fd;

		fd = openat(below, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &above) < 0 || above.st_dev != here.st_dev ||
		    above.st_ino == here.st_ino)
			break;
		if (fsync(fd) < 0 && errno == EIO) {
			close_fd(fd);
			return kage_err_sys(EIO, "sync a directory above %s", s->path);
		}
		here = above;
	}
	close_fd(fd);
	return NULL;
}

/* Who else added an image meanwhile has the number for which the pack was sealed. */
static struct kage_err *renumber(const struct history *h, struct new_file *f, uint64_t number)
{
	if (!f->sealing || f->sealing->number == number)
		return NULL;
	f->sealing->number = number;
	TRY(kage_pack_key_renumber(f->fd, "a new pack", h->name, f->sealing));
	if (fdatasync(f->fd) < 0)
		return kage_err_sys(errno, "sync a new pack of %s", h->name);
	return NULL;
}

static struct kage_err *publish_in(const struct history *h, struct new_file *f,
				   const struct kage_put_options *options, uint64_t *ret_number)
{
	const struct kage_store *s = h->store;
	char name[PACK_NAME_BYTES];
	uint64_t number;

	TRY(check_neighbour(h, options->changes));
	TRY(next_number(h, &number));
	if (options->number && options->number != number)
		return kage_err_new(KAGE_BUSY, "%s@%llu was stored meanwhile", h->name,
				    (unsigned long long)options->number);
	TRY(renumber(h, f, number));
	kage_dir_pack_name(number, name);
	if (number == 1)
		TRY(sync_path(s));
	if (give_name(f, h, name) < 0)
		return kage_err_sys(errno, "name the pack %s/%s/%s", s->path, h->name, name);
	if (fsync(h->fd) < 0) {
		int failed = errno;

		unlinkat(h->fd, name, 0); /* not known to be durable: rather none */
		return kage_err_sys(failed, "sync the directory %s/%s", s->path, h->name);
	}
	*ret_number = number;
	return NULL;
}

/* Step 3. */
static struct kage_err *publish(struct kage_store *s, const char *history, struct new_file *f,
				const struct kage_put_options *options, uint64_t *ret_number)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	struct kage_err *e;

	TRY(kage_dir_history_lock(s, history, true, &h));
	kage_rewrite_clean(&h); /* of who was killed while he wrote one anew */
	e = publish_in(&h, f, options, ret_number);
	if (e)
		kage_dir_history_drop_empty(&h);
	return e;
}

/* The number that an image of NAME would get now. */
static struct kage_err *guess_number(const struct kage_store *s, const char *name,
				     uint64_t *ret_number)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	struct kage_err *e = kage_dir_history_open(s, name, &h);

	if (e && kage_err_code(e) == KAGE_NOTFOUND) {
		err_drop(e);
		*ret_number = 1;
		return NULL;
	}
	return e ? e : next_number(&h, ret_number);
}

/* The key of a new pack, if it is to be encrypted. */
static struct kage_err *make_sealing(const struct kage_store *s, const char *name,
				     const struct kage_put_options *options, struct new_file *f)
{
	uint64_t number;

	if (!options->recipient)
		return NULL;
	TRY(guess_number(s, name, &number));
	return kage_pack_sealing_create(options->recipient, number, &f->sealing);
}

/* What the description of an image put with OPTIONS leans on. Encrypted ones stand alone: thinning, which may have
 * no key for them, must be able to drop their neighbours. */
static const struct kage_description *leans_on(const struct kage_put_options *options)
{
	const struct kage_description *d = options->description;

	return d && d->bytes && d->leans < MOST_LEANS && !options->recipient ? d : NULL;
}

static struct kage_err *write_pack(struct kage_store *s, const struct new_file *f, const char *what,
				   const char *name, const struct kage_image *image,
				   const struct kage_put_options *options,
				   struct kage_put_result *result,
				   struct kage_description *ret_description)
{
	const struct kage_changes *c = options->changes;
	struct pack_difference difference;
	struct pack_options o = {
		.history = name,
		.level = options->compression,
		.difference = c ? &difference : NULL,
		.sealing = f->sealing,
		.keyframe = options->keyframe,
		.before = leans_on(options),
		.keep = options->description,
	};
	struct pack_written written;

	if (c) {
		difference = (struct pack_difference){
			.base_number = c->base_number,
			.runs = c->runs,
			.n_runs = c->n_runs,
			.before = c->before,
			.after = image->pages,
		};
		memcpy(difference.base_id, c->base_id, sizeof(difference.base_id));
	}
	TRY(kage_pack_write(s->ctx, f->fd, what, image, &o, &written));
	result->stored_bytes = written.bytes;
	result->changed_pages = written.changed_pages;
	result->keyframe = written.keyframe;
	memcpy(result->id, written.id, sizeof(result->id));
	*ret_description = written.description;
	return NULL;
}

static struct kage_err *put(struct kage_store *s, const char *name, const struct kage_image *image,
			    const struct kage_put_options *options, struct kage_put_result *result)
{
	_cleanup_(cleanup_new_file) struct new_file f = { .store = s, .fd = -1 };
	_cleanup_(kage_description_deinit) struct kage_description description = { 0 };
	_cleanup_free_ char *what = NULL;

	if (asprintf(&what, "a new pack in %s", s->path) < 0) {
		what = NULL;
		return kage_err_nomem();
	}
	TRY(make_file(s, &f));
	TRY(make_sealing(s, name, options, &f));
	TRY(write_pack(s, &f, what, name, image, options, result, &description));
	if (fdatasync(f.fd) < 0)
		return kage_err_sys(errno, "sync %s", what);
	if (f.sealing && options->remember)
		TRY(kage_keys_remember(s->keys, result->id, &f.sealing->key));
	TRY(publish(s, name, &f, options, &result->number));
	if (f.sealing && options->remember && result->keyframe)
		kage_keys_forget_others(s->keys, result->id);
	if (options->description) {
		kage_description_deinit(options->description);
		*options->description = description;
		description = (struct kage_description){ 0 };
	}
	return NULL;
}

/* How much the pack would have taken is not known before it is compressed; more than its pages it is
 * hardly ever. Takes E. */
static struct kage_err *advise_room(struct kage_err *e, const struct kage_store *s,
				    const struct kage_image *image)
{
	uint64_t bytes = kage_pages_total(image->pages) * KAGE_PAGE_BYTES;
	struct statvfs fs;

	if (fstatvfs(s->fd, &fs) < 0)
		return kage_err_advise(e, "'kage rm' makes room, --store names another store");
	return kage_err_advise(
		e,
		"%llu KiB are free there, the image has %llu KiB before compression; "
		"'kage rm' makes room, --store names another store",
		(unsigned long long)(fs.f_bavail * (fs.f_frsize / 512) / 2),
		(unsigned long long)(bytes / 1024));
}

struct kage_err *kage_store_put(struct kage_store *store, const char *name,
				const struct kage_image *image,
				const struct kage_put_options *options,
				struct kage_put_result *ret_result)
{
	struct kage_put_result result = { 0 };
	struct kage_err *e = kage_store_check_name(name);

	if (!e)
		e = put(store, name, image, options ? options : &(struct kage_put_options){ 0 },
			&result);
	if (e && (kage_err_errno(e) == ENOSPC || kage_err_errno(e) == EDQUOT))
		e = advise_room(e, store, image);
	if (e)
		return kage_err_wrap(e, "store an image of '%s'", name);
	*ret_result = result;
	return NULL;
}

struct kage_err *kage_store_next_number(struct kage_store *store, const char *name,
					uint64_t *ret_number)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	struct kage_err *e = kage_dir_history_open(store, name, &h);

	if (e && kage_err_code(e) == KAGE_NOTFOUND) {
		err_drop(e);
		*ret_number = 1;
		return NULL;
	}
	return e ? e : next_number(&h, ret_number);
}

/* --- when a keyframe is due ------------------------------------------------------------------- */

/* What reading costs, about (bench/history, bench/run): a pack on the way, a page that changed in one; a restore without
 * its pages, a page of a keyframe. */
enum { PACK_NS = 12000, CHANGED_NS = 160, RESTORE_NS = 5000000, PAGE_NS = 3000 };

/* From MANY on a restore may take longer; more than MOST would take long to open where they are not in memory. */
enum { MANY_PACKS = 1000, MOST_PACKS = 4000 };

bool kage_store_wants_keyframe(const struct kage_since_keyframe *since)
{
	uint64_t way = since->n_packs * PACK_NS + since->changed_pages * CHANGED_NS;
	uint64_t keyframe = RESTORE_NS + since->keyframe_pages * PAGE_NS;

	return since->difference_bytes > since->keyframe_bytes || since->n_packs >= MOST_PACKS ||
	       way > (since->n_packs < MANY_PACKS ? keyframe / 2 : keyframe);
}
