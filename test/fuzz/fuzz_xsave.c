/* SPDX-License-Identifier: Apache-2.0 */
/* Extended state: struct kage_task_xsave, then an area. What comes out is sound, and converted once more
 * it stays what it is. */
#include "arch/x86_64/xsave.h"
#include "lib/fuzzing.h"

enum { CAPACITY = 16384, HEADER = 512, EXTENDED = 576 };

static uint64_t word(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* The same in a room that is not a byte too large. */
static void check_room(const struct kage_task_xsave *x, const uint8_t *area, const uint8_t *state,
		       size_t size)
{
	_cleanup_free_ uint8_t *exact = malloc(size);
	size_t n;

	holds(exact);
	holds(!fuzz_refused(kage_x86_xsave_standard(x, area, exact, size, &n)));
	holds(n == size && memcmp(exact, state, size) == 0);
	holds(fuzz_refused(kage_x86_xsave_standard(x, area, exact, size - 1, &n)));
}

static void check_again(const struct kage_task_xsave *x, const uint8_t *state, size_t size)
{
	struct kage_task_xsave standard = { .bytes = (uint32_t)size,
					    .size = (uint32_t)size,
					    .features = x->user_features,
					    .user_features = x->user_features,
					    .pkru = x->pkru };
	_cleanup_free_ uint8_t *again = malloc(CAPACITY);
	size_t n;

	holds(again);
	holds(!fuzz_refused(kage_x86_xsave_standard(&standard, state, again, CAPACITY, &n)));
	holds(n == size && memcmp(again, state, size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ uint8_t *area = NULL, *state = malloc(CAPACITY);
	struct kage_task_xsave x;
	size_t n;

	holds(state);
	if (size < sizeof(x))
		return 0;
	memcpy(&x, data, sizeof(x));
	size -= sizeof(x);
	x.bytes = x.bytes < size ? x.bytes : (uint32_t)size;
	area = fuzz_bytes(data + sizeof(x), x.bytes);
	if (fuzz_refused(kage_x86_xsave_standard(&x, area, state, CAPACITY, &n)))
		return 0;
	holds(n >= EXTENDED && n <= CAPACITY);
	holds((word(state + HEADER) & ~x.user_features) == 0 && word(state + HEADER + 8) == 0);
	check_room(&x, area, state, n);
	check_again(&x, state, n);
	return 0;
}
