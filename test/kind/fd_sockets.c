/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets without a peer elsewhere: listening TCP (both families) and UNIX ones, to which clients
 * connect afterwards, UDP, bound and unbound ones, with their options.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "lib/kindtest.h"

static void set(int fd, int level, int option, int value)
{
	KT_NEED(setsockopt(fd, level, option, &value, sizeof(value)) == 0);
}

static int get(int fd, int level, int option)
{
	int value = -1;
	socklen_t n = sizeof(value);

	getsockopt(fd, level, option, &value, &n);
	return value;
}

static struct sockaddr_in loopback(int fd)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof(a);

	if (fd >= 0)
		getsockname(fd, (void *)&a, &n);
	else
		a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static int bound(int type)
{
	struct sockaddr_in a = loopback(-1);
	int fd = socket(AF_INET, type, 0);

	KT_NEED(fd >= 0);
	set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	KT_NEED(bind(fd, (void *)&a, sizeof(a)) == 0);
	return fd;
}

/* A client connects to the listening socket and both understand each other. */
static bool serves(int listener, const struct sockaddr *to, socklen_t size)
{
	int client = socket(to->sa_family, SOCK_STREAM, 0), server;
	char got[8] = "";

	if (connect(client, to, size) != 0)
		return false;
	server = accept(listener, NULL, NULL);
	if (server < 0 || write(client, "hello", 5) != 5 || read(server, got, 5) != 5)
		return false;
	if (write(server, "there", 5) != 5 || read(client, got + 5, 3) != 3)
		return false;
	close(client);
	close(server);
	return memcmp(got, "hellothe", 8) == 0;
}

static struct sockaddr_un unix_name(const char *name, socklen_t *ret_size)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	*ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name + 1) + 1 +
				(name[0] != '\0'));
	memcpy(a.sun_path, name, strlen(name + 1) + 1 + (name[0] != '\0'));
	return a;
}

int main(void)
{
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
	int tcp = bound(SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC), udp = bound(SOCK_DGRAM);
	int udp_to = bound(SOCK_DGRAM), tcp6 = socket(AF_INET6, SOCK_STREAM, 0), path, abstract,
	    dgram;
	int unbound = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
	    bound_only = bound(SOCK_STREAM);
	struct sockaddr_un path_name, abstract_name, dgram_name;
	socklen_t path_size, abstract_size, dgram_size, size;
	char abstract_text[32] = "", got[100];
	struct sockaddr_in a, b, udp_name, tcp_name;
	struct timeval timeout = { 3, 500000 }, timeout_after;
	struct linger linger = { 1, 7 }, linger_after;
	int fl;

	set(tcp, IPPROTO_TCP, TCP_NODELAY, 1);
	set(tcp, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(tcp, IPPROTO_TCP, TCP_KEEPIDLE, 123);
	set(tcp, SOL_SOCKET, SO_RCVBUF, 30000);
	KT_NEED(setsockopt(tcp, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0);
	KT_NEED(listen(tcp, 17) == 0);
	tcp_name = loopback(tcp);
	set(udp, SOL_SOCKET, SO_BROADCAST, 1);
	set(udp, IPPROTO_IP, IP_TTL, 33);
	KT_NEED(setsockopt(udp, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0);
	udp_name = loopback(udp);
	KT_NEED(connect(udp_to, (void *)&udp_name, sizeof(udp_name)) == 0); /* knows its peer */
	KT_NEED(setsockopt(unbound, SOL_SOCKET, SO_REUSEPORT, &(int){ 1 }, 4) == 0);
	set(tcp6, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	if (bind(tcp6, (void *)&six, sizeof(six)) != 0 || listen(tcp6, 5) != 0) {
		close(tcp6);
		tcp6 = -1;
	}
	path = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	path_name = unix_name("listening", &path_size);
	KT_NEED(bind(path, (void *)&path_name, path_size) == 0 && listen(path, 5) == 0);
	snprintf(abstract_text + 1, 30, "kage-test-%d", getpid());
	abstract = socket(AF_UNIX, SOCK_STREAM, 0);
	abstract_name = unix_name(abstract_text, &abstract_size);
	KT_NEED(bind(abstract, (void *)&abstract_name, abstract_size) == 0 &&
		listen(abstract, 5) == 0);
	dgram = socket(AF_UNIX, SOCK_DGRAM, 0);
	dgram_name = unix_name("datagrams", &dgram_size);
	KT_NEED(bind(dgram, (void *)&dgram_name, dgram_size) == 0);
	fl = fcntl(tcp, F_GETFL);

	kt_wait();

	a = loopback(tcp);
	KT(a.sin_port == tcp_name.sin_port && a.sin_addr.s_addr == tcp_name.sin_addr.s_addr);
	KT(fcntl(tcp, F_GETFL) == fl && fcntl(tcp, F_GETFD) == FD_CLOEXEC);
	KT(fcntl(udp, F_GETFD) == 0 && fcntl(unbound, F_GETFD) == FD_CLOEXEC);
	KT(accept(tcp, NULL, NULL) < 0 && errno == EAGAIN);
	KT(get(tcp, IPPROTO_TCP, TCP_NODELAY) == 1 && get(tcp, SOL_SOCKET, SO_KEEPALIVE) == 1);
	KT(get(tcp, IPPROTO_TCP, TCP_KEEPIDLE) == 123 && get(tcp, SOL_SOCKET, SO_RCVBUF) == 60000);
	KT(get(tcp, SOL_SOCKET, SO_REUSEADDR) == 1 && get(tcp, SOL_SOCKET, SO_ACCEPTCONN) == 1);
	size = sizeof(linger_after);
	KT(getsockopt(tcp, SOL_SOCKET, SO_LINGER, &linger_after, &size) == 0 &&
	   linger_after.l_onoff == 1 && linger_after.l_linger == 7);
	KT(serves(tcp, (void *)&a, sizeof(a)));
	KT(serves(tcp, (void *)&a, sizeof(a)), "a second time");
	if (tcp6 >= 0) {
		size = sizeof(six);
		KT(getsockname(tcp6, (void *)&six, &size) == 0 && six.sin6_port != 0);
		KT(get(tcp6, IPPROTO_IPV6, IPV6_V6ONLY) == 1);
		KT(serves(tcp6, (void *)&six, sizeof(six)));
	}
	KT(serves(path, (void *)&path_name, path_size));
	KT(serves(abstract, (void *)&abstract_name, abstract_size));

	a = loopback(udp);
	b = loopback(udp_to);
	KT(a.sin_port == udp_name.sin_port && b.sin_port != 0 && b.sin_port != a.sin_port);
	KT(get(udp, SOL_SOCKET, SO_BROADCAST) == 1 && get(udp, IPPROTO_IP, IP_TTL) == 33);
	size = sizeof(timeout_after);
	KT(getsockopt(udp, SOL_SOCKET, SO_RCVTIMEO, &timeout_after, &size) == 0 &&
	   timeout_after.tv_sec == 3);
	KT(send(udp_to, "datagram", 8, 0) == 8, "errno %d", errno);
	size = sizeof(a);
	KT(recvfrom(udp, got, 100, 0, (void *)&a, &size) == 8 && a.sin_port == b.sin_port);
	KT(sendto(dgram, "itself", 6, 0, (void *)&dgram_name, dgram_size) == 6);
	KT(recv(dgram, got, 100, MSG_DONTWAIT) == 6 && memcmp(got, "itself", 6) == 0);

	a = loopback(unbound);
	KT(a.sin_port == 0 && get(unbound, SOL_SOCKET, SO_REUSEPORT) == 1);
	a = loopback(bound_only);
	KT(a.sin_port != 0 && listen(bound_only, 3) == 0 &&
	   serves(bound_only, (void *)&a, sizeof(a)));
	kt_end();
}
