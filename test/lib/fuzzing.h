/* SPDX-License-Identifier: Apache-2.0 */
/* What fuzzers share: inputs as text, and properties that end the run when they do not hold. */
#ifndef LIB_FUZZING_H
#define LIB_FUZZING_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define holds(property)          \
	do {                     \
		if (!(property)) \
			abort(); \
	} while (0)

/* A copy of exactly SIZE bytes, so that a read behind them is noticed. */
static inline void *fuzz_bytes(const uint8_t *data, size_t size)
{
	void *copy = malloc(size ? size : 1);

	holds(copy);
	memcpy(copy, data, size);
	return copy;
}

/* The same as a string, up to the first zero. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size);

	holds(text);
	return text;
}

/* Whether what failed with E failed as a parser may; frees E. */
static inline bool fuzz_refused(struct kage_err *e)
{
	bool refused = e;

	holds(!e || kage_err_message(e)[0]);
	kage_err_free(e);
	return refused;
}

#endif
