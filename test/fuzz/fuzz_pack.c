/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packs. Checksums would keep a fuzzer out, so the first byte decides: the rest is a pack as it is; or
 * a pack whose checksums are made right first; or the decompressed INDEX, SUMMARY or FOOTER alone; or KEY
 * alone; or what to change in an encrypted pack, of which the reader has the key.
 */
#include "../lib/fuzzing.h"
#include "../lib/pack_bytes.h"
#include "../lib/sample_image.h"
#include "base/secret.h"
#include "store/pack_write.h"

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

/* --- encrypted -------------------------------------------------------------------------------- */

static struct kage_keys *keys;
static uint8_t *encrypted;
static size_t encrypted_bytes;

/* An encrypted pack, whose key is known as if we had recorded it. */
static void make_encrypted(void)
{
	struct pack_options o = { .history = "h" };
	struct kage_image *image = sample_image();
	struct pack_sealing *sealing;
	struct pack_written written;
	uint8_t recipient[RECIPIENT_BYTES] = { 9 };
	struct kage_ctx *ctx;
	struct mem_pages *m;
	void *at;
	int fd = memfd_create("pack", MFD_CLOEXEC);

	holds(!kage_mem_pages_create(&m) && !kage_mem_pages_add(m, SAMPLE_SPACE, 0x10000, 2, &at));
	memset(at, 7, 2 * KAGE_PAGE_BYTES);
	image->pages = kage_mem_pages_finish(m);
	holds(!kage_ctx_create(&ctx) && !kage_keys_create(&keys));
	holds(!kage_pack_sealing_create(recipient, 1, &sealing));
	o.sealing = sealing;
	holds(!kage_pack_write(ctx, fd, "memory", image, &o, &written));
	holds(!kage_keys_remember(keys, written.id, &sealing->key));
	encrypted = pack_slurp(fd, &encrypted_bytes);
	close(fd);
	kage_secret_free(sealing);
	kage_image_close(image);
	kage_ctx_destroy(ctx);
}

/* Whatever is changed: the pack is read or refused, and read if nothing is. */
static void check_encrypted(const uint8_t *data, size_t size)
{
	struct pack_place place = { .history = "h", .number = 1 };
	struct kage_err *finding = NULL;
	struct kage_image *image = NULL;
	struct kage_err *e;
	uint8_t *copy;
	uint64_t n = 0;
	int fd;

	if (!encrypted)
		make_encrypted();
	place.keys = keys;
	copy = fuzz_bytes(encrypted, encrypted_bytes);
	for (; size >= 3; data += 3, size -= 3)
		copy[(data[0] | (size_t)data[1] << 8) % encrypted_bytes] ^= data[2];
	pack_seal(copy, encrypted_bytes);
	e = kage_pack_open(pack_file_of(copy, encrypted_bytes), "memory", &place, &image, NULL);
	if (!e)
		e = kage_pages_each(image->pages, 0, pack_ignore_pages, &n);
	holds(memcmp(copy, encrypted, encrypted_bytes) == 0 ? !e : true);
	fuzz_refused(e);
	kage_image_close(image);
	fd = pack_file_of(copy, encrypted_bytes);
	fuzz_refused(kage_pack_check(fd, "memory", &place, pack_first_finding, &finding, NULL));
	close(fd);
	fuzz_refused(finding);
	free(copy);
}

static void check_key(const uint8_t *data, size_t size)
{
	struct key_record key;
	void *copy = fuzz_bytes(data, size);

	fuzz_refused(kage_format_key(copy, size, 100, &key));
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] >= 0xf0) {
		(data[0] % 2 ? check_key : check_encrypted)(data + 1, size - 1);
		return 0;
	}
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
