/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program whose state tests know by name. It does what lines on standard input tell it, one by
 * one, and says "ok" after each:
 *
 *	count N, text T		set `counter` and `text`
 *	heap, map, code		write to the heap, map memory, map executable memory
 *	open PATH, seek N	descriptor 9, and its offset
 *	thread, signal		a second thread; ignore SIGUSR1
 *	env NAME		print a variable of the environment
 *	check			abort unless `counter` is below `limit`
 *	exit N, abort, hang	end, or never
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

volatile unsigned counter = 41, limit = 100;
static volatile long hidden[4] = { 1, -2, 3, 4 };
volatile double ratio = 1.5;
char text[32] = "some text";
const char *volatile greeting = text;
__thread int of_thread = 1;
static char *block;

static void *sleeper(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void change(const char *word, const char *rest)
{
	pthread_t thread;

	if (!strcmp(word, "count"))
		counter = (unsigned)atoi(rest);
	else if (!strcmp(word, "text"))
		snprintf(text, sizeof(text), "%s", rest);
	else if (!strcmp(word, "heap"))
		memset(block, *rest, 10000);
	else if (!strcmp(word, "map"))
		mmap((void *)0x200000000000, 65536, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	else if (!strcmp(word, "code"))
		mmap((void *)0x210000000000, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	else if (!strcmp(word, "thread"))
		pthread_create(&thread, NULL, sleeper, NULL);
	else if (!strcmp(word, "signal"))
		signal(SIGUSR1, SIG_IGN);
	else if (!strcmp(word, "open"))
		dup2(open(rest, O_RDWR), 9);
	else if (!strcmp(word, "seek"))
		lseek(9, atoi(rest), SEEK_SET);
}

static void act(const char *word, const char *rest)
{
	if (!strcmp(word, "exit"))
		exit(atoi(rest));
	else if (!strcmp(word, "abort"))
		abort();
	else if (!strcmp(word, "hang"))
		sleeper(NULL);
	else if (!strcmp(word, "env"))
		printf("%s=%s\n", rest, getenv(rest) ? getenv(rest) : "(none)");
	else if (!strcmp(word, "check") && counter >= limit)
		abort();
}

int main(void)
{
	char line[256];
	size_t n = 0;

	setvbuf(stdout, NULL, _IONBF, 0);
	block = calloc(1, 100000);
	hidden[0] = of_thread;
	/* By bytes: nothing of the next line is in our memory before it is its turn. */
	while (read(STDIN_FILENO, line + n, 1) == 1) {
		char *rest;

		if (line[n] != '\n' && n + 1 < sizeof(line)) {
			n++;
			continue;
		}
		line[n] = '\0';
		n = 0;
		rest = strchr(line, ' ');
		if (rest)
			*rest++ = '\0';
		change(line, rest ? rest : "");
		act(line, rest ? rest : "");
		puts("ok");
	}
	return 0;
}
