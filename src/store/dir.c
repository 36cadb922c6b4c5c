/* SPDX-License-Identifier: Apache-2.0 */
#include "store/dir.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "store/removal.h"
#include "store/suggest.h"
#include "store/tags.h"

static const char lock_name[] = ".lock";
static const uint64_t max_number = 9999999999; /* ten digits */

/* --- names ------------------------------------------------------------------------------------ */

struct kage_err *kage_store_check_name(const char *name)
{
	size_t n = strlen(name);

	if (n == 0)
		return kage_err_new(KAGE_INVALID, "the name of a history cannot be empty");
	if (n > KAGE_NAME_BYTES - 1)
		return kage_err_new(KAGE_INVALID,
				    "'%.20s...' is too long for a history: %zu characters, "
				    "63 at most",
				    name, n);
	if (!isascii(name[0]) || !isalnum((unsigned char)name[0]))
		return kage_err_new(KAGE_INVALID,
				    "'%s' cannot be a history: names begin with a letter or "
				    "digit",
				    name);
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)name[i];

		if (!isascii(c) || !(isalnum(c) || strchr("._+-", c)))
			return kage_err_new(KAGE_INVALID,
					    "'%s' cannot be a history: only letters, digits "
					    "and . _ + - may be in a name",
					    name);
	}
	return NULL;
}

void kage_store_default_name(const char *comm, char name[KAGE_NAME_BYTES])
{
	size_t n = 0;

	for (const char *p = comm; *p && n < KAGE_NAME_BYTES - 1; p++) {
		unsigned char c = (unsigned char)*p;
		bool letter = isascii(c) && isalnum(c), fine = letter || strchr("._+-", c);

		if (n > 0 || letter)
			name[n++] = fine ? *p : '-';
	}
	name[n] = '\0';
	if (!n)
		strcpy(name, "image");
}

void kage_dir_pack_name(uint64_t number, char name[PACK_NAME_BYTES])
{
	snprintf(name, PACK_NAME_BYTES, "%010llu.kage", (unsigned long long)number);
}

uint64_t kage_dir_pack_number(const char *name)
{
	uint64_t number = 0;

	if (strlen(name) != 15)
		return 0;
	for (int i = 0; i < 10; i++) {
		if (name[i] < '0' || name[i] > '9')
			return 0;
		number = number * 10 + (uint64_t)(name[i] - '0');
	}
	return strcmp(name + 10, ".kage") == 0 ? number : 0;
}

char *kage_dir_pack_path(const struct history *h, uint64_t number)
{
	char name[PACK_NAME_BYTES], *path;

	kage_dir_pack_name(number, name);
	return asprintf(&path, "%s/%s/%s", h->store->path, h->name, name) < 0 ? NULL : path;
}

const char *kage_dir_without_path(const char *message, const char *path)
{
	static const char begin[] = "pack ";
	const char *at = message;
	size_t n = path ? strlen(path) : 0;

	if (!n || strncmp(at, begin, strlen(begin)) != 0)
		return message;
	at += strlen(begin);
	if (strncmp(at, path, n) != 0 || strncmp(at + n, ": ", 2) != 0)
		return message;
	return at + n + 2;
}

struct kage_err *kage_dir_cannot_open(int num, int dirfd, const char *name, const char *what,
				      const char *path)
{
	struct kage_err *e = kage_err_sys(num, "%s %s", what, path);
	struct stat st;

	if (kage_err_code(e) != KAGE_PERM)
		return e;
	if (fstatat(dirfd, name, &st, 0) < 0 || st.st_uid == geteuid())
		return kage_err_advise(e, "'ls -ld' tells who may, --store names another store");
	if (st.st_uid == 0)
		return kage_err_advise(
			e, "it belongs to root: use kage as root, or another store with --store");
	return kage_err_advise(
		e, "it belongs to user %u: use kage as that user, or another store with --store",
		st.st_uid);
}

/* --- directories ------------------------------------------------------------------------------ */

static struct kage_err *open_dir(int dirfd, const char *path, DIR **ret_dir)
{
	*ret_dir = kage_file_opendir(dirfd, path);
	return *ret_dir ? NULL : kage_err_sys(errno, "read the directory");
}

struct kage_err *kage_dir_still_there(const struct kage_store *store)
{
	struct stat here, named;

	if (fstat(store->fd, &here) == 0 && stat(store->absolute, &named) == 0 &&
	    here.st_dev == named.st_dev && here.st_ino == named.st_ino)
		return NULL;
	return kage_err_new(KAGE_NOTFOUND,
			    "the store %s is not there any more: it was moved or removed, or its "
			    "disk unmounted",
			    store->path);
}

static int compare_numbers(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

struct kage_err *kage_dir_all_numbers(const struct history *h, uint64_t **ret_numbers,
				      size_t *ret_n)
{
	_cleanup_free_ uint64_t *numbers = NULL;
	_cleanup_dir_ DIR *dir = NULL;
	const struct dirent *d;
	size_t n = 0;

	TRY_WRAP(open_dir(h->fd, ".", &dir), "history %s/%s", h->store->path, h->name);
	while ((d = readdir(dir))) {
		uint64_t number = kage_dir_pack_number(d->d_name);

		if (!number)
			continue;
		if ((n & (n - 1)) == 0) {
			uint64_t *grown = realloc(numbers, (n ? n * 2 : 1) * sizeof(*numbers));

			if (!grown)
				return kage_err_nomem();
			numbers = grown;
		}
		numbers[n++] = number;
	}
	if (n > 1)
		qsort(numbers, n, sizeof(*numbers), compare_numbers);
	*ret_numbers = take_ptr(numbers);
	*ret_n = n;
	return NULL;
}

struct kage_err *kage_dir_numbers(const struct history *h, uint64_t **ret_numbers, size_t *ret_n)
{
	/* Before the names are read: a removal that ends in between has taken its packs away. */
	struct removal going = kage_removal_read(h);
	uint64_t *numbers;
	size_t all, n = 0;

	TRY(kage_dir_all_numbers(h, &numbers, &all));
	for (size_t i = 0; i < all; i++)
		if (numbers[i] < going.first || numbers[i] > going.last)
			numbers[n++] = numbers[i];
	*ret_numbers = numbers;
	*ret_n = n;
	return NULL;
}

void kage_dir_free_names(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_history(int dirfd, const struct dirent *d)
{
	struct stat st;
	struct kage_err *e;

	if (d->d_name[0] == '.')
		return false;
	e = kage_store_check_name(d->d_name);
	if (e) {
		err_drop(e);
		return false;
	}
	if (d->d_type != DT_UNKNOWN)
		return d->d_type == DT_DIR;
	return fstatat(dirfd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

struct kage_err *kage_dir_names(const struct kage_store *store, char ***ret_names, size_t *ret_n)
{
	_cleanup_dir_ DIR *dir = NULL;
	const struct dirent *d;
	char **names = NULL;
	size_t n = 0;

	TRY_WRAP(open_dir(store->fd, ".", &dir), "store %s", store->path);
	while ((d = readdir(dir))) {
		char *copy;

		if (!is_history(store->fd, d))
			continue;
		copy = strdup(d->d_name);
		if (copy && (n & (n - 1)) == 0) {
			char **grown = realloc(names, (n ? n * 2 : 1) * sizeof(*names));

			if (grown)
				names = grown;
			else
				free(take_ptr(copy));
		}
		if (!copy) {
			kage_dir_free_names(names, n);
			return kage_err_nomem();
		}
		names[n++] = copy;
	}
	if (n > 1)
		qsort(names, n, sizeof(*names), compare_names);
	*ret_names = names;
	*ret_n = n;
	return NULL;
}

/* --- histories -------------------------------------------------------------------------------- */

void kage_dir_history_close(struct history *h)
{
	close_fd(h->lock_fd); /* which gives the lock back */
	close_fd(h->fd);
	*h = HISTORY_INIT;
}

/* "no history 'redsi' in /var/lib/kage; there are: redis, python3" */
static struct kage_err *no_history(const struct kage_store *store, const char *name)
{
	_cleanup_free_ char *known = NULL;
	char **names = NULL;
	struct kage_err *e;
	size_t n = 0;

	err_drop(kage_dir_names(store, &names, &n));
	if (n)
		known = kage_suggest(name, (const char *const *)names, n);
	if (known)
		e = kage_err_new(KAGE_NOTFOUND, "no history '%s' in %s; there %s: %s", name,
				 store->path, n == 1 ? "is" : "are", known);
	else
		e = kage_err_new(KAGE_NOTFOUND, "no history '%s' in %s, which holds no images yet",
				 name, store->path);
	kage_dir_free_names(names, n);
	return e;
}

static struct kage_err *open_history(const struct kage_store *store, const char *name,
				     struct history *h)
{
	h->store = store;
	snprintf(h->name, sizeof(h->name), "%s", name);
	h->fd = openat(store->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (h->fd >= 0)
		return NULL;
	if (errno == ENOENT)
		return no_history(store, name);
	if (errno == EACCES) {
		_cleanup_free_ char *path = NULL;

		if (asprintf(&path, "%s/%s", store->path, name) < 0) {
			path = NULL;
			return kage_err_nomem();
		}
		return kage_dir_cannot_open(EACCES, store->fd, name, "open the history", path);
	}
	return kage_err_sys(errno, "open the history %s/%s", store->path, name);
}

struct kage_err *kage_dir_history_open(const struct kage_store *store, const char *name,
				       struct history *ret_history)
{
	struct history h = HISTORY_INIT;

	TRY(kage_store_check_name(name));
	TRY(open_history(store, name, &h));
	*ret_history = h;
	return NULL;
}

static struct kage_err *wait_for_lock(const struct history *h, int operation)
{
	while (flock(h->lock_fd, operation) < 0) {
		if (errno != EINTR)
			return kage_err_sys(errno, "lock %s/%s", h->store->path, h->name);
		TRY(kage_ctx_poll(h->store->ctx));
	}
	return NULL;
}

static struct kage_err *take_lock(struct history *h)
{
	h->lock_fd = openat(h->fd, lock_name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (h->lock_fd < 0)
		return kage_err_sys(errno, "open the lock of %s/%s", h->store->path, h->name);
	return wait_for_lock(h, LOCK_EX);
}

/* Whether what was locked still has its name: it may have been removed while we waited. */
static bool still_there(const struct history *h)
{
	struct stat here, named;

	return fstat(h->fd, &here) == 0 &&
	       fstatat(h->store->fd, h->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       here.st_dev == named.st_dev && here.st_ino == named.st_ino;
}

/* One try; *ret_history stays closed when the history was removed under our hands. */
static struct kage_err *try_lock(const struct kage_store *store, const char *name, bool create,
				 struct history *ret_history)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	bool made = create && mkdirat(store->fd, name, 0700) == 0;
	struct kage_err *e;

	if (create && !made && errno != EEXIST)
		return kage_err_sys(errno, "make the history %s/%s", store->path, name);
	e = open_history(store, name, &h);
	if (!e)
		e = take_lock(&h);
	if (e && (kage_err_errno(e) == ENOENT || (create && kage_err_code(e) == KAGE_NOTFOUND))) {
		err_drop(e);
		return NULL;
	}
	if (e && made)
		unlinkat(store->fd, name,
			 AT_REMOVEDIR); /* which fails if there is anything in it */
	if (!e && still_there(&h)) {
		*ret_history = h;
		h = HISTORY_INIT;
	}
	return e;
}

struct kage_err *kage_dir_history_lock(const struct kage_store *store, const char *name,
				       bool create, struct history *ret_history)
{
	struct history h = HISTORY_INIT;
	struct kage_err *e;

	TRY(kage_store_check_name(name));
	while (h.fd < 0)
		TRY(try_lock(store, name, create, &h));
	e = kage_removal_finish(&h);
	if (e)
		kage_dir_history_close(&h);
	else
		*ret_history = h;
	return e;
}

struct kage_err *kage_dir_history_share(const struct kage_store *store, const char *name,
					struct history *ret_history)
{
	_cleanup_history_ struct history h = HISTORY_INIT;

	TRY(kage_dir_history_open(store, name, &h));
	h.lock_fd = openat(h.fd, lock_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (h.lock_fd >= 0)
		TRY(wait_for_lock(&h, LOCK_SH));
	*ret_history = h;
	h = HISTORY_INIT;
	return NULL;
}

void kage_dir_history_drop_empty(const struct history *h)
{
	_cleanup_free_ uint64_t *numbers = NULL;
	struct kage_err *e;
	size_t n = 1;

	e = kage_dir_numbers(h, &numbers, &n);
	if (!e && n == 0)
		kage_tags_drop_dangling(h);
	if (!e && n == 0 && unlinkat(h->fd, lock_name, 0) == 0)
		unlinkat(h->store->fd, h->name, AT_REMOVEDIR); /* which fails if not empty */
	err_drop(e);
}

/* --- packs ------------------------------------------------------------------------------------ */

struct kage_err *kage_dir_no_image(const struct history *h, uint64_t number)
{
	_cleanup_free_ uint64_t *numbers = NULL;
	size_t n;

	TRY(kage_dir_numbers(h, &numbers, &n));
	if (n == 0)
		return kage_err_new(KAGE_NOTFOUND, "no image %s@%llu: the history is empty",
				    h->name, (unsigned long long)number);
	if (n == 1)
		return kage_err_new(KAGE_NOTFOUND, "no image %s@%llu; the only one is %s@%llu",
				    h->name, (unsigned long long)number, h->name,
				    (unsigned long long)numbers[0]);
	return kage_err_new(KAGE_NOTFOUND, "no image %s@%llu; its %zu images are from %llu to %llu",
			    h->name, (unsigned long long)number, n, (unsigned long long)numbers[0],
			    (unsigned long long)numbers[n - 1]);
}

static struct kage_err *cannot_open_pack(const struct history *h, int num, uint64_t number)
{
	_cleanup_free_ char *path = kage_dir_pack_path(h, number);
	char name[PACK_NAME_BYTES];

	kage_dir_pack_name(number, name);
	return path ? kage_dir_cannot_open(num, h->fd, name, "pack", path) : kage_err_nomem();
}

struct kage_err *kage_dir_pack_open(const struct history *h, uint64_t number, int *ret_fd)
{
	char name[PACK_NAME_BYTES];
	int fd;

	if (number == 0 || number > max_number)
		return kage_dir_no_image(h, number);
	kage_dir_pack_name(number, name);
	/* O_NONBLOCK: should somebody have put a FIFO there. */
	fd = openat(h->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return kage_dir_no_image(h, number);
	if (fd < 0)
		return cannot_open_pack(h, errno, number);
	*ret_fd = fd;
	return NULL;
}
