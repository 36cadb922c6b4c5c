/* SPDX-License-Identifier: Apache-2.0 */
#include "calls/address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/cleanup.h"

static bool read_port(const char *text, in_port_t *ret_port)
{
	char *end;
	unsigned long port = strtoul(text, &end, 10);

	*ret_port = htons((uint16_t)port);
	return *text >= '0' && *text <= '9' && !*end && port <= UINT16_MAX;
}

/* HOST:PORT; the colon is the last one. */
static bool split(const char *text, char *host, size_t room, in_port_t *ret_port)
{
	const char *colon = strrchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;

	if (!n || n >= room)
		return false;
	memcpy(host, text, n);
	host[n] = '\0';
	return read_port(colon + 1, ret_port);
}

static bool read_inet(const char *text, struct sockaddr_in *a)
{
	char host[INET_ADDRSTRLEN];

	a->sin_family = AF_INET;
	return split(text, host, sizeof(host), &a->sin_port) &&
	       inet_pton(AF_INET, host, &a->sin_addr) == 1;
}

static bool read_inet6(const char *text, struct sockaddr_in6 *a)
{
	char host[INET6_ADDRSTRLEN + 2];
	size_t n;

	a->sin6_family = AF_INET6;
	if (!split(text, host, sizeof(host), &a->sin6_port))
		return false;
	n = strlen(host);
	if (host[0] != '[' || host[n - 1] != ']')
		return false;
	host[n - 1] = '\0';
	return inet_pton(AF_INET6, host + 1, &a->sin6_addr) == 1;
}

static bool read_unix(const char *text, struct sockaddr_un *a, size_t *ret_size)
{
	size_t n = strlen(text);

	a->sun_family = AF_UNIX;
	if (n >= sizeof(a->sun_path))
		return false;
	memcpy(a->sun_path, text, n);
	*ret_size = offsetof(struct sockaddr_un, sun_path) + n;
	if (text[0] == '@')
		a->sun_path[0] = '\0';
	else
		++*ret_size;
	return true;
}

static const char *behind(const char *text, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(text, prefix, n) == 0 ? text + n : NULL;
}

bool calls_address_read(const char *text, struct sockaddr_storage *ret_address, size_t *ret_size)
{
	const char *rest;

	memset(ret_address, 0, sizeof(*ret_address));
	*ret_size = sizeof(struct sockaddr_in);
	if ((rest = behind(text, "inet:")))
		return read_inet(rest, (struct sockaddr_in *)ret_address);
	*ret_size = sizeof(struct sockaddr_in6);
	if ((rest = behind(text, "inet6:")))
		return read_inet6(rest, (struct sockaddr_in6 *)ret_address);
	if ((rest = behind(text, "unix:")))
		return read_unix(rest, (struct sockaddr_un *)ret_address, ret_size);
	return false;
}

/* --- telling ---------------------------------------------------------------------------------- */

static bool tell_unix(FILE *out, const struct sockaddr_un *a, size_t n)
{
	size_t length = n - offsetof(struct sockaddr_un, sun_path);
	bool abstract = length && !a->sun_path[0];

	if (!abstract)
		length = strnlen(a->sun_path, length);
	for (size_t i = abstract; i < length; i++)
		if (!isgraph((unsigned char)a->sun_path[i]))
			return false;
	return fprintf(out, "unix:%s%.*s", abstract ? "@" : "", (int)(length - abstract),
		       a->sun_path + abstract) > 0;
}

bool calls_address_tell(FILE *out, const uint8_t *bytes, size_t n)
{
	struct sockaddr_storage room = { 0 };
	const struct sockaddr_in *in = (const struct sockaddr_in *)&room;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&room;
	char host[INET6_ADDRSTRLEN];

	memcpy(&room, bytes, n < sizeof(room) ? n : sizeof(room));
	if (n >= sizeof(*in) && room.ss_family == AF_INET) {
		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		return fprintf(out, "inet:%s:%u", host, ntohs(in->sin_port)) > 0;
	}
	if (n >= sizeof(*in6) && room.ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		return fprintf(out, "inet6:[%s]:%u", host, ntohs(in6->sin6_port)) > 0;
	}
	if (n >= sizeof(room.ss_family) && n <= sizeof(struct sockaddr_un) &&
	    room.ss_family == AF_UNIX)
		return tell_unix(out, (const struct sockaddr_un *)&room, n);
	return false;
}
