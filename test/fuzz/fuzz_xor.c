/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Differences. The first byte decides: the rest is the code of a page, which is applied, or two pages, of
 * which the code must lead from one to the other and back, or the payload of a DIRTY record.
 */
#include "../lib/fuzzing.h"
#include "store/dirty.h"
#include "store/xor.h"

static void apply(const uint8_t *data, size_t size)
{
	uint8_t *code = fuzz_bytes(data, size);
	unsigned char page[KAGE_PAGE_BYTES] = { 0 };
	uint8_t again[XOR_PAGE_MAX + XOR_SLACK];
	size_t n = kage_xor_apply(code, size, page);

	holds(n <= size);
	holds(kage_xor_apply(code, size, NULL) == n);
	if (n) /* another code of the same may be longer, but none of ours */
		holds(kage_xor_encode(page, NULL, again) <= XOR_PAGE_MAX);
	free(code);
}

static void both_ways(const uint8_t *data, size_t size)
{
	unsigned char a[KAGE_PAGE_BYTES] = { 0 }, b[KAGE_PAGE_BYTES] = { 0 };
	uint8_t code[XOR_PAGE_MAX + XOR_SLACK];
	size_t half = size / 2 < sizeof(a) ? size / 2 : sizeof(a), n;

	memcpy(a, data, half);
	memcpy(b, data + half, half);
	n = kage_xor_encode(a, b, code);
	holds(n <= XOR_PAGE_MAX);
	holds((n == 0) == (memcmp(a, b, sizeof(a)) == 0));
	if (n)
		holds(kage_xor_apply(code, n, a) == n);
	holds(memcmp(a, b, sizeof(a)) == 0);
}

/* The first two bytes tell how many the groups take. */
static void parse(const uint8_t *data, size_t size)
{
	uint64_t first = 100000 - (size < 2 ? 0 : data[0] | data[1] << 8);
	uint8_t *bytes = fuzz_bytes(data + 2, size < 2 ? 0 : size - 2);
	uint64_t pages = 0, at = first, end = 0;
	uint32_t space = 0;
	struct dirty d;

	if (!fuzz_refused(kage_dirty_parse(bytes, size < 2 ? 0 : size - 2, 100000, first, &d))) {
		for (size_t i = 0; i < d.n_groups; i++, at += RECORD_BYTES)
			at += d.groups[i].stored_bytes;
		holds(at == 100000);
		for (size_t i = 0; i < d.n_runs; i++) {
			const struct page_run *r = &d.runs[i];

			holds(r->space > space || (r->space == space && r->first >= end));
			holds(r->count > 0 && d.at[i] == pages);
			pages += r->count;
			end = r->first + r->count;
			space = r->space;
		}
		holds(pages == d.n_pages);
		kage_dirty_deinit(&d);
	}
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] % 3 == 0)
		apply(data + 1, size - 1);
	else if (data[0] % 3 == 1)
		both_ways(data + 1, size - 1);
	else
		parse(data + 1, size - 1);
	return 0;
}
