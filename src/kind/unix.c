/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UNIX sockets (unix(7)):
 *
 *	not bound; bound datagram sockets, also with a fixed peer that has a name (such as /dev/log)
 *	listeners, with their backlog
 *	pairs with both ends in the target, with what waits to be read in a stream
 *
 * Unread bytes of a stream are read by MSG_PEEK, which goes through the whole queue and leaves it. Of
 * datagrams it shows the first one only, and the way to the others (SO_PEEK_OFF) would change the
 * target's socket, so a pair with unread datagrams is an obstacle.
 *
 * A socket file is bound again when nobody listens on it; relative names are bound by a thread with a
 * working directory of its own, so that the name stays what it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/fds.h"
#include "kind/sockopt.h"
#include "kind/unix_diag.h"

enum { NAME_TEXT = 120 };

static bool match(const struct kage_fd_seen *fd)
{
	int domain;

	return S_ISSOCK(fd->st.st_mode) && !(kage_fds_flags(fd) & O_PATH) &&
	       kage_sockopt_int(fd->ours, SOL_SOCKET, SO_DOMAIN, &domain) && domain == AF_UNIX;
}

static bool is_stream(const Kage__UnixSocket *m)
{
	return m->type == SOCK_STREAM;
}

/* An abstract name begins with a zero byte, shown as '@'. */
static const char *show(const ProtobufCBinaryData *name, char text[NAME_TEXT])
{
	size_t n = name->len < NAME_TEXT - 1 ? name->len : NAME_TEXT - 1;

	for (size_t i = 0; i < n; i++)
		text[i] = name->data[i] ? (char)name->data[i] : '@';
	text[n] = '\0';
	return n ? text : "without a name";
}

static bool is_path(const ProtobufCBinaryData *name)
{
	return name->len && name->data[0];
}

/* --- capture ------------------------------------------------------------------------------------ */

/* The name without the zero byte with which the kernel ends a path. */
static struct kage_err *store_name(struct arena *a, const struct sockaddr_un *from, socklen_t size,
				   ProtobufCBinaryData *ret)
{
	size_t head = offsetof(struct sockaddr_un, sun_path);
	size_t n = size > head ? size - head : 0;

	if (n && from->sun_path[0])
		n = strnlen(from->sun_path, n);
	ret->len = n;
	ret->data = n ? arena_dup(a, from->sun_path, n) : NULL;
	return n && !ret->data ? kage_err_nomem() : NULL;
}

/* A relative name was relative to the working directory of then; it is taken when it still is. */
static struct kage_err *find_file(struct kage_capture *c, const struct kage_fd_seen *fd,
				  uint32_t vfs_ino, Kage__UnixSocket *m)
{
	_cleanup_free_ char *cwd = NULL;
	char path[4096 + 128];
	struct stat st;

	TRY(kage_file_readlink(c->target->proc_fd, "cwd", &cwd));
	m->cwd = arena_strdup(&c->image->arena, cwd);
	if (!m->cwd)
		return kage_err_nomem();
	snprintf(path, sizeof(path), "%s%s%.*s", m->name.data[0] == '/' ? "" : cwd,
		 m->name.data[0] == '/' ? "" : "/", (int)m->name.len, (const char *)m->name.data);
	if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode) &&
	    (!vfs_ino || (uint32_t)st.st_ino == vfs_ino)) {
		m->mode = st.st_mode & 07777;
		m->uid = st.st_uid;
		m->gid = st.st_gid;
		return NULL;
	}
	m->mode = 0777;
	m->uid = m->gid = ~0u;
	kage_obstacle(c->obstacles, m->name.data[0] != '/',
		      "none is needed if the program knows that it took its socket file away",
		      kage_fds_label(c, fd), "its name %s does not lead to it any more", path);
	return NULL;
}

static struct kage_err *read_type(int fd, Kage__UnixSocket *m)
{
	int type, listens;

	if (!kage_sockopt_int(fd, SOL_SOCKET, SO_TYPE, &type) ||
	    !kage_sockopt_int(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens))
		return kage_err_sys(errno, "read the type of a socket");
	m->type = (uint32_t)type;
	if (listens)
		m->state = KAGE__INET_SOCKET__STATE__LISTENING;
	return NULL;
}

static struct kage_err *read_names(struct kage_capture *c, int fd, Kage__UnixSocket *m)
{
	struct arena *a = &c->image->arena;
	struct sockaddr_un name;
	socklen_t size = sizeof(name);

	if (getsockname(fd, (struct sockaddr *)&name, &size) < 0)
		return kage_err_sys(errno, "read the name of a socket");
	TRY(store_name(a, &name, size, &m->name));
	if (m->name.len && m->state == KAGE__INET_SOCKET__STATE__UNBOUND)
		m->state = KAGE__INET_SOCKET__STATE__BOUND;
	size = sizeof(name);
	if (getpeername(fd, (struct sockaddr *)&name, &size) < 0)
		return NULL;
	m->state = KAGE__INET_SOCKET__STATE__CONNECTED;
	return store_name(a, &name, size, &m->peer_name);
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	Kage__UnixSocket *m = msg_new(&c->image->arena, Kage__UnixSocket, kage__unix_socket__init);
	struct kage_unix_diag diag = { 0 };

	if (!m)
		return kage_err_nomem();
	d->kind_case = KAGE__DESCRIPTION__KIND_UNIX_SOCKET;
	d->unix_socket = m;
	m->ino = fd->st.st_ino;
	TRY(read_type(fd->ours, m));
	TRY(read_names(c, fd->ours, m));
	TRY(kage_unix_diag((uint32_t)fd->st.st_ino, &diag));
	m->shut_read = diag.shutdown & 1;
	m->shut_write = diag.shutdown & 2;
	if (m->state == KAGE__INET_SOCKET__STATE__LISTENING) {
		m->backlog = diag.backlog;
		if (diag.waiting)
			kage_obstacle(c->obstacles, false,
				      "none is needed; their clients connect again",
				      kage_fds_label(c, fd),
				      "%u connections wait to be accepted; a restored program does "
				      "not have them",
				      diag.waiting);
	}
	if (is_path(&m->name) && m->state != KAGE__INET_SOCKET__STATE__CONNECTED)
		TRY(find_file(c, fd, diag.vfs_ino, m));
	else if (is_path(&m->name) && m->type == SOCK_DGRAM)
		TRY(find_file(c, fd, diag.vfs_ino, m));
	return kage_sockopt_capture(c, fd, AF_UNIX, (int)m->type, 0, &m->options);
}

/* --- pairs: once all descriptions are known ----------------------------------------------------- */

static const struct kage_fd_seen *by_ino(const struct kage_capture *c, uint64_t ino)
{
	for (size_t i = 0; i < c->n_fds; i++)
		if (S_ISSOCK(c->fds[i].st.st_mode) && c->fds[i].st.st_ino == ino)
			return &c->fds[i];
	return NULL;
}

/* Without room for control data descriptors that were passed along stay where they are, and MSG_CTRUNC
 * tells that there are some. */
static struct kage_err *peek(struct kage_capture *c, const struct kage_fd_seen *fd,
			     Kage__UnixSocket *m)
{
	int waiting = 0;
	struct iovec part;
	struct msghdr h = { .msg_iov = &part, .msg_iovlen = 1 };
	ssize_t n;

	if (ioctl(fd->ours, FIONREAD, &waiting) < 0 || waiting <= 0 || c->checking)
		return NULL;
	part.iov_len = (size_t)waiting;
	part.iov_base = arena_alloc(&c->image->arena, part.iov_len);
	if (!part.iov_base)
		return kage_err_nomem();
	n = recvmsg(fd->ours, &h, MSG_PEEK | MSG_DONTWAIT);
	if (n != waiting || (h.msg_flags & MSG_CTRUNC))
		kage_obstacle(c->obstacles, true, "take the image a moment later",
			      kage_fds_label(c, fd),
			      "what waits to be read carries descriptors or credentials");
	m->received.data = part.iov_base;
	m->received.len = n > 0 ? (size_t)n : 0;
	return NULL;
}

static bool has_unread(const struct kage_fd_seen *fd)
{
	struct pollfd p = { .fd = fd->ours, .events = POLLIN };

	return poll(&p, 1, 0) > 0 && (p.revents & POLLIN);
}

static struct kage_err *capture_queue(struct kage_capture *c, const struct kage_fd_seen *fd,
				      Kage__UnixSocket *m)
{
	int waiting = 0;

	if (is_stream(m))
		return peek(c, fd, m);
	/* The end of a sequence of packets is readable too, with nothing in it. */
	if (m->type == SOCK_SEQPACKET && (ioctl(fd->ours, FIONREAD, &waiting) < 0 || waiting == 0))
		return NULL;
	if (has_unread(fd))
		kage_obstacle(c->obstacles, m->peer_description || m->type == SOCK_SEQPACKET,
			      "take the image a moment later", kage_fds_label(c, fd),
			      "datagrams wait to be read; a restored program would not have them");
	return NULL;
}

static void refuse_peer(struct kage_capture *c, const struct kage_fd_seen *fd,
			const Kage__UnixSocket *m)
{
	char name[NAME_TEXT], peer[NAME_TEXT];
	const char *object = arena_printf(&c->image->arena, "fd %d: UNIX connection %s → %s",
					  fd->fd, show(&m->name, name), show(&m->peer_name, peer));

	/* An image that is only looked at may hold it, and check() will name it. */
	kage_obstacle(c->obstacles, !c->lenient || m->type != SOCK_STREAM,
		      "let the connection end before the image is taken, then try again",
		      object ? object : "a UNIX connection",
		      "its other end belongs to another process");
}

static struct kage_err *capture_links(struct kage_capture *c, const struct kage_fd_seen *fd,
				      Kage__Description *d)
{
	Kage__UnixSocket *m = d->unix_socket;
	struct kage_unix_diag diag = { 0 };
	const struct kage_fd_seen *peer = NULL;

	if (m->state == KAGE__INET_SOCKET__STATE__LISTENING)
		return NULL;
	TRY(kage_unix_diag((uint32_t)fd->st.st_ino, &diag));
	if (diag.peer_ino)
		peer = by_ino(c, diag.peer_ino);
	if (peer && peer->description != d && !(m->type == SOCK_DGRAM && m->peer_name.len))
		m->peer_description = peer->description->id;
	if (m->state == KAGE__INET_SOCKET__STATE__CONNECTED && !m->peer_description) {
		/* A peer that is gone has no inode, and its going has shut this end; one that was not
		 * accepted yet has no inode either. Datagram sockets are not shut. */
		m->peer_closed = !diag.peer_ino &&
				 (m->type == SOCK_DGRAM ? !m->peer_name.len : diag.shutdown == 3);
		if (!m->peer_closed && !(m->type == SOCK_DGRAM && m->peer_name.len))
			refuse_peer(c, fd, m);
	}
	return capture_queue(c, fd, m);
}

/* --- restore: names ----------------------------------------------------------------------------- */

static struct kage_err *address_of(const ProtobufCBinaryData *name, struct sockaddr_un *ret,
				   socklen_t *ret_size)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (name->len > sizeof(ret->sun_path))
		return kage_err_new(KAGE_CORRUPT, "a socket name of %zu bytes", name->len);
	memcpy(ret->sun_path, name->data, name->len);
	*ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name->len);
	if (is_path(name) && name->len < sizeof(ret->sun_path))
		++*ret_size;
	return NULL;
}

/* What is done with a socket and its name in the directory to which the name is relative. */
struct errand {
	const Kage__UnixSocket *m;
	int fd;
	bool only_look; /* check: nothing is changed */
	struct kage_err *e;
	bool taken;     /* somebody listens */
	bool no_socket; /* a file of another type has the name */
};

/* A stale socket file is one to which no socket is bound any more. An abstract name goes with its
 * socket; whether it is free shows a bind. */
static void look(struct errand *k, const struct sockaddr_un *to, socklen_t size)
{
	_cleanup_fd_ int probe = -1;
	struct stat st;

	if (is_path(&k->m->name)) {
		if (lstat(to->sun_path, &st) < 0)
			return;
		k->no_socket = !S_ISSOCK(st.st_mode);
		if (!k->no_socket)
			k->e = kage_unix_diag_bound(&st, &k->taken);
		return;
	}
	probe = socket(AF_UNIX, (int)k->m->type | SOCK_CLOEXEC, 0);
	k->taken = bind(probe, (const struct sockaddr *)to, size) < 0 && errno == EADDRINUSE;
}

static void bind_name(struct errand *k, const struct sockaddr_un *to, socklen_t size)
{
	const Kage__UnixSocket *m = k->m;
	char text[NAME_TEXT];

	if (is_path(&m->name))
		unlink(to->sun_path);
	if (bind(k->fd, (const struct sockaddr *)to, size) < 0) {
		k->e = kage_err_sys(errno, "bind to %s", show(&m->name, text));
		return;
	}
	if (!is_path(&m->name))
		return;
	if (m->uid != ~0u && chown(to->sun_path, m->uid, m->gid) < 0 && errno != EPERM)
		k->e = kage_err_sys(errno, "give %s its owner", show(&m->name, text));
	else if (chmod(to->sun_path, m->mode & 07777) < 0)
		k->e = kage_err_sys(errno, "give %s its rights", show(&m->name, text));
}

static void run_errand(struct errand *k)
{
	struct sockaddr_un to;
	socklen_t size;
	char text[NAME_TEXT];

	k->e = address_of(&k->m->name, &to, &size);
	if (k->e)
		return;
	look(k, &to, size);
	if (k->e || k->only_look)
		return;
	if (k->taken || k->no_socket)
		k->e = kage_err_new(KAGE_BUSY, "%s is taken", show(&k->m->name, text));
	else
		bind_name(k, &to, size);
}

static void *elsewhere(void *user)
{
	struct errand *k = user;

	if (unshare(CLONE_FS) < 0 || chdir(k->m->cwd) < 0)
		k->e = kage_err_sys(errno, "go to %s", k->m->cwd);
	else
		run_errand(k);
	return NULL;
}

static struct kage_err *run(struct errand *k)
{
	pthread_t thread;
	int r;

	if (!is_path(&k->m->name) || k->m->name.data[0] == '/') {
		run_errand(k);
		return k->e;
	}
	r = pthread_create(&thread, NULL, elsewhere, k);
	if (r)
		return kage_err_sys(r, "make a thread");
	pthread_join(thread, NULL);
	return k->e;
}

/* Whether it is a connection to another process that is to be over. */
static bool is_cut(const struct kage_restore *r, const Kage__UnixSocket *m)
{
	return r->options->connections == KAGE_CONNECTIONS_RESET && is_stream(m) &&
	       m->state == KAGE__INET_SOCKET__STATE__CONNECTED && !m->peer_description;
}

static bool is_bound_again(const Kage__UnixSocket *m)
{
	return m->name.len && !m->peer_description && !m->peer_closed;
}

static struct kage_err *check(struct kage_restore *r, const Kage__Description *d)
{
	const Kage__UnixSocket *m = d->unix_socket;
	struct errand k = { .m = m, .fd = -1, .only_look = true };
	const char *object = kage_fds_label_of(r, d);
	char text[NAME_TEXT];

	if (m->state == KAGE__INET_SOCKET__STATE__CONNECTED && !m->peer_description &&
	    !m->peer_closed && !m->peer_name.len && !is_cut(r, m))
		kage_obstacle(r->obstacles, true,
			      is_stream(m) ? "restore with --connections=reset, and its peer seems "
					     "to have closed it"
					   : "take an image without connections",
			      object, "the other end of this UNIX connection is not in the image");
	if (!is_bound_again(m) || is_cut(r, m))
		return NULL;
	TRY(run(&k));
	show(&m->name, text);
	if (k.no_socket)
		kage_obstacle(r->obstacles, true, "move that file away", object,
			      "%s is a file now, and no socket", text);
	else if (k.taken)
		kage_obstacle(r->obstacles, true, "end the program that listens (ss -xlp shows it)",
			      object, "%s is taken", text);
	return NULL;
}

/* --- restore: sockets --------------------------------------------------------------------------- */

/* What waits at one end was sent by the other. */
static struct kage_err *put_received(const Kage__UnixSocket *m, int sender)
{
	size_t done = 0;

	while (done < m->received.len) {
		ssize_t n = send(sender, m->received.data + done, m->received.len - done,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return kage_err_sys(errno, "put back %zu bytes in a socket",
					    m->received.len);
		done += (size_t)n;
	}
	return NULL;
}

static struct kage_err *shut(const Kage__UnixSocket *m, int fd)
{
	if (m->shut_read && !m->peer_closed && shutdown(fd, SHUT_RD) < 0)
		return kage_err_sys(errno, "shut a socket for reading");
	if (m->shut_write && !m->peer_closed && shutdown(fd, SHUT_WR) < 0)
		return kage_err_sys(errno, "shut a socket for writing");
	return NULL;
}

struct pair {
	int a, b;
};

static void close_pair(struct pair *p)
{
	close_fd(p->a);
	close_fd(p->b);
}

static struct kage_err *dress(const Kage__UnixSocket *a, const Kage__UnixSocket *b,
			      const struct pair *p)
{
	TRY(kage_sockopt_restore(p->a, a->options));
	if (b)
		TRY(kage_sockopt_restore(p->b, b->options));
	TRY(put_received(a, p->b));
	if (b)
		TRY(put_received(b, p->a));
	TRY(shut(a, p->a));
	return b ? shut(b, p->b) : NULL;
}

/* The first end that is made makes both; an end whose other end is closed gets that, too. */
static struct kage_err *make_pair(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	const Kage__UnixSocket *m = d->unix_socket;
	bool alone = m->peer_closed || is_cut(r, m);
	Kage__Description *o = alone ? NULL : kage_image_description(r->image, m->peer_description);
	_cleanup_(close_pair) struct pair p = { -1, -1 };

	if (!alone && (!o || o == d || o->kind_case != KAGE__DESCRIPTION__KIND_UNIX_SOCKET ||
		       o->unix_socket->peer_description != d->id))
		return kage_err_new(KAGE_CORRUPT, "the other end of the pair is not in the image");
	if (socketpair(AF_UNIX, (int)m->type | SOCK_CLOEXEC, 0, (int *)&p) < 0)
		return kage_err_sys(errno, "make a pair of sockets");
	TRY(dress(m, o ? o->unix_socket : NULL, &p));
	*ret_fd = take_fd(&p.a);
	if (o)
		r->fds[kage_fds_index(r, o)] = take_fd(&p.b);
	return NULL;
}

static struct kage_err *connect_to_peer(const Kage__UnixSocket *m, int fd)
{
	struct sockaddr_un to;
	socklen_t size;
	char text[NAME_TEXT];

	TRY(address_of(&m->peer_name, &to, &size));
	if (connect(fd, (struct sockaddr *)&to, size) < 0)
		return kage_err_sys(errno, "connect to %s", show(&m->peer_name, text));
	return NULL;
}

static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	const Kage__UnixSocket *m = d->unix_socket;
	struct errand k = { .m = m };
	_cleanup_fd_ int fd = -1;

	if (m->peer_description || m->peer_closed || is_cut(r, m))
		return make_pair(r, d, ret_fd);
	fd = socket(AF_UNIX, (int)m->type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return kage_err_sys(errno, "make a socket");
	TRY(kage_sockopt_restore(fd, m->options));
	k.fd = fd;
	if (m->name.len)
		TRY(run(&k));
	if (m->state == KAGE__INET_SOCKET__STATE__LISTENING && listen(fd, (int)m->backlog) < 0)
		return kage_err_sys(errno, "listen");
	if (m->state == KAGE__INET_SOCKET__STATE__CONNECTED)
		TRY(connect_to_peer(m, fd));
	*ret_fd = take_fd(&fd);
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	const Kage__UnixSocket *m = d->unix_socket;
	const char *type = is_stream(m) ? "stream" : m->type == SOCK_DGRAM ? "datagram" : "packets";
	char text[NAME_TEXT];

	(void)image;
	fprintf(out, "UNIX %s", type);
	if (m->name.len)
		fprintf(out, " %s", show(&m->name, text));
	if (m->state == KAGE__INET_SOCKET__STATE__LISTENING)
		fprintf(out, ", listens, backlog %u", m->backlog);
	if (m->peer_description)
		fprintf(out, ", paired with description %u", m->peer_description);
	else if (m->peer_closed)
		fputs(", the other end is closed", out);
	else if (m->peer_name.len)
		fprintf(out, " → %s", show(&m->peer_name, text));
	if (m->received.len)
		fprintf(out, ", %zu bytes wait to be read", m->received.len);
}

const struct kage_fd_kind kage_fd_unix = {
	.name = "socket",
	.which = KAGE__DESCRIPTION__KIND_UNIX_SOCKET,
	.match = match,
	.capture = capture,
	.capture_links = capture_links,
	.check = check,
	.make = make,
	.print = print,
};
