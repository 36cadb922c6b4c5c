/* SPDX-License-Identifier: Apache-2.0 */
/*
 * redis_load PORT RATE SECONDS KEYS: sets random ones of KEYS keys of a redis at 127.0.0.1, RATE a second, each at its own
 * instant whether the earlier ones are answered or not, to letters and digits at random, and prints how long after that
 * instant its answer came: median, 99th percentile and longest, in microseconds.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { VALUE_BYTES = 64, ANSWER_BYTES = 5 /* "+OK\r\n" */ };

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int connect_to(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		perror("redis_load: connect");
		exit(1);
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void send_one(int fd, uint64_t keys)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	char command[256], value[VALUE_BYTES + 1];
	uint64_t key = (uint64_t)random() % keys;
	int n;

	for (int i = 0; i < VALUE_BYTES; i++)
		value[i] = letters[random() >> 8 & 63];
	value[VALUE_BYTES] = 0;
	n = snprintf(command, sizeof(command),
		     "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012llu\r\n$%d\r\n%s\r\n",
		     (unsigned long long)key, VALUE_BYTES, value);
	if (write(fd, command, (size_t)n) != n) {
		perror("redis_load: write");
		exit(1);
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The answers that are there; *GOT_BYTES counts. */
static void receive(int fd, uint64_t wait_ns, uint64_t *got_bytes)
{
	struct timespec ts = { 0, (long)(wait_ns < 999999999 ? wait_ns : 999999999) };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char buffer[4096];
	ssize_t n;

	if (ppoll(&p, 1, &ts, NULL) <= 0)
		return;
	n = read(fd, buffer, sizeof(buffer));
	if (n <= 0) {
		fprintf(stderr, "redis_load: the server went away\n");
		exit(1);
	}
	*got_bytes += (uint64_t)n;
}

int main(int argc, char **argv)
{
	uint64_t rate = argc > 4 ? strtoull(argv[2], NULL, 10) : 0, sent = 0, done = 0, got = 0;
	uint64_t seconds = rate ? strtoull(argv[3], NULL, 10) : 0, n = rate * seconds, begin;
	uint64_t keys = rate ? strtoull(argv[4], NULL, 10) : 0, *late;
	int fd;

	if (!n || !keys) {
		fprintf(stderr, "usage: redis_load PORT RATE SECONDS KEYS\n");
		return 2;
	}
	late = calloc(n, sizeof(*late));
	fd = connect_to(atoi(argv[1]));
	begin = now_ns();
	while (late && done < n) {
		uint64_t due = begin + sent * (1000000000 / rate), now = now_ns();

		if (sent < n && now >= due) {
			send_one(fd, keys);
			sent++;
			continue;
		}
		receive(fd, sent < n ? due - now : 999999999, &got);
		now = now_ns();
		for (; done < got / ANSWER_BYTES; done++)
			late[done] = now - (begin + done * (1000000000 / rate));
	}
	if (!late)
		return 1;
	qsort(late, n, sizeof(*late), compare);
	printf("%llu %llu %llu\n", (unsigned long long)late[n / 2] / 1000,
	       (unsigned long long)late[n * 99 / 100] / 1000,
	       (unsigned long long)late[n - 1] / 1000);
	free(late);
	return 0;
}
