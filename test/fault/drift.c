/* SPDX-License-Identifier: Apache-2.0 */
/* A small program of which a little changes all the time: what histories of many images are made of. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

enum { WORDS = 64 * 1024 / 8 };
static volatile uint64_t words[WORDS];

int main(void)
{
	uint64_t x = 88172645463325252ull;

	for (size_t i = 0; i < WORDS; i++)
		words[i] = i * 0x9e3779b97f4a7c15ull;
	puts("ready");
	fflush(stdout);
	for (;;) {
		for (int i = 0; i < 3; i++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			words[x % WORDS] = x;
		}
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
}
