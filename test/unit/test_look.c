/* SPDX-License-Identifier: Apache-2.0 */
/* Looking into images: symbols of a carried ELF file, differences, descriptors taken out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <elf.h>
#include <sys/mman.h>

#include "base/ctx.h"
#include "lib/sample_image.h"

enum { AT = 0x600000, FILE_SPACE = 3 };

/* --- symbols ---------------------------------------------------------------------------------- */

/* An ELF file of one page: a segment at 0x1000 of which the file's page 0 is shown, and a table of
 * symbols. */
struct tiny {
	Elf64_Ehdr header;
	Elf64_Phdr segment;
	Elf64_Shdr sections[4]; /* none, code, symbols, names */
	Elf64_Sym symbols[6];
	char names[64];
};

static void tiny_init(struct tiny *t)
{
	static const char names[] = "\0alpha\0beta\0inner\0local\0tls";

	memset(t, 0, sizeof(*t));
	memcpy(t->header.e_ident, ELFMAG, SELFMAG);
	t->header.e_ident[EI_CLASS] = ELFCLASS64;
	t->header.e_ident[EI_DATA] = ELFDATA2LSB;
	t->header.e_ident[EI_VERSION] = EV_CURRENT;
	t->header.e_type = ET_DYN;
	t->header.e_machine = EM_X86_64;
	t->header.e_version = EV_CURRENT;
	t->header.e_ehsize = sizeof(Elf64_Ehdr);
	t->header.e_phoff = offsetof(struct tiny, segment);
	t->header.e_phentsize = sizeof(Elf64_Phdr);
	t->header.e_phnum = 1;
	t->header.e_shoff = offsetof(struct tiny, sections);
	t->header.e_shentsize = sizeof(Elf64_Shdr);
	t->header.e_shnum = 4;
	t->segment = (Elf64_Phdr){ .p_type = PT_LOAD,
				   .p_vaddr = 0x1000,
				   .p_filesz = 4096,
				   .p_memsz = 8192,
				   .p_align = 4096 };
	t->sections[1] = (Elf64_Shdr){ .sh_type = SHT_NOBITS, .sh_addr = 0x1000, .sh_size = 0x500 };
	t->sections[2] = (Elf64_Shdr){ .sh_type = SHT_SYMTAB,
				       .sh_offset = offsetof(struct tiny, symbols),
				       .sh_size = sizeof(t->symbols),
				       .sh_entsize = sizeof(Elf64_Sym),
				       .sh_link = 3 };
	t->sections[3] = (Elf64_Shdr){ .sh_type = SHT_STRTAB,
				       .sh_offset = offsetof(struct tiny, names),
				       .sh_size = sizeof(t->names) };
	t->symbols[1] = (Elf64_Sym){ 1, ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), 0, 1, 0x1100, 0x40 };
	t->symbols[2] = (Elf64_Sym){ 7, ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), 0, 1, 0x1400, 0 };
	t->symbols[3] = (Elf64_Sym){ 12, ELF64_ST_INFO(STB_LOCAL, STT_OBJECT), 0, 1, 0x1110, 8 };
	t->symbols[4] = (Elf64_Sym){ 1, ELF64_ST_INFO(STB_LOCAL, STT_FUNC), 0, 1, 0x1300, 8 };
	t->symbols[5] = (Elf64_Sym){ 24, ELF64_ST_INFO(STB_GLOBAL, STT_TLS), 0, 1, 0x1100, 8 };
	memcpy(t->names, names, sizeof(names));
}

/* The sample with that file mapped as code at AT, and carried. */
static struct kage_image *with_elf(void)
{
	struct kage_image *image = sample_image();
	Kage__Memory *memory = image->msg->processes[0]->memory;
	Kage__Space *space =
		msg_append(&image->arena, image->msg, spaces, Kage__Space, kage__space__init);
	struct mem_pages *m = NULL;
	struct tiny tiny;
	void *bytes = NULL;

	space->id = FILE_SPACE;
	space->kind = KAGE__SPACE__KIND__FILE_CONTENT;
	space->size_bytes = KAGE_PAGE_BYTES;
	image->msg->files[0]->content_space = FILE_SPACE;
	image->msg->files[0]->size_bytes = KAGE_PAGE_BYTES;
	sample_mapping(&image->arena, memory, AT, AT + KAGE_PAGE_BYTES, PROT_READ | PROT_EXEC,
		       KAGE__MAPPING__BACKING__FILE_PRIVATE);
	memory->mappings[memory->n_mappings - 1]->file = 1;
	must(kage_mem_pages_create(&m));
	must(kage_mem_pages_add(m, FILE_SPACE, 0, 1, &bytes));
	tiny_init(&tiny);
	memset(bytes, 0, KAGE_PAGE_BYTES);
	memcpy(bytes, &tiny, sizeof(tiny));
	image->pages = kage_mem_pages_finish(m);
	return image;
}

static void assert_describes(struct kage_symbols *symbols, uint64_t address, const char *expected)
{
	char *text;

	must(kage_symbols_describe(symbols, address, &text));
	assert_string_equal(text, expected);
	free(text);
}

static void test_symbols(void **state)
{
	struct kage_image *image = with_elf();
	struct kage_symbols *symbols = NULL;
	struct kage_symbol s = { 0 };

	(void)state;
	must(kage_symbols_open(image, &symbols));
	must(kage_symbols_find(symbols, "alpha", &s));
	assert_int_equal(s.address, AT + 0x100); /* the global one */
	assert_int_equal(s.size, 0x40);
	assert_string_equal(s.module, "/usr/bin/sleep");
	must(kage_symbols_find(symbols, "sleep:inner", &s));
	assert_int_equal(s.address, AT + 0x110);
	must_fail(kage_symbols_find(symbols, "other:inner", &s), KAGE_NOTFOUND, "no symbol");
	must_fail(kage_symbols_find(symbols, "alpah", &s), KAGE_NOTFOUND, "near are: alpha");
	must_fail(kage_symbols_find(symbols, "tls", &s), KAGE_UNSUPPORTED, "thread-local");
	assert_describes(symbols, AT + 0x100, "sleep+0x100 (alpha)");
	assert_describes(symbols, AT + 0x113, "sleep+0x113 (inner+0x3)");
	assert_describes(symbols, AT + 0x120, "sleep+0x120 (alpha+0x20)");
	assert_describes(symbols, AT + 0x150, "sleep+0x150");
	assert_describes(symbols, AT + 0x410, "sleep+0x410 (beta+0x10)"); /* without a size */
	assert_describes(symbols, AT + 0x600, "sleep+0x600");             /* behind its section */
	assert_describes(symbols, 0x10000010, "[anon]+0x10");
	assert_describes(symbols, 0x42, "0x42");
	kage_symbols_close(symbols);
	kage_image_close(image);
}

/* --- differences ------------------------------------------------------------------------------ */

/* What was told, in one line each. */
struct told {
	char text[65536];
	size_t n;
};

static void tell(void *user, const struct kage_difference *d)
{
	static const char signs[] = "~+-";
	struct told *t = user;
	size_t used = strlen(t->text);

	t->n++;
	snprintf(t->text + used, sizeof(t->text) - used, "%c%s %s %s>%s %d %d\n", signs[d->how],
		 d->object, d->field ? d->field : "", d->before ? d->before : "",
		 d->after ? d->after : "", (int)d->bytes, (int)d->pages);
}

/* Gives the sample COUNT pages from FIRST of its address space, each all BYTE. */
static void fill(struct kage_image *image, uint64_t first, uint64_t count, int byte)
{
	struct mem_pages *m = NULL;
	void *bytes = NULL;

	must(kage_mem_pages_create(&m));
	must(kage_mem_pages_add(m, SAMPLE_SPACE, first, count, &bytes));
	memset(bytes, byte, count * KAGE_PAGE_BYTES);
	image->pages = kage_mem_pages_finish(m);
}

static void test_differences(void **state)
{
	struct kage_image *a = sample_image(), *b = sample_image();
	struct kage_ctx ctx = { 0 };
	struct told told = { 0 };
	Kage__Limit *limit;

	(void)state;
	fill(a, 0x10000, 300, 0); /* zeros that are there, against pages that are not */
	fill(b, 0x100c8, 300, 1);
	must(kage_image_diff(&ctx, a, a, NULL, tell, &told));
	assert_int_equal(told.n, 0);
	b->msg->processes[0]->threads[0]->registers->x86_64->rax = 5;
	b->msg->processes[0]->memory->mappings[1]->prot = 7;
	limit = msg_append(&b->arena, b->msg->processes[0], limits, Kage__Limit, kage__limit__init);
	limit->resource = 7;
	must(kage_image_diff(&ctx, a, b, NULL, tell, &told));
	assert_non_null(strstr(told.text, "~[anon] protection rw-p>rwxp"));
	assert_non_null(strstr(told.text, "~[anon]  > 1228800 300\n"));
	assert_non_null(strstr(told.text, "rax 0xffffffffffffffff>0x5"));
	assert_non_null(strstr(told.text, "~process limits[7] >there"));
	kage_image_close(a);
	kage_image_close(b);
}

/* --- taking out ------------------------------------------------------------------------------- */

static Kage__Description *add_fd(struct kage_image *image, uint32_t fd, uint32_t id)
{
	Kage__Process *p = image->msg->processes[0];
	Kage__Descriptor *n =
		msg_append(&image->arena, p, descriptors, Kage__Descriptor, kage__descriptor__init);
	Kage__Description *d = kage_image_description(image, id);

	n->fd = fd;
	n->description = id;
	if (d)
		return d;
	d = msg_append(&image->arena, image->msg, descriptions, Kage__Description,
		       kage__description__init);
	d->id = id;
	return d;
}

static void test_drop_fd(void **state)
{
	struct kage_image *image = sample_image();
	struct arena *a = &image->arena;
	Kage__Process *p = image->msg->processes[0];
	Kage__FileObject *log =
		msg_append(a, image->msg, files, Kage__FileObject, kage__file_object__init);
	Kage__Description *d = add_fd(image, 1, 1), *epoll;
	Kage__Epoll__Watch *watch;
	Kage__FileLock *lock;

	(void)state;
	log->id = 2;
	log->path = (char *)"/var/log/x";
	d->kind_case = KAGE__DESCRIPTION__KIND_FILE;
	d->file = msg_new(a, Kage__RegularFile, kage__regular_file__init);
	d->file->file = 2;
	add_fd(image, 2, 1);
	epoll = add_fd(image, 5, 7);
	epoll->kind_case = KAGE__DESCRIPTION__KIND_EPOLL;
	epoll->epoll = msg_new(a, Kage__Epoll, kage__epoll__init);
	watch = msg_append(a, epoll->epoll, watches, Kage__Epoll__Watch, kage__epoll__watch__init);
	watch->fd = 1;
	watch->description = 1;
	lock = msg_append(a, p, locks, Kage__FileLock, kage__file_lock__init);
	lock->fd = 1;

	assert_true(kage_image_drop_fd(image, 1));
	assert_false(kage_image_drop_fd(image, 1));
	assert_int_equal(p->n_descriptors, 2);
	assert_int_equal(p->n_locks, 0);
	assert_non_null(kage_image_description(image, 1)); /* 2 has it */
	assert_int_equal(epoll->epoll->n_watches, 1);
	assert_true(kage_image_drop_fd(image, 2));
	assert_null(kage_image_description(image, 1));
	assert_int_equal(epoll->epoll->n_watches, 0);
	assert_null(kage_image_file(image, 2));
	assert_non_null(kage_image_file(image, 1)); /* the executable */
	kage_image_close(image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_symbols),
		cmocka_unit_test(test_differences),
		cmocka_unit_test(test_drop_fd),
	};

	return cmocka_run_group_tests_name("look", tests, NULL, NULL);
}
