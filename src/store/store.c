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

/* Makes PATH and what is missing above it, each closed to others. */
static struct kage_err *make_path(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return kage_err_nomem();
	for (char *at = copy + 1; *copy; at++) {
		char c = *at;

		if (c != '/' && c != '\0')
			continue;
		*at = '\0';
		if (mkdir(copy, 0700) < 0 && errno != EEXIST && (c == '\0' || errno != EROFS))
			return kage_err_sys(errno, "make the store %s", path);
		*at = c;
		if (c == '\0')
			break;
	}
	return NULL;
}

static struct kage_err *open_store(struct kage_store *s, unsigned flags)
{
	s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->fd < 0 && errno == ENOENT && (flags & KAGE_STORE_CREATE)) {
		TRY(make_path(s->path));
		s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (s->fd >= 0)
		return NULL;
	if (errno == ENOENT)
		return kage_err_new(KAGE_NOTFOUND,
				    "no store at %s; 'kage snap' makes one, --store names "
				    "another",
				    s->path);
	return kage_err_sys(errno, "open the store %s", s->path);
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
	if (path)
		s->path = strdup(path);
	else
		e = default_path(&s->path);
	if (!e)
		e = s->path ? open_store(s, flags) : kage_err_nomem();
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
	free(store->path);
	free(store);
}

const char *kage_store_path(const struct kage_store *store)
{
	return store->path;
}
