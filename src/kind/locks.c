/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File locks: flock(2), POSIX and OFD locks (fcntl(2)). fdinfo of a descriptor lists those that were
 * taken through it. All are taken again by the process itself, once its descriptors are in place: a
 * POSIX lock belongs to who takes it and goes with any close of the file, the others to the
 * description. No call waits: a lock that somebody else has is an obstacle, found in /proc/locks.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/fds.h"
#include "kind/obstacles.h"
#include "sys/text.h"

enum { LOCKS_MAX_BYTES = 64 << 20 };

/* A line of /proc/locks, or of fdinfo behind "lock:\t". */
struct line {
	Kage__FileLock__Kind kind; /* NONE for leases and the like */
	bool exclusive, waits;
	uint64_t pid, major, minor, ino, start, end;
};

static bool word(const char **at, const char *w)
{
	size_t n = strlen(w);

	*at += strspn(*at, " \t");
	if (strncmp(*at, w, n) != 0 || (*at)[n] != ' ')
		return false;
	*at += n;
	return true;
}

static bool number(const char **at, int base, uint64_t *ret)
{
	*at += strspn(*at, " \t");
	return kage_text_number(at, base, ret);
}

static bool parse_kind(const char **p, struct line *l)
{
	static const struct {
		const char *name;
		Kage__FileLock__Kind kind;
	} kinds[] = {
		{ "FLOCK", KAGE__FILE_LOCK__KIND__FLOCK },
		{ "POSIX", KAGE__FILE_LOCK__KIND__POSIX },
		{ "OFDLCK", KAGE__FILE_LOCK__KIND__OFD },
		{ "LEASE", KAGE__FILE_LOCK__KIND__NONE },
		{ "DELEG", KAGE__FILE_LOCK__KIND__NONE },
		{ "ACCESS", KAGE__FILE_LOCK__KIND__NONE },
	};

	l->waits = word(p, "->");
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!word(p, kinds[i].name))
			continue;
		l->kind = kinds[i].kind;
		return true;
	}
	return false;
}

/* "1: POSIX  ADVISORY  WRITE 4242 fe:00:123456 0 EOF"; an OFD lock has -1 for a process. */
static bool parse(const char *p, struct line *l)
{
	uint64_t id;

	*l = (struct line){ .kind = KAGE__FILE_LOCK__KIND__NONE };
	if (!number(&p, 10, &id) || !kage_text_char(&p, ':') || !parse_kind(&p, l))
		return false;
	if (l->kind == KAGE__FILE_LOCK__KIND__NONE)
		return true;
	p += strspn(p, " ");
	p += strcspn(p, " \n"); /* ADVISORY */
	l->exclusive = word(&p, "WRITE");
	if (!l->exclusive && !word(&p, "READ"))
		return false;
	p += strspn(p, " ");
	if (!kage_text_char(&p, '-'))
		l->pid = 0;
	if (!number(&p, 10, &l->pid) || !number(&p, 16, &l->major) || !kage_text_char(&p, ':') ||
	    !number(&p, 16, &l->minor) || !kage_text_char(&p, ':') || !number(&p, 10, &l->ino) ||
	    !number(&p, 10, &l->start))
		return false;
	p += strspn(p, " ");
	l->end = UINT64_MAX;
	return strncmp(p, "EOF", 3) == 0 || (number(&p, 10, &l->end) && l->start <= l->end);
}

/* --- capture ------------------------------------------------------------------------------------ */

/* A lock of a description shows in all of its descriptors. */
static bool is_known(const struct kage_capture *c, const struct kage_fd_seen *fd,
		     const struct line *l)
{
	const Kage__Process *p = c->process;

	for (size_t i = 0; i < p->n_locks; i++) {
		const Kage__FileLock *k = p->locks[i];

		if (k->kind != l->kind || k->start != l->start || k->end != l->end)
			continue;
		for (size_t n = 0; n < c->n_fds; n++)
			if ((uint32_t)c->fds[n].fd == k->fd &&
			    c->fds[n].description == fd->description)
				return true;
	}
	return false;
}

static struct kage_err *capture_line(struct kage_capture *c, const struct kage_fd_seen *fd,
				     const char *text)
{
	Kage__FileLock *m;
	struct line l;

	if (!parse(text, &l))
		return kage_err_new(KAGE_CORRUPT, "a lock of fd %d is not understood: %.80s",
				    fd->fd, text);
	if (l.kind == KAGE__FILE_LOCK__KIND__NONE || l.waits || is_known(c, fd, &l))
		return NULL;
	m = msg_append(&c->image->arena, c->process, locks, Kage__FileLock, kage__file_lock__init);
	if (!m)
		return kage_err_nomem();
	m->kind = l.kind;
	m->fd = (uint32_t)fd->fd;
	m->exclusive = l.exclusive;
	m->start = l.start;
	m->end = l.end;
	return NULL;
}

static struct kage_err *capture(struct kage_capture *c)
{
	for (size_t i = 0; i < c->n_fds; i++)
		for (const char *p = c->fds[i].info; p; p = kage_text_next_line(p))
			if (strncmp(p, "lock:", 5) == 0)
				TRY(capture_line(c, &c->fds[i], p + 5));
	return NULL;
}

/* --- restore ------------------------------------------------------------------------------------ */

static const char *kind_name(const Kage__FileLock *m)
{
	return m->kind == KAGE__FILE_LOCK__KIND__FLOCK ? "flock"
	       : m->kind == KAGE__FILE_LOCK__KIND__OFD ? "OFD lock"
						       : "POSIX lock";
}

static const Kage__FileObject *file_of(const struct kage_restore *r, const Kage__FileLock *m)
{
	for (size_t i = 0; i < r->process->n_descriptors; i++) {
		const Kage__Descriptor *n = r->process->descriptors[i];
		const Kage__Description *d;

		if (n->fd != m->fd)
			continue;
		d = kage_image_description(r->image, n->description);
		if (d && d->kind_case == KAGE__DESCRIPTION__KIND_FILE)
			return kage_image_file(r->image, d->file->file);
	}
	return NULL;
}

/* flock and the two others know nothing of each other. */
static bool conflict(const Kage__FileLock *m, const struct line *l)
{
	bool flock_a = m->kind == KAGE__FILE_LOCK__KIND__FLOCK;
	bool flock_b = l->kind == KAGE__FILE_LOCK__KIND__FLOCK;

	return l->kind != KAGE__FILE_LOCK__KIND__NONE && !l->waits && flock_a == flock_b &&
	       (m->exclusive || l->exclusive) && m->start <= l->end && l->start <= m->end;
}

/* In place its own locks are not in the way. */
static bool is_own(const struct kage_restore *r, const struct line *l)
{
	/* An OFD lock is shown without its owner. */
	return r->in_place &&
	       (l->pid == (uint64_t)r->stub->pid || l->kind == KAGE__FILE_LOCK__KIND__OFD);
}

static void check_lock(struct kage_restore *r, const Kage__FileLock *m, const char *text)
{
	const Kage__FileObject *f = file_of(r, m);
	struct stat st;

	if (!f || f->unlinked || stat(f->path, &st) < 0)
		return;
	for (const char *p = text; p && *p; p = kage_text_next_line(p)) {
		struct line l;

		if (!parse(p, &l) || l.ino != st.st_ino || l.major != major(st.st_dev) ||
		    l.minor != minor(st.st_dev) || !conflict(m, &l) || is_own(r, &l))
			continue;
		kage_obstacle(r->obstacles, true, "let that process give it up, or end it", f->path,
			      "the program holds a %s on it, and now process %" PRIu64 " does",
			      kind_name(m), l.pid);
		return;
	}
}

static struct kage_err *check(struct kage_restore *r)
{
	_cleanup_free_ char *text = NULL;
	size_t size;

	if (!r->process->n_locks)
		return NULL;
	TRY(kage_file_slurp(AT_FDCWD, "/proc/locks", LOCKS_MAX_BYTES, &text, &size));
	for (size_t i = 0; i < r->process->n_locks; i++)
		check_lock(r, r->process->locks[i], text);
	return NULL;
}

static struct kage_err *check_back(struct kage_restore *r)
{
	TRY(check(r));
	return kage_obstacles_refuse(r->obstacles);
}

static bool has_flock(const struct kage_restore *r, uint32_t fd)
{
	for (size_t i = 0; i < r->process->n_locks; i++)
		if (r->process->locks[i]->fd == fd &&
		    r->process->locks[i]->kind == KAGE__FILE_LOCK__KIND__FLOCK)
			return true;
	return false;
}

/* Those that it has taken since. A flock that it had is only changed: others may wait for it. */
static void give_up_all(struct kage_restore *r, struct kage_batch *b)
{
	const struct flock all = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	size_t at = kage_batch_data(b, &all, sizeof(all));

	for (size_t i = 0; i < r->process->n_descriptors; i++) {
		const Kage__Descriptor *n = r->process->descriptors[i];
		const Kage__Description *d = kage_image_description(r->image, n->description);

		if (!d || d->kind_case != KAGE__DESCRIPTION__KIND_FILE || (d->flags & O_PATH))
			continue;
		BATCH_TRY(b, "give up file locks", SYS_fcntl, V(n->fd), V(F_SETLK), DATA(at));
		BATCH_TRY(b, "give up file locks", SYS_fcntl, V(n->fd), V(F_OFD_SETLK), DATA(at));
		if (!has_flock(r, n->fd))
			BATCH_TRY(b, "give up a flock", SYS_flock, V(n->fd), V(LOCK_UN));
	}
}

static struct kage_err *finish(struct kage_restore *r, struct kage_batch *b)
{
	if (r->in_place)
		give_up_all(r, b);
	for (size_t i = 0; i < r->process->n_locks; i++) {
		const Kage__FileLock *m = r->process->locks[i];
		struct flock l = { .l_type = m->exclusive ? F_WRLCK : F_RDLCK,
				   .l_whence = SEEK_SET,
				   .l_start = (off_t)m->start,
				   .l_len = m->end == UINT64_MAX ? 0
								 : (off_t)(m->end - m->start + 1) };

		if (m->kind == KAGE__FILE_LOCK__KIND__FLOCK)
			BATCH(b, "take its flock again", SYS_flock, V(m->fd),
			      V((m->exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB));
		else
			BATCH(b, "take its file lock again", SYS_fcntl, V(m->fd),
			      V(m->kind == KAGE__FILE_LOCK__KIND__OFD ? F_OFD_SETLK : F_SETLK),
			      DATA(kage_batch_data(b, &l, sizeof(l))));
	}
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	(void)image;
	(void)full;
	for (size_t i = 0; i < p->n_locks; i++) {
		const Kage__FileLock *m = p->locks[i];

		fprintf(out, "  %s %s of fd %u", m->exclusive ? "exclusive" : "shared",
			kind_name(m), m->fd);
		if (m->kind == KAGE__FILE_LOCK__KIND__FLOCK)
			fputc('\n', out);
		else if (m->end == UINT64_MAX)
			fprintf(out, ", from %" PRIu64 " on\n", m->start);
		else
			fprintf(out, ", %" PRIu64 " to %" PRIu64 "\n", m->start, m->end);
	}
}

const struct kage_kind kage_kind_locks = {
	.name = "locks",
	.capture = capture,
	.check = check,
	.check_back = check_back,
	.finish = finish,
	.print = print,
};
