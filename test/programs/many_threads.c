/* SPDX-License-Identifier: Apache-2.0 */
/* Many threads, each of which writes a sequence to a file of its own until the file "go" is there. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static _Thread_local int64_t x; /* lives in the thread's own storage */

static void *work(void *arg)
{
	int me = (int)(intptr_t)arg;
	char name[32];
	FILE *out;

	snprintf(name, sizeof(name), "out.%d", me);
	out = fopen(name, "w");
	if (!out)
		exit(8);
	x = me + 1;
	for (long n = 1; access("go", F_OK) != 0; n++) {
		char *junk = malloc((size_t)(n % 5000) + 1);

		x = x * 16807 % 2147483647;
		fprintf(out, "%ld %ld\n", n, (long)x);
		if (fflush(out) != 0 || !junk)
			exit(9);
		free(junk);
		usleep(100);
	}
	fclose(out);
	return NULL;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 10;
	pthread_t *threads = calloc((size_t)n, sizeof(*threads));

	for (intptr_t i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
			return 7;
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
