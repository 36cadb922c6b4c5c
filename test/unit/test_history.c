/* SPDX-License-Identifier: Apache-2.0 */
/* Histories of differences: every image is what was put, from either side, after removals and damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "lib/sample_image.h"
#include "store/dirty.h"
#include "store/store.h"

enum { IMAGES = 60, PAGES = 40, FIRST = 0x10000, SHARED = 7, LAST_NUMBER = 4096 };

/* A program's memory as of one image: what each page of two spaces holds, and which there are. */
struct state {
	bool here[PAGES + SHARED];
	unsigned char page[PAGES + SHARED][KAGE_PAGE_BYTES];
	uint8_t id[16];
	uint64_t number;
	char words[32];                      /* in the description */
	struct kage_description description; /* a copy of what is stored */
};

struct fixture {
	char dir[64];
	struct kage_ctx *ctx;
	struct kage_store *store;
	struct random_state random;
	struct state *states[LAST_NUMBER]; /* by number; NULL: no such image */
	struct state now;
	bool alone; /* descriptions do not lean on each other */
};

static void drop(struct fixture *f, uint64_t n)
{
	if (f->states[n])
		kage_description_deinit(&f->states[n]->description);
	free(take_ptr(f->states[n]));
}

static struct kage_description copy_of(const struct kage_description *d)
{
	struct kage_description copy = *d;

	copy.bytes = d->bytes ? malloc(d->size) : NULL;
	if (d->bytes)
		memcpy(copy.bytes, d->bytes, d->size);
	return copy;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/dev/shm/kage-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	must(kage_ctx_create(&f->ctx));
	must(kage_store_open(f->ctx, f->dir, KAGE_STORE_CREATE, &f->store));
	f->random.v = (uint64_t)kage_clock_real_ns();
	print_message("# seed %llu\n", (unsigned long long)f->random.v);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	kage_store_close(f->store);
	kage_ctx_destroy(f->ctx);
	snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	assert_int_equal(system(command), 0);
	for (size_t i = 0; i < LAST_NUMBER; i++)
		drop(f, i);
	free(f);
	return 0;
}

static uint32_t space_of(size_t i)
{
	return i < PAGES ? SAMPLE_SPACE : SAMPLE_SHARED_SPACE;
}

static uint64_t page_of(size_t i)
{
	return i < PAGES ? FIRST + i : i - PAGES;
}

static struct kage_pages *pages_of(const struct state *s)
{
	struct mem_pages *m;
	void *at;

	must(kage_mem_pages_create(&m));
	for (size_t i = 0; i < PAGES + SHARED; i++) {
		if (!s->here[i])
			continue;
		must(kage_mem_pages_add(m, space_of(i), page_of(i), 1, &at));
		memcpy(at, s->page[i], KAGE_PAGE_BYTES);
	}
	return kage_mem_pages_finish(m);
}

/* Pages come, go, and change in few or many bytes; some are written and stay the same. */
static void live_on(struct fixture *f, struct state *s, bool *touched)
{
	for (size_t i = 0; i < PAGES + SHARED; i++) {
		touched[i] = random_next(&f->random) % 4 == 0;
		if (!touched[i])
			continue;
		switch (random_next(&f->random) % 6) {
		case 0:
			s->here[i] = !s->here[i];
			memset(s->page[i], 0, KAGE_PAGE_BYTES);
			if (!s->here[i])
				break;
			/* fall through */
		case 1:
			sample_page(s->page[i], 2, random_next(&f->random));
			break;
		case 2:
			memset(s->page[i], 0, KAGE_PAGE_BYTES);
			break;
		case 3:
			break;
		default:
			s->page[i][random_next(&f->random) % KAGE_PAGE_BYTES] ^= 0x5a;
		}
		if (!s->here[i])
			memset(s->page[i], 0, KAGE_PAGE_BYTES);
	}
}

static struct kage_put_result put(struct fixture *f, const struct state *base, bool keyframe,
				  const bool *touched)
{
	struct kage_image *image = sample_image();
	struct kage_changes changes = { .before = base ? pages_of(base) : NULL };
	struct page_run runs[PAGES + SHARED];
	struct kage_put_result result;
	struct kage_put_options options = { .keyframe = keyframe };
	struct kage_description description = { 0 };
	struct state *copy = malloc(sizeof(*copy));

	image->pages = pages_of(&f->now);
	snprintf(f->now.words, sizeof(f->now.words), "%llx",
		 (unsigned long long)random_next(&f->random));
	image->msg->source->message = f->now.words;
	if (base && random_next(&f->random) % 8)
		description = copy_of(&base->description);
	if (!f->alone)
		options.description = &description;
	for (size_t i = 0; base && i < PAGES + SHARED; i++)
		if (touched[i])
			runs[changes.n_runs++] = (struct page_run){ space_of(i), page_of(i), 1 };
	if (base) {
		changes.runs = runs;
		changes.base_number = base->number;
		memcpy(changes.base_id, base->id, 16);
		options.changes = &changes;
	}
	must(kage_store_put(f->store, "h", image, &options, &result));
	assert_true(result.keyframe == (keyframe || !base));
	f->now.number = result.number;
	f->now.description = description;
	memcpy(f->now.id, result.id, 16);
	memcpy(copy, &f->now, sizeof(*copy));
	assert_null(f->states[result.number]);
	f->states[result.number] = copy;
	kage_image_close(image);
	kage_pages_destroy(changes.before);
	return result;
}

/* One more image, which differs from that before it. */
static void put_next(struct fixture *f, bool keyframe)
{
	const struct state *base = f->now.number ? f->states[f->now.number] : NULL;
	bool touched[PAGES + SHARED];

	live_on(f, &f->now, touched);
	put(f, base, keyframe, touched);
}

/* One more image after number N, as if the program had been restored from that. */
static void branch(struct fixture *f, uint64_t n, bool keyframe)
{
	memcpy(&f->now, f->states[n], sizeof(f->now));
	put_next(f, keyframe);
}

static struct kage_err *open_number(struct fixture *f, uint64_t n, struct kage_image **ret_image)
{
	char spec[32];

	snprintf(spec, sizeof(spec), "h@%llu", (unsigned long long)n);
	return kage_image_open(f->store, spec, ret_image);
}

struct seen {
	const struct state *expected;
	size_t n;
};

static struct kage_err *compare(void *user, uint32_t space, uint64_t first, uint64_t count,
				const void *bytes)
{
	static const unsigned char zero[KAGE_PAGE_BYTES];
	struct seen *s = user;

	for (uint64_t i = 0; i < count; i++) {
		size_t at = space == SAMPLE_SPACE ? first + i - FIRST : first + i + PAGES;

		assert_true(at < PAGES + SHARED);
		assert_true(s->expected->here[at]);
		assert_memory_equal(bytes ? (const char *)bytes + i * KAGE_PAGE_BYTES
					  : (const char *)zero,
				    s->expected->page[at], KAGE_PAGE_BYTES);
		s->n++;
	}
	return NULL;
}

static size_t count_pages(const struct state *s)
{
	size_t n = 0;

	for (size_t i = 0; i < PAGES + SHARED; i++)
		n += s->here[i];
	return n;
}

/* Image N read page by page, in a random order, and as a whole. */
static struct kage_err *read_number(struct fixture *f, uint64_t n)
{
	struct seen seen = { .expected = f->states[n] };
	unsigned char page[KAGE_PAGE_BYTES];
	struct kage_image *image;
	struct kage_err *e = open_number(f, n, &image);

	for (size_t k = 0; !e && k < 20; k++) {
		size_t i = random_next(&f->random) % (PAGES + SHARED);

		e = kage_pages_read(image->pages, space_of(i), page_of(i), 1, page);
		if (!e)
			assert_memory_equal(page, f->states[n]->page[i], KAGE_PAGE_BYTES);
		else
			kage_image_close(image);
	}
	if (e)
		return e;
	assert_string_equal(image->msg->source->message, f->states[n]->words);
	assert_int_equal(kage_pages_total(image->pages), count_pages(f->states[n]));
	e = kage_pages_each(image->pages, 0, compare, &seen);
	if (!e)
		assert_int_equal(seen.n, count_pages(f->states[n]));
	if (!e)
		e = kage_pages_each(image->pages, SAMPLE_SHARED_SPACE, compare, &seen);
	kage_image_close(image);
	return e;
}

static void all_as_put(struct fixture *f)
{
	for (uint64_t n = 1; n < LAST_NUMBER; n++) {
		struct kage_err *e = f->states[n] ? read_number(f, n) : NULL;

		if (e)
			fail_msg("h@%llu: %s", (unsigned long long)n, kage_err_message(e));
	}
}

/* Keyframes at the beginning and now and then; some images go on from an older one. */
static void random_history(struct fixture *f, int images)
{
	put_next(f, true);
	for (int i = 1; i < images; i++) {
		bool keyframe = random_next(&f->random) % 12 == 0;

		if (random_next(&f->random) % 10 == 0)
			branch(f, 1 + random_next(&f->random) % (uint64_t)i, keyframe);
		else
			put_next(f, keyframe);
	}
}

static void test_random_history(void **state)
{
	struct fixture *f = *state;

	random_history(f, IMAGES);
	all_as_put(f);
}

/* Without the pack of the first keyframe all go by the one at the end. */
static void test_from_behind(void **state)
{
	struct fixture *f = *state;
	char path[128];

	f->alone = true;
	put_next(f, true);
	for (int i = 2; i < 20; i++)
		put_next(f, false);
	put_next(f, true);
	snprintf(path, sizeof(path), "%s/h/0000000001.kage", f->dir);
	assert_int_equal(unlink(path), 0);
	drop(f, 1);
	all_as_put(f);
	snprintf(path, sizeof(path), "%s/h/0000000020.kage", f->dir);
	assert_int_equal(unlink(path), 0);
	must_fail(read_number(f, 7), KAGE_CORRUPT, "no keyframe");
}

static void test_gone_neighbour(void **state)
{
	struct fixture *f = *state;
	struct kage_image *image = sample_image();
	struct kage_changes changes = { .base_number = 1 };
	struct kage_put_options options = { .changes = &changes };
	struct kage_put_result result;

	image->pages = pages_of(&f->now);
	changes.before = image->pages;
	must_fail(kage_store_put(f->store, "h", image, &options, &result), KAGE_CHANGED, "h@1");
	put_next(f, true);
	must_fail(kage_store_put(f->store, "h", image, &options, &result), KAGE_CHANGED, "h@1");
	memcpy(changes.base_id, f->now.id, 16);
	must(kage_store_put(f->store, "h", image, &options, &result));
	assert_int_equal(result.number, 2);
	assert_int_equal(result.changed_pages, 0);
	changes.base_number = 0;
	must_fail(kage_store_put(f->store, "h", image, &options, &result), KAGE_INVALID, "number");
	kage_image_close(image);
}

/* More packs on the way than descriptors, and enough pages for threads. */
static void test_long(void **state)
{
	struct fixture *f = *state;
	struct rlimit limit, low;

	put_next(f, true);
	for (int i = 0; i < 500; i++)
		put_next(f, false);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	low = limit;
	low.rlim_cur = 32;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	must(read_number(f, 501));
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	must(read_number(f, 250));
}

static void test_policy(void **state)
{
	(void)state;
	struct kage_since_keyframe s = { .keyframe_bytes = 100, .difference_bytes = 100 };

	assert_false(kage_store_wants_keyframe(&s));
	s.difference_bytes = 101;
	assert_true(kage_store_wants_keyframe(&s));
	/* Many packs of a small program, fewer than of a large one. */
	s = (struct kage_since_keyframe){ 1000, 5, 200, 10, 5 };
	assert_false(kage_store_wants_keyframe(&s));
	s.n_packs = 250;
	assert_true(kage_store_wants_keyframe(&s));
	s.keyframe_pages = 10000;
	assert_false(kage_store_wants_keyframe(&s));
	s.changed_pages = 200000;
	assert_true(kage_store_wants_keyframe(&s));
}

/* --- removing --------------------------------------------------------------------------------- */

static void assert_sound(struct fixture *f, size_t packs)
{
	struct kage_fsck_result result;

	must(kage_store_fsck(f->store, NULL, &result));
	for (size_t i = 0; i < result.n_findings; i++)
		print_message("# %s: %s\n", result.findings[i].pack, result.findings[i].problem);
	assert_int_equal(result.n_bad, 0);
	assert_int_equal(result.n_packs, packs);
	kage_fsck_result_free(&result);
}

static size_t remove_images(struct fixture *f, uint64_t first, uint64_t last)
{
	size_t n = 0, removed = 0;

	for (uint64_t i = first; i <= last; i++) {
		n += f->states[i] != NULL;
		drop(f, i);
	}
	if (n)
		must(kage_store_remove(f->store, "h", first, last, &removed));
	assert_int_equal(removed, n);
	return n;
}

static uint64_t bytes_in(struct fixture *f, size_t *ret_keyframes)
{
	struct kage_list list;
	uint64_t bytes = 0;

	must(kage_store_list(f->store, "h", &list));
	*ret_keyframes = 0;
	for (size_t i = 0; i < list.n; i++) {
		bytes += list.entries[i].stored_bytes;
		*ret_keyframes += list.entries[i].keyframe;
	}
	kage_list_free(&list);
	return bytes;
}

/* All goes; the numbers begin anew. */
static void remove_history(struct fixture *f)
{
	struct kage_err *e;
	size_t n;

	for (uint64_t i = 0; i < LAST_NUMBER; i++)
		drop(f, i);
	e = kage_store_remove(f->store, "h", 0, 0, &n);
	if (e && kage_err_code(e) != KAGE_NOTFOUND) /* the last image may have taken it along */
		fail_msg("%s", kage_err_message(e));
	kage_err_free(e);
	memset(&f->now, 0, sizeof(f->now));
}

static void test_random_removals(void **state)
{
	struct fixture *f = *state;

	for (int round = 0; round < 6; round++) {
		size_t left = IMAGES;

		random_history(f, IMAGES);
		while (left > 3) {
			uint64_t first = 1 + random_next(&f->random) % IMAGES;
			uint64_t last = first + random_next(&f->random) % 8;

			last = last < IMAGES ? last : IMAGES;
			left -= remove_images(f, first, last);
			all_as_put(f);
		}
		assert_sound(f, left);
		remove_history(f);
	}
}

/* What is taken off either end costs nothing while a keyframe stays; else there is one more. */
static void test_remove_ends(void **state)
{
	struct fixture *f = *state;
	size_t keyframes;
	uint64_t bytes;

	put_next(f, true);
	for (int i = 2; i <= 20; i++)
		put_next(f, i == 11);
	bytes = bytes_in(f, &keyframes);
	assert_int_equal(keyframes, 2);
	remove_images(f, 18, 20);
	remove_images(f, 1, 5);
	assert_true(bytes_in(f, &keyframes) < bytes);
	assert_int_equal(keyframes, 1);
	all_as_put(f);
	remove_images(f, 11, 17);
	bytes_in(f, &keyframes);
	assert_int_equal(keyframes, 1);
	all_as_put(f);
	put_next(f, false); /* the number 11 is another image's now */
	all_as_put(f);
	assert_sound(f, 6);
}

/* A page that changes and changes back is in no difference after what is between is gone. */
static void test_joined_difference(void **state)
{
	struct fixture *f = *state;
	bool touched[PAGES + SHARED] = { [3] = true, [4] = true };
	struct kage_change_list changed;

	put_next(f, true);
	for (int i = 0; i < 2; i++) {
		f->now.here[3] = f->now.here[4] = true;
		f->now.page[3][100] ^= 1;
		f->now.page[4][100] += 1;
		put(f, f->states[f->now.number], false, touched);
	}
	remove_images(f, 2, 2);
	must(kage_store_changes(f->store, "h@3", &changed));
	assert_int_equal(changed.base_number, 1);
	assert_int_equal(changed.n, 1);
	assert_int_equal(changed.runs[0].space, SAMPLE_SPACE);
	assert_int_equal(changed.runs[0].first_page, FIRST + 4);
	assert_int_equal(changed.runs[0].n_pages, 1);
	kage_change_list_free(&changed);
	must(kage_store_changes(f->store, "h@1", &changed));
	assert_int_equal(changed.base_number, 0);
	assert_int_equal(changed.n, 0);
	kage_change_list_free(&changed);
	all_as_put(f);
}

/* --- damage ----------------------------------------------------------------------------------- */

static void flip(struct fixture *f, uint64_t number)
{
	char path[128];
	struct stat st;
	uint64_t bit;
	uint8_t c;
	int fd;

	snprintf(path, sizeof(path), "%s/h/%010llu.kage", f->dir, (unsigned long long)number);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	bit = random_next(&f->random) % ((uint64_t)st.st_size * 8);
	print_message("# flipped bit %llu of %llu\n", (unsigned long long)bit,
		      (unsigned long long)number);
	assert_int_equal(pread(fd, &c, 1, (off_t)(bit / 8)), 1);
	c ^= (uint8_t)(1u << bit % 8);
	assert_int_equal(pwrite(fd, &c, 1, (off_t)(bit / 8)), 1);
	close(fd);
}

/* Every image is as it was put, or told to be damaged with pack and place. */
static void right_or_refused(struct fixture *f)
{
	for (uint64_t n = 1; n <= f->now.number; n++) {
		struct kage_err *e = f->states[n] ? read_number(f, n) : NULL;

		if (e &&
		    (kage_err_code(e) != KAGE_CORRUPT || !strstr(kage_err_message(e), "pack ") ||
		     !strstr(kage_err_message(e), "offset")))
			fail_msg("h@%llu: %s", (unsigned long long)n, kage_err_message(e));
		kage_err_free(e);
	}
}

/* Forgets images that went. Returns how many. */
static size_t forget_gone(struct fixture *f)
{
	bool there[LAST_NUMBER] = { false };
	struct kage_list list;
	struct kage_err *e = kage_store_list(f->store, "h", &list);
	size_t n_gone = 0;

	if (e && kage_err_code(e) == KAGE_NOTFOUND)
		kage_err_free(e);
	else
		must(e);
	for (size_t i = 0; !e && i < list.n; i++)
		if (list.entries[i].number < LAST_NUMBER)
			there[list.entries[i].number] = true;
	if (!e)
		kage_list_free(&list);
	for (uint64_t n = 1; n < LAST_NUMBER; n++)
		if (f->states[n] && !there[n]) {
			drop(f, n);
			n_gone++;
		}
	return n_gone;
}

/* Repairs, and forgets images that are lost. Returns how many these are. */
static size_t repair(struct fixture *f)
{
	struct kage_fsck_result looked, result;
	size_t lost, left = 0;

	must(kage_store_fsck(f->store, NULL, &looked));
	must(kage_store_repair(f->store, NULL, &result));
	assert_int_equal(looked.n_bad, result.n_bad);
	assert_int_equal(looked.n_lost, result.n_lost);
	assert_int_equal(result.n_lost, result.n_moved);
	lost = forget_gone(f);
	assert_int_equal(lost, result.n_lost);
	kage_fsck_result_free(&looked);
	kage_fsck_result_free(&result);
	for (uint64_t n = 1; n < LAST_NUMBER; n++)
		left += f->states[n] != NULL;
	assert_sound(f, left);
	return lost;
}

/* With a keyframe at either end one damaged pack costs its own image at most. */
static void test_one_flip(void **state)
{
	struct fixture *f = *state;

	f->alone = true;
	for (int round = 0; round < 60; round++) {
		put_next(f, true);
		for (int i = 1; i < 9; i++)
			put_next(f, false);
		put_next(f, true);
		flip(f, 1 + random_next(&f->random) % 10);
		right_or_refused(f);
		assert_true(repair(f) <= 1);
		all_as_put(f);
		remove_history(f);
	}
}

/* Damages the description of image N. */
static void flip_description(struct fixture *f, uint64_t n)
{
	char path[128];
	struct footer footer;
	uint64_t at;
	uint8_t byte;
	int fd;

	snprintf(path, sizeof(path), "%s/h/%010llu.kage", f->dir, (unsigned long long)n);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(pread(fd, &footer, sizeof(footer), lseek(fd, 0, SEEK_END) - FOOTER_BYTES),
			 FOOTER_BYTES);
	at = le64_get(footer.image_offset) + RECORD_BYTES + 3;
	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
	close(fd);
}

/* A damaged description costs those images whose descriptions lean on it, and no others. */
static void test_leaning(void **state)
{
	struct fixture *f = *state;
	size_t lost = 0, n;

	put_next(f, true);
	for (int i = 2; i <= 30; i++)
		put_next(f, false);
	flip_description(f, 5);
	for (uint64_t i = 1; i <= 30; i++) {
		unsigned leans = f->states[i]->description.leans;

		if (i >= 5 && i - leans <= 5) {
			must_fail(read_number(f, i), KAGE_CORRUPT, i == 5 ? "damaged" : "h@5");
			lost++;
		}
	}
	assert_true(lost >= 1);
	assert_int_equal(repair(f), lost);
	all_as_put(f);
	for (uint64_t i = 1; i <= 4;
	     i++) { /* the first ones go one by one, as when a history is thinned */
		must(kage_store_remove(f->store, "h", i, i, &n));
		drop(f, i);
		all_as_put(f);
	}
	assert_sound(f, 26 - lost);
}

static void test_many_flips(void **state)
{
	struct fixture *f = *state;

	for (int round = 0; round < 10; round++) {
		random_history(f, IMAGES);
		for (int i = 0; i < 6; i++)
			flip(f, 1 + random_next(&f->random) % IMAGES);
		right_or_refused(f);
		print_message("# %zu lost\n", repair(f));
		all_as_put(f);
		remove_history(f);
	}
}

/* --- kills ------------------------------------------------------------------------------------ */

/* A child that removes images FIRST to LAST and is killed at the end of its K-th call. False when it came
 * to its end before. */
static bool killed_removing(struct fixture *f, uint64_t first, uint64_t last, int k)
{
	pid_t pid = fork();
	int status;
	size_t n;

	assert_true(pid >= 0);
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(kage_store_remove(f->store, "h", first, last, &n) != NULL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	for (int i = 0; i < 2 * k && WIFSTOPPED(status); i++) { /* calls begin and end */
		assert_int_equal(ptrace(PTRACE_SYSCALL, pid, 0, 0), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
	}
	if (!WIFSTOPPED(status)) {
		assert_int_equal(status, 0);
		return false;
	}
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return true;
}

/* Eight images, and two that went on from the third. Without 2 to 5, 6 and 9 need new differences; then
 * without 1 they have no keyframe. */
static void test_killed_removing(void **state)
{
	struct fixture *f = *state;
	bool killed = true;
	int k;

	for (k = 1 + (int)(random_next(&f->random) % 4); killed; k += 4) {
		size_t n;

		put_next(f, true);
		for (int i = 2; i <= 8; i++)
			put_next(f, false);
		branch(f, 3, false);
		put_next(f, false);
		killed = killed_removing(f, 2, 5, k);
		forget_gone(f);
		all_as_put(f);
		killed |= killed_removing(f, 1, 5, k);
		forget_gone(f);
		all_as_put(f);
		kage_err_free(kage_store_remove(f->store, "h", 1, 5, &n));
		forget_gone(f);
		all_as_put(f);
		assert_sound(f, 5);
		remove_history(f);
	}
	print_message("# %d calls\n", k);
	assert_true(k > 40);
}

/* --- trust ------------------------------------------------------------------------------------ */

/* Contents come from all packs on the way, so all of them must be nobody else's. */
static void test_doubtful(void **state)
{
	struct fixture *f = *state;
	struct kage_image *image;
	char path[128];

	put_next(f, true);
	for (int i = 2; i <= 4; i++)
		put_next(f, false);
	for (int round = 0; round < 2; round++) {
		must(kage_image_open(f->store, "h@4", &image));
		assert_null(image->doubtful_path);
		kage_image_close(image);
		for (unsigned i = 1; i <= 3; i++) {
			snprintf(path, sizeof(path), "%s/h/%010u.kage", f->dir, i);
			assert_int_equal(chmod(path, 0620), 0);
			must(kage_image_open(f->store, "h@4", &image));
			if (round == 0 || i + f->states[4]->description.leans >= 4) {
				assert_string_equal(image->doubtful_path, path);
				must_fail(kage_store_check_trust(image->doubtful_path), KAGE_PERM,
					  "others");
			} else {
				assert_null(image->doubtful_path);
			}
			kage_image_close(image);
			assert_int_equal(chmod(path, 0600), 0);
		}
		put_next(f, true); /* from here on only descriptions come from them */
	}
}

/* --- rivals, full disks ------------------------------------------------------------------------ */

/* Whoever opens an image while others go gets it right, or is told that it is gone. */
static void test_reader_and_remover(void **state)
{
	struct fixture *f = *state;
	pid_t child;
	int status;

	random_history(f, IMAGES);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		size_t n;

		for (uint64_t i = 1; i < IMAGES; i++) {
			struct kage_err *e;

			e = kage_store_remove(f->store, "h", i * 7 % IMAGES, i * 7 % IMAGES + 1,
					      &n);
			if (e && kage_err_code(e) != KAGE_NOTFOUND)
				_exit(1);
			kage_err_free(e);
		}
		_exit(0);
	}
	while (waitpid(child, &status, WNOHANG) == 0) {
		struct kage_err *e = read_number(f, 1 + random_next(&f->random) % IMAGES);

		if (e && kage_err_code(e) != KAGE_NOTFOUND)
			fail_msg("%s", kage_err_message(e));
		kage_err_free(e);
	}
	assert_int_equal(status, 0);
}

/* A removal for which there is no room changes nothing. */
static void test_no_room(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, low;
	char path[128];
	size_t n;

	put_next(f, true);
	for (int i = 2; i < 10; i++)
		put_next(f, false);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	low = old;
	low.rlim_cur = 1000;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
	must_fail(kage_store_remove(f->store, "h", 1, 3, &n), KAGE_SYS, "File too large");
	must_fail(kage_store_remove(f->store, "h", 3, 3, &n), KAGE_SYS, "h@4 as a difference");
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	snprintf(path, sizeof(path), "%s/h/.tmp-pack", f->dir);
	assert_true(access(path, F_OK) < 0);
	all_as_put(f);
	assert_sound(f, 9);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_random_history), TEST(test_from_behind),
		TEST(test_gone_neighbour), TEST(test_long),
		TEST(test_policy),         TEST(test_random_removals),
		TEST(test_remove_ends),    TEST(test_joined_difference),
		TEST(test_one_flip),       TEST(test_leaning),
		TEST(test_many_flips),     TEST(test_killed_removing),
		TEST(test_doubtful),       TEST(test_reader_and_remover),
		TEST(test_no_room),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
