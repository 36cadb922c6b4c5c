/* SPDX-License-Identifier: Apache-2.0 */
/* Holds as many MiB of random-looking memory as its argument says, until the file "go" is there. */
#include "lib/kindtest.h"

int main(int argc, char **argv)
{
	size_t n = (argc > 1 ? (size_t)atol(argv[1]) : 64) << 17, x = 88172645463325252ull, sum = 0;
	uint64_t *words = malloc(n * 8);

	KT_NEED(words);
	for (size_t i = 0; i < n; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		sum += words[i] = x;
	}
	kt_wait();
	for (size_t i = 0; i < n; i++)
		sum -= words[i];
	KT(sum == 0);
	kt_end();
}
