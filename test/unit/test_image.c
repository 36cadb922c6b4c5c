/* SPDX-License-Identifier: Apache-2.0 */
/* Images in memory: bytes and back, what is refused, JSON, memory by address. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/sample_image.h"

/* --- bytes and back --------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
	struct kage_image *image = sample_image(), *back;
	uint8_t *bytes, *again;
	size_t size, again_size;

	(void)state;
	must(kage_image_encode(image, &bytes, &size));
	must(kage_image_decode(bytes, size, &back));
	must(kage_image_encode(back, &again, &again_size));
	assert_int_equal(size, again_size);
	assert_memory_equal(bytes, again, size);
	assert_string_equal(back->msg->processes[0]->comm, "sleep");
	assert_ptr_equal(kage_image_space(back, 2), back->msg->spaces[1]);
	assert_ptr_equal(kage_image_file(back, 1), back->msg->files[0]);
	assert_null(kage_image_file(back, 0));
	assert_null(kage_image_description(back, 1));
	free(bytes);
	free(again);
	kage_image_close(back);
	kage_image_close(image);
	kage_image_close(NULL);
}

/* Appending to a decoded list has to keep to the room that the decoder gave it. */
static void test_append_to_decoded(void **state)
{
	struct kage_image *image = sample_image(), *back;
	uint8_t *bytes;
	size_t size;

	(void)state;
	sample_mapping(&image->arena, image->msg->processes[0]->memory, 0x7ff000400000,
		       0x7ff000401000, 1, KAGE__MAPPING__BACKING__ANONYMOUS); /* three of them */
	must(kage_image_encode(image, &bytes, &size));
	must(kage_image_decode(bytes, size, &back));
	for (uint64_t i = 0; i < 40; i++)
		sample_mapping(&back->arena, back->msg->processes[0]->memory,
			       0x7ff000500000 + i * 0x1000, 0x7ff000501000 + i * 0x1000, 1,
			       KAGE__MAPPING__BACKING__ANONYMOUS);
	must(kage_image_validate(back));
	assert_int_equal(back->msg->processes[0]->memory->n_mappings, 43);
	free(bytes);
	kage_image_close(back);
	kage_image_close(image);
}

static void test_garbage(void **state)
{
	struct random_state r = { (uint64_t)time(NULL) };
	struct kage_image *image = sample_image(), *back;
	uint8_t *bytes;
	size_t size;

	(void)state;
	print_message("# seed %llu\n", (unsigned long long)r.v);
	must(kage_image_encode(image, &bytes, &size));
	must_fail(kage_image_decode((const uint8_t *)"\xff\xff\xff", 3, &back), KAGE_CORRUPT,
		  "no image message");
	must_fail(kage_image_decode(bytes, 0, &back), KAGE_CORRUPT, "0 processes");
	for (int i = 0; i < 5000; i++) {
		size_t at = random_next(&r) % size;
		uint8_t old = bytes[at];
		struct kage_err *e;

		bytes[at] ^= (uint8_t)(1u << random_next(&r) % 8);
		e = kage_image_decode(bytes, size, &back);
		if (!e)
			kage_image_close(back);
		else
			assert_int_equal(kage_err_code(e), KAGE_CORRUPT);
		kage_err_free(e);
		bytes[at] = old;
	}
	free(bytes);
	kage_image_close(image);
}

/* Two bytes each that become a structure each: memory is bounded by the size of the input. */
static void test_many_small_messages(void **state)
{
	size_t n = 4 << 20;
	uint8_t *bytes = malloc(n);
	struct kage_image *back;

	(void)state;
	for (size_t i = 0; i < n; i += 2) {
		bytes[i] = 3 << 3 | 2; /* processes, of no bytes */
		bytes[i + 1] = 0;
	}
	must_fail(kage_image_decode(bytes, n, &back), KAGE_CORRUPT, "");
	free(bytes);
}

/* --- what is refused -------------------------------------------------------------------------- */

static Kage__Process *process(struct kage_image *image)
{
	return image->msg->processes[0];
}

static void no_process(struct kage_image *i)
{
	i->msg->n_processes = 0;
}
static void two_spaces(struct kage_image *i)
{
	i->msg->spaces[1]->id = 1;
}
static void space_0(struct kage_image *i)
{
	i->msg->spaces[1]->id = 0;
}
static void unknown_enum(struct kage_image *i)
{
	i->msg->spaces[1]->kind = 77;
}
static void relative_path(struct kage_image *i)
{
	i->msg->files[0]->path = (char *)"usr/bin/sleep";
}
static void no_content_space(struct kage_image *i)
{
	i->msg->files[0]->content_space = SAMPLE_SPACE;
}
static void no_exe(struct kage_image *i)
{
	process(i)->memory->exe_file = 9;
}
static void wrong_space(struct kage_image *i)
{
	process(i)->memory->space = SAMPLE_SHARED_SPACE;
}
static void overlap(struct kage_image *i)
{
	process(i)->memory->mappings[1]->start = 0x4ffff000;
}
static void odd_mapping(struct kage_image *i)
{
	process(i)->memory->mappings[1]->start += 8;
}
static void empty_mapping(struct kage_image *i)
{
	process(i)->memory->mappings[0]->end = process(i)->memory->mappings[0]->start;
}
static void no_backing(struct kage_image *i)
{
	process(i)->memory->mappings[0]->backing = KAGE__MAPPING__BACKING__SHARED_OBJECT;
}
static void no_file(struct kage_image *i)
{
	process(i)->memory->mappings[0]->backing = KAGE__MAPPING__BACKING__FILE_PRIVATE;
}
static void wild_offset(struct kage_image *i)
{
	process(i)->memory->mappings[0]->offset_bytes = (uint64_t)INT64_MAX & ~(uint64_t)4095;
}
static void wild_key(struct kage_image *i)
{
	process(i)->memory->mappings[0]->pkey = 32;
}
static void outer_guard(struct kage_image *i)
{
	Kage__Mapping *m = process(i)->memory->mappings[0];
	Kage__Range *g = msg_append(&i->arena, m, guards, Kage__Range, kage__range__init);

	g->start = m->start - 4096;
	g->end = m->start;
}
static void no_threads(struct kage_image *i)
{
	process(i)->n_threads = 0;
}
static void no_registers(struct kage_image *i)
{
	process(i)->threads[0]->registers = NULL;
}
static void empty_registers(struct kage_image *i)
{
	process(i)->threads[0]->registers->x86_64 = NULL;
}
static void thread_0(struct kage_image *i)
{
	process(i)->threads[0]->tid = 0;
}
static void two_threads(struct kage_image *i)
{
	Kage__Thread *t =
		msg_append(&i->arena, process(i), threads, Kage__Thread, kage__thread__init);

	*t = *process(i)->threads[0];
}
static void signal_65(struct kage_image *i)
{
	Kage__SignalAction *a = msg_append(&i->arena, process(i), actions, Kage__SignalAction,
					   kage__signal_action__init);
	a->signal = 65;
}
static void loose_descriptor(struct kage_image *i)
{
	Kage__Descriptor *d = msg_append(&i->arena, process(i), descriptors, Kage__Descriptor,
					 kage__descriptor__init);
	d->description = 5;
}
static void no_kind(struct kage_image *i)
{
	Kage__Description *d = msg_append(&i->arena, i->msg, descriptions, Kage__Description,
					  kage__description__init);
	d->id = 1;
}
static void loose_lock(struct kage_image *i)
{
	msg_append(&i->arena, process(i), locks, Kage__FileLock, kage__file_lock__init);
}

static void test_refused(void **state)
{
	static const struct {
		void (*spoil)(struct kage_image *image);
		const char *text;
	} cases[] = {
		{ no_process, "0 processes" },
		{ two_spaces, "two spaces have the number 1" },
		{ space_0, "a space has the number 0" },
		{ unknown_enum, "Space.kind has the unknown value 77" },
		{ relative_path, "not absolute" },
		{ no_content_space, "which is none for that" },
		{ no_exe, "the executable is file 9" },
		{ wrong_space, "no address space" },
		{ overlap, "within the one before" },
		{ odd_mapping, "keep to pages" },
		{ empty_mapping, "is empty" },
		{ no_backing, "what backs" },
		{ no_file, "what backs" },
		{ wild_offset, "impossible offset" },
		{ wild_key, "protection key 32" },
		{ outer_guard, "guard 0" },
		{ no_threads, "no thread" },
		{ no_registers, "no registers" },
		{ empty_registers, "is empty" },
		{ thread_0, "a thread has the number 0" },
		{ two_threads, "two threads" },
		{ signal_65, "signal 65" },
		{ loose_descriptor, "description 5, which is not there" },
		{ no_kind, "of no known kind" },
		{ loose_lock, "a lock is held" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kage_image *image = sample_image();

		must(kage_image_validate(image));
		cases[i].spoil(image);
		must_fail(kage_image_validate(image), KAGE_CORRUPT, cases[i].text);
		kage_image_close(image);
	}
}

/* --- JSON ------------------------------------------------------------------------------------- */

static json_t *json_of(const struct kage_image *image)
{
	char *text;
	json_t *root;

	must(kage_image_json(image, &text));
	root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(root);
	free(text);
	return root;
}

static void test_json(void **state)
{
	struct kage_image *image = sample_image();
	json_t *root, *p, *registers;
	int n;

	(void)state;
	image->msg->files[0]->build_id.data = (uint8_t *)"\x01\xab\xff";
	image->msg->files[0]->build_id.len = 3;
	image->msg->files[0]->mtime_ns = -5;
	process(image)->comm = (char *)"a\xff"
				       "\xc3\xa4\x01";
	root = json_of(image);
	p = json_array_get(json_object_get(root, "processes"), 0);
	assert_int_equal(json_integer_value(json_object_get(p, "pid")), 4242);
	assert_string_equal(json_string_value(json_object_get(p, "comm")),
			    "a\xef\xbf\xbd\xc3\xa4\x01");
	assert_string_equal(json_string_value(json_object_get(p, "comm_hex")), "61ffc3a401");
	registers = json_object_get(json_array_get(json_object_get(p, "threads"), 0), "registers");
	registers = json_object_get(registers, "x86_64");
	assert_int_equal(json_integer_value(json_object_get(registers, "rip")), 0x10000123);
	assert_string_equal(json_string_value(json_object_get(registers, "rax")),
			    "18446744073709551615");
	assert_int_equal(json_integer_value(json_object_get(registers, "rbx")),
			 0);                                            /* zeros are there */
	assert_true(json_is_array(json_object_get(p, "posix_timers"))); /* empty lists too */
	assert_null(json_object_get(p, "credentials"));                 /* nothing is not */
	assert_int_equal(
		json_unpack(root, "{s:[{s:s}]}", "files", "build_id", &(const char *){ NULL }), 0);
	assert_int_equal(json_unpack(root, "{s:[{s:i}]}", "files", "mtime_ns", &n), 0);
	assert_int_equal(n, -5);
	p = json_array_get(json_object_get(root, "spaces"), 0);
	assert_string_equal(json_string_value(json_object_get(p, "kind")), "ADDRESS_SPACE");
	assert_true(json_is_array(json_object_get(root, "page_runs")));
	json_decref(root);
	kage_image_close(image);
}

/* Whatever bytes a string has, the JSON is valid. */
static void test_json_strings(void **state)
{
	struct random_state r = { (uint64_t)time(NULL) };
	struct kage_image *image = sample_image();
	char text[12];

	(void)state;
	print_message("# seed %llu\n", (unsigned long long)r.v);
	process(image)->comm = text;
	for (int i = 0; i < 2000; i++) {
		size_t n = random_next(&r) % sizeof(text);

		for (size_t j = 0; j < n; j++)
			text[j] = (char)(random_next(&r) % 3 ? 0x80 + random_next(&r) % 128
							     : 1 + random_next(&r) % 255);
		text[n] = '\0';
		json_decref(json_of(image));
	}
	kage_image_close(image);
}

/* --- memory by address ------------------------------------------------------------------------ */

struct read_fixture {
	struct kage_image *image;
	char path[32];
};

enum { FILE_AT = 0x60000000, SHARED_AT = 0x61000000, VVAR_AT = 0x62000000 };

static void make_readable(struct read_fixture *f)
{
	struct kage_image *image = f->image = sample_image();
	Kage__Memory *memory = process(image)->memory;
	Kage__FileObject *file;
	struct mem_pages *m;
	struct stat st;
	void *bytes;
	int fd;

	strcpy(f->path, "/tmp/kage-test-XXXXXX");
	fd = mkstemp(f->path);
	assert_int_equal(ftruncate(fd, 3 * 4096 + 100), 0);
	assert_int_equal(pwrite(fd, "from the file", 13, 4096 + 10), 13);
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	file = msg_append(&image->arena, image->msg, files, Kage__FileObject,
			  kage__file_object__init);
	file->id = 2;
	file->path = f->path;
	file->size_bytes = (uint64_t)st.st_size;
	file->mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	memory->n_mappings = 1;
	sample_mapping(&image->arena, memory, FILE_AT, FILE_AT + 0x3000, 1,
		       KAGE__MAPPING__BACKING__FILE_PRIVATE);
	memory->mappings[1]->file = 2;
	memory->mappings[1]->offset_bytes = 0x1000;
	sample_mapping(&image->arena, memory, SHARED_AT, SHARED_AT + 0x4000, 3,
		       KAGE__MAPPING__BACKING__SHARED_OBJECT);
	memory->mappings[2]->object_space = SAMPLE_SHARED_SPACE;
	memory->mappings[2]->offset_bytes = 0x2000;
	sample_mapping(&image->arena, memory, VVAR_AT, VVAR_AT + 0x1000, 1,
		       KAGE__MAPPING__BACKING__VVAR);
	must(kage_mem_pages_create(&m));
	must(kage_mem_pages_add(m, SAMPLE_SPACE, 0x10000, 1, &bytes));
	memset(bytes, 'a', 4096);
	must(kage_mem_pages_add(m, SAMPLE_SPACE, (FILE_AT >> 12) + 1, 1, &bytes));
	memset(bytes, 'c', 4096);
	must(kage_mem_pages_add(m, SAMPLE_SHARED_SPACE, 3, 1, &bytes));
	memset(bytes, 's', 4096);
	image->pages = kage_mem_pages_finish(m);
	must(kage_image_validate(image));
}

static void test_read(void **state)
{
	struct read_fixture f;
	unsigned char b[0x5000];
	size_t n;

	(void)state;
	make_readable(&f);
	must(kage_image_read(f.image, 0x10000ff0, b, 32, &n)); /* a page, then zeros */
	assert_int_equal(n, 32);
	assert_memory_equal(b, "aaaaaaaaaaaaaaaa\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32);
	must(kage_image_read(f.image, FILE_AT + 10, b, 0x3000, &n)); /* file, changed page, file */
	assert_int_equal(n, 0x3000 - 10);                            /* and then a hole */
	assert_memory_equal(b, "from the file\0", 14);
	assert_int_equal(b[0x1000], 'c');
	assert_int_equal(b[0x2000], 0);
	must(kage_image_read(f.image, SHARED_AT, b, 0x4000, &n));
	assert_int_equal(n, 0x4000);
	assert_int_equal(b[0xfff], 0);
	assert_int_equal(b[0x1000], 's');
	assert_int_equal(b[0x2000], 0);
	must(kage_image_read(f.image, VVAR_AT, b, 8, &n));
	assert_int_equal(n, 0);
	must(kage_image_read(f.image, 0x1000, b, 8, &n));
	assert_int_equal(n, 0);
	must(kage_image_read(f.image, UINT64_MAX - 3, b, 8, &n));
	assert_int_equal(n, 0);
	assert_int_equal(truncate(f.path, 5000), 0);
	must_fail(kage_image_read(f.image, FILE_AT, b, 8, &n), KAGE_CHANGED, "changed since");
	must(kage_image_read(f.image, FILE_AT + 0x1000, b, 8, &n));
	assert_int_equal(unlink(f.path), 0);
	must_fail(kage_image_read(f.image, FILE_AT, b, 8, &n), KAGE_SYS, "No such file");
	kage_image_close(f.image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_append_to_decoded),
		cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_many_small_messages),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_json_strings),
		cmocka_unit_test(test_read),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
