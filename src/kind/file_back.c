/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting back (--files=restore): the files that the program had open for writing become what they were
 * at the image. Each goes one of four ways:
 *
 *	REWRITE	 its path still leads to the inode of then: what differs is written in place, so that
 *		 inode number, other names and what programs remember of them (SQLite) stay true
 *	REPLACE	 another file has its path, or another process writes to the one that does: a new file
 *		 takes the path, who has the former one open keeps it
 *	MAKE	 its path leads nowhere: a new file gets it
 *	REMOVE	 a journal begun since the image (see below) goes away
 *
 * Nothing is half. First everything is prepared that can fail for want of room or rights: new files are
 * complete and durable, what will be rewritten is kept as a durable copy (kind/beside.h). Then the steps
 * are done, then the restore goes on, and what was kept goes away when the program lives
 * (kage_files_settle()). An error anywhere before undoes all steps. A kill cannot be undone by us: it
 * leaves some files as of the image, some as they were, at most one a mixture; all that was there is
 * kept, all that was to come is in the image, and restoring again finishes it.
 *
 * Journals. Kage cannot know of files that the program had not open, and leaves them alone, but for
 * one case: next to an SQLite database that is put back, a -journal or -wal that was begun since the
 * image belongs to a later state of the database. SQLite would play it back into the one of the image
 * and destroy it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/ctx.h"
#include "base/file.h"
#include "kind/beside.h"
#include "kind/content.h"
#include "kind/files.h"

/* In the order in which they are done: no journal ever lies beside a database that it is not of. */
enum way { REMOVE, REWRITE, REPLACE, MAKE, N_WAYS };

struct step {
	enum way way;
	const Kage__FileObject *f; /* of a journal: its database */
	char *path;
	struct kage_beside fresh; /* MAKE, REPLACE: the new file */
	int there;                /* REWRITE: the file */
	struct stat st;           /* REWRITE: what it was like */
	int before;               /* REWRITE: the copy of what was there */
	char *kept;               /* the name of what was there; NULL for none */
	bool begun;
};

struct kage_put_back {
	struct step *steps;
	size_t n;
};

/* --- which way ---------------------------------------------------------------------------------- */

/* Numbers of devices may change from boot to boot. */
static bool is_same_boot(const struct kage_restore *r)
{
	const Kage__Source *s = r->image->msg->source;
	_cleanup_free_ char *now = NULL;
	size_t size = 0;

	err_drop(kage_file_slurp(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 256, &now, &size));
	return now && s && s->boot_id && strncmp(now, s->boot_id, strcspn(now, "\n")) == 0;
}

static bool is_inode_of(const struct kage_restore *r, const Kage__FileObject *f,
			const struct stat *st)
{
	return S_ISREG(st->st_mode) && f->ino == st->st_ino &&
	       ((f->dev_major == major(st->st_dev) && f->dev_minor == minor(st->st_dev)) ||
		!is_same_boot(r));
}

static int open_there(const char *path, int flags)
{
	return open(path, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* A lease for reading is given only while nobody has the file open for writing (fcntl(2)). Should
 * somebody open it meanwhile, we get a signal that is ignored. Where leases are not to be had, nobody
 * is seen. */
static bool is_written_elsewhere(const char *path)
{
	_cleanup_fd_ int fd = open_there(path, O_RDONLY);
	bool elsewhere;

	if (fd < 0 || fcntl(fd, F_SETSIG, SIGURG) < 0)
		return false;
	elsewhere = fcntl(fd, F_SETLEASE, F_RDLCK) < 0 && errno == EAGAIN;
	if (!elsewhere)
		fcntl(fd, F_SETLEASE, F_UNLCK);
	return elsewhere;
}

static enum way way_of(const struct kage_restore *r, const Kage__FileObject *f)
{
	struct stat st;

	if (lstat(f->path, &st) < 0)
		return MAKE;
	if (!is_inode_of(r, f, &st))
		return REPLACE;
	/* In place it is the program itself that has it open. */
	return r->in_place || !is_written_elsewhere(f->path) ? REWRITE : REPLACE;
}

static struct kage_err *add(struct kage_put_back *all, enum way way, const Kage__FileObject *f,
			    const char *path)
{
	struct step *steps = reallocarray(all->steps, all->n + 1, sizeof(*steps)), *s;

	if (!steps)
		return kage_err_nomem();
	all->steps = steps;
	s = &steps[all->n];
	*s = (struct step){ .way = way, .f = f, .fresh.fd = -1, .there = -1, .before = -1 };
	s->path = strdup(path);
	if (!s->path)
		return kage_err_nomem();
	all->n++;
	return NULL;
}

bool kage_file_has_old_contents(const Kage__FileObject *f)
{
	return f->written && f->content_space && !f->unlinked && S_ISREG(f->mode);
}

/* Without a hash of all of it (a sparse file of many GiB), contents that may differ count as differing:
 * only what does is written. */
static bool differs(const Kage__FileObject *f, enum kage_file_state state)
{
	return state != KAGE_FILE_SAME && (state != KAGE_FILE_TOUCHED || !f->hash.len);
}

static struct kage_err *is_wanted(const struct kage_restore *r, const Kage__FileObject *f,
				  bool *ret_wanted)
{
	enum kage_file_state state;

	*ret_wanted = false;
	if (!kage_file_has_old_contents(f))
		return NULL;
	TRY(kage_file_compare(r, f, &state));
	if (state == KAGE_FILE_OTHER)
		return kage_err_new(KAGE_CHANGED, "%s is of another type than it was", f->path);
	*ret_wanted = differs(f, state);
	return NULL;
}

/* --- journals ----------------------------------------------------------------------------------- */

static const char *const journals[] = { "-journal", "-wal" };

static const char magic[16] = "SQLite format 3";

/* Now or at the image: a new database has no header yet. */
static struct kage_err *is_database(const struct kage_restore *r, const Kage__FileObject *f,
				    bool *ret_is)
{
	_cleanup_fd_ int fd = open_there(f->path, O_RDONLY);
	char page[KAGE_PAGE_BYTES] = "";

	if (fd >= 0 && pread(fd, page, sizeof(magic), 0) == sizeof(magic) &&
	    memcmp(page, magic, sizeof(magic)) == 0) {
		*ret_is = true;
		return NULL;
	}
	TRY(kage_pages_read(r->image->pages, f->content_space, 0, 1, page));
	*ret_is = memcmp(page, magic, sizeof(magic)) == 0;
	return NULL;
}

static bool is_in_image(const struct kage_restore *r, const char *path)
{
	const Kage__Image *m = r->image->msg;

	for (size_t i = 0; i < m->n_files; i++)
		if (!m->files[i]->unlinked && strcmp(m->files[i]->path, path) == 0)
			return true;
	return false;
}

/* As SQLite sees it: a journal that was played to its end is empty or begins with a zero. */
static bool is_begun_since(const struct kage_restore *r, const char *path)
{
	_cleanup_fd_ int fd = open_there(path, O_RDONLY);
	struct stat st;
	char first = 0;

	return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	       pread(fd, &first, 1, 0) == 1 && first &&
	       !kage_file_is_before_image(r, (int64_t)st.st_ctim.tv_sec * 1000000000 +
						     st.st_ctim.tv_nsec);
}

typedef struct kage_err *journal_fn(void *user, const Kage__FileObject *f, const char *path);

/* Calls FN for each journal that must go away when F is put back. */
static struct kage_err *each_journal(const struct kage_restore *r, const Kage__FileObject *f,
				     journal_fn *fn, void *user)
{
	bool database;

	TRY(is_database(r, f, &database));
	for (size_t i = 0; database && i < ARRAY_SIZE(journals); i++) {
		_cleanup_free_ char *path = NULL;

		if (asprintf(&path, "%s%s", f->path, journals[i]) < 0) {
			path = NULL;
			return kage_err_nomem();
		}
		if (!is_in_image(r, path) && is_begun_since(r, path))
			TRY(fn(user, f, path));
	}
	return NULL;
}

static struct kage_err *add_journal(void *user, const Kage__FileObject *f, const char *path)
{
	return add(user, REMOVE, f, path);
}

/* --- look --------------------------------------------------------------------------------------- */

static struct kage_err *note_journal(void *user, const Kage__FileObject *f, const char *path)
{
	struct kage_restore *r = user;

	(void)f;
	kage_obstacle(r->obstacles, false, "none is needed if nothing but the program uses it",
		      path,
		      "it was begun since the image was taken; it is removed, as SQLite would play "
		      "it back into the database");
	return NULL;
}

struct kage_err *kage_file_back_look(struct kage_restore *r, const Kage__FileObject *f,
				     enum kage_file_state state)
{
	struct stat st;

	if (!differs(f, state))
		return NULL;
	TRY(each_journal(r, f, note_journal, r));
	if (lstat(f->path, &st) < 0)
		return NULL;
	if (!is_inode_of(r, f, &st))
		kage_obstacle(r->obstacles, false,
			      "move the file of then back to that name, if there still is one",
			      f->path,
			      "it is not the file of then but another one (inode %llu, was %llu), "
			      "which is replaced; a program that looks may refuse it",
			      (unsigned long long)st.st_ino, (unsigned long long)f->ino);
	else if (is_written_elsewhere(f->path))
		kage_obstacle(r->obstacles, false, "end that process first if they are to share it",
			      f->path,
			      "another process has it open for writing and keeps it; the program "
			      "gets a new file of that name");
	return NULL;
}

/* --- prepare ------------------------------------------------------------------------------------ */

static struct kage_err *prepare_fresh(struct kage_restore *r, struct step *s)
{
	TRY(kage_beside_make(s->path, &s->fresh));
	TRY(kage_file_fill(r, s->f, s->fresh.fd));
	if (fsync(s->fresh.fd) < 0)
		return kage_err_sys(errno, "make the contents of %s durable", s->path);
	return s->way == REPLACE ? kage_beside_keep(s->path, &s->kept) : NULL;
}

/* A file that is being executed, or that we may not write, can still be replaced. */
static struct kage_err *prepare_rewrite(struct kage_restore *r, struct step *s)
{
	s->there = open_there(s->path, O_RDWR);
	if (s->there < 0 || fstat(s->there, &s->st) < 0 || !is_inode_of(r, s->f, &s->st)) {
		s->way = REPLACE;
		return prepare_fresh(r, s);
	}
	return kage_beside_keep_copy(s->path, s->there, &s->kept, &s->before);
}

static struct kage_err *prepare(struct kage_restore *r, struct step *s)
{
	if (s->way == REMOVE)
		return NULL;
	return s->way == REWRITE ? prepare_rewrite(r, s) : prepare_fresh(r, s);
}

/* --- do, undo ----------------------------------------------------------------------------------- */

static struct kage_err *rewrite(struct kage_restore *r, struct step *s)
{
	const Kage__Space *space;

	TRY(kage_file_space(r, s->f, &space));
	TRY(kage_content_refill(r->image->pages, space, s->there));
	TRY(kage_file_dress(s->f, s->there));
	if (fsync(s->there) < 0)
		return kage_err_sys(errno, "make its contents durable");
	return NULL;
}

static struct kage_err *carry_out(struct kage_restore *r, struct step *s)
{
	s->begun = true;
	if (s->way == REMOVE)
		return kage_beside_move(s->path, &s->kept);
	if (s->way == REWRITE)
		return rewrite(r, s);
	return kage_beside_take_place(&s->fresh, s->path);
}

/* Its rights are ours to give back where they were ours to change. */
static struct kage_err *rewrite_back(const struct step *s)
{
	const struct timespec times[2] = { s->st.st_atim, s->st.st_mtim };

	TRY(kage_content_clone(s->before, s->there));
	if ((fchown(s->there, s->st.st_uid, s->st.st_gid) < 0 ||
	     fchmod(s->there, s->st.st_mode & 07777) < 0 || futimens(s->there, times) < 0) &&
	    errno != EPERM)
		return kage_err_sys(errno, "give %s its rights back", s->path);
	if (fsync(s->there) < 0)
		return kage_err_sys(errno, "make the contents of %s durable", s->path);
	if (s->kept)
		unlink(s->kept);
	return NULL;
}

static struct kage_err *undo(struct step *s)
{
	bool failed = false;

	if (!s->begun) {
		if (s->kept)
			unlink(s->kept);
		return NULL;
	}
	if (s->way == REWRITE)
		return rewrite_back(s);
	/* Renaming a name over another one of the same file does nothing, and succeeds. */
	if (s->kept)
		failed = rename(s->kept, s->path) < 0 || (unlink(s->kept) < 0 && errno != ENOENT);
	else if (s->way == MAKE && s->fresh.fd >= 0 && !s->fresh.named)
		failed = unlink(s->path) < 0 && errno != ENOENT;
	return failed ? kage_err_sys(errno, "put %s back once more", s->path) : NULL;
}

/* --- all of them -------------------------------------------------------------------------------- */

static struct kage_err *collect(struct kage_restore *r, struct kage_put_back *all)
{
	const Kage__Image *m = r->image->msg;
	bool wanted;

	for (size_t i = 0; i < m->n_files; i++) {
		const Kage__FileObject *f = m->files[i];

		TRY(is_wanted(r, f, &wanted));
		if (!wanted)
			continue;
		TRY(add(all, way_of(r, f), f, f->path));
		TRY(each_journal(r, f, add_journal, all));
	}
	return NULL;
}

/* Makes the names beside all files durable, each directory once. */
static struct kage_err *sync_names(const struct kage_put_back *all)
{
	_cleanup_free_ char *last = NULL;

	for (size_t i = 0; i < all->n; i++) {
		_cleanup_free_ char *dir = NULL;

		TRY(kage_beside_directory(all->steps[i].path, &dir));
		if (last && strcmp(last, dir) == 0)
			continue;
		TRY(kage_beside_sync(dir));
		free(last);
		last = take_ptr(dir);
	}
	return NULL;
}

static struct kage_err *carry_out_all(struct kage_restore *r, const struct kage_put_back *all,
				      enum way way)
{
	bool any = false;

	for (size_t i = 0; i < all->n; i++) {
		struct step *s = &all->steps[i];

		if (s->way != way)
			continue;
		any = true;
		TRY(kage_ctx_poll(r->ctx));
		TRY_WRAP(carry_out(r, s), "put back %s", s->path);
	}
	return any && way != REWRITE ? sync_names(all) : NULL;
}

struct kage_err *kage_files_put_back(struct kage_restore *r)
{
	struct kage_put_back *all;

	if (r->put_back || r->options->files != KAGE_FILES_RESTORE)
		return NULL;
	all = r->put_back = calloc(1, sizeof(*all));
	if (!all)
		return kage_err_nomem();
	TRY(collect(r, all));
	for (size_t i = 0; i < all->n; i++)
		TRY_WRAP(prepare(r, &all->steps[i]), "put back %s", all->steps[i].path);
	TRY(sync_names(all));
	for (enum way way = 0; way < N_WAYS; way++)
		TRY(carry_out_all(r, all, way));
	return NULL;
}

/* Also what a restore left behind that was killed at its very end. */
static void forget_all(const struct kage_restore *r)
{
	const Kage__Image *m = r->image->msg;
	char path[4096 + 16];

	for (size_t i = 0; i < m->n_files; i++) {
		if (!kage_file_has_old_contents(m->files[i]))
			continue;
		kage_beside_forget(m->files[i]->path);
		for (size_t k = 0; k < ARRAY_SIZE(journals); k++) {
			snprintf(path, sizeof(path), "%s%s", m->files[i]->path, journals[k]);
			kage_beside_forget(path);
		}
	}
}

static struct kage_err *undo_all(struct kage_put_back *all, struct kage_err *e)
{
	for (int way = N_WAYS - 1; way >= 0; way--)
		for (size_t i = all->n; i-- > 0;) {
			struct step *s = &all->steps[i];
			struct kage_err *second = (int)s->way == way ? undo(s) : NULL;

			if (second && s->kept)
				e = kage_err_wrap(e, "what was in %s is in %s now (%s)", s->path,
						  s->kept, kage_err_message(second));
			err_drop(second);
		}
	return e;
}

static void destroy(struct kage_put_back *all)
{
	for (size_t i = 0; i < all->n; i++) {
		struct step *s = &all->steps[i];

		kage_beside_deinit(&s->fresh);
		close_fd(s->there);
		close_fd(s->before);
		free(s->path);
		free(s->kept);
	}
	free(all->steps);
	free(all);
}

struct kage_err *kage_files_settle(struct kage_restore *r, struct kage_err *e)
{
	if (!r->put_back)
		return e;
	if (e)
		e = undo_all(r->put_back, e);
	else
		forget_all(r);
	destroy(r->put_back);
	r->put_back = NULL;
	return e;
}
