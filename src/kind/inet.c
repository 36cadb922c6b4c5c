/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internet sockets: TCP that listens or was never connected, and UDP, bound or not, with or without a
 * fixed peer. Everything is read through our duplicate. A connected TCP socket is named as an
 * obstacle with both its addresses.
 *
 * A port is taken again with SO_REUSEADDR switched on for the moment of the bind: what is left of the
 * former life (connections in TIME_WAIT) does not count then. Two listeners still exclude each other.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/fds.h"
#include "kind/sockopt.h"

/* include/net/tcp_states.h; TCP_INFO shows them */
enum { STATE_ESTABLISHED = 1, STATE_CLOSE = 7, STATE_LISTEN = 10 };

enum { ADDRESS_TEXT = INET6_ADDRSTRLEN + 16 };

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage storage;
};

static bool match(const struct kage_fd_seen *fd)
{
	int domain;

	return S_ISSOCK(fd->st.st_mode) && !(kage_fds_flags(fd) & O_PATH) &&
	       kage_sockopt_int(fd->ours, SOL_SOCKET, SO_DOMAIN, &domain) &&
	       (domain == AF_INET || domain == AF_INET6);
}

/* --- addresses ---------------------------------------------------------------------------------- */

static const char *show(uint32_t family, const ProtobufCBinaryData *bytes, uint32_t port,
			char text[ADDRESS_TEXT])
{
	char ip[INET6_ADDRSTRLEN] = "?";
	size_t need = family == AF_INET6 ? 16 : 4;

	if (bytes->len == need)
		inet_ntop((int)family, bytes->data, ip, sizeof(ip));
	snprintf(text, ADDRESS_TEXT, family == AF_INET6 ? "[%s]:%u" : "%s:%u", ip, port);
	return text;
}

static struct kage_err *store_address(struct arena *a, const union address *from,
				      ProtobufCBinaryData *ret_bytes, uint32_t *ret_port,
				      uint32_t *ret_scope)
{
	bool v6 = from->any.sa_family == AF_INET6;
	const void *bytes = v6 ? (const void *)&from->v6.sin6_addr : &from->v4.sin_addr;

	ret_bytes->len = v6 ? 16 : 4;
	ret_bytes->data = arena_dup(a, bytes, ret_bytes->len);
	*ret_port = ntohs(v6 ? from->v6.sin6_port : from->v4.sin_port);
	if (v6 && from->v6.sin6_scope_id)
		*ret_scope = from->v6.sin6_scope_id;
	return ret_bytes->data ? NULL : kage_err_nomem();
}

static struct kage_err *load_address(const Kage__InetSocket *m, const ProtobufCBinaryData *bytes,
				     uint32_t port, union address *ret, socklen_t *ret_size)
{
	bool v6 = m->family == AF_INET6;

	if (bytes->len != (v6 ? 16 : 4) || port > UINT16_MAX)
		return kage_err_new(KAGE_CORRUPT, "an address of %zu bytes", bytes->len);
	memset(ret, 0, sizeof(*ret));
	ret->any.sa_family = (sa_family_t)m->family;
	if (v6) {
		memcpy(&ret->v6.sin6_addr, bytes->data, 16);
		ret->v6.sin6_port = htons((uint16_t)port);
		ret->v6.sin6_scope_id = m->scope_id;
	} else {
		memcpy(&ret->v4.sin_addr, bytes->data, 4);
		ret->v4.sin_port = htons((uint16_t)port);
	}
	*ret_size = v6 ? sizeof(ret->v6) : sizeof(ret->v4);
	return NULL;
}

/* --- capture ------------------------------------------------------------------------------------ */

static struct kage_err *read_type(int fd, Kage__InetSocket *m)
{
	int family, type, protocol;

	if (!kage_sockopt_int(fd, SOL_SOCKET, SO_DOMAIN, &family) ||
	    !kage_sockopt_int(fd, SOL_SOCKET, SO_TYPE, &type) ||
	    !kage_sockopt_int(fd, SOL_SOCKET, SO_PROTOCOL, &protocol))
		return kage_err_sys(errno, "read the type of a socket");
	m->family = (uint32_t)family;
	m->type = (uint32_t)type;
	m->protocol = (uint32_t)protocol;
	return NULL;
}

static struct kage_err *read_addresses(struct arena *a, int fd, Kage__InetSocket *m)
{
	union address local = { 0 }, peer = { 0 };
	socklen_t size = sizeof(local);

	if (getsockname(fd, &local.any, &size) < 0)
		return kage_err_sys(errno, "read the address of a socket");
	TRY(store_address(a, &local, &m->local_address, &m->local_port, &m->scope_id));
	if (m->local_port)
		m->state = KAGE__INET_SOCKET__STATE__BOUND;
	size = sizeof(peer);
	if (getpeername(fd, &peer.any, &size) < 0)
		return NULL;
	m->state = KAGE__INET_SOCKET__STATE__CONNECTED;
	return store_address(a, &peer, &m->peer_address, &m->peer_port, &m->scope_id);
}

static void refuse_connection(struct kage_capture *c, const struct kage_fd_seen *fd,
			      Kage__InetSocket *m)
{
	char local[ADDRESS_TEXT], peer[ADDRESS_TEXT];
	const char *object = arena_printf(
		&c->image->arena, "fd %d: TCP connection %s → %s", fd->fd,
		show(m->family, &m->local_address, m->local_port, local),
		m->peer_address.len ? show(m->family, &m->peer_address, m->peer_port, peer)
				    : "a peer that is gone");

	/* An image that is only looked at may hold it, and check() will name it. */
	kage_obstacle(c->obstacles, !c->lenient,
		      "let the connection end before the image is taken, then try again",
		      object ? object : "a TCP connection",
		      "connected TCP sockets cannot be restored yet");
	m->state = KAGE__INET_SOCKET__STATE__CONNECTED;
}

/* For a socket that listens, TCP_INFO shows in tcpi_unacked how many connections wait to be accepted,
 * and in tcpi_sacked the backlog (tcp_get_info() in net/ipv4/tcp.c). */
static void read_listener(struct kage_capture *c, const struct kage_fd_seen *fd,
			  const struct tcp_info *info, Kage__InetSocket *m)
{
	m->state = KAGE__INET_SOCKET__STATE__LISTENING;
	m->backlog = info->tcpi_sacked;
	if (info->tcpi_unacked)
		kage_obstacle(
			c->obstacles, false, "none is needed; their clients connect again",
			kage_fds_label(c, fd),
			"%u connections wait to be accepted; a restored program does not have "
			"them",
			info->tcpi_unacked);
}

static struct kage_err *read_tcp(struct kage_capture *c, const struct kage_fd_seen *fd,
				 Kage__InetSocket *m)
{
	struct tcp_info info = { 0 };
	socklen_t size = sizeof(info);

	if (getsockopt(fd->ours, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return kage_err_sys(errno, "read the state of a TCP socket");
	if (info.tcpi_state == STATE_LISTEN)
		read_listener(c, fd, &info, m);
	else if (info.tcpi_state != STATE_CLOSE)
		refuse_connection(c, fd, m);
	else if (info.tcpi_segs_out || info.tcpi_segs_in)
		kage_obstacle(c->obstacles, false, "none is needed; the program closes it soon",
			      kage_fds_label(c, fd),
			      "its connection is over; in a restored program it is a fresh socket");
	return NULL;
}

/* Datagrams may get lost on the way at any time, and these do. */
static void look_for_unread(struct kage_capture *c, const struct kage_fd_seen *fd)
{
	struct pollfd p = { .fd = fd->ours, .events = POLLIN };

	if (poll(&p, 1, 0) > 0 && (p.revents & POLLIN))
		kage_obstacle(c->obstacles, false, "none is needed if the program bears a loss",
			      kage_fds_label(c, fd),
			      "datagrams wait to be read; a restored program does not have them");
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	struct arena *a = &c->image->arena;
	Kage__InetSocket *m = msg_new(a, Kage__InetSocket, kage__inet_socket__init);

	if (!m)
		return kage_err_nomem();
	d->kind_case = KAGE__DESCRIPTION__KIND_INET_SOCKET;
	d->inet_socket = m;
	TRY(read_type(fd->ours, m));
	TRY(read_addresses(a, fd->ours, m));
	if (m->type == SOCK_STREAM && m->protocol == IPPROTO_TCP)
		TRY(read_tcp(c, fd, m));
	else if (m->type == SOCK_DGRAM || m->type == SOCK_RAW)
		look_for_unread(c, fd);
	else
		kage_obstacle(c->obstacles, true, "let the program close it first",
			      kage_fds_label(c, fd), "protocol %u is not TCP, UDP or raw",
			      m->protocol);
	return kage_sockopt_capture(c, fd, (int)m->family, (int)m->type, (int)m->protocol,
				    &m->options);
}

/* --- restore ------------------------------------------------------------------------------------ */

static struct kage_err *bind_to(const Kage__InetSocket *m, int fd)
{
	union address to;
	socklen_t size;
	int on = 1;

	TRY(load_address(m, &m->local_address, m->local_port, &to, &size));
	/* With UDP the same option means sharing a port with others, and nothing is left of a former life. */
	if (m->type == SOCK_STREAM)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, &to.any, size) < 0) {
		char text[ADDRESS_TEXT];

		return kage_err_sys(errno, "bind to %s",
				    show(m->family, &m->local_address, m->local_port, text));
	}
	if (m->type == SOCK_STREAM)
		kage_sockopt_settle(fd, m->options);
	return NULL;
}

static struct kage_err *connect_to(const Kage__InetSocket *m, int fd)
{
	union address to;
	socklen_t size;

	TRY(load_address(m, &m->peer_address, m->peer_port, &to, &size));
	if (connect(fd, &to.any, size) < 0) {
		char text[ADDRESS_TEXT];

		return kage_err_sys(errno, "connect to %s",
				    show(m->family, &m->peer_address, m->peer_port, text));
	}
	return NULL;
}

static bool is_connection(const Kage__InetSocket *m)
{
	return m->type == SOCK_STREAM && m->state == KAGE__INET_SOCKET__STATE__CONNECTED;
}

/* A connection to ourselves, by the loopback of the socket's family, whose other end resets it: closing
 * with a linger time of zero does (tcp(7), socket(7)). */
static struct kage_err *reset_by_peer(const Kage__InetSocket *m, int fd)
{
	const struct linger at_once = { .l_onoff = 1 };
	_cleanup_fd_ int listener = socket((int)m->family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	_cleanup_fd_ int peer = -1;
	union address own = { .any.sa_family = (sa_family_t)m->family };
	socklen_t size = m->family == AF_INET6 ? sizeof(own.v6) : sizeof(own.v4);

	if (m->family == AF_INET6)
		own.v6.sin6_addr = in6addr_loopback;
	else
		own.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (listener < 0 || bind(listener, &own.any, size) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, &own.any, &size) < 0 || connect(fd, &own.any, size) < 0)
		return kage_err_sys(errno, "connect to ourselves");
	peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (peer < 0 || setsockopt(peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) < 0)
		return kage_err_sys(errno, "accept a connection of ourselves");
	return NULL;
}

/* The options of sockets in general. Those of TCP and IP tell how a connection went (its segment size), or
 * are of no use any more. */
static struct kage_err *restore_general(struct kage_restore *r, int fd,
					const Kage__SocketOptions *all)
{
	Kage__SocketOptions some = KAGE__SOCKET_OPTIONS__INIT;
	size_t n = all ? all->n_options : 0;

	some.options = arena_alloc(&r->scratch, (n + 1) * sizeof(*some.options));
	if (!some.options)
		return kage_err_nomem();
	for (size_t i = 0; i < n; i++)
		if (all->options[i]->level == SOL_SOCKET)
			some.options[some.n_options++] = all->options[i];
	return kage_sockopt_restore(fd, &some);
}

static struct kage_err *make_reset(struct kage_restore *r, const Kage__InetSocket *m, int *ret_fd)
{
	_cleanup_fd_ int fd = socket((int)m->family, (int)m->type | SOCK_CLOEXEC, (int)m->protocol);

	if (fd < 0)
		return kage_err_sys(errno, "make a socket");
	TRY(restore_general(r, fd, m->options));
	TRY_WRAP(reset_by_peer(m, fd), "make a connection that is over");
	*ret_fd = take_fd(&fd);
	return NULL;
}

static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	const Kage__InetSocket *m = d->inet_socket;
	_cleanup_fd_ int fd = -1;

	if (is_connection(m))
		return make_reset(r, m, ret_fd);
	fd = socket((int)m->family, (int)m->type | SOCK_CLOEXEC, (int)m->protocol);
	if (fd < 0)
		return kage_err_sys(errno, "make a socket");
	TRY(kage_sockopt_restore(fd, m->options));
	if (m->local_port)
		TRY(bind_to(m, fd));
	if (m->state == KAGE__INET_SOCKET__STATE__LISTENING && listen(fd, (int)m->backlog) < 0)
		return kage_err_sys(errno, "listen");
	if (m->state == KAGE__INET_SOCKET__STATE__CONNECTED)
		TRY(connect_to(m, fd));
	*ret_fd = take_fd(&fd);
	return NULL;
}

/* Tries to take the port and gives it back. It never listens, so no client notices; a port on which
 * somebody listens is refused at the bind already. */
static struct kage_err *check(struct kage_restore *r, const Kage__Description *d)
{
	const Kage__InetSocket *m = d->inet_socket;
	_cleanup_fd_ int fd = -1;
	char text[ADDRESS_TEXT];
	const char *object = kage_fds_label_of(r, d);
	struct kage_err *e;
	int num;

	if (is_connection(m) && r->options->connections == KAGE_CONNECTIONS_REFUSE)
		kage_obstacle(
			r->obstacles, true,
			"restore with --connections=reset, and its peer seems to have reset it",
			object, "TCP connections cannot be restored yet");
	if (!m->local_port || is_connection(m))
		return NULL;
	fd = socket((int)m->family, (int)m->type | SOCK_CLOEXEC, (int)m->protocol);
	e = fd < 0 ? kage_err_sys(errno, "make a socket") : kage_sockopt_restore(fd, m->options);
	if (!e)
		e = bind_to(m, fd);
	if (!e)
		return NULL;
	num = kage_err_errno(e);
	show(m->family, &m->local_address, m->local_port, text);
	if (num == EADDRINUSE)
		kage_obstacle(r->obstacles, true, "end the program that has it (ss -lnp shows it)",
			      object, "%s is taken", text);
	else
		kage_obstacle(r->obstacles, true, "restore where the program may have this address",
			      object, "%s cannot be had: %s", text, kage_err_message(e));
	kage_err_free(e);
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	const Kage__InetSocket *m = d->inet_socket;
	char text[ADDRESS_TEXT];
	const char *type = m->type == SOCK_STREAM ? "TCP" : m->type == SOCK_DGRAM ? "UDP" : "raw";

	(void)image;
	fprintf(out, "%s %s", type, show(m->family, &m->local_address, m->local_port, text));
	if (m->state == KAGE__INET_SOCKET__STATE__LISTENING)
		fprintf(out, ", listens, backlog %u", m->backlog);
	if (m->state == KAGE__INET_SOCKET__STATE__CONNECTED)
		fprintf(out, " → %s", show(m->family, &m->peer_address, m->peer_port, text));
}

const struct kage_fd_kind kage_fd_inet = {
	.name = "socket",
	.which = KAGE__DESCRIPTION__KIND_INET_SOCKET,
	.match = match,
	.capture = capture,
	.check = check,
	.make = make,
	.print = print,
};
