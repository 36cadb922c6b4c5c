/* SPDX-License-Identifier: Apache-2.0 */
/* Encrypted histories: read with the key and not without, never swapped or altered unnoticed, thinned. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/secret.h"
#include "lib/pack_bytes.h"
#include "lib/sample_image.h"
#include "store/pack_write.h"
#include "store/store.h"

enum { PAGES = 12, FIRST = 0x10000, MOST = 64 };

static const char mark[] = "what only the program knew";

struct fixture {
	char dir[64], key[96], other[96];
	char *public;
	uint8_t recipient[RECIPIENT_BYTES];
	struct kage_ctx *ctx;
	struct kage_store *recorder; /* has no secret key, but those of its last packs */
	struct kage_put_result last;
	uint64_t n; /* images put so far */
	unsigned char now[PAGES][KAGE_PAGE_BYTES];
	unsigned char (*states[MOST])[KAGE_PAGE_BYTES]; /* by number */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/dev/shm/kage-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->key, sizeof(f->key), "%s/.key", f->dir);
	snprintf(f->other, sizeof(f->other), "%s/.other", f->dir);
	setenv("KAGE_KEY", "/nowhere/at/all", 1);
	must(kage_key_new(f->key, NULL, &f->public));
	must(kage_keyfile_recipient(f->public, f->recipient));
	must(kage_ctx_create(&f->ctx));
	must(kage_store_open(f->ctx, f->dir, KAGE_STORE_CREATE, &f->recorder));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	kage_store_close(f->recorder);
	kage_ctx_destroy(f->ctx);
	snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	assert_int_equal(system(command), 0);
	for (size_t i = 0; i < MOST; i++)
		free(f->states[i]);
	free(f->public);
	free(f);
	return 0;
}

static struct kage_pages *pages_of(unsigned char (*pages)[KAGE_PAGE_BYTES])
{
	struct mem_pages *m;
	void *at;

	must(kage_mem_pages_create(&m));
	must(kage_mem_pages_add(m, SAMPLE_SPACE, FIRST, PAGES, &at));
	memcpy(at, pages, (size_t)PAGES * KAGE_PAGE_BYTES);
	return kage_mem_pages_finish(m);
}

/* One more image, three pages of which are not as in the one before. */
static void put(struct fixture *f, bool keyframe)
{
	struct page_run all = { SAMPLE_SPACE, FIRST, PAGES };
	struct kage_changes changes = { .base_number = f->last.number, .runs = &all, .n_runs = 1 };
	struct kage_put_options o = { .recipient = f->recipient,
				      .remember = true,
				      .keyframe = keyframe };
	struct kage_image *image = sample_image();

	if (f->n) {
		changes.before = pages_of(f->now);
		memcpy(changes.base_id, f->last.id, sizeof(changes.base_id));
		o.changes = &changes;
	}
	for (uint64_t i = 0; i < 3; i++)
		snprintf((char *)f->now[(f->n * 5 + i) % PAGES], KAGE_PAGE_BYTES, "%s %d %d", mark,
			 (int)f->n, (int)i);
	image->msg->source->realtime_ns = 1700000000000000000u + f->n * 1000000000u;
	image->pages = pages_of(f->now);
	must(kage_store_put(f->recorder, "h", image, &o, &f->last));
	f->n++;
	assert_int_equal(f->last.number, f->n);
	f->states[f->n] = malloc(sizeof(f->now));
	memcpy(f->states[f->n], f->now, sizeof(f->now));
	kage_image_close(image);
	kage_pages_destroy(changes.before);
}

/* KEYS: which of them are keyframes, "k.." */
static void put_all(struct fixture *f, const char *keys)
{
	for (; *keys; keys++)
		put(f, *keys == 'k');
}

static struct kage_store *reader(struct fixture *f, const char *key)
{
	struct kage_store *s;

	must(kage_store_open(f->ctx, f->dir, 0, &s));
	if (key)
		must(kage_store_set_key(s, key));
	return s;
}

static struct kage_err *open_number(struct kage_store *s, uint64_t n, struct kage_image **ret_image)
{
	char spec[32];

	snprintf(spec, sizeof(spec), "h@%llu", (unsigned long long)n);
	return kage_image_open(s, spec, ret_image);
}

static void check_image(struct fixture *f, struct kage_store *s, uint64_t n)
{
	unsigned char page[KAGE_PAGE_BYTES];
	struct kage_image *image;

	must(open_number(s, n, &image));
	assert_string_equal(image->recipient, f->public);
	assert_string_equal(image->msg->source->command, "sleep 1000");
	for (int i = PAGES - 1; i >= 0; i--) {
		must(kage_pages_read(image->pages, SAMPLE_SPACE, FIRST + (uint64_t)i, 1, page));
		assert_memory_equal(page, f->states[n][i], KAGE_PAGE_BYTES);
	}
	kage_image_close(image);
}

/* Every image that is there is what was put. Returns how many are. */
static size_t check_all(struct fixture *f)
{
	struct kage_store *s = reader(f, f->key);
	struct kage_fsck_result result;
	struct kage_list list;
	size_t n;

	must(kage_store_list(s, "h", &list));
	for (size_t i = 0; i < list.n; i++)
		check_image(f, s, list.entries[i].number);
	n = list.n;
	kage_list_free(&list);
	must(kage_store_fsck(s, NULL, &result));
	assert_int_equal(result.n_bad + result.n_lost + result.n_unreadable + result.n_locked, 0);
	assert_int_equal(result.n_encrypted, n);
	assert_string_equal(result.encrypted, "h");
	kage_fsck_result_free(&result);
	kage_store_close(s);
	return n;
}

static char *path_of(struct fixture *f, uint64_t n)
{
	static char path[2][128];
	static int which;

	which = !which;
	snprintf(path[which], sizeof(path[which]), "%s/h/%010llu.kage", f->dir,
		 (unsigned long long)n);
	return path[which];
}

static uint8_t *slurp(const char *path, size_t *ret_size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *bytes;

	assert_true(fd >= 0);
	bytes = pack_slurp(fd, ret_size);
	close(fd);
	return bytes;
}

static void spill(const char *path, const uint8_t *bytes, size_t size)
{
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

	assert_true(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
	close(fd);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void test_reading(void **state)
{
	struct fixture *f = *state;
	struct kage_store *s;
	struct kage_image *image;
	struct kage_list list;
	char *public;

	put_all(f, "k...k..");
	assert_int_equal(check_all(f), 7);
	s = reader(f, NULL);
	must_fail(open_number(s, 3, &image), KAGE_PERM, f->public);
	must_fail(open_number(s, 3, &image), KAGE_PERM, "/nowhere/at/all");
	must(kage_key_new(f->other, NULL, &public));
	must(kage_store_set_key(s, f->other));
	must_fail(open_number(s, 3, &image), KAGE_PERM, public);
	must_fail(open_number(s, 3, &image), KAGE_PERM, f->public);
	free(public);
	must(kage_store_list(s, "h", &list));
	assert_int_equal(list.n, 7);
	for (size_t i = 0; i < list.n; i++) {
		assert_string_equal(list.entries[i].recipient, f->public);
		assert_string_equal(list.entries[i].command, "");
		assert_string_equal(list.entries[i].comm, "");
		assert_string_equal(list.entries[i].message, "");
		assert_int_equal(list.entries[i].pause_ns, 250000);
	}
	kage_list_free(&list);
	kage_store_close(s);
}

/* The recorder reads what it stored since the last keyframe. */
static void test_recorder(void **state)
{
	struct fixture *f = *state;
	struct kage_store *thinner;
	struct kage_image *image;

	put_all(f, "k..");
	check_image(f, f->recorder, 2);
	put_all(f, "k..");
	must_fail(open_number(f->recorder, 2, &image), KAGE_PERM, "encrypted");
	for (uint64_t n = 4; n <= 6; n++)
		check_image(f, f->recorder, n);
	thinner = reader(f, NULL);
	must_fail(open_number(thinner, 6, &image), KAGE_PERM, "encrypted");
	kage_store_share_keys(thinner, f->recorder);
	check_image(f, thinner, 6);
	kage_store_close(thinner);
}

static void test_no_clear_text(void **state)
{
	static const char *const secrets[] = { mark, "sleep 1000", "before the change" };
	struct fixture *f = *state;

	put_all(f, "k.k.");
	for (uint64_t n = 1; n <= f->n; n++) {
		size_t size;
		uint8_t *bytes = slurp(path_of(f, n), &size);

		for (size_t i = 0; i < sizeof(secrets) / sizeof(secrets[0]); i++)
			assert_null(memmem(bytes, size, secrets[i], strlen(secrets[i])));
		free(bytes);
	}
}

/* --- damage ----------------------------------------------------------------------------------- */

static size_t damaged(struct kage_store *s, const char *pack)
{
	struct kage_fsck_result result;
	bool named = false;
	size_t n;

	must(kage_store_fsck(s, "h", &result));
	n = result.n_bad + result.n_unreadable; /* as of a method that a newer kage may have */
	for (size_t i = 0; i < result.n_findings; i++)
		named |= strcmp(result.findings[i].pack, pack) == 0;
	assert_true(!n || named);
	kage_fsck_result_free(&result);
	return n;
}

/* Any flipped bit is found without the key, and the pack is named. */
static void test_flipped_bits(void **state)
{
	struct fixture *f = *state;
	struct kage_store *without = reader(f, NULL), *with = reader(f, f->key);
	char *path = path_of(f, 2);
	uint8_t *bytes;
	size_t size;

	put_all(f, "k.k");
	bytes = slurp(path, &size);
	for (size_t at = 0; at < size; at += 13) {
		bytes[at] ^= (uint8_t)(1 << at % 8);
		spill(path, bytes, size);
		assert_int_equal(damaged(without, path), 1);
		bytes[at] ^= (uint8_t)(1 << at % 8);
	}
	spill(path, bytes, size);
	assert_int_equal(damaged(without, path), 0);
	/* With checksums made right, it is the tags, the box or the seal that tell. */
	for (size_t at = PACK_HEADER_BYTES + RECORD_BYTES; at < size - FOOTER_RECORD_BYTES;
	     at += 7) {
		struct kage_image *image = NULL;
		uint8_t *copy = malloc(size);
		struct kage_err *e;

		memcpy(copy, bytes, size);
		copy[at] ^= 0x10;
		pack_seal(copy, size);
		spill(path, copy, size);
		/* Of a flipped checksum nothing is left then. */
		assert_int_equal(damaged(with, path), memcmp(copy, bytes, size) != 0);
		e = open_number(with, 2, &image);
		if (!e) { /* by the other way around, from the keyframe behind it */
			unsigned char page[KAGE_PAGE_BYTES];

			e = kage_pages_read(image->pages, SAMPLE_SPACE, FIRST, 1, page);
			if (!e)
				assert_memory_equal(page, f->states[2][0], KAGE_PAGE_BYTES);
		}
		kage_err_free(e);
		kage_image_close(image);
		free(copy);
	}
	spill(path, bytes, size);
	free(bytes);
	kage_store_close(with);
	kage_store_close(without);
}

/* Packs that bear each other's names, or are in another history, are whole; but not theirs. */
static void test_swapped(void **state)
{
	struct fixture *f = *state;
	struct kage_store *s = reader(f, f->key);
	struct kage_image *image;
	char other[128];

	put_all(f, "kkk");
	must(open_number(s, 1, &image));
	kage_image_close(image);
	snprintf(other, sizeof(other), "%s/swap", f->dir);
	assert_int_equal(rename(path_of(f, 1), other), 0);
	assert_int_equal(rename(path_of(f, 2), path_of(f, 1)), 0);
	assert_int_equal(rename(other, path_of(f, 2)), 0);
	must_fail(open_number(s, 1, &image), KAGE_CORRUPT, "seal");
	must_fail(open_number(s, 2, &image), KAGE_CORRUPT, "seal");
	check_image(f, s, 3);
	assert_int_equal(damaged(s, path_of(f, 1)), 2);
	snprintf(other, sizeof(other), "%s/i", f->dir);
	assert_int_equal(mkdir(other, 0700), 0);
	snprintf(other, sizeof(other), "%s/i/0000000003.kage", f->dir);
	assert_int_equal(rename(path_of(f, 3), other), 0);
	must_fail(kage_image_open(s, "i@3", &image), KAGE_CORRUPT, "not the pack of i@3");
	kage_store_close(s);
}

/* A pack that gets another number than the one that it was written for. */
static void test_renumbered(void **state)
{
	struct fixture *f = *state;
	struct pack_sealing *sealing;
	struct kage_keys *keys;
	struct pack_options o = { .history = "h" };
	struct pack_place place = { .history = "h", .number = 7 };
	struct kage_image *image = sample_image(), *back;
	struct kage_err *finding = NULL;
	struct pack_written written;
	struct pack_health health;
	int fd = memfd_create("pack", MFD_CLOEXEC);

	must(kage_keys_create(&keys));
	must(kage_keys_use_file(keys, f->key));
	must(kage_pack_sealing_create(f->recipient, 1, &sealing));
	o.sealing = sealing;
	image->pages = pages_of(f->now);
	must(kage_pack_write(f->ctx, fd, "memory", image, &o, &written));
	place.keys = keys;
	must_fail(kage_pack_open(dup(fd), "memory", &place, &back, NULL), KAGE_CORRUPT, "seal");
	sealing->number = 7;
	must(kage_pack_key_renumber(fd, "memory", "h", sealing));
	must(kage_pack_open(dup(fd), "memory", &place, &back, NULL));
	kage_image_close(back);
	must(kage_pack_check(fd, "memory", &place, pack_first_finding, &finding, &health));
	must(finding);
	assert_true(health.image && health.pages && health.encrypted && !health.locked);
	place.number = 1;
	must_fail(kage_pack_open(dup(fd), "memory", &place, &back, NULL), KAGE_CORRUPT, "seal");
	kage_image_close(image);
	kage_secret_free(sealing);
	kage_keys_release(keys);
	close(fd);
}

/* --- thinning --------------------------------------------------------------------------------- */

static struct kage_prune_result prune(struct kage_store *s, uint64_t keep_last, uint64_t every_s)
{
	struct kage_tier tier = { .every_ns = every_s * 1000000000u };
	struct kage_retention rules = { .keep_last = keep_last,
					.tiers = &tier,
					.n_tiers = every_s ? 1 : 0 };
	struct kage_prune_result result;

	must(kage_store_prune(s, "h", &rules, &result));
	return result;
}

/* The beginning can go without a key up to any image that has a keyframe behind it. */
static void test_prune_beginning(void **state)
{
	struct fixture *f = *state;
	struct kage_store *s = reader(f, NULL);
	struct kage_prune_result r;

	put_all(f, "k....k....k....");
	r = prune(s, 8, 0);
	assert_int_equal(r.n_removed, 7);
	assert_int_equal(r.n_spared, 0);
	assert_int_equal(check_all(f), 8);
	r = prune(s, 2,
		  0); /* behind these is no keyframe: the one before stays, and what is between */
	assert_int_equal(r.n_kept, 5);
	assert_int_equal(r.n_spared, 3);
	assert_int_equal(check_all(f), 5);
	kage_store_close(s);
	s = reader(f, f->key);
	r = prune(s, 2, 0);
	assert_int_equal(r.n_kept, 2);
	assert_int_equal(check_all(f), 2);
	kage_store_close(s);
}

/* Between keyframes all can go, if those are what is kept. */
static void test_prune_between(void **state)
{
	struct fixture *f = *state;
	struct kage_store *s = reader(f, NULL);
	struct kage_prune_result r;

	put_all(f, "k....k....k....k");
	r = prune(s, 1, 5); /* 1700000000 is a multiple of 5 */
	assert_int_equal(r.n_spared, 0);
	assert_int_equal(r.n_kept, 4);
	assert_int_equal(check_all(f), 4);
	kage_store_close(s);
}

/* What is kept between keyframes needs those before it. */
static void test_prune_spares(void **state)
{
	struct fixture *f = *state;
	struct kage_store *s = reader(f, NULL);
	struct kage_prune_result r;
	size_t n;

	put_all(f, "k....k....k.");
	r = prune(s, 1, 4);
	assert_true(r.n_spared > 0);
	assert_int_equal(check_all(f), r.n_kept);
	must_fail(kage_store_remove(s, "h", 3, 3, &n), KAGE_PERM, "encrypted");
	assert_int_equal(check_all(f), r.n_kept);
	kage_store_close(s);
	s = reader(f, f->key);
	r = prune(s, 1, 4);
	assert_int_equal(r.n_spared, 0);
	assert_int_equal(check_all(f), r.n_kept);
	kage_store_close(s);
}

/* The recorder joins what it still has the keys of, and can go on from that. */
static void test_prune_remembered(void **state)
{
	struct fixture *f = *state;
	size_t n;

	put_all(f, "k....");
	must(kage_store_remove(f->recorder, "h", 2, 3, &n));
	assert_int_equal(check_all(f), 3);
	check_image(f, f->recorder, 4);
	put_all(f, "..");
	must(kage_store_remove(f->recorder, "h", 1, 4, &n));
	assert_int_equal(check_all(f), 3);
	check_image(f, f->recorder, 7);
}

static void test_prune_at_random(void **state)
{
	struct fixture *f = *state;
	struct random_state r = { 1 };
	struct kage_store *s = reader(f, NULL);

	while (f->n < MOST - 1) {
		put(f, random_next(&r) % 6 == 0);
		if (random_next(&r) % 5 == 0) {
			struct kage_prune_result p =
				prune(random_next(&r) % 2 ? s : f->recorder,
				      1 + random_next(&r) % 9, random_next(&r) % 4);

			assert_int_equal(check_all(f), p.n_kept);
		}
	}
	kage_store_close(s);
}

/* A repair without the key moves nothing that it could not judge; with it, what can be read is written anew. */
static void test_repair(void **state)
{
	struct fixture *f = *state;
	struct kage_store *s = reader(f, NULL);
	struct kage_fsck_result result;
	uint8_t *bytes;
	size_t size;

	put_all(f, "k.k.");
	bytes = slurp(path_of(f, 3), &size);
	bytes[size - FOOTER_RECORD_BYTES - 20] ^= 1; /* INDEX */
	spill(path_of(f, 3), bytes, size);
	free(bytes);
	must_fail(kage_store_repair(s, "h", &result), KAGE_PERM, "encrypted");
	kage_store_close(s);
	s = reader(f, f->key);
	must(kage_store_repair(s, "h", &result));
	kage_fsck_result_free(&result);
	check_image(f, s, 4);
	kage_store_close(s);
}

/* --- keys ------------------------------------------------------------------------------------- */

static void test_keys(void **state)
{
	struct fixture *f = *state;
	uint8_t recipient[RECIPIENT_BYTES];
	char *public, *path, text[128];
	struct key_pair pair;
	struct stat st;

	assert_int_equal(stat(f->key, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	must_fail(kage_key_new(f->key, &path, &public), KAGE_BUSY, "not overwritten");
	must(kage_key_show(f->key, &path, &public));
	assert_string_equal(path, f->key);
	assert_string_equal(public, f->public);
	free(path);
	free(public);
	for (size_t i = 0; f->public[i]; i++) {
		snprintf(text, sizeof(text), "%s", f->public);
		text[i] = text[i] == 'A' ? 'B' : 'A';
		must_fail(kage_keyfile_recipient(text, recipient), KAGE_INVALID, "");
	}
	must_fail(kage_keyfile_recipient(f->key, recipient), KAGE_INVALID, "secret key");
	must_fail(kage_keyfile_recipient("/dev/null", recipient), KAGE_INVALID, "no public key");
	must_fail(kage_keyfile_read("/dev/null", &pair), KAGE_INVALID, "no secret key");
	assert_int_equal(chmod(f->key, 0640), 0);
	must_fail(kage_keyfile_read(f->key, &pair), KAGE_PERM, "chmod 600");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_reading, setup, teardown),
		cmocka_unit_test_setup_teardown(test_recorder, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_clear_text, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flipped_bits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_swapped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_renumbered, setup, teardown),
		cmocka_unit_test_setup_teardown(test_prune_beginning, setup, teardown),
		cmocka_unit_test_setup_teardown(test_prune_between, setup, teardown),
		cmocka_unit_test_setup_teardown(test_prune_spares, setup, teardown),
		cmocka_unit_test_setup_teardown(test_prune_remembered, setup, teardown),
		cmocka_unit_test_setup_teardown(test_prune_at_random, setup, teardown),
		cmocka_unit_test_setup_teardown(test_repair, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
