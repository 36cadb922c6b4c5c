/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who could have written a file: whoever may write to it, or may put another in its place by writing
 * to a directory on the way to it. The way is walked as the kernel walks it, symbolic links
 * included, one component at a time on open directories, so that what was judged is what is next.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "store/store.h"

enum { MAX_LINKS = 40 };

struct walk {
	const char *path; /* what is judged, for messages */
	int dir;          /* where we are: O_PATH */
	struct stat dir_st;
	char *rest; /* components still to go */
	unsigned n_links;
	bool done;
};

static bool owner_trusted(const struct stat *st)
{
	return st->st_uid == 0 || st->st_uid == geteuid();
}

static struct kage_err *untrusted(const struct walk *w, const char *what, const char *why)
{
	return kage_err_new(KAGE_PERM, "%s is not trusted: %s %s", w->path, what, why);
}

/* Judges the directory W stands in and its entry, as ST tells about that. */
static struct kage_err *judge_entry(const struct walk *w, const char *name, const struct stat *st)
{
	bool others_write = w->dir_st.st_mode & (S_IWGRP | S_IWOTH);

	if (!owner_trusted(&w->dir_st))
		return untrusted(w, name, "stands in a directory that belongs to another user");
	/* With the sticky bit only the owner of an entry can replace it. */
	if (others_write && !((w->dir_st.st_mode & S_ISVTX) && owner_trusted(st)))
		return untrusted(w, name, "stands in a directory to which others may write");
	return NULL;
}

static struct kage_err *judge_file(const struct walk *w, const char *name, const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return untrusted(w, name, "is no regular file");
	if (!owner_trusted(st))
		return untrusted(w, name, "belongs to another user");
	if (st->st_mode & (S_IWGRP | S_IWOTH))
		return untrusted(w, name, "may be written by others");
	return NULL;
}

/* Goes to the directory NAME of the one where W stands; NULL means the root. */
static struct kage_err *go_to(struct walk *w, const char *name)
{
	int fd = name ? openat(w->dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
		      : open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return kage_err_sys(errno, "open %s on the way to %s", name ? name : "/", w->path);
	close_fd(w->dir);
	w->dir = fd;
	if (fstat(fd, &w->dir_st) < 0)
		return kage_err_sys(errno, "stat %s on the way to %s", name ? name : "/", w->path);
	return NULL;
}

/* Replaces the link NAME by where it leads. */
static struct kage_err *follow(struct walk *w, const char *name)
{
	_cleanup_free_ char *target = NULL;
	char *rest;

	if (++w->n_links > MAX_LINKS)
		return kage_err_sys(ELOOP, "follow %s", w->path);
	TRY(kage_file_readlink(w->dir, name, &target));
	if (asprintf(&rest, "%s/%s", target, w->rest) < 0)
		return kage_err_nomem();
	free(w->rest);
	w->rest = rest;
	return rest[0] == '/' ? go_to(w, NULL) : NULL;
}

/* Takes the next component off the rest; an empty one when none is left. */
static void next_name(struct walk *w, char name[NAME_MAX + 1])
{
	char *at = w->rest + strspn(w->rest, "/");
	size_t n = strcspn(at, "/");

	memcpy(name, at, n <= NAME_MAX ? n : NAME_MAX);
	name[n <= NAME_MAX ? n : NAME_MAX] = '\0';
	memmove(w->rest, at + n, strlen(at + n) + 1);
}

static struct kage_err *step(struct walk *w)
{
	char name[NAME_MAX + 1];
	struct stat st;

	next_name(w, name);
	if (!*name)
		return kage_err_new(KAGE_INVALID, "%s is a directory", w->path);
	if (fstatat(w->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return kage_err_sys(errno, "stat %s on the way to %s", name, w->path);
	if (strcmp(name, "..") == 0)
		return go_to(w, name);
	TRY(judge_entry(w, name, &st));
	if (S_ISLNK(st.st_mode))
		return follow(w, name);
	if (S_ISDIR(st.st_mode))
		return go_to(w, name);
	w->done = true;
	return judge_file(w, name, &st);
}

struct kage_err *kage_store_check_trust(const char *path)
{
	struct walk w = { .path = path, .dir = -1 };
	_cleanup_free_ char *cwd = path[0] == '/' ? strdup("") : getcwd(NULL, 0);
	struct kage_err *e = NULL;

	if (!cwd)
		return kage_err_sys(errno, "find the working directory");
	if (asprintf(&w.rest, "%s/%s", cwd, path) < 0)
		return kage_err_nomem();
	e = go_to(&w, NULL);
	while (!e && !w.done)
		e = step(&w);
	free(w.rest);
	close_fd(w.dir);
	return e;
}
