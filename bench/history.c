/* SPDX-License-Identifier: Apache-2.0 */
/*
 * history [MIB IMAGES PAGES]: a history of one keyframe and IMAGES differences of PAGES pages each, a few
 * bytes in each page, of a program of MIB MiB (128, 1000, 100 by default), in a store in memory.
 *
 * Prints milliseconds: putting one difference; opening and reading all pages of the keyframe; of the
 * image in the middle; of the last one, which has all differences before it; and opening the last
 * one and reading one page.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "lib/sample_image.h"
#include "store/store.h"

enum { FIRST = 0x10000, RUNS = 5 };

struct bench {
	struct kage_ctx *ctx;
	struct kage_store *store;
	uint64_t pages, images, changes;
	struct kage_image *image; /* the program */
	unsigned char *memory;    /* its pages */
	unsigned char *before;    /* as of the last image */
	struct kage_pages *old;
};

static void check(struct kage_err *e)
{
	if (!e)
		return;
	fprintf(stderr, "history: %s\n", kage_err_message(e));
	exit(1);
}

static struct kage_pages *new_pages(uint64_t n, unsigned char **ret_bytes)
{
	struct mem_pages *m;
	void *at;

	check(kage_mem_pages_create(&m));
	check(kage_mem_pages_add(m, SAMPLE_SPACE, FIRST, n, &at));
	*ret_bytes = at;
	return kage_mem_pages_finish(m);
}

static void fill_image(struct bench *b)
{
	b->image = sample_image();
	b->image->pages = new_pages(b->pages, &b->memory);
	b->old = new_pages(b->pages, &b->before);
	for (uint64_t i = 0; i < b->pages; i++)
		sample_page(b->memory + i * KAGE_PAGE_BYTES, i % 3 ? 1 : 2, i);
	memcpy(b->before, b->memory, b->pages * KAGE_PAGE_BYTES);
}

static int compare_runs(const void *a, const void *b)
{
	const struct page_run *x = a, *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

/* Changes a few words in each of some pages, half of them always the same. */
static size_t change(struct bench *b, struct random_state *r, struct page_run *runs)
{
	size_t n = 0;

	for (uint64_t i = 0; i < b->changes; i++) {
		uint64_t page = i % 2 ? i : random_next(r) % b->pages;

		for (int j = 0; j < 8; j++)
			b->memory[page * KAGE_PAGE_BYTES + random_next(r) % KAGE_PAGE_BYTES]++;
		runs[i] = (struct page_run){ SAMPLE_SPACE, FIRST + page, 1 };
	}
	qsort(runs, b->changes, sizeof(*runs), compare_runs);
	for (uint64_t i = 0; i < b->changes; i++)
		if (n == 0 || runs[n - 1].first != runs[i].first)
			runs[n++] = runs[i];
	return n;
}

static void put_all(struct bench *b)
{
	struct page_run *runs = calloc(b->changes, sizeof(*runs));
	struct random_state r = { 1 };
	struct kage_put_result result;
	uint64_t begin;

	check(kage_store_put(b->store, "h", b->image, NULL, &result));
	printf("keyframe %.1f MiB", (double)result.stored_bytes / 1048576);
	begin = kage_clock_mono_ns();
	for (uint64_t i = 0; i < b->images; i++) {
		size_t n = change(b, &r, runs);
		struct kage_changes c = {
			.base_number = result.number, .runs = runs, .n_runs = n, .before = b->old
		};

		memcpy(c.base_id, result.id, sizeof(c.base_id));
		check(kage_store_put(b->store, "h", b->image,
				     &(struct kage_put_options){ .changes = &c }, &result));
		for (size_t j = 0; j < n; j++) {
			uint64_t at = (runs[j].first - FIRST) * KAGE_PAGE_BYTES;

			memcpy(b->before + at, b->memory + at, KAGE_PAGE_BYTES);
		}
	}
	printf(", difference %llu bytes, put in %.3f ms\n", (unsigned long long)result.stored_bytes,
	       (double)(kage_clock_mono_ns() - begin) / 1e6 / (double)b->images);
	free(runs);
}

static struct kage_err *touch(void *user, uint32_t space, uint64_t first, uint64_t count,
			      const void *bytes)
{
	(void)space;
	memcpy((unsigned char *)user + (first - FIRST) * KAGE_PAGE_BYTES, bytes,
	       count * KAGE_PAGE_BYTES);
	return NULL;
}

/* The best of some runs, in milliseconds; one page only, or all. */
static void measure(struct bench *b, const char *what, uint64_t number, bool all)
{
	double best_open = 1e9, best = 1e9;
	char spec[32];

	snprintf(spec, sizeof(spec), "h@%llu", (unsigned long long)number);
	for (int i = 0; i < RUNS; i++) {
		struct kage_image *image;
		uint64_t begin = kage_clock_mono_ns(), opened;
		double ms;

		check(kage_image_open(b->store, spec, &image));
		opened = kage_clock_mono_ns();
		if (all)
			check(kage_pages_each(image->pages, 0, touch, b->before));
		else
			check(kage_pages_read(image->pages, SAMPLE_SPACE, FIRST, 1, b->before));
		ms = (double)(kage_clock_mono_ns() - begin) / 1e6;
		best = ms < best ? ms : best;
		ms = (double)(opened - begin) / 1e6;
		best_open = ms < best_open ? ms : best_open;
		kage_image_close(image);
	}
	printf("%-28s %8.2f ms, of these opening %.2f\n", what, best, best_open);
}

int main(int argc, char **argv)
{
	struct bench b = { .pages = 128 * 256, .images = 1000, .changes = 100 };
	char dir[] = "/dev/shm/kage-bench-XXXXXX", command[64];

	if (argc == 4) {
		b.pages = strtoull(argv[1], NULL, 10) * 256;
		b.images = strtoull(argv[2], NULL, 10);
		b.changes = strtoull(argv[3], NULL, 10);
	}
	if (!mkdtemp(dir))
		return 1;
	check(kage_ctx_create(&b.ctx));
	check(kage_store_open(b.ctx, dir, KAGE_STORE_CREATE, &b.store));
	fill_image(&b);
	put_all(&b);
	measure(&b, "all of the keyframe", 1, true);
	measure(&b, "all of the one in the middle", b.images / 2 + 1, true);
	measure(&b, "all of the last", b.images + 1, true);
	if (memcmp(b.before, b.memory, b.pages * KAGE_PAGE_BYTES) != 0)
		check(kage_err_new(KAGE_CORRUPT, "the last image is not what was put"));
	measure(&b, "one page of the last", b.images + 1, false);
	kage_store_close(b.store);
	kage_pages_destroy(b.old);
	kage_image_close(b.image);
	kage_ctx_destroy(b.ctx);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) != 0;
}
