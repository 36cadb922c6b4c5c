/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packs. Checksums would keep a fuzzer out, so the first byte decides: the rest is a pack as it is; or
 * a pack whose checksums are made right first; or the decompressed INDEX, SUMMARY or FOOTER alone.
 */
#include "../lib/pack_bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void whole(const uint8_t *data, size_t size)
{
	kage_err_free(pack_read_all(data, size));
	kage_err_free(pack_check_all(data, size));
}

static void sealed(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size + 1);

	if (!copy)
		return;
	memcpy(copy, data, size);
	pack_seal(copy, size);
	whole(copy, size);
	free(copy);
}

static void check_index(const uint8_t *data, size_t size)
{
	struct pack_index x;
	struct kage_err *e = kage_format_index(data, size, 1 << 20, &x);
	uint64_t pages = 0;

	if (e) {
		kage_err_free(e);
		return;
	}
	for (size_t i = 0; i < x.n_runs; i++)
		for (size_t j = x.run_extents[i]; j < x.run_extents[i + 1]; j++) {
			if (x.extents[j].kind == EXTENT_STORED &&
			    x.extents[j].slot + x.extents[j].count > x.n_slots)
				abort();
			pages += x.extents[j].count;
		}
	if (pages != x.n_pages)
		abort();
	kage_format_index_deinit(&x);
}

static void check_small_parts(const uint8_t *data, size_t size)
{
	struct summary s;
	struct footer_numbers f;
	struct pack_head head;
	struct record r;

	kage_err_free(kage_format_summary(data, size, 112, &s));
	kage_err_free(
		kage_format_header(data, size < PACK_HEADER_MAX ? size : PACK_HEADER_MAX, &head));
	if (size >= FOOTER_BYTES)
		kage_err_free(kage_format_footer(data, 1000, 1104, &f));
	if (size >= RECORD_BYTES)
		kage_err_free(kage_format_record(data, 64, size, &r));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0] % 4) {
	case 0:
		whole(data + 1, size - 1);
		break;
	case 1:
		sealed(data + 1, size - 1);
		break;
	case 2:
		check_index(data + 1, size - 1);
		break;
	default:
		check_small_parts(data + 1, size - 1);
		break;
	}
	return 0;
}
