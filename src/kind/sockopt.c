/* SPDX-License-Identifier: Apache-2.0 */
#include "kind/sockopt.h"

#include <errno.h>
#include <linux/in6.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/fds.h"

enum { VALUE_MAX = 64 };

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72 /* since 5.17 */
#endif
#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51 /* since 6.3 */
#endif

/* All that can be read and set again, in the order in which it is set. Numbers unless the size tells
 * otherwise, socket(7), tcp(7), ip(7), ipv6(7), udp(7). */
static const struct {
	int level, name;
	bool text; /* a name */
} options[] = {
	{ SOL_SOCKET, SO_REUSEADDR, false },
	{ SOL_SOCKET, SO_REUSEPORT, false },
	{ SOL_SOCKET, SO_BINDTODEVICE, true },
	{ SOL_SOCKET, SO_MARK, false },
	{ SOL_SOCKET, SO_KEEPALIVE, false },
	{ SOL_SOCKET, SO_BROADCAST, false },
	{ SOL_SOCKET, SO_OOBINLINE, false },
	{ SOL_SOCKET, SO_SNDBUF, false },
	{ SOL_SOCKET, SO_RCVBUF, false },
	{ SOL_SOCKET, SO_LINGER, false },
	{ SOL_SOCKET, SO_RCVTIMEO, false },
	{ SOL_SOCKET, SO_SNDTIMEO, false },
	{ SOL_SOCKET, SO_RCVLOWAT, false },
	{ SOL_SOCKET, SO_PASSCRED, false },
	{ SOL_SOCKET, SO_PASSSEC, false },
	{ SOL_SOCKET, SO_PRIORITY, false },
	{ SOL_SOCKET, SO_DONTROUTE, false },
	{ SOL_SOCKET, SO_NO_CHECK, false },
	{ SOL_SOCKET, SO_TIMESTAMP, false },
	{ SOL_SOCKET, SO_TIMESTAMPNS, false },
	{ SOL_SOCKET, SO_TIMESTAMPING, false },
	{ SOL_SOCKET, SO_RXQ_OVFL, false },
	{ SOL_SOCKET, SO_PEEK_OFF, false },
	{ SOL_SOCKET, SO_BUSY_POLL, false },
	{ SOL_SOCKET, SO_ZEROCOPY, false },
	{ IPPROTO_TCP, TCP_NODELAY, false },
	{ IPPROTO_TCP, TCP_CORK, false },
	{ IPPROTO_TCP, TCP_MAXSEG, false },
	{ IPPROTO_TCP, TCP_KEEPIDLE, false },
	{ IPPROTO_TCP, TCP_KEEPINTVL, false },
	{ IPPROTO_TCP, TCP_KEEPCNT, false },
	{ IPPROTO_TCP, TCP_SYNCNT, false },
	{ IPPROTO_TCP, TCP_LINGER2, false },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, false },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, false },
	{ IPPROTO_TCP, TCP_FASTOPEN, false },
	{ IPPROTO_TCP, TCP_FASTOPEN_CONNECT, false },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, false },
	{ IPPROTO_TCP, TCP_SAVE_SYN, false },
	{ IPPROTO_TCP, TCP_CONGESTION, true },
	{ IPPROTO_UDP, UDP_CORK, false },
	{ IPPROTO_UDP, UDP_SEGMENT, false },
	{ IPPROTO_UDP, UDP_GRO, false },
	{ IPPROTO_IP, IP_TOS, false },
	{ IPPROTO_IP, IP_TTL, false },
	{ IPPROTO_IP, IP_MTU_DISCOVER, false },
	{ IPPROTO_IP, IP_RECVERR, false },
	{ IPPROTO_IP, IP_PKTINFO, false },
	{ IPPROTO_IP, IP_RECVTTL, false },
	{ IPPROTO_IP, IP_RECVTOS, false },
	{ IPPROTO_IP, IP_FREEBIND, false },
	{ IPPROTO_IP, IP_TRANSPARENT, false },
	{ IPPROTO_IP, IP_MULTICAST_TTL, false },
	{ IPPROTO_IP, IP_MULTICAST_LOOP, false },
	{ IPPROTO_IP, IP_MULTICAST_ALL, false },
	{ IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, false },
	{ IPPROTO_IP, IP_LOCAL_PORT_RANGE, false },
	{ IPPROTO_IPV6, IPV6_V6ONLY, false },
	{ IPPROTO_IPV6, IPV6_UNICAST_HOPS, false },
	{ IPPROTO_IPV6, IPV6_MULTICAST_HOPS, false },
	{ IPPROTO_IPV6, IPV6_MULTICAST_LOOP, false },
	{ IPPROTO_IPV6, IPV6_MULTICAST_IF, false },
	{ IPPROTO_IPV6, IPV6_MTU_DISCOVER, false },
	{ IPPROTO_IPV6, IPV6_RECVERR, false },
	{ IPPROTO_IPV6, IPV6_RECVPKTINFO, false },
	{ IPPROTO_IPV6, IPV6_RECVHOPLIMIT, false },
	{ IPPROTO_IPV6, IPV6_RECVTCLASS, false },
	{ IPPROTO_IPV6, IPV6_TCLASS, false },
	{ IPPROTO_IPV6, IPV6_DONTFRAG, false },
	{ IPPROTO_IPV6, IPV6_FREEBIND, false },
	{ IPPROTO_IPV6, IPV6_TRANSPARENT, false },
};

struct value {
	uint8_t bytes[VALUE_MAX];
	socklen_t size; /* 0: there is no such option */
};

/* Asking a socket for an option of a level that it does not have gives an error and nothing else. */
static struct value get(int fd, int level, int name)
{
	struct value v = { .size = VALUE_MAX };

	if (getsockopt(fd, level, name, v.bytes, &v.size) < 0 || v.size > VALUE_MAX)
		v.size = 0;
	return v;
}

bool kage_sockopt_int(int fd, int level, int name, int *ret_value)
{
	socklen_t size = sizeof(*ret_value);

	return getsockopt(fd, level, name, ret_value, &size) == 0 && size == sizeof(*ret_value);
}

/* A program's classic BPF filter could be read and set again, an eBPF one could not; neither is yet. */
static void check_filter(struct kage_capture *c, const struct kage_fd_seen *fd)
{
	socklen_t n = 0;
	int r = getsockopt(fd->ours, SOL_SOCKET, SO_GET_FILTER, NULL, &n);

	if ((r == 0 && n > 0) || (r < 0 && errno == EACCES))
		kage_obstacle(c->obstacles, true, "let the program take its filter off the socket",
			      kage_fds_label(c, fd), "it has a packet filter (SO_ATTACH_FILTER)");
}

/* Bits 0 and 1 of SO_BUF_LOCK: the program set SO_SNDBUF, SO_RCVBUF. The kernel tunes the others. */
static bool is_tuned_by_kernel(int fd, int name)
{
	int lock;

	if ((name != SO_SNDBUF && name != SO_RCVBUF) ||
	    !kage_sockopt_int(fd, SOL_SOCKET, SO_BUF_LOCK, &lock))
		return false;
	return !(lock & (name == SO_SNDBUF ? 1 : 2));
}

static struct kage_err *keep(struct arena *a, Kage__SocketOptions *list, int level, int name,
			     const struct value *v)
{
	Kage__SocketOptions__Option *o = msg_append(a, list, options, Kage__SocketOptions__Option,
						    kage__socket_options__option__init);

	if (!o)
		return kage_err_nomem();
	o->level = (uint32_t)level;
	o->name = (uint32_t)name;
	o->value.data = arena_dup(a, v->bytes, v->size);
	o->value.len = v->size;
	return o->value.data ? NULL : kage_err_nomem();
}

/* What sockets have when they are made. A program may have thousands of one kind. */
struct kage_sockopt_usual {
	int domain, type, protocol;
	struct value values[ARRAY_SIZE(options)];
	struct kage_sockopt_usual *next;
};

static struct kage_err *learn_usual(struct kage_capture *c, int domain, int type, int protocol,
				    const struct kage_sockopt_usual **ret_usual)
{
	struct kage_sockopt_usual *u;
	_cleanup_fd_ int fresh = -1;

	for (u = c->usual_options; u; u = u->next)
		if (u->domain == domain && u->type == type && u->protocol == protocol)
			break;
	*ret_usual = u;
	if (u)
		return NULL;
	fresh = socket(domain, type | SOCK_CLOEXEC, protocol);
	if (fresh < 0)
		return kage_err_sys(errno, "make a socket to compare with");
	u = malloc(sizeof(*u));
	if (!u)
		return kage_err_nomem();
	*u = (struct kage_sockopt_usual){ domain, type, protocol, .next = c->usual_options };
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		u->values[i] = get(fresh, options[i].level, options[i].name);
	*ret_usual = c->usual_options = u;
	return NULL;
}

void kage_sockopt_forget(struct kage_sockopt_usual *usual)
{
	while (usual) {
		struct kage_sockopt_usual *next = usual->next;

		free(usual);
		usual = next;
	}
}

/* Whether FD has option I otherwise than sockets have it when they are made; *RET_NOW is its value then. */
static bool is_unusual(const struct kage_fd_seen *fd, size_t i, const struct value *usual,
		       struct value *ret_now)
{
	int level = options[i].level, name = options[i].name;

	/* Sockets of this kind have no such option. */
	if (!usual->size)
		return false;
	*ret_now = get(fd->ours, level, name);
	if (!ret_now->size)
		return false;
	/* The default of this one is the machine's choice. */
	if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY)
		return true;
	if (ret_now->size == usual->size && memcmp(ret_now->bytes, usual->bytes, usual->size) == 0)
		return false;
	return level != SOL_SOCKET || !is_tuned_by_kernel(fd->ours, name);
}

struct kage_err *kage_sockopt_capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				      int domain, int type, int protocol,
				      Kage__SocketOptions **ret_options)
{
	Kage__SocketOptions *list =
		msg_new(&c->image->arena, Kage__SocketOptions, kage__socket_options__init);
	const struct kage_sockopt_usual *usual;
	struct value now;

	if (!list)
		return kage_err_nomem();
	TRY(learn_usual(c, domain, type, protocol, &usual));
	check_filter(c, fd);
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (is_unusual(fd, i, &usual->values[i], &now))
			TRY(keep(&c->image->arena, list, options[i].level, options[i].name, &now));
	*ret_options = list;
	return NULL;
}

/* --- restore ------------------------------------------------------------------------------------ */

static bool is_known(const Kage__SocketOptions__Option *o)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if ((uint32_t)options[i].level == o->level && (uint32_t)options[i].name == o->name)
			return true;
	return false;
}

/* The kernel doubles what is asked for, and shows the double (socket(7)). Without the right to exceed
 * the system's limit as much as allowed is taken. */
static int set_buffer(int fd, int name, int shown)
{
	int half = shown / 2, force = name == SO_SNDBUF ? SO_SNDBUFFORCE : SO_RCVBUFFORCE;

	if (setsockopt(fd, SOL_SOCKET, force, &half, sizeof(half)) == 0)
		return 0;
	return setsockopt(fd, SOL_SOCKET, name, &half, sizeof(half));
}

struct kage_err *kage_sockopt_restore(int fd, const Kage__SocketOptions *list)
{
	for (size_t i = 0; list && i < list->n_options; i++) {
		const Kage__SocketOptions__Option *o = list->options[i];
		bool buffer =
			o->level == SOL_SOCKET && (o->name == SO_SNDBUF || o->name == SO_RCVBUF);
		int shown, r;

		if (!is_known(o))
			return kage_err_new(KAGE_UNSUPPORTED, "socket option %u of level %u",
					    o->name, o->level);
		if (buffer && o->value.len == sizeof(shown)) {
			memcpy(&shown, o->value.data, sizeof(shown));
			r = set_buffer(fd, (int)o->name, shown);
		} else {
			r = setsockopt(fd, (int)o->level, (int)o->name, o->value.data,
				       (socklen_t)o->value.len);
		}
		if (r < 0)
			return kage_err_sys(errno, "set socket option %u of level %u", o->name,
					    o->level);
	}
	return NULL;
}

void kage_sockopt_settle(int fd, const Kage__SocketOptions *list)
{
	int value = 0;

	for (size_t i = 0; list && i < list->n_options; i++) {
		const Kage__SocketOptions__Option *o = list->options[i];

		if (o->level == SOL_SOCKET && o->name == SO_REUSEADDR &&
		    o->value.len == sizeof(value))
			memcpy(&value, o->value.data, sizeof(value));
	}
	/* It was switched on before; switching a flag off cannot fail. */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, sizeof(value));
}
