/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs of this folder share: a clock, and the contents that are measured.
 */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <stdint.h>
#include <string.h>
#include <time.h>

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t random_next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Half text-like, half random. */
static inline void fill(char *p, size_t bytes)
{
	static const char *const words[] = { "the ",     "image ",  "of ",   "a ",
					     "program ", "lives ",  "and ",  "waits ",
					     "in ",      "memory ", "for ",  "its ",
					     "time ",    "to ",     "come ", "again\n" };
	uint64_t s = 88172645463325252u;
	size_t half = bytes / 2;

	for (size_t i = 0; i + 16 < half;) {
		const char *w = words[random_next(&s) % 16];
		size_t n = strlen(w);

		memcpy(p + i, w, n);
		i += n;
	}
	for (size_t i = half; i + 8 <= bytes; i += 8) {
		uint64_t v = random_next(&s);

		memcpy(p + i, &v, 8);
	}
}

#endif
