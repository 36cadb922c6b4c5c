/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A server that crashes on purpose, and comes back by itself. Its socket is bound before rfork(), so clients find it at
 * any time; what it has prepared is prepared in every life; what it has counted is gone with the life that counted it.
 *
 *	cc -Iinclude examples/rfork-server.c src/keeper/rfork.c -o rfork-server
 *	./rfork-server /tmp/socket &
 *	echo hello | nc -NU /tmp/socket		hello, the 1st in life 0
 *	echo crash | nc -NU /tmp/socket
 *	echo hello | nc -NU /tmp/socket		hello, the 1st in life 1
 *	echo end | nc -NU /tmp/socket
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <kage/rfork.h>

static int listen_at(const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(name.sun_path, sizeof(name.sun_path), "%s", path);
	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof(name)) < 0 || listen(fd, 16) < 0) {
		perror(path);
		exit(1);
	}
	return fd;
}

static void answer(int client, unsigned n)
{
	char word[64] = "", text[160];
	struct rfork_state life;
	ssize_t got = read(client, word, sizeof(word) - 1);

	if (got > 0)
		word[strcspn(word, "\n")] = '\0';
	if (strcmp(word, "crash") == 0)
		abort();
	if (strcmp(word, "end") == 0)
		exit(0);
	rfork_look(0, &life);
	snprintf(text, sizeof(text), "%s, number %u in life %llu\n", word, n,
		 (unsigned long long)life.n_restarts);
	if (write(client, text, strlen(text)) < 0)
		perror("a client");
	close(client);
}

int main(int argc, char **argv)
{
	int listening = argc == 2 ? listen_at(argv[1]) : -1, status;
	struct rfork_state state;
	pid_t pid;

	if (listening < 0) {
		fprintf(stderr, "usage: rfork-server SOCKET\n");
		return 2;
	}
	pid = rfork(&(struct rfork_options){ .most = 10, .within_s = 60 });
	if (pid < 0) {
		perror("rfork");
		return 1;
	}
	if (pid == 0)
		for (unsigned n = 1;; n++)
			answer(accept(listening, NULL, NULL), n);
	close(listening);
	waitpid(pid, &status, 0);
	rfork_look(pid, &state);
	printf("it ended %s after %llu restarts\n", WIFEXITED(status) ? "by itself" : "by a signal",
	       (unsigned long long)state.n_restarts);
	rfork_forget(pid);
	return 0;
}
