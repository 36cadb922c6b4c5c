/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Histories of two packs. The first byte decides whether their checksums are made right, the next two how
 * long the first pack is. Whatever they say, images open or are refused, changes are listed, and
 * after a repair nothing is damaged.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "../lib/fuzzing.h"
#include "../lib/pack_bytes.h"
#include "store/store.h"

static char dir[] = "/dev/shm/kage-fuzz-XXXXXX";
static struct kage_ctx *ctx;
static struct kage_store *store;

static void remove_store(void)
{
	rmdir(dir);
}

static void prepare(void)
{
	holds(mkdtemp(dir));
	atexit(remove_store);
	holds(!kage_ctx_create(&ctx));
	holds(!kage_store_open(ctx, dir, 0, &store));
}

static void write_pack(const char *name, const uint8_t *data, size_t size, bool sealed)
{
	uint8_t *copy = fuzz_bytes(data, size);
	char path[128];
	int fd;

	if (sealed)
		pack_seal(copy, size);
	snprintf(path, sizeof(path), "%s/h/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	holds(fd >= 0 && write(fd, copy, size) == (ssize_t)size);
	close(fd);
	free(copy);
}

static void read_image(const char *spec)
{
	struct kage_change_list changes;
	struct kage_image *image;
	uint64_t n = 0;

	if (!fuzz_refused(kage_store_changes(store, spec, &changes)))
		kage_change_list_free(&changes);
	if (fuzz_refused(kage_image_open(store, spec, &image)))
		return;
	if (!fuzz_refused(kage_pages_each(image->pages, 0, pack_ignore_pages, &n)))
		holds(n == kage_pages_total(image->pages));
	kage_image_close(image);
}

/* Takes away what a history without images keeps. */
static void clear(const char *path)
{
	static const char *const left[] = { ".damaged/0000000001.kage", ".damaged/0000000002.kage",
					    ".damaged", ".lock", "" };
	char name[192];

	for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
		snprintf(name, sizeof(name), "%s/%s", path, left[i]);
		if (unlink(name) < 0)
			rmdir(name);
	}
	holds(access(path, F_OK) < 0);
}

/* A repair that succeeds leaves nothing to repair, unless something was made by a newer kage. */
static void repair(void)
{
	struct kage_fsck_result result;
	bool left_alone;

	if (fuzz_refused(kage_store_repair(store, "h", &result)))
		return;
	left_alone = result.n_unreadable > 0;
	kage_fsck_result_free(&result);
	if (left_alone || fuzz_refused(kage_store_fsck(store, "h", &result)))
		return;
	holds(result.n_bad == 0 && result.n_lost == 0);
	kage_fsck_result_free(&result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t first, n;
	char path[128];

	if (!store)
		prepare();
	if (size < 3)
		return 0;
	first = (size_t)(data[1] | data[2] << 8);
	first = first < size - 3 ? first : size - 3;
	snprintf(path, sizeof(path), "%s/h", dir);
	holds(mkdir(path, 0700) == 0);
	write_pack("0000000001.kage", data + 3, first, data[0] % 2);
	write_pack("0000000002.kage", data + 3 + first, size - 3 - first, data[0] % 2);
	read_image("h@1");
	read_image("h@2");
	repair();
	if (access(path, F_OK) == 0) {
		kage_err_free(kage_store_remove(store, "h", 1, 1, &n));
		kage_err_free(kage_store_remove(store, "h", 0, 0, &n));
	}
	clear(path);
	return 0;
}
