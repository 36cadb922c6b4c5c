/* SPDX-License-Identifier: Apache-2.0 */
/* Stores: putting, listing, finding, removing, checking. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/sample_image.h"
#include "store/store.h"

struct fixture {
	char dir[64];
	struct kage_ctx *ctx;
	struct kage_store *store;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/kage-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	must(kage_ctx_create(&f->ctx));
	must(kage_store_open(f->ctx, f->dir, KAGE_STORE_CREATE, &f->store));
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
	free(f);
	return 0;
}

static uint64_t put_sample(struct fixture *f, const char *name)
{
	struct kage_image *image = sample_image();
	struct random_state r = { 1 };
	struct kage_put_result result;
	struct mem_pages *m;

	must(kage_mem_pages_create(&m));
	sample_run(m, &r, SAMPLE_SPACE, 0x10000, 30);
	sample_run(m, &r, SAMPLE_SHARED_SPACE, 2, 7);
	image->pages = kage_mem_pages_finish(m);
	must(kage_store_put(f->store, name, image, NULL, &result));
	kage_image_close(image);
	return result.number;
}

static void test_put_list_open(void **state)
{
	struct fixture *f = *state;
	struct kage_image *image;
	struct kage_list list;
	unsigned char page[KAGE_PAGE_BYTES];

	assert_int_equal(put_sample(f, "sleep"), 1);
	assert_int_equal(put_sample(f, "sleep"), 2);
	must(kage_store_list(f->store, "sleep", &list));
	assert_int_equal(list.n, 2);
	assert_string_equal(list.entries[1].comm, "sleep");
	assert_string_equal(list.entries[1].message, "before the change");
	assert_null(list.entries[1].damage);
	assert_int_equal(list.entries[1].memory_bytes, 37 * 4096);
	kage_list_free(&list);
	must(kage_image_open(f->store, "sleep", &image));
	assert_string_equal(kage_image_label(image), "sleep@2");
	must(kage_pages_read(image->pages, SAMPLE_SPACE, 0x10001, 1, page));
	kage_image_close(image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_put_list_open, setup, teardown),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
