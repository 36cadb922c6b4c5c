/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes whose both ends are in the target, and named pipes (FIFOs).
 *
 * The contents are read without being consumed: tee(2) copies them through our duplicate into a pipe
 * of our own, which is as large as the target's, so that it takes them all. On restore both ends are
 * made at once by pipe2(2); further descriptions of an end are opened through /proc/self/fd.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/fds.h"
#include "kind/files.h"

static bool match(const struct kage_fd_seen *fd)
{
	return S_ISFIFO(fd->st.st_mode) && !(kage_fds_flags(fd) & O_PATH);
}

static bool reads(const Kage__Description *d)
{
	return (d->flags & O_ACCMODE) != O_WRONLY;
}

static bool writes(const Kage__Description *d)
{
	return (d->flags & O_ACCMODE) != O_RDONLY;
}

/* --- contents ----------------------------------------------------------------------------------- */

struct ends {
	int read, write;
};

static void close_ends(struct ends *p)
{
	close_fd(p->read);
	close_fd(p->write);
}

/* A pipe marks packets in its buffers, and a read ends behind one whatever the flags are now
 * (pipe_read() in fs/pipe.c), so each read gives one packet, or all that is no packet. */
static struct kage_err *drain(struct kage_capture *c, int from, Kage__Pipe *m, size_t size)
{
	struct arena *a = &c->image->arena;
	uint8_t *bytes = arena_alloc(a, size);
	uint32_t *packets = NULL, *slot;
	size_t done = 0;

	while (bytes && done < size) {
		ssize_t n = read(from, bytes + done, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return kage_err_sys(n ? errno : EIO, "read a copy of what is in the pipe");
		done += (size_t)n;
		if (!m->packets)
			continue;
		slot = arena_push(a, &packets, &m->n_packet_bytes, sizeof(*packets));
		if (!slot)
			return kage_err_nomem();
		*slot = (uint32_t)n;
	}
	m->packet_bytes = packets;
	m->content.data = bytes;
	m->content.len = size;
	return bytes ? NULL : kage_err_nomem();
}

static struct kage_err *copy_content(struct kage_capture *c, const struct kage_fd_seen *fd,
				     Kage__Pipe *m)
{
	_cleanup_(close_ends) struct ends p = { -1, -1 };
	int waiting = 0;
	ssize_t n;

	if (ioctl(fd->ours, FIONREAD, &waiting) < 0)
		return kage_err_sys(errno, "see how much is in the pipe");
	if (waiting <= 0 || c->checking)
		return NULL;
	if (pipe2((int *)&p, O_CLOEXEC | O_NONBLOCK) < 0)
		return kage_err_sys(errno, "make a pipe");
	if (fcntl(p.write, F_SETPIPE_SZ, (int)m->capacity_bytes) < 0)
		return kage_err_sys(errno, "make a pipe of %u bytes", m->capacity_bytes);
	n = tee(fd->ours, p.write, (size_t)waiting, SPLICE_F_NONBLOCK);
	if (n != waiting)
		return kage_err_sys(n < 0 ? errno : EIO, "copy the %d bytes in the pipe (%zd came)",
				    waiting, n);
	return drain(c, p.read, m, (size_t)waiting);
}

/* --- capture ------------------------------------------------------------------------------------ */

/* Whether FD is the first description of the target that can read this pipe: its contents go there. */
static bool first_reader(const struct kage_capture *c, const struct kage_fd_seen *fd)
{
	for (const struct kage_fd_seen *o = c->fds; o < fd; o++)
		if (match(o) && o->st.st_ino == fd->st.st_ino && o->st.st_dev == fd->st.st_dev &&
		    o->description != fd->description && reads(o->description))
			return false;
	return true;
}

/* Packets are made by the writing end's flag. */
static bool has_packets(const struct kage_capture *c, const struct kage_fd_seen *fd)
{
	for (size_t i = 0; i < c->n_fds; i++) {
		const struct kage_fd_seen *o = &c->fds[i];

		if (match(o) && o->st.st_ino == fd->st.st_ino && o->st.st_dev == fd->st.st_dev &&
		    writes(o->description) && (o->description->flags & O_DIRECT))
			return true;
	}
	return false;
}

static bool has_end(const struct kage_capture *c, const struct kage_fd_seen *fd, bool writer)
{
	for (size_t i = 0; i < c->n_fds; i++) {
		const struct kage_fd_seen *o = &c->fds[i];

		if (match(o) && o->st.st_ino == fd->st.st_ino && o->st.st_dev == fd->st.st_dev &&
		    (writer ? writes(o->description) : reads(o->description)))
			return true;
	}
	return false;
}

/* Somebody else has the other end, unless poll(2) says that nobody has: POLLHUP for a reader, POLLERR
 * for a writer. */
static void look_for_others(struct kage_capture *c, const struct kage_fd_seen *fd,
			    const Kage__Description *d)
{
	struct pollfd p = { .fd = fd->ours, .events = 0 };
	bool writer = !reads(d);

	if (has_end(c, fd, !writer) || poll(&p, 1, 0) < 0 ||
	    (p.revents & (writer ? POLLERR : POLLHUP)))
		return;
	kage_obstacle(c->obstacles, !d->pipe->fifo_file,
		      d->pipe->fifo_file ? "start its partner again after the restore"
					 : "start the program with files instead of pipes",
		      kage_fds_label(c, fd), "another process has the %s end of this pipe",
		      writer ? "reading" : "writing");
}

static struct kage_err *note_fifo(struct kage_capture *c, const struct kage_fd_seen *fd,
				  Kage__Pipe *m)
{
	uint32_t id;

	if (fd->link[0] != '/')
		return NULL;
	TRY(kage_file_note(c, fd->ours, &fd->st, fd->link, false, &id));
	/* Once its name is gone it is a pipe like any other. */
	if (!kage_image_file(c->image, id)->unlinked)
		m->fifo_file = id;
	return NULL;
}

static uint32_t number_of(const struct kage_capture *c, const struct kage_fd_seen *fd)
{
	for (size_t i = 0; i < c->n_fds; i++) {
		const struct kage_fd_seen *o = &c->fds[i];

		if (match(o) && o->st.st_ino == fd->st.st_ino && o->st.st_dev == fd->st.st_dev)
			return o->description->id; /* of the first one that has it */
	}
	return fd->description->id;
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	Kage__Pipe *m = msg_new(&c->image->arena, Kage__Pipe, kage__pipe__init);
	int capacity = fcntl(fd->ours, F_GETPIPE_SZ);

	if (!m)
		return kage_err_nomem();
	if (capacity < 0)
		return kage_err_sys(errno, "read the size of the pipe");
	d->kind_case = KAGE__DESCRIPTION__KIND_PIPE;
	d->pipe = m;
	m->pipe = number_of(c, fd);
	m->capacity_bytes = (uint32_t)capacity;
	m->writer = !reads(d);
	m->packets = has_packets(c, fd);
	TRY(note_fifo(c, fd, m));
	look_for_others(c, fd, d);
	return reads(d) && first_reader(c, fd) ? copy_content(c, fd, m) : NULL;
}

/* --- restore ------------------------------------------------------------------------------------ */

static const Kage__FileObject *fifo_of(const struct kage_restore *r, const Kage__Description *d)
{
	return d->pipe->fifo_file ? kage_image_file(r->image, d->pipe->fifo_file) : NULL;
}

static bool same_pipe(const Kage__Description *d, const Kage__Description *o)
{
	return o->kind_case == KAGE__DESCRIPTION__KIND_PIPE && o->pipe->pipe == d->pipe->pipe;
}

/* A descriptor of ours to the same pipe, -1 when none is made yet. */
static int made_already(const struct kage_restore *r, const Kage__Description *d)
{
	const Kage__Image *m = r->image->msg;

	for (size_t i = 0; i < m->n_descriptions; i++)
		if (same_pipe(d, m->descriptions[i]) && r->fds[i] >= 0)
			return r->fds[i];
	return -1;
}

/* The first description that is nothing but the other end of D's pipe. */
static int *slot_of_other_end(struct kage_restore *r, const Kage__Description *d)
{
	const Kage__Image *m = r->image->msg;
	uint32_t other = (d->flags & O_ACCMODE) == O_RDONLY ? O_WRONLY : O_RDONLY;

	for (size_t i = 0; i < m->n_descriptions; i++)
		if (same_pipe(d, m->descriptions[i]) &&
		    (m->descriptions[i]->flags & O_ACCMODE) == other)
			return &r->fds[i];
	return NULL;
}

static int open_access(const Kage__Description *d)
{
	return (int)(d->flags & O_ACCMODE) | O_NONBLOCK;
}

static struct kage_err *put_content(const Kage__Pipe *m, int fd)
{
	_cleanup_fd_ int to = kage_fds_reopen(fd, O_WRONLY | O_NONBLOCK);
	size_t at = 0;

	if (to < 0 || (m->packets && fcntl(to, F_SETFL, O_NONBLOCK | O_DIRECT) < 0))
		return kage_err_sys(errno, "open the writing end");
	for (size_t i = 0; i < m->n_packet_bytes; i++) {
		if (m->packet_bytes[i] > m->content.len - at)
			return kage_err_new(KAGE_CORRUPT, "packets of a pipe exceed its contents");
		TRY(kage_file_write(to, m->content.data + at, m->packet_bytes[i], -1, "the pipe"));
		at += m->packet_bytes[i];
	}
	return kage_file_write(to, m->content.data + at, m->content.len - at, -1, "the pipe");
}

/* Puts in what was inside, through FD, any end of it; the reading end that the contents stand at may be
 * another description than the one that is being made. */
static struct kage_err *put_all_content(struct kage_restore *r, const Kage__Description *d, int fd)
{
	const Kage__Image *m = r->image->msg;

	for (size_t i = 0; i < m->n_descriptions; i++) {
		const Kage__Description *o = m->descriptions[i];

		if (same_pipe(d, o) && o->pipe->content.len)
			TRY(put_content(o->pipe, fd));
	}
	return NULL;
}

static struct kage_err *make_pair(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	_cleanup_(close_ends) struct ends p = { -1, -1 };
	int *other = slot_of_other_end(r, d);

	if (pipe2((int *)&p, O_CLOEXEC | O_NONBLOCK | (d->pipe->packets ? O_DIRECT : 0)) < 0)
		return kage_err_sys(errno, "make a pipe");
	if (fcntl(p.read, F_SETPIPE_SZ, (int)d->pipe->capacity_bytes) < 0 && errno != EPERM)
		return kage_err_sys(errno, "make a pipe of %u bytes", d->pipe->capacity_bytes);
	TRY(put_all_content(r, d, p.write));
	if ((d->flags & O_ACCMODE) == O_RDWR) {
		*ret_fd = kage_fds_reopen(p.read, open_access(d));
		return *ret_fd < 0 ? kage_err_sys(errno, "open a pipe for both") : NULL;
	}
	*ret_fd = reads(d) ? take_fd(&p.read) : take_fd(&p.write);
	if (other)
		*other = reads(d) ? take_fd(&p.write) : take_fd(&p.read);
	return NULL;
}

/* Opened for both first: that never waits for a partner (fifo(7)), and while it is open a write finds a
 * reader. */
static struct kage_err *make_fifo(struct kage_restore *r, const Kage__Description *d,
				  const Kage__FileObject *f, int *ret_fd)
{
	_cleanup_fd_ int both = open(f->path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	_cleanup_fd_ int fd = -1;
	struct stat st;

	if (both < 0)
		return kage_err_sys(errno, "open %s", f->path);
	if (fstat(both, &st) < 0 || !S_ISFIFO(st.st_mode))
		return kage_err_new(KAGE_CHANGED, "%s is no named pipe any more", f->path);
	if (fcntl(both, F_SETPIPE_SZ, (int)d->pipe->capacity_bytes) < 0 && errno != EPERM &&
	    errno != EBUSY)
		return kage_err_sys(errno, "make a pipe of %u bytes", d->pipe->capacity_bytes);
	fd = open(f->path, open_access(d) | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return kage_err_sys(errno, "open %s", f->path);
	if (made_already(r, d) < 0)
		TRY(put_all_content(r, d, both));
	*ret_fd = take_fd(&fd);
	return NULL;
}

static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	const Kage__FileObject *f = fifo_of(r, d);
	int base = made_already(r, d);

	if (f)
		return make_fifo(r, d, f, ret_fd);
	if (base < 0)
		return make_pair(r, d, ret_fd);
	*ret_fd = kage_fds_reopen(base, open_access(d));
	return *ret_fd < 0 ? kage_err_sys(errno, "open another end of a pipe") : NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	const Kage__Pipe *m = d->pipe;
	const Kage__FileObject *f = m->fifo_file ? kage_image_file(image, m->fifo_file) : NULL;

	if (f)
		fprintf(out, "%s, ", f->path);
	else
		fprintf(out, "number %u, ", m->pipe);
	fprintf(out, "%s end", m->writer ? "writing" : reads(d) && writes(d) ? "both" : "reading");
	if (m->content.len)
		fprintf(out, ", %zu bytes inside", m->content.len);
	if (m->packets)
		fputs(", packets", out);
}

const struct kage_fd_kind kage_fd_pipe = {
	.name = "pipe",
	.which = KAGE__DESCRIPTION__KIND_PIPE,
	.match = match,
	.capture = capture,
	.make = make,
	.print = print,
};
