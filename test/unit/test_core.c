/* SPDX-License-Identifier: Apache-2.0 */
/* Core files, read back by libelf: segments, their bytes, notes, registers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/procfs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xxhash.h>

#include "arch/arch.h"
#include "base/cleanup.h"
#include "base/ctx.h"
#include "base/file.h"
#include "lib/sample_image.h"

/* --- making ----------------------------------------------------------------------------------- */

struct fixture {
	struct kage_ctx *ctx;
	struct kage_image *image;
	Kage__Process *process;
	struct mem_pages *pages;
	char notices[1024];
	int fd; /* of the core, in memory */
	Elf *elf;
	_Alignas(16) char note[8192]; /* the one that was looked at last */
};

static void keep_notice(void *user, const char *line)
{
	struct fixture *f = user;
	size_t used = strlen(f->notices);

	snprintf(f->notices + used, sizeof(f->notices) - used, "%s\n", line);
}

/* An image of a process with one thread and no mappings. */
static void set_up(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	must(kage_ctx_create(&f->ctx));
	kage_ctx_set_notice(f->ctx, keep_notice, f);
	f->image = sample_image();
	f->process = f->image->msg->processes[0];
	f->process->memory->n_mappings = 0;
	f->process->memory->mappings = NULL;
	must(kage_mem_pages_create(&f->pages));
	f->fd = memfd_create("core", MFD_CLOEXEC);
	assert_true(f->fd >= 0);
}

static void tear_down(struct fixture *f)
{
	elf_end(f->elf);
	close(f->fd);
	kage_image_close(f->image);
	kage_ctx_destroy(f->ctx);
}

static Kage__Mapping *map(struct fixture *f, uint64_t start, uint64_t n_pages, uint32_t prot,
			  int backing)
{
	Kage__Memory *m = f->process->memory;

	sample_mapping(&f->image->arena, m, start, start + n_pages * KAGE_PAGE_BYTES, prot,
		       backing);
	return m->mappings[m->n_mappings - 1];
}

/* COUNT pages full of BYTE at page FIRST of SPACE. */
static void fill(struct fixture *f, uint32_t space, uint64_t first, uint64_t count, int byte)
{
	void *bytes = NULL;

	must(kage_mem_pages_add(f->pages, space, first, count, &bytes));
	memset(bytes, byte, count * KAGE_PAGE_BYTES);
}

static void finish_pages(struct fixture *f)
{
	if (!f->image->pages)
		f->image->pages = kage_mem_pages_finish(f->pages);
}

static void write_core(struct fixture *f)
{
	finish_pages(f);
	must(kage_image_validate(f->image));
	must(kage_core_write(f->ctx, f->image, f->fd));
	elf_version(EV_CURRENT);
	f->elf = elf_begin(f->fd, ELF_C_READ, NULL);
	assert_non_null(f->elf);
}

/* --- reading back ----------------------------------------------------------------------------- */

/* The program header of segment I, where 0 is the first one with memory. */
static GElf_Phdr segment(const struct fixture *f, int i)
{
	GElf_Phdr h;

	assert_non_null(gelf_getphdr(f->elf, i + 1, &h));
	assert_int_equal(h.p_type, PT_LOAD);
	assert_int_equal(h.p_offset % KAGE_PAGE_BYTES, 0);
	return h;
}

static void assert_segment(const struct fixture *f, int i, uint64_t start, uint64_t n_pages,
			   uint64_t in_file)
{
	GElf_Phdr h = segment(f, i);

	assert_int_equal(h.p_vaddr, start);
	assert_int_equal(h.p_memsz, n_pages * KAGE_PAGE_BYTES);
	assert_int_equal(h.p_filesz, in_file * KAGE_PAGE_BYTES);
}

static size_t count_segments(const struct fixture *f)
{
	size_t n;

	assert_int_equal(elf_getphdrnum(f->elf, &n), 0);
	return n - 1;
}

/* Whether the pages of segment I in the file are BYTE, from its page FIRST on. */
static void assert_pages(const struct fixture *f, int i, uint64_t first, uint64_t count, int byte)
{
	GElf_Phdr h = segment(f, i);
	unsigned char page[KAGE_PAGE_BYTES], expected[KAGE_PAGE_BYTES];
	size_t n;

	assert_true((first + count) * KAGE_PAGE_BYTES <= h.p_filesz);
	memset(expected, byte, sizeof(expected));
	for (uint64_t k = first; k < first + count; k++) {
		must(kage_file_read(f->fd, page, sizeof(page),
				    (off_t)(h.p_offset + k * KAGE_PAGE_BYTES), "core", &n));
		assert_int_equal(n, sizeof(page));
		assert_memory_equal(page, expected, sizeof(page));
	}
}

/* Note number WHICH (from 0) of TYPE, valid until the next is asked for; NULL when there is none. */
static const void *note(struct fixture *f, uint32_t type, int which, size_t *ret_size)
{
	GElf_Phdr h;
	Elf_Data *data;
	size_t at = 0, name, content;
	GElf_Nhdr header;

	assert_non_null(gelf_getphdr(f->elf, 0, &h));
	assert_int_equal(h.p_type, PT_NOTE);
	data = elf_getdata_rawchunk(f->elf, (int64_t)h.p_offset, h.p_filesz, ELF_T_NHDR);
	assert_non_null(data);
	while ((at = gelf_getnote(data, at, &header, &name, &content)) > 0)
		if (header.n_type == type && which-- == 0) {
			*ret_size = header.n_descsz;
			assert_true(header.n_descsz <= sizeof(f->note));
			return memcpy(f->note, (char *)data->d_buf + content, header.n_descsz);
		}
	return NULL;
}

static struct elf_prstatus status_of(struct fixture *f, int thread)
{
	struct elf_prstatus status;
	size_t size;
	const void *p = note(f, NT_PRSTATUS, thread, &size);

	assert_non_null(p);
	assert_int_equal(size, sizeof(status));
	memcpy(&status, p, sizeof(status));
	return status;
}

/* --- memory ----------------------------------------------------------------------------------- */

static void test_anonymous(void **state)
{
	struct fixture f;
	struct stat st;

	(void)state;
	set_up(&f);
	map(&f, 0x10000000, 4096, PROT_READ | PROT_WRITE, KAGE__MAPPING__BACKING__ANONYMOUS);
	/* One run of pages goes on in the next mapping. */
	map(&f, 0x20000000, 2, PROT_READ | PROT_EXEC, KAGE__MAPPING__BACKING__ANONYMOUS);
	map(&f, 0x20002000, 3, PROT_READ, KAGE__MAPPING__BACKING__ANONYMOUS);
	fill(&f, SAMPLE_SPACE, 0x10000, 1, 'a');
	fill(&f, SAMPLE_SPACE, 0x10200, 600, 'b');
	fill(&f, SAMPLE_SPACE, 0x20001, 2, 'c');
	write_core(&f);
	assert_int_equal(count_segments(&f), 3);
	assert_segment(&f, 0, 0x10000000, 4096, 4096);
	assert_segment(&f, 1, 0x20000000, 2, 2);
	assert_segment(&f, 2, 0x20002000, 3, 3);
	assert_int_equal(segment(&f, 0).p_flags, PF_R | PF_W);
	assert_int_equal(segment(&f, 1).p_flags, PF_R | PF_X);
	assert_pages(&f, 0, 0, 1, 'a');
	assert_pages(&f, 0, 1, 511, 0);
	assert_pages(&f, 0, 512, 600, 'b');
	assert_pages(&f, 0, 1112, 4096 - 1112, 0);
	assert_pages(&f, 1, 0, 1, 0);
	assert_pages(&f, 1, 1, 1, 'c');
	assert_pages(&f, 2, 0, 1, 'c');
	assert_pages(&f, 2, 1, 2, 0);
	assert_int_equal(fstat(f.fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 < 700 * KAGE_PAGE_BYTES);
	tear_down(&f);
}

static void test_left_out(void **state)
{
	const uint64_t gap = ((uint64_t)1 << 30) / KAGE_PAGE_BYTES;
	struct fixture f;
	Kage__Mapping *m;
	Kage__Range *guard;

	(void)state;
	set_up(&f);
	/* A guard inside */
	m = map(&f, 0x10000000, 16, PROT_READ | PROT_WRITE, KAGE__MAPPING__BACKING__ANONYMOUS);
	guard = msg_append(&f.image->arena, m, guards, Kage__Range, kage__range__init);
	guard->start = 0x10004000;
	guard->end = 0x10005000;
	/* Reserved, with two pages that were used once */
	map(&f, 0x20000000, 16, 0, KAGE__MAPPING__BACKING__ANONYMOUS);
	fill(&f, SAMPLE_SPACE, 0x20003, 2, 'r');
	/* Not to be dumped */
	m = map(&f, 0x30000000, 4, PROT_READ, KAGE__MAPPING__BACKING__ANONYMOUS);
	m->dont_dump = true;
	fill(&f, SAMPLE_SPACE, 0x30000, 1, 'd');
	/* Far larger than files can be */
	map(&f, 0x100000000000, gap * 16384, PROT_READ, KAGE__MAPPING__BACKING__ANONYMOUS);
	fill(&f, SAMPLE_SPACE, 0x100000000 + gap, 1, 'g');
	map(&f, 0x7f0000000000, 4, PROT_READ, KAGE__MAPPING__BACKING__VVAR);
	write_core(&f);
	assert_int_equal(count_segments(&f), 11);
	assert_segment(&f, 0, 0x10000000, 4, 4);
	assert_segment(&f, 1, 0x10004000, 1, 0);
	assert_segment(&f, 2, 0x10005000, 11, 11);
	assert_segment(&f, 3, 0x20000000, 3, 0);
	assert_segment(&f, 4, 0x20003000, 2, 2);
	assert_pages(&f, 4, 0, 2, 'r');
	assert_segment(&f, 5, 0x20005000, 11, 0);
	assert_segment(&f, 6, 0x30000000, 4, 0);
	assert_segment(&f, 7, 0x100000000000, gap, 0);
	assert_segment(&f, 8, 0x100000000000 + (gap << 12), 1, 1);
	assert_pages(&f, 8, 0, 1, 'g');
	assert_segment(&f, 9, 0x100000001000 + (gap << 12), gap * 16383 - 1, 0);
	assert_segment(&f, 10, 0x7f0000000000, 4, 0);
	tear_down(&f);
}

static void test_shared_object(void **state)
{
	struct fixture f;
	Kage__Mapping *m;

	(void)state;
	set_up(&f);
	m = map(&f, 0x10000000, 8, PROT_READ, KAGE__MAPPING__BACKING__SHARED_OBJECT);
	m->shared = true;
	m->object_space = SAMPLE_SHARED_SPACE;
	m->offset_bytes = (SAMPLE_SHARED_PAGES - 4) * KAGE_PAGE_BYTES; /* half is beyond its end */
	m = map(&f, 0x20000000, 4, PROT_READ, KAGE__MAPPING__BACKING__MEMFD_PRIVATE);
	m->object_space = SAMPLE_SHARED_SPACE;
	m->offset_bytes = (SAMPLE_SHARED_PAGES - 4) * KAGE_PAGE_BYTES;
	fill(&f, SAMPLE_SHARED_SPACE, SAMPLE_SHARED_PAGES - 3, 2, 's');
	fill(&f, SAMPLE_SPACE, 0x20002, 1, 'p');
	write_core(&f);
	assert_int_equal(count_segments(&f), 2);
	assert_segment(&f, 0, 0x10000000, 8, 4);
	assert_pages(&f, 0, 0, 1, 0);
	assert_pages(&f, 0, 1, 2, 's');
	assert_pages(&f, 0, 3, 1, 0);
	assert_segment(&f, 1, 0x20000000, 4, 4);
	assert_pages(&f, 1, 1, 1, 's');
	assert_pages(&f, 1, 2, 1, 'p');
	tear_down(&f);
}

/* --- files ------------------------------------------------------------------------------------ */

enum { FILE_PAGES = 6 };

/* A file of FILE_PAGES pages of 'f', which begins like ELF, known to the image. */
static Kage__FileObject *make_file(struct fixture *f, char *path)
{
	unsigned char page[KAGE_PAGE_BYTES];
	Kage__FileObject *msg = f->image->msg->files[0];
	int fd = mkstemp(path);
	struct stat st;

	assert_true(fd >= 0);
	memset(page, 'f', sizeof(page));
	for (int i = 0; i < FILE_PAGES; i++)
		must(kage_file_write(fd, page, sizeof(page), -1, path));
	must(kage_file_write(fd, ELFMAG, SELFMAG, 0, path));
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	msg->path = path;
	msg->size_bytes = (uint64_t)st.st_size;
	msg->mtime_ns = st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	return msg;
}

static Kage__Mapping *map_file(struct fixture *f, uint64_t start, uint64_t first, uint64_t n_pages)
{
	Kage__Mapping *m = map(f, start, n_pages, PROT_READ, KAGE__MAPPING__BACKING__FILE_PRIVATE);

	m->file = 1;
	m->offset_bytes = first * KAGE_PAGE_BYTES;
	return m;
}

/* Clean: the first page. The same from its middle: nothing. Changed: all. */
static void test_files(void **state)
{
	char path[] = "/tmp/kage-test-core.XXXXXX";
	struct fixture f;
	const uint64_t *file_note;
	size_t size;

	(void)state;
	set_up(&f);
	make_file(&f, path);
	map_file(&f, 0x10000000, 0, 4);
	map_file(&f, 0x10004000, 4, 2);
	map_file(&f, 0x20000000, 1, 5);
	fill(&f, SAMPLE_SPACE, 0x20002, 1, 'p');
	write_core(&f);
	assert_int_equal(count_segments(&f), 3);
	assert_segment(&f, 0, 0x10000000, 4, 1);
	assert_segment(&f, 1, 0x10004000, 2, 0);
	assert_segment(&f, 2, 0x20000000, 5, 5);
	assert_pages(&f, 2, 0, 2, 'f');
	assert_pages(&f, 2, 2, 1, 'p');
	assert_pages(&f, 2, 3, 2, 'f');
	assert_string_equal(f.notices, "");
	file_note = note(&f, NT_FILE, 0, &size);
	assert_non_null(file_note);
	assert_int_equal(size, 16 + 3 * (24 + sizeof(path)));
	assert_int_equal(file_note[0], 3);
	assert_int_equal(file_note[1], KAGE_PAGE_BYTES);
	assert_int_equal(file_note[5], 0x10004000);
	assert_int_equal(file_note[6], 0x10006000);
	assert_int_equal(file_note[7], 4);
	assert_string_equal((const char *)(file_note + 11), path);
	unlink(path);
	tear_down(&f);
}

/* A file that is another one by now: what the process changed is there all the same. */
static void test_changed_file(void **state)
{
	char path[] = "/tmp/kage-test-core.XXXXXX";
	struct fixture f;

	(void)state;
	set_up(&f);
	make_file(&f, path)->mtime_ns -= 1;
	map_file(&f, 0x10000000, 0, 4);
	map_file(&f, 0x20000000, 0, 6);
	map_file(&f, 0x30000000, 0, 1);
	fill(&f, SAMPLE_SPACE, 0x20000, 1, 'p');
	fill(&f, SAMPLE_SPACE, 0x20004, 1, 'q');
	fill(&f, SAMPLE_SPACE, 0x30000, 1, 'w');
	write_core(&f);
	assert_int_equal(count_segments(&f), 6);
	assert_segment(&f, 0, 0x10000000, 4, 0);
	assert_segment(&f, 1, 0x20000000, 1, 1);
	assert_segment(&f, 2, 0x20001000, 3, 0);
	assert_segment(&f, 3, 0x20004000, 1, 1);
	assert_segment(&f, 4, 0x20005000, 1, 0);
	assert_segment(&f, 5, 0x30000000, 1, 1);
	assert_pages(&f, 1, 0, 1, 'p');
	assert_pages(&f, 3, 0, 1, 'q');
	assert_pages(&f, 5, 0, 1, 'w');
	assert_non_null(strstr(f.notices, path));
	assert_null(strstr(strstr(f.notices, path) + 1, path)); /* told once */
	unlink(path);
	tear_down(&f);
}

/* A file whose contents are in the image is dumped, for it may be nowhere else. */
static void test_carried_file(void **state)
{
	struct fixture f;
	Kage__Space *space;
	Kage__FileObject *file;
	const char *names;
	size_t size;

	(void)state;
	set_up(&f);
	space = msg_append(&f.image->arena, f.image->msg, spaces, Kage__Space, kage__space__init);
	space->id = 3;
	space->kind = KAGE__SPACE__KIND__FILE_CONTENT;
	file = f.image->msg->files[0];
	file->path = (char *)"/nowhere/to/be/found";
	file->size_bytes = 3 * KAGE_PAGE_BYTES - 10;
	file->content_space = 3;
	file->unlinked = true;
	map_file(&f, 0x10000000, 1, 5)->shared = true;
	f.process->memory->mappings[0]->backing = KAGE__MAPPING__BACKING__FILE_SHARED;
	fill(&f, 3, 2, 1, 'x');
	write_core(&f);
	assert_int_equal(count_segments(&f), 1);
	assert_segment(&f, 0, 0x10000000, 5, 2);
	assert_pages(&f, 0, 0, 1, 0);
	assert_pages(&f, 0, 1, 1, 'x');
	names = (const char *)note(&f, NT_FILE, 0, &size) + 16 + 24;
	assert_string_equal(names, "/nowhere/to/be/found (deleted)");
	tear_down(&f);
}

/* --- vDSO ------------------------------------------------------------------------------------- */

static size_t own_vdso_bytes(uint64_t start)
{
	unsigned long long from, to;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "re");
	size_t size = 0;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%llx-%llx", &from, &to) == 2 && from == start)
			size = to - from;
	fclose(maps);
	return size;
}

static void map_vdso(struct fixture *f, void *ours, size_t size, bool same)
{
	XXH128_canonical_t hash;
	ProtobufCBinaryData *stored = &f->process->memory->vdso_hash;

	map(f, 0x7f0000000000, size / KAGE_PAGE_BYTES, PROT_READ | PROT_EXEC,
	    KAGE__MAPPING__BACKING__VDSO);
	XXH128_canonicalFromHash(&hash, XXH3_128bits(ours, size));
	stored->data = arena_dup(&f->image->arena, &hash, sizeof(hash));
	stored->len = sizeof(hash);
	stored->data[0] ^= !same;
}

static void test_vdso(void **state)
{
	void *ours = (void *)getauxval(AT_SYSINFO_EHDR);
	size_t size = own_vdso_bytes((uint64_t)(uintptr_t)ours), n;
	_cleanup_free_ void *bytes = malloc(size);
	struct fixture f;

	(void)state;
	if (!size)
		skip();
	set_up(&f);
	map_vdso(&f, ours, size, true);
	write_core(&f);
	assert_segment(&f, 0, 0x7f0000000000, size / KAGE_PAGE_BYTES, size / KAGE_PAGE_BYTES);
	must(kage_file_read(f.fd, bytes, size, (off_t)segment(&f, 0).p_offset, "core", &n));
	assert_memory_equal(bytes, ours, size);
	assert_string_equal(f.notices, "");
	tear_down(&f);

	set_up(&f);
	map_vdso(&f, ours, size, false);
	write_core(&f);
	assert_segment(&f, 0, 0x7f0000000000, size / KAGE_PAGE_BYTES, 0);
	assert_non_null(strstr(f.notices, "vDSO"));
	tear_down(&f);
}

/* A mapping larger than our vDSO must not make us read what lies behind it. */
static void test_huge_vdso(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f);
	map(&f, 0x7f0000000000, 200, PROT_READ, KAGE__MAPPING__BACKING__VDSO);
	f.process->memory->vdso_hash.data = arena_alloc(&f.image->arena, 16);
	f.process->memory->vdso_hash.len = 16;
	write_core(&f);
	assert_segment(&f, 0, 0x7f0000000000, 200, 0);
	tear_down(&f);
}

/* --- the file --------------------------------------------------------------------------------- */

/* More segments than an ELF header can count. */
static void test_many_segments(void **state)
{
	enum { MANY = 70000 };
	struct fixture f;

	(void)state;
	set_up(&f);
	for (uint64_t i = 0; i < MANY; i++)
		map(&f, 0x10000000 + i * 0x2000, 1, PROT_READ, KAGE__MAPPING__BACKING__ANONYMOUS);
	fill(&f, SAMPLE_SPACE, 0x10000 + 2 * (MANY - 1), 1, 'z');
	write_core(&f);
	assert_int_equal(count_segments(&f), MANY);
	assert_segment(&f, MANY - 1, 0x10000000 + (MANY - 1) * 0x2000, 1, 1);
	assert_pages(&f, MANY - 1, 0, 1, 'z');
	assert_int_equal(status_of(&f, 0).pr_pid, 4242);
	tear_down(&f);
}

/* The edge: one more is one too many for the ELF header. */
static void test_edge_of_count(void **state)
{
	(void)state;
	for (uint64_t n = PN_XNUM - 2; n < PN_XNUM; n++) {
		struct fixture f;
		GElf_Ehdr header;

		set_up(&f);
		for (uint64_t i = 0; i < n; i++)
			map(&f, 0x10000000 + i * 0x2000, 1, 0, KAGE__MAPPING__BACKING__ANONYMOUS);
		write_core(&f);
		assert_int_equal(count_segments(&f), n);
		assert_non_null(gelf_getehdr(f.elf, &header));
		assert_int_equal(header.e_phnum, n + 1 < PN_XNUM ? n + 1 : PN_XNUM);
		assert_int_equal(header.e_shnum, n + 1 >= PN_XNUM);
		tear_down(&f);
	}
}

/* The whole of FD from OFFSET on, as a fresh buffer. */
static char *contents(int fd, off_t offset, size_t *ret_size)
{
	struct stat st;
	char *bytes;

	assert_int_equal(fstat(fd, &st), 0);
	bytes = malloc((size_t)st.st_size + 1);
	must(kage_file_read(fd, bytes, (size_t)(st.st_size - offset), offset, "file", ret_size));
	assert_int_equal(*ret_size, st.st_size - offset);
	return bytes;
}

/* With holes, without, and in the middle of an older file: the same bytes. */
static void test_ways_of_writing(void **state)
{
	char path[] = "/tmp/kage-test-core.XXXXXX";
	struct fixture f;
	int appended = mkstemp(path), older = memfd_create("older", MFD_CLOEXEC);
	char junk[100000], *first, *second, *third;
	size_t size, again, third_size;

	(void)state;
	assert_true(appended >= 0 && older >= 0);
	unlink(path);
	assert_int_equal(fcntl(appended, F_SETFL, O_APPEND), 0);
	memset(junk, 'j', sizeof(junk));
	must(kage_file_write(older, junk, sizeof(junk), -1, "older"));
	assert_int_equal(lseek(older, 12345, SEEK_SET), 12345);
	set_up(&f);
	map(&f, 0x10000000, 64, PROT_READ, KAGE__MAPPING__BACKING__ANONYMOUS);
	fill(&f, SAMPLE_SPACE, 0x10008, 8, 'a');
	fill(&f, SAMPLE_SPACE, 0x10018, 8, 0); /* zeros that are there */
	write_core(&f);
	must(kage_core_write(f.ctx, f.image, appended));
	must(kage_core_write(f.ctx, f.image, older));
	first = contents(f.fd, 0, &size);
	second = contents(appended, 0, &again);
	third = contents(older, 12345, &third_size);
	assert_int_equal(size, again);
	assert_int_equal(size, third_size);
	assert_memory_equal(first, second, size);
	assert_memory_equal(first, third, size);
	assert_int_equal(lseek(f.fd, 0, SEEK_CUR), size);
	free(first);
	free(second);
	free(third);
	close(appended);
	close(older);
	tear_down(&f);
}

static void test_failures(void **state)
{
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	volatile sig_atomic_t stop = 1;
	struct fixture f;

	(void)state;
	set_up(&f);
	map(&f, 0x10000000, 64, PROT_READ, KAGE__MAPPING__BACKING__ANONYMOUS);
	finish_pages(&f);
	must_fail(kage_core_write(f.ctx, f.image, full), KAGE_SYS, "No space left");
	kage_ctx_set_interrupt(f.ctx, &stop);
	must_fail(kage_core_write(f.ctx, f.image, f.fd), KAGE_INTERRUPTED, "interrupted");
	kage_ctx_set_interrupt(f.ctx, NULL);
	f.process->threads[0]->registers = NULL;
	must_fail(kage_core_write(f.ctx, f.image, f.fd), KAGE_UNSUPPORTED, "thread 4242");
	f.image->msg->n_processes = 0;
	must_fail(kage_core_write(f.ctx, f.image, f.fd), KAGE_INVALID, "no process");
	close(full);
	tear_down(&f);
}

/* --- notes ------------------------------------------------------------------------------------ */

static Kage__Thread *add_thread(struct fixture *f, int32_t tid)
{
	struct arena *a = &f->image->arena;
	Kage__Thread *t = msg_append(a, f->process, threads, Kage__Thread, kage__thread__init);

	t->tid = tid;
	t->comm = (char *)"worker";
	t->registers = msg_new(a, Kage__Registers, kage__registers__init);
	t->registers->arch_case = KAGE__REGISTERS__ARCH_X86_64;
	t->registers->x86_64 = msg_new(a, Kage__RegistersX8664, kage__registers_x86_64__init);
	return t;
}

static void in_call(struct fixture *f, Kage__Thread *t, int restart)
{
	t->syscall = msg_new(&f->image->arena, Kage__SyscallState, kage__syscall_state__init);
	t->syscall->in_progress = true;
	t->syscall->number = SYS_nanosleep;
	t->syscall->restart = restart;
	t->registers->x86_64->rip = 0x1000;
	t->registers->x86_64->rax =
		restart == KAGE__SYSCALL_STATE__RESTART__NONE ? (uint64_t)-EINTR : SYS_nanosleep;
}

/* A call in progress is shown as a tracer sees it in a live process. */
static void test_calls_in_progress(void **state)
{
	static const struct {
		int restart;
		int64_t rax;
		uint64_t rip;
	} cases[] = {
		{ KAGE__SYSCALL_STATE__RESTART__NONE, -EINTR, 0x1000 },
		{ KAGE__SYSCALL_STATE__RESTART__AGAIN, -512, 0x1002 },
		{ KAGE__SYSCALL_STATE__RESTART__TIME_LEFT, -516, 0x1002 },
	};
	struct fixture f;
	struct user_regs_struct regs;
	struct elf_prstatus status;

	(void)state;
	set_up(&f);
	for (int i = 0; i < 3; i++)
		in_call(&f, add_thread(&f, 5000 + i), cases[i].restart);
	write_core(&f);
	for (int i = 0; i < 3; i++) {
		status = status_of(&f, i + 1);
		memcpy(&regs, status.pr_reg, sizeof(regs));
		assert_int_equal(status.pr_pid, 5000 + i);
		assert_int_equal(regs.rax, cases[i].rax);
		assert_int_equal(regs.rip, cases[i].rip);
		assert_int_equal(regs.orig_rax, SYS_nanosleep);
	}
	status = status_of(&f, 0); /* in none */
	memcpy(&regs, status.pr_reg, sizeof(regs));
	assert_int_equal(regs.orig_rax, -1);
	assert_int_equal(regs.rip, 0x10000123);
	tear_down(&f);
}

/* Every register comes out where sys/user.h has it. */
static void test_general_registers(void **state)
{
	struct fixture f;
	struct kage_regs regs = { 0 };
	struct elf_prstatus status;
	uint64_t values[sizeof(regs.gp) / 8];

	(void)state;
	set_up(&f);
	for (size_t i = 0; i < sizeof(values) / 8; i++)
		values[i] = 0x1001 * (i + 1);
	memcpy(&regs.gp, values, sizeof(values));
	must(kage_arch_encode_regs(&f.image->arena, &regs, f.process->threads[0]->registers));
	write_core(&f);
	status = status_of(&f, 0);
	regs.gp.orig_rax = (unsigned long long)-1;
	assert_memory_equal(status.pr_reg, &regs.gp, sizeof(regs.gp));
	assert_int_equal(status.pr_fpvalid, 0);
	tear_down(&f);
}

static void test_process_notes(void **state)
{
	struct fixture f;
	struct arena *a;
	Kage__PendingSignal *pending;
	const struct elf_prpsinfo *info;
	uint64_t auxv[] = { AT_PAGESZ, 4096, AT_NULL, 0 };
	char *argv[] = { (char *)"sleep", (char *)"1000" };
	size_t size;

	(void)state;
	set_up(&f);
	a = &f.image->arena;
	f.process->ppid = 1;
	f.process->pgid = 4240;
	f.process->sid = 4200;
	f.process->stopped = true;
	f.process->n_argv = 2;
	f.process->argv = argv;
	f.process->credentials = msg_new(a, Kage__Credentials, kage__credentials__init);
	f.process->credentials->ruid = 1000;
	f.process->credentials->rgid = 100;
	f.process->memory->auxv = (ProtobufCBinaryData){ sizeof(auxv), (uint8_t *)auxv };
	f.process->threads[0]->blocked = 0x4000;
	pending = msg_append(a, f.process->threads[0], pending, Kage__PendingSignal,
			     kage__pending_signal__init);
	pending->signal = SIGUSR1;
	write_core(&f);
	info = note(&f, NT_PRPSINFO, 0, &size);
	assert_int_equal(size, sizeof(*info));
	assert_int_equal(info->pr_sname, 'T');
	assert_int_equal(info->pr_uid, 1000);
	assert_int_equal(info->pr_gid, 100);
	assert_int_equal(info->pr_pid, 4242);
	assert_int_equal(info->pr_sid, 4200);
	assert_string_equal(info->pr_fname, "sleep");
	assert_string_equal(info->pr_psargs, "sleep 1000");
	assert_int_equal(status_of(&f, 0).pr_sighold, 0x4000);
	assert_int_equal(status_of(&f, 0).pr_sigpend, 1 << (SIGUSR1 - 1));
	assert_int_equal(status_of(&f, 0).pr_cursig, 0);
	assert_int_equal(status_of(&f, 0).pr_pgrp, 4240);
	assert_memory_equal(note(&f, NT_AUXV, 0, &size), auxv, sizeof(auxv));
	assert_int_equal(size, sizeof(auxv));
	tear_down(&f);
}

/* A command line that is too long is cut. */
static void test_long_command(void **state)
{
	struct fixture f;
	char word[201], *argv[] = { word, word };
	const struct elf_prpsinfo *info;
	size_t size;

	(void)state;
	set_up(&f);
	memset(word, 'w', sizeof(word) - 1);
	word[sizeof(word) - 1] = '\0';
	f.process->comm = word;
	f.process->n_argv = 2;
	f.process->argv = argv;
	write_core(&f);
	info = note(&f, NT_PRPSINFO, 0, &size);
	assert_int_equal(strnlen(info->pr_fname, sizeof(info->pr_fname)), 15);
	assert_int_equal(strnlen(info->pr_psargs, sizeof(info->pr_psargs)), 79);
	tear_down(&f);
}

/* --- extended state --------------------------------------------------------------------------- */

enum {
	XCR0_AVX = 0x7,
	XCR0_AVX512 = 0xe7,
	XCR0_PKRU = 0x207,
	XCR0_ALL = 0x2e7,
	XCR0_AMX = 0x602e7
};

/* An area of SIZE bytes for XCR0; components are filled with 'A' + number at their OFFSETS. */
static void set_xsave(struct fixture *f, uint64_t xcr0, size_t size, const uint16_t offsets[10])
{
	static const uint16_t bytes[10] = { [2] = 256, [5] = 64, [6] = 512, [7] = 1024, [9] = 8 };
	ProtobufCBinaryData *x = &f->process->threads[0]->registers->x86_64->xsave;

	x->data = arena_alloc(&f->image->arena, size);
	x->len = size;
	memset(x->data, 'x', 416);
	memcpy(x->data + 464, &xcr0, 8);
	memcpy(x->data + 512, &xcr0, 8);
	for (int i = 2; i < 10; i++)
		if (offsets[i])
			memset(x->data + offsets[i], 'A' + i, bytes[i]);
}

/* Whether all of component I is in NOTE at OFFSET. */
static void assert_component(const unsigned char *p, int i, size_t offset, size_t size)
{
	for (size_t k = 0; k < size; k++)
		assert_int_equal(p[offset + k], 'A' + i);
}

struct xsave_case {
	uint64_t xcr0;
	size_t size;
	uint16_t offsets[10];
	uint64_t shown; /* XCR0 */
	size_t shown_size;
};

static void check_xsave(const struct xsave_case *c)
{
	static const uint16_t at[10] = {
		[2] = 576, [5] = 1088, [6] = 1152, [7] = 1664, [9] = 2688
	};
	static const uint16_t bytes[10] = { [2] = 256, [5] = 64, [6] = 512, [7] = 1024, [9] = 8 };
	struct fixture f;
	const unsigned char *p;
	uint64_t xcr0, present;
	size_t size;

	set_up(&f);
	set_xsave(&f, c->xcr0, c->size, c->offsets);
	write_core(&f);
	p = note(&f, NT_X86_XSTATE, 0, &size);
	assert_non_null(p);
	assert_int_equal(size, c->shown_size);
	memcpy(&xcr0, p + 464, 8);
	memcpy(&present, p + 512, 8);
	assert_int_equal(xcr0, c->shown);
	assert_int_equal(present, c->shown);
	assert_int_equal(p[415], 'x');
	for (int i = 2; i < 10; i++)
		if (c->shown >> i & 1)
			assert_component(p, i, at[i], bytes[i]);
	p = note(&f, NT_FPREGSET, 0, &size);
	assert_int_equal(size, 512);
	assert_int_equal(p[0], 'x');
	assert_int_equal(status_of(&f, 0).pr_fpvalid, 1);
	tear_down(&f);
}

/* Whatever processor it was, debuggers get the layout that they know. */
static void test_xsave(void **state)
{
	static const struct xsave_case cases[] = {
		{ 3, 576, { 0 }, 3, 576 },
		{ XCR0_AVX, 832, { [2] = 576 }, XCR0_AVX, 832 },
		/* Intel */
		{ XCR0_AVX512,
		  2688,
		  { [2] = 576, [5] = 1088, [6] = 1152, [7] = 1664 },
		  XCR0_AVX512,
		  2688 },
		{ XCR0_ALL,
		  2696,
		  { [2] = 576, [5] = 1088, [6] = 1152, [7] = 1664, [9] = 2688 },
		  XCR0_ALL,
		  2696 },
		{ XCR0_PKRU, 2696, { [2] = 576, [9] = 2688 }, XCR0_PKRU, 2696 },
		{ XCR0_AMX,
		  11008,
		  { [2] = 576, [5] = 1088, [6] = 1152, [7] = 1664, [9] = 2688 },
		  XCR0_ALL,
		  2696 },
		/* AMD */
		{ XCR0_AVX512,
		  2432,
		  { [2] = 576, [5] = 832, [6] = 896, [7] = 1408 },
		  XCR0_AVX512,
		  2688 },
		{ XCR0_ALL,
		  2440,
		  { [2] = 576, [5] = 832, [6] = 896, [7] = 1408, [9] = 2432 },
		  XCR0_ALL,
		  2696 },
		{ XCR0_PKRU, 840, { [2] = 576, [9] = 832 }, XCR0_PKRU, 2696 },
		/* Unknown: what is the same everywhere */
		{ XCR0_ALL, 3000, { [2] = 576 }, XCR0_AVX, 832 },
		/* Cut */
		{ XCR0_ALL, 600, { 0 }, 3, 576 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		print_message("# case %zu\n", i);
		check_xsave(&cases[i]);
	}
}

/* XCR0 from the image when it is not in the area; and areas too short to be any. */
static void test_xsave_without_xcr0(void **state)
{
	static const uint16_t offsets[10] = { [2] = 576 };
	struct fixture f;
	ProtobufCBinaryData *x;
	const unsigned char *p;
	size_t size;

	(void)state;
	set_up(&f);
	set_xsave(&f, 0, 832, offsets);
	f.image->msg->source->cpu =
		msg_new(&f.image->arena, Kage__CpuFeatures, kage__cpu_features__init);
	f.image->msg->source->cpu->xcr0 = XCR0_AVX;
	write_core(&f);
	p = note(&f, NT_X86_XSTATE, 0, &size);
	assert_int_equal(p[464], XCR0_AVX);
	assert_int_equal(size, 832);
	tear_down(&f);
	for (size_t bytes = 0; bytes < 576; bytes += 64) {
		set_up(&f);
		x = &f.process->threads[0]->registers->x86_64->xsave;
		x->data = arena_alloc(&f.image->arena, bytes + 1);
		x->len = bytes;
		write_core(&f);
		assert_null(note(&f, NT_X86_XSTATE, 0, &size));
		assert_int_equal(note(&f, NT_FPREGSET, 0, &size) != NULL, bytes >= 512);
		tear_down(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_anonymous),
		cmocka_unit_test(test_left_out),
		cmocka_unit_test(test_shared_object),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_changed_file),
		cmocka_unit_test(test_carried_file),
		cmocka_unit_test(test_vdso),
		cmocka_unit_test(test_huge_vdso),
		cmocka_unit_test(test_many_segments),
		cmocka_unit_test(test_edge_of_count),
		cmocka_unit_test(test_ways_of_writing),
		cmocka_unit_test(test_failures),
		cmocka_unit_test(test_calls_in_progress),
		cmocka_unit_test(test_general_registers),
		cmocka_unit_test(test_process_notes),
		cmocka_unit_test(test_long_command),
		cmocka_unit_test(test_xsave),
		cmocka_unit_test(test_xsave_without_xcr0),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
