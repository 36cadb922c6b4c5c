/* SPDX-License-Identifier: Apache-2.0 */
/* See kind/fds_back.h. */
#include "kind/fds_back.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/fds.h"

struct kage_fds_back {
	struct kage_capture now;           /* only its descriptors are looked at */
	const struct kage_fd_seen **keeps; /* of each description; NULL: it is made anew */
	size_t n;
	size_t n_children; /* that the program had, and that may have some of these */
	int floor;
};

/* --- what they were --------------------------------------------------------------------------- */

void kage_fds_ids_free(struct kage_fd_id *ids, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(ids[i].link);
		free(ids[i].info);
	}
	free(ids);
}

/* The first descriptor of each description, which are numbered in that order. */
struct kage_err *kage_fds_ids(struct kage_capture *c, struct kage_fd_id **ret_ids, size_t *ret_n)
{
	struct kage_fd_id *ids = calloc(c->image->msg->n_descriptions + 1, sizeof(*ids));
	size_t n = 0;

	if (!ids)
		return kage_err_nomem();
	for (size_t i = 0; i < c->n_fds; i++) {
		const struct kage_fd_seen *fd = &c->fds[i];

		if (fd->description->id != n + 1)
			continue;
		ids[n] = (struct kage_fd_id){ .dev = fd->st.st_dev,
					      .ino = fd->st.st_ino,
					      .mode = fd->st.st_mode,
					      .link = strdup(fd->link),
					      .info = strdup(fd->info) };
		n++;
		if (!ids[n - 1].link || !ids[n - 1].info) {
			kage_fds_ids_free(ids, n);
			return kage_err_nomem();
		}
	}
	*ret_ids = ids;
	*ret_n = n;
	return NULL;
}

/* --- what they are ---------------------------------------------------------------------------- */

/* Behind the lines that every fdinfo begins with (fs/proc/fd.c): offset and flags are set anyway. */
static const char *own_info(const char *info)
{
	const char *line = strstr(info, "\nino:");

	return line ? strchrnul(line + 1, '\n') : info;
}

static bool same_object(const struct kage_fd_id *id, const Kage__Description *d,
			const struct kage_fd_seen *fd)
{
	const uint32_t access = O_ACCMODE | O_PATH;

	if ((d->flags & access) != (fd->description->flags & access))
		return false;
	/* Nothing tells which it is, and its time goes on. */
	if (d->kind_case == KAGE__DESCRIPTION__KIND_TIMERFD)
		return false;
	/* Those without a name have an inode in common. The same state is as good as the same object. */
	if (strncmp(id->link, "anon_inode:", 11) == 0)
		return strcmp(id->link, fd->link) == 0 &&
		       strcmp(own_info(id->info), own_info(fd->info)) == 0;
	return id->dev == fd->st.st_dev && id->ino == fd->st.st_ino &&
	       (id->mode & S_IFMT) == (fd->st.st_mode & S_IFMT);
}

static const struct kage_fd_seen *at_number(const struct kage_fds_back *k, uint32_t number)
{
	for (size_t i = 0; i < k->now.n_fds; i++)
		if ((uint32_t)k->now.fds[i].fd == number)
			return &k->now.fds[i];
	return NULL;
}

/* Whether the file that D has open is the one that has the contents of then. One without a name is the program's
 * alone; one with a name may have been put back as a new file. */
static bool has_its_contents(const struct kage_restore *r, const Kage__Description *d,
			     const struct kage_fd_seen *fd)
{
	const Kage__FileObject *f = d->kind_case == KAGE__DESCRIPTION__KIND_FILE
					    ? kage_image_file(r->image, d->file->file)
					    : NULL;
	struct stat st;

	/* One with other seals cannot become what it was. */
	if (d->kind_case == KAGE__DESCRIPTION__KIND_MEMFD)
		return (uint32_t)fcntl(fd->ours, F_GET_SEALS) == d->memfd->seals;
	if (!f || !S_ISREG(f->mode) || !f->content_space || !f->written)
		return true;
	/* But what it prints to it was given by who started it. */
	if (f->unlinked)
		return fd->fd <= STDERR_FILENO;
	return r->options->files != KAGE_FILES_RESTORE ||
	       (stat(f->path, &st) == 0 && st.st_ino == f->ino);
}

static bool is_taken(const struct kage_fds_back *k, const struct kage_fd_seen *fd)
{
	for (size_t i = 0; i < k->n; i++)
		if (k->keeps[i] && k->keeps[i]->description == fd->description)
			return true;
	return false;
}

/* What is at one of D's numbers, if it is D still. */
static const struct kage_fd_seen *find(const struct kage_restore *r, const struct kage_fds_back *k,
				       const Kage__Description *d, const struct kage_fd_id *id)
{
	for (size_t i = 0; i < r->process->n_descriptors; i++) {
		const struct kage_fd_seen *fd;

		if (r->process->descriptors[i]->description != d->id)
			continue;
		fd = at_number(k, r->process->descriptors[i]->fd);
		if (fd && same_object(id, d, fd) && has_its_contents(r, d, fd) && !is_taken(k, fd))
			return fd;
	}
	return NULL;
}

/* --- what has to be made anew together ---------------------------------------------------------- */

static bool same_pipe(const Kage__Description *a, const Kage__Description *b)
{
	return b->kind_case == KAGE__DESCRIPTION__KIND_PIPE && a->pipe->pipe == b->pipe->pipe;
}

/* Of a pipe that is the program's alone; of others an end that is gone cannot be made. */
static bool has_both_ends(const Kage__Image *m, const Kage__Description *d)
{
	bool reads = false, writes = false;

	for (size_t i = 0; i < m->n_descriptions; i++) {
		const Kage__Description *o = m->descriptions[i];

		if (o->kind_case != KAGE__DESCRIPTION__KIND_PIPE || !same_pipe(d, o))
			continue;
		reads |= (o->flags & O_ACCMODE) != O_WRONLY;
		writes |= (o->flags & O_ACCMODE) != O_RDONLY;
	}
	return reads && writes;
}

/* Nobody else has the other end of the pipe, or unix socket, either. */
static bool is_hung_up(const struct kage_fd_seen *fd)
{
	struct pollfd p = { .fd = fd->ours, .events = 0 };

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}

/* Also a datagram of no bytes. */
static bool is_shut(const struct kage_fd_seen *fd)
{
	struct pollfd p = { .fd = fd->ours, .events = POLLIN | POLLRDHUP };

	return poll(&p, 1, 0) > 0;
}

static bool has_waiting(const struct kage_fd_seen *fd)
{
	int waiting = 0;

	return ioctl(fd->ours, FIONREAD, &waiting) == 0 && waiting > 0;
}

static bool pipe_changed(const Kage__Image *m, const struct kage_fds_back *k,
			 const Kage__Description *d)
{
	for (size_t i = 0; i < m->n_descriptions; i++) {
		const Kage__Description *o = m->descriptions[i];

		if (o->kind_case != KAGE__DESCRIPTION__KIND_PIPE || !same_pipe(d, o))
			continue;
		if (!k->keeps[i] || o->pipe->content.len || has_waiting(k->keeps[i]))
			return true;
	}
	return false;
}

static bool pair_changed(const Kage__Image *m, const struct kage_fds_back *k, size_t i)
{
	const Kage__UnixSocket *s = m->descriptions[i]->unix_socket;

	if (!k->keeps[i] || s->received.len || has_waiting(k->keeps[i]) || is_shut(k->keeps[i]))
		return true;
	for (size_t o = 0; o < m->n_descriptions; o++)
		if (m->descriptions[o]->id == s->peer_description)
			return !k->keeps[o] || m->descriptions[o]->unix_socket->received.len ||
			       has_waiting(k->keeps[o]) || is_shut(k->keeps[o]);
	return true;
}

/* Of what is the program's alone contents are put back by making it anew. */
static bool must_go(const Kage__Image *m, const struct kage_fds_back *k, size_t i)
{
	const Kage__Description *d = m->descriptions[i];

	/* A process that it had started before may have it, too, and go on. */
	if (k->keeps[i] && k->n_children)
		return false;
	if (d->kind_case == KAGE__DESCRIPTION__KIND_INOTIFY)
		return k->keeps[i] && has_waiting(k->keeps[i]);
	if (d->kind_case == KAGE__DESCRIPTION__KIND_PIPE)
		return (has_both_ends(m, d) || (k->keeps[i] && is_hung_up(k->keeps[i]))) &&
		       pipe_changed(m, k, d);
	if (d->kind_case == KAGE__DESCRIPTION__KIND_UNIX_SOCKET)
		return d->unix_socket->peer_description && pair_changed(m, k, i);
	return false;
}

/* What was ready then may have been told since, and is told once only; added anew it is told again. */
static bool has_edges(const Kage__Epoll *m)
{
	for (size_t i = 0; i < m->n_watches; i++)
		if (m->watches[i]->events & (EPOLLET | EPOLLONESHOT))
			return true;
	return false;
}

/* The watches of an epoll end with what they watch. */
static void drop_epolls(const Kage__Image *m, struct kage_fds_back *k)
{
	bool all = true;

	for (size_t i = 0; i < m->n_descriptions; i++)
		all &= k->keeps[i] != NULL;
	for (size_t i = 0; i < m->n_descriptions; i++)
		if (m->descriptions[i]->kind_case == KAGE__DESCRIPTION__KIND_EPOLL &&
		    (!all || has_edges(m->descriptions[i]->epoll)))
			k->keeps[i] = NULL;
}

static struct kage_err *choose(struct kage_restore *r, const struct kage_fd_id *ids,
			       struct kage_fds_back *k)
{
	const Kage__Image *m = r->image->msg;
	_cleanup_free_ bool *goes = calloc(m->n_descriptions + 1, sizeof(*goes));

	if (!goes)
		return kage_err_nomem();
	for (size_t i = 0; i < m->n_descriptions; i++)
		k->keeps[i] = find(r, k, m->descriptions[i], &ids[i]);
	for (size_t i = 0; i < m->n_descriptions; i++)
		goes[i] = must_go(m, k, i);
	for (size_t i = 0; i < m->n_descriptions; i++)
		if (goes[i])
			k->keeps[i] = NULL;
	drop_epolls(m, k);
	return NULL;
}

/* What comes on its way takes the lowest numbers that are free, which may lie right above. */
static void find_floor(const struct kage_restore *r, struct kage_fds_back *k)
{
	enum { ON_ITS_WAY = 256 };
	for (size_t i = 0; i < k->now.n_fds; i++)
		if (k->now.fds[i].fd >= k->floor)
			k->floor = k->now.fds[i].fd + 1;
	for (size_t i = 0; i < r->process->n_descriptors; i++)
		if ((int)r->process->descriptors[i]->fd >= k->floor)
			k->floor = (int)r->process->descriptors[i]->fd + 1;
	k->floor += ON_ITS_WAY;
}

/* R's own descriptors to what stays. */
static struct kage_err *take_kept(struct kage_restore *r, const struct kage_fds_back *k)
{
	for (size_t i = 0; i < k->n; i++) {
		if (!k->keeps[i])
			continue;
		r->fds[i] = fcntl(k->keeps[i]->ours, F_DUPFD_CLOEXEC, k->floor);
		if (r->fds[i] < 0)
			return kage_err_sys(errno, "duplicate a descriptor");
	}
	return NULL;
}

/* What is under way in it cannot be called back. */
static struct kage_err *check_rings(const struct kage_fds_back *k)
{
	for (size_t i = 0; i < k->now.n_fds; i++)
		if (strcmp(k->now.fds[i].link, "anon_inode:[io_uring]") == 0)
			return kage_err_new(
				KAGE_UNSUPPORTED,
				"fd %d is an io_uring, which has requests and buffers inside the "
				"kernel",
				k->now.fds[i].fd);
	return NULL;
}

struct kage_err *kage_fds_back_look(struct kage_restore *r, const struct kage_fd_id *ids, size_t n,
				    struct kage_fds_back **ret_back)
{
	struct kage_fds_back *k = calloc(1, sizeof(*k));
	struct kage_err *e;

	if (!k)
		return kage_err_nomem();
	*ret_back = k;
	k->n = r->image->msg->n_descriptions;
	k->keeps = calloc(k->n + 1, sizeof(const struct kage_fd_seen *));
	k->floor = 3;
	k->n_children = r->children.n_had;
	if (!k->keeps || n != k->n)
		return kage_err_nomem();
	e = kage_fds_see(r->ctx, r->stub, &k->now);
	if (!e)
		e = check_rings(k);
	if (!e)
		e = choose(r, ids, k);
	find_floor(r, k);
	return e ? e : take_kept(r, k);
}

void kage_fds_back_destroy(struct kage_fds_back *k)
{
	if (!k)
		return;
	kage_fds_unsee(&k->now);
	free(k->keeps);
	free(k);
}

int kage_fds_back_floor(const struct kage_fds_back *k)
{
	return k->floor;
}

/* --- making ----------------------------------------------------------------------------------- */

struct kage_err *kage_fds_back_make(struct kage_restore *r, const struct kage_fds_back *k)
{
	const Kage__Image *m = r->image->msg;

	for (size_t i = 0; i < k->n; i++)
		if (!k->keeps[i])
			TRY_WRAP(kage_fds_make_one(r, i), "make %s",
				 kage_fds_label_of(r, m->descriptions[i]));
	return NULL;
}

int kage_fds_back_ours(const struct kage_restore *r, const struct kage_fds_back *k, size_t i)
{
	return k->keeps[i] ? -1 : r->fds[i];
}

/* Whom it signals by now, unless it did then. */
static void clear_owner(const Kage__Description *d, int fd)
{
	int now = d->flags & O_PATH ? -1 : fcntl(fd, F_GETFL);

	if (now >= 0 && (now & O_ASYNC) && !(d->flags & O_ASYNC))
		fcntl(fd, F_SETFL, now & ~O_ASYNC);
	if (now >= 0 && !d->owner_signal)
		fcntl(fd, F_SETSIG, 0);
	if (now >= 0 && !d->owner)
		fcntl(fd, F_SETOWN, 0);
}

struct kage_err *kage_fds_back_settle(struct kage_restore *r)
{
	const Kage__Image *m = r->image->msg;

	for (size_t i = 0; i < m->n_descriptions; i++) {
		/* What was made begins there. */
		if (!m->descriptions[i]->offset && kage_fds_has_offset(m->descriptions[i]))
			lseek(r->fds[i], 0, SEEK_SET);
		clear_owner(m->descriptions[i], r->fds[i]);
		TRY_WRAP(kage_fds_set_state(m->descriptions[i], r->fds[i]), "set %s",
			 kage_fds_label_of(r, m->descriptions[i]));
	}
	return NULL;
}

/* --- placing ---------------------------------------------------------------------------------- */

/* What stays, but has lost one of its numbers, from another one that may be given away: by way of numbers above all. */
static struct kage_err *say_aside(struct kage_restore *r, const struct kage_fds_back *k,
				  size_t *aside, struct kage_batch *b)
{
	const Kage__Process *p = r->process;

	for (size_t i = 0; i < p->n_descriptors; i++) {
		size_t d = p->descriptors[i]->description - 1;
		const struct kage_fd_seen *there = at_number(k, p->descriptors[i]->fd);

		if (d >= k->n)
			return kage_err_new(KAGE_CORRUPT, "descriptor %u is of nothing",
					    p->descriptors[i]->fd);
		if (!k->keeps[d] || (there && there->description == k->keeps[d]->description))
			continue;
		aside[i] = 1 + BATCH(b, "set a descriptor aside", SYS_fcntl, V(k->keeps[d]->fd),
				     V(F_DUPFD), V(k->floor));
	}
	return NULL;
}

static void say_number(const struct kage_restore *r, const struct kage_fds_back *k, size_t i,
		       const size_t *aside, const int *there, struct kage_batch *b)
{
	const Kage__Descriptor *n = r->process->descriptors[i];
	const struct kage_fd_seen *now = at_number(k, n->fd);
	int flags = n->close_on_exec ? O_CLOEXEC : 0;

	if (!k->keeps[n->description - 1])
		BATCH(b, "put a descriptor in its place", SYS_dup3, V(there[n->description - 1]),
		      V(n->fd), V(flags));
	else if (aside[i])
		BATCH(b, "put a descriptor in its place", SYS_dup3, RESULT(aside[i] - 1), V(n->fd),
		      V(flags));
	else if (now->close_on_exec != n->close_on_exec)
		BATCH(b, "set the flags of a descriptor", SYS_fcntl, V(n->fd), V(F_SETFD),
		      V(n->close_on_exec ? FD_CLOEXEC : 0));
}

/* All that the program did not have. */
static void say_close(const struct kage_restore *r, const struct kage_fds_back *k,
		      struct kage_batch *b)
{
	size_t at = 0;

	for (size_t i = 0; i < k->now.n_fds; i++) {
		uint32_t number = (uint32_t)k->now.fds[i].fd;

		while (at < r->process->n_descriptors && r->process->descriptors[at]->fd < number)
			at++;
		if (at == r->process->n_descriptors || r->process->descriptors[at]->fd != number)
			BATCH(b, "close a descriptor", SYS_close, V(number));
	}
	BATCH(b, "close what was on its way", SYS_close_range, V(k->floor), V(~0u), V(0));
}

struct kage_err *kage_fds_back_place(struct kage_restore *r, const struct kage_fds_back *k,
				     const int *there, struct kage_batch *b)
{
	const Kage__Image *m = r->image->msg;
	_cleanup_free_ size_t *aside = calloc(r->process->n_descriptors + 1, sizeof(*aside));

	if (!aside)
		return kage_err_nomem();
	TRY(say_aside(r, k, aside, b));
	for (size_t i = 0; i < r->process->n_descriptors; i++)
		say_number(r, k, i, aside, there, b);
	say_close(r, k, b);
	for (size_t i = 0; i < k->n; i++) {
		if (!k->keeps[i])
			TRY(kage_fds_place_one(r, m->descriptions[i], b));
		else
			kage_fds_place_owner(r, m->descriptions[i], b);
	}
	return NULL;
}

struct kage_err *kage_fds_back_start(struct kage_restore *r, const struct kage_fds_back *k)
{
	for (size_t i = 0; i < k->n; i++)
		if (!k->keeps[i])
			TRY(kage_fds_start_one(r, i));
	return NULL;
}
