/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image as an ELF core file (elf(5), core(5)), written front to back so that a pipe will do:
 *
 *	ELF header
 *	program headers: one PT_NOTE, then a PT_LOAD for each segment
 *	one section header, only when there are too many program headers for the ELF header to count
 *	notes
 *	from the next page on, the bytes of each segment
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "core/notes.h"
#include "core/out.h"
#include "core/segments.h"

struct core {
	struct kage_ctx *ctx;
	const struct kage_image *image;
	struct core_notes notes;
	struct core_segments segments;
	struct core_out out;
};

static void cleanup_core(struct core *c)
{
	core_notes_deinit(&c->notes);
	core_segments_deinit(&c->segments);
}

static size_t count_headers(const struct core *c)
{
	return c->segments.n + 1;
}

/* PN_XNUM and all beyond are told by a section header (elf(5)). */
static bool has_section(const struct core *c)
{
	return count_headers(c) >= PN_XNUM;
}

static uint64_t headers_end(const struct core *c)
{
	return sizeof(Elf64_Ehdr) + count_headers(c) * sizeof(Elf64_Phdr);
}

static uint64_t notes_start(const struct core *c)
{
	return headers_end(c) + (has_section(c) ? sizeof(Elf64_Shdr) : 0);
}

/* The structures of elf.h are the bytes of the format themselves, in the order of bytes that
 * ELFDATA2LSB names, which every machine that kage runs on has. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "cores are stored little-endian");

static struct kage_err *write_header(struct core *c)
{
	Elf64_Ehdr h = {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
			     EV_CURRENT, ELFOSABI_NONE },
		.e_type = ET_CORE,
		.e_machine = c->notes.machine,
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(h),
		.e_ehsize = sizeof(h),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = (Elf64_Half)count_headers(c),
	};

	if (has_section(c)) {
		h.e_phnum = PN_XNUM;
		h.e_shoff = headers_end(c);
		h.e_shentsize = sizeof(Elf64_Shdr);
		h.e_shnum = 1;
	}
	return core_out_write(&c->out, &h, sizeof(h));
}

static Elf64_Word segment_flags(uint32_t prot)
{
	return (prot & PROT_READ ? PF_R : 0u) | (prot & PROT_WRITE ? PF_W : 0u) |
	       (prot & PROT_EXEC ? PF_X : 0u);
}

static struct kage_err *write_program_headers(struct core *c)
{
	uint64_t at = page_ceil(notes_start(c) + c->notes.size);
	_cleanup_free_ Elf64_Phdr *headers = calloc(count_headers(c), sizeof(*headers));

	if (!headers)
		return kage_err_nomem();
	headers[0] = (Elf64_Phdr){
		.p_type = PT_NOTE,
		.p_offset = notes_start(c),
		.p_filesz = c->notes.size,
		.p_align = 4,
	};
	for (size_t i = 0; i < c->segments.n; i++) {
		const struct core_segment *s = &c->segments.v[i];

		headers[i + 1] = (Elf64_Phdr){
			.p_type = PT_LOAD,
			.p_flags = segment_flags(s->prot),
			.p_offset = at,
			.p_vaddr = s->start,
			.p_filesz = s->file_bytes,
			.p_memsz = s->end - s->start,
			.p_align = KAGE_PAGE_BYTES,
		};
		at += s->file_bytes;
	}
	return core_out_write(&c->out, headers, count_headers(c) * sizeof(*headers));
}

static struct kage_err *write_section(struct core *c)
{
	Elf64_Shdr section = { .sh_type = SHT_NULL, .sh_info = (Elf64_Word)count_headers(c) };

	return has_section(c) ? core_out_write(&c->out, &section, sizeof(section)) : NULL;
}

static uint64_t total_bytes(const struct core *c)
{
	uint64_t total = 0;

	for (size_t i = 0; i < c->segments.n; i++)
		total += c->segments.v[i].file_bytes;
	return total;
}

static struct kage_err *write_memory(struct core *c)
{
	uint64_t total = total_bytes(c), done = 0;

	for (size_t i = 0; i < c->segments.n; i++) {
		const struct core_segment *s = &c->segments.v[i];

		TRY_WRAP(core_segments_write(&c->segments, c->ctx, i, &c->out),
			 "write memory %#llx-%#llx", (unsigned long long)s->start,
			 (unsigned long long)s->end);
		done += s->file_bytes;
		kage_ctx_progress(c->ctx, "writing the core", done, total);
	}
	return NULL;
}

static struct kage_err *check_image(const struct kage_image *image)
{
	const Kage__Process *p = image->msg->n_processes ? image->msg->processes[0] : NULL;

	if (!p || !p->memory || !p->n_threads)
		return kage_err_new(KAGE_INVALID, "there is no process in the image");
	return NULL;
}

static struct kage_err *write_core(struct core *c)
{
	TRY(core_notes_init(&c->notes, c->image));
	TRY(core_segments_init(&c->segments, c->ctx, c->image));
	if (count_headers(c) > UINT32_MAX)
		return kage_err_new(KAGE_LIMIT, "%zu segments", c->segments.n);
	TRY(write_header(c));
	TRY(write_program_headers(c));
	TRY(write_section(c));
	TRY(core_out_write(&c->out, c->notes.data, c->notes.size));
	TRY(core_out_align(&c->out));
	TRY(write_memory(c));
	return core_out_finish(&c->out);
}

struct kage_err *kage_core_write(struct kage_ctx *ctx, struct kage_image *image, int fd)
{
	_cleanup_(cleanup_core) struct core c = { .ctx = ctx, .image = image };
	const char *label = kage_image_label(image);

	TRY(check_image(image));
	core_out_init(&c.out, fd);
	return kage_err_wrap(write_core(&c), "write a core of %s", label ? label : "the image");
}
