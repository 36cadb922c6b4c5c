/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a store. */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "store/dir.h"

/* The path that is meant by default, fresh. */
static struct kage_err *default_path(char **ret_path)
{
	const char *home = getenv("HOME"), *data = getenv("XDG_DATA_HOME"),
		   *store = getenv("KAGE_STORE");
	int r = 0;

	if (store && *store)
		*ret_path = strdup(store);
	else if (geteuid() == 0)
		*ret_path = strdup("/var/lib/kage");
	else if (data && data[0] == '/')
		r = asprintf(ret_path, "%s/kage", data);
	else if (home && home[0] == '/')
		r = asprintf(ret_path, "%s/.local/share/kage", home);
	else
		return kage_err_new(KAGE_INVALID,
				    "no place for a store: neither KAGE_STORE, XDG_DATA_HOME "
				    "nor HOME is set; name one with --store");
	return r < 0 || !*ret_path ? kage_err_nomem() : NULL;
}

/* Makes the path of S and what is missing above it, each closed to others. */
static struct kage_err *make_path(struct kage_store *s)
{
	_cleanup_free_ char *copy = strdup(s->path);
	bool made;

	if (!copy)
		return kage_err_nomem();
	for (char *at = copy + 1; *copy; at++) {
		char c = *at;

		if (c != '/' && c != '\0')
			continue;
		*at = '\0';
		made = mkdir(copy, 0700) == 0;
		if (!made && errno != EEXIST && (c == '\0' || errno != EROFS))
			return kage_err_advise(kage_err_sys(errno, "make the store %s", s->path),
					       "--store names another");
		if (made && !s->made)
			s->made = (size_t)(at - copy);
		*at = c;
		if (c == '\0')
			break;
	}
	return NULL;
}

/* Removes those directories that we made and in which nothing came to be: a capture that failed leaves
 * nothing. rmdir(2) spares whatever is not empty. */
static void unmake_path(struct kage_store *s)
{
	for (size_t end = strlen(s->path); s->made && end >= s->made; end--) {
		char c = s->path[end];

		if (c != '/' && c != '\0')
			continue;
		s->path[end] = '\0';
		rmdir(s->path);
		s->path[end] = c;
	}
}

static struct kage_err *open_store(struct kage_store *s, unsigned flags)
{
	s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->fd < 0 && errno == ENOENT && (flags & KAGE_STORE_CREATE)) {
		TRY(make_path(s));
		s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (s->fd >= 0)
		return NULL;
	if (errno == ENOENT)
		return kage_err_new(KAGE_NOTFOUND,
				    "no store at %s; 'kage snap' makes one, --store names "
				    "another",
				    s->path);
	return kage_dir_cannot_open(errno, AT_FDCWD, s->path, "open the store", s->path);
}

struct kage_err *kage_store_open(struct kage_ctx *ctx, const char *path, unsigned flags,
				 struct kage_store **ret_store)
{
	struct kage_store *s = calloc(1, sizeof(*s));
	struct kage_err *e = NULL;

	if (!s)
		return kage_err_nomem();
	s->ctx = ctx;
	s->fd = -1;
	e = kage_keys_create(&s->keys);
	if (!e && path)
		s->path = strdup(path);
	else if (!e)
		e = default_path(&s->path);
	if (!e)
		e = s->path ? open_store(s, flags) : kage_err_nomem();
	if (!e && !(s->absolute = realpath(s->path, NULL)))
		e = kage_err_sys(errno, "open the store %s", s->path);
	if (e) {
		kage_store_close(s);
		return e;
	}
	*ret_store = s;
	return NULL;
}

void kage_store_close(struct kage_store *store)
{
	if (!store)
		return;
	close_fd(store->fd);
	if (store->path)
		unmake_path(store);
	kage_keys_release(store->keys);
	free(store->path);
	free(store->absolute);
	free(store);
}

struct kage_err *kage_store_set_key(struct kage_store *store, const char *path)
{
	struct kage_err *e = kage_keys_use_file(store->keys, path);

	/* Not to be taken for a store that is not there. */
	return e && kage_err_code(e) == KAGE_NOTFOUND ? kage_err_recode(e, KAGE_SYS) : e;
}

void kage_store_share_keys(struct kage_store *store, const struct kage_store *from)
{
	struct kage_keys *own = store->keys;

	store->keys = kage_keys_share(from->keys);
	kage_keys_release(own);
}

const char *kage_store_path(const struct kage_store *store)
{
	return store->path;
}
