/* SPDX-License-Identifier: Apache-2.0 */
/*
 * epoll(7). The kernel keys a watch by the description and the number under which it was added; both
 * outlive the number. fdinfo shows number, events, data, and the inode of the description; kcmp(2)
 * with KCMP_EPOLL_TFD tells exactly which description it is.
 *
 * A watch comes back by epoll_ctl(2) in the process itself, with all descriptors at their numbers.
 * When its description stands under another number by then, it is put under the old one for the
 * moment of the call. Edge-triggered watches report once more what is ready, as after any ADD.
 * A watch that EPOLLONESHOT has disabled is added without events; the kernel then still reports
 * errors and hang-ups, which a disabled one does not.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/fds.h"
#include "sys/text.h"

/* A line of fdinfo: "tfd:        5 events:       19 data:   55d0  pos:0 ino:42 sdev:f". */
struct line {
	uint64_t fd, events, data, ino;
};

static bool match(const struct kage_fd_seen *fd)
{
	return kage_fds_link_is(fd, "anon_inode:[eventpoll]");
}

/* Moves *AT behind NAME and blanks. */
static bool skip_name(const char **at, const char *name)
{
	*at += strspn(*at, " \t");
	if (strncmp(*at, name, strlen(name)) != 0)
		return false;
	*at += strlen(name);
	*at += strspn(*at, " \t");
	return true;
}

static bool parse_line(const char *p, struct line *l)
{
	uint64_t pos;

	if (!skip_name(&p, "tfd:") || !kage_text_number(&p, 10, &l->fd) ||
	    !skip_name(&p, "events:") || !kage_text_number(&p, 16, &l->events) ||
	    !skip_name(&p, "data:") || !kage_text_number(&p, 16, &l->data) || l->fd > INT32_MAX ||
	    l->events > UINT32_MAX)
		return false;
	/* The position may be negative and matters to nobody. */
	return skip_name(&p, "pos:") && (kage_text_char(&p, '-') || true) &&
	       kage_text_number(&p, 10, &pos) && skip_name(&p, "ino:") &&
	       kage_text_number(&p, 16, &l->ino);
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	struct arena *a = &c->image->arena;
	Kage__Epoll *m = msg_new(a, Kage__Epoll, kage__epoll__init);

	if (!m)
		return kage_err_nomem();
	d->kind_case = KAGE__DESCRIPTION__KIND_EPOLL;
	d->epoll = m;
	for (const char *p = fd->info; p; p = kage_text_next_line(p)) {
		Kage__Epoll__Watch *w;
		struct line l;

		if (strncmp(p, "tfd:", 4) != 0)
			continue;
		if (!parse_line(p, &l))
			return kage_err_new(KAGE_CORRUPT, "a watch is not understood: %.100s", p);
		w = msg_append(a, m, watches, Kage__Epoll__Watch, kage__epoll__watch__init);
		if (!w)
			return kage_err_nomem();
		w->fd = (uint32_t)l.fd;
		w->events = (uint32_t)l.events;
		w->data = l.data;
	}
	return NULL;
}

/* --- which description a watch is of ------------------------------------------------------------ */

/* Whether the OFFSET-th watch of number TFD in EPOLL is of the description behind FD. -1: not to be
 * told. */
static int is_watched(const struct kage_fd_seen *epoll, uint32_t tfd, uint32_t offset,
		      const struct kage_fd_seen *fd)
{
	struct kcmp_epoll_slot slot = { .efd = (uint32_t)epoll->ours, .tfd = tfd, .toff = offset };
	pid_t self = getpid();
	long r = syscall(SYS_kcmp, self, self, KCMP_EPOLL_TFD, fd->ours, &slot);

	return r < 0 ? -1 : r == 0;
}

static const struct kage_fd_seen *by_number(const struct kage_capture *c, uint32_t number)
{
	size_t low = 0, high = c->n_fds;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if ((uint32_t)c->fds[mid].fd < number)
			low = mid + 1;
		else
			high = mid;
	}
	return low < c->n_fds && (uint32_t)c->fds[low].fd == number ? &c->fds[low] : NULL;
}

/* The usual case first: the number still means what it meant. INO is that of the watched file. */
static const struct kage_fd_seen *find_watched(const struct kage_capture *c,
					       const struct kage_fd_seen *epoll, uint32_t tfd,
					       uint32_t offset, uint64_t ino)
{
	const struct kage_fd_seen *there = by_number(c, tfd);
	int r = there ? is_watched(epoll, tfd, offset, there) : 0;

	if (r == 1 || (r < 0 && there->st.st_ino == ino))
		return there;
	for (size_t i = 0; r >= 0 && i < c->n_fds; i++)
		if (c->fds[i].st.st_ino == ino && is_watched(epoll, tfd, offset, &c->fds[i]) == 1)
			return &c->fds[i];
	return NULL;
}

static void note_lost(struct kage_capture *c, const struct kage_fd_seen *fd, uint32_t number)
{
	kage_obstacle(
		c->obstacles, false, "none is needed if the program ignores such events",
		kage_fds_label(c, fd),
		"it watches what was descriptor %u once and is in no table of the program any "
		"more; that watch is lost",
		number);
}

/* The kernel lists watches ordered by file and number; of several with one number the order is that
 * in which KCMP_EPOLL_TFD counts them. */
static struct kage_err *capture_links(struct kage_capture *c, const struct kage_fd_seen *fd,
				      Kage__Description *d)
{
	Kage__Epoll *m = d->epoll;
	size_t i = 0;

	for (const char *p = fd->info; p; p = kage_text_next_line(p)) {
		const struct kage_fd_seen *watched;
		uint32_t offset = 0;
		struct line l;

		if (strncmp(p, "tfd:", 4) != 0 || !parse_line(p, &l))
			continue;
		for (size_t k = 0; k < i; k++)
			offset += m->watches[k]->fd == l.fd;
		watched = find_watched(c, fd, (uint32_t)l.fd, offset, l.ino);
		if (watched)
			m->watches[i]->description = watched->description->id;
		else
			note_lost(c, fd, (uint32_t)l.fd);
		i++;
	}
	return NULL;
}

/* --- restore ------------------------------------------------------------------------------------ */

static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	int fd = epoll_create1(EPOLL_CLOEXEC);

	(void)r;
	(void)d;
	if (fd < 0)
		return kage_err_sys(errno, "epoll_create");
	*ret_fd = fd;
	return NULL;
}

static void add(struct kage_batch *b, int epoll, const Kage__Epoll__Watch *w)
{
	struct epoll_event event = { .events = w->events, .data.u64 = w->data };

	BATCH(b, "add a watch to an epoll", SYS_epoll_ctl, V(epoll), V(EPOLL_CTL_ADD), V(w->fd),
	      DATA(kage_batch_data(b, &event, sizeof(event))));
}

static const Kage__Descriptor *descriptor(const struct kage_restore *r, uint32_t number)
{
	for (size_t i = 0; i < r->process->n_descriptors; i++)
		if (r->process->descriptors[i]->fd == number)
			return r->process->descriptors[i];
	return NULL;
}

static const Kage__Descriptor *descriptor_of(const struct kage_restore *r, uint32_t description)
{
	for (size_t i = 0; i < r->process->n_descriptors; i++)
		if (r->process->descriptors[i]->description == description)
			return r->process->descriptors[i];
	return NULL;
}

/* The number means something else by now: what it means is set aside for the moment. Closing the
 * number again does not end the watch, for the description lives on under its own. */
static void add_elsewhere(struct kage_restore *r, struct kage_batch *b, int epoll,
			  const Kage__Epoll__Watch *w, const Kage__Descriptor *from)
{
	const Kage__Descriptor *there = descriptor(r, w->fd);
	size_t aside = 0;

	if (there)
		aside = BATCH(b, "set a descriptor aside", SYS_fcntl, V(w->fd), V(F_DUPFD_CLOEXEC),
			      V(0));
	BATCH(b, "lend a descriptor a number", SYS_dup3, V(from->fd), V(w->fd), V(O_CLOEXEC));
	add(b, epoll, w);
	if (!there) {
		BATCH(b, "take the number back", SYS_close, V(w->fd));
		return;
	}
	BATCH(b, "take the number back", SYS_dup3, RESULT(aside), V(w->fd),
	      V(there->close_on_exec ? O_CLOEXEC : 0));
	BATCH(b, "close what was set aside", SYS_close, RESULT(aside));
}

static struct kage_err *place(struct kage_restore *r, const Kage__Description *d, int fd,
			      struct kage_batch *b)
{
	for (size_t i = 0; i < d->epoll->n_watches; i++) {
		const Kage__Epoll__Watch *w = d->epoll->watches[i];
		const Kage__Descriptor *there = descriptor(r, w->fd);
		const Kage__Descriptor *from = descriptor_of(r, w->description);

		if (!w->description || !from)
			continue;
		if (there && there->description == w->description)
			add(b, fd, w);
		else
			add_elsewhere(r, b, fd, w, from);
	}
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	(void)image;
	fprintf(out, "%zu watches", d->epoll->n_watches);
	for (size_t i = 0; i < d->epoll->n_watches && i < 8; i++)
		fprintf(out, "%s %u", i ? "," : " on", d->epoll->watches[i]->fd);
	if (d->epoll->n_watches > 8)
		fputs(" …", out);
}

const struct kage_fd_kind kage_fd_epoll = {
	.name = "epoll",
	.which = KAGE__DESCRIPTION__KIND_EPOLL,
	.match = match,
	.capture = capture,
	.capture_links = capture_links,
	.make = make,
	.place = place,
	.print = print,
};
