/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of each mapping goes into a core file:
 *
 *	anonymous           all, as holes where nothing was ever written; stretches of LARGE_GAP_BYTES
 *	                    without a page are left out (heaps of Java, shadow of sanitizers)
 *	shared objects      all
 *	private files       all when the process changed a page, else the first page of ELF files: it
 *	                    holds the build-id, the rest is in the file
 *	files in the image  all: nobody else may have them any more
 *	shared files        the first page of ELF files
 *	vDSO                our own, when the image's is the same
 *	the kernel's others, devices, and what the program has asked not to be dumped: nothing
 *
 * That is the kernel's choice by default (core(5), coredump_filter) wherever an image knows as much
 * as the kernel.
 */
#include "core/segments.h"

#include <elf.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

enum { CHUNK_PAGES = KAGE_PAGES_PIECE, CHUNK_BYTES = CHUNK_PAGES * KAGE_PAGE_BYTES };
static const uint64_t LARGE_GAP_BYTES = (uint64_t)1 << 30;
static const uint64_t MAX_VDSO_BYTES = 1 << 20;

static const Kage__Memory *memory_of(const struct core_segments *s)
{
	return s->image->msg->processes[0]->memory;
}

/* --- pieces ----------------------------------------------------------------------------------- */

/* Appends [START, END) of M; joined to the segment before when that is the same mapping going on. */
static struct kage_err *add(struct core_segments *s, const Kage__Mapping *m, uint64_t start,
			    uint64_t end, enum core_from from)
{
	struct core_segment *seg = s->n ? &s->v[s->n - 1] : NULL;

	if (start == end)
		return NULL;
	if (seg && start > m->start && seg->end == start && seg->from == from) {
		seg->end = end;
		seg->file_bytes += from == CORE_FROM_NOWHERE ? 0 : end - start;
		return NULL;
	}
	seg = arena_push(&s->arena, &s->v, &s->n, sizeof(*s->v));
	if (!seg)
		return kage_err_nomem();
	seg->start = start;
	seg->end = end;
	seg->prot = m->prot;
	seg->from = from;
	seg->file_bytes = from == CORE_FROM_NOWHERE ? 0 : end - start;
	seg->space = memory_of(s)->space;
	seg->first = start / KAGE_PAGE_BYTES;
	return NULL;
}

static struct kage_err *add_whole(struct core_segments *s, const Kage__Mapping *m,
				  enum core_from from)
{
	return add(s, m, m->start, m->end, from);
}

/* The next stretch of the process's own pages in [FROM, END), as addresses. */
static bool next_run(const struct core_segments *s, uint64_t from, uint64_t end,
		     uint64_t *ret_start, uint64_t *ret_end)
{
	const struct kage_pages *p = s->image->pages;
	uint32_t space = memory_of(s)->space;
	size_t i = p ? kage_pages_find(p, space, from / KAGE_PAGE_BYTES) : 0;
	uint64_t run_start, run_end;

	if (!p || i >= p->n_runs || p->runs[i].space != space)
		return false;
	run_start = p->runs[i].first * KAGE_PAGE_BYTES;
	if (from >= end || run_start >= end) /* a run may go on in the next mapping */
		return false;
	do
		run_end = (p->runs[i].first + p->runs[i].count) * KAGE_PAGE_BYTES;
	while (++i < p->n_runs && p->runs[i].space == space &&
	       p->runs[i].first * KAGE_PAGE_BYTES == run_end && run_end < end);
	*ret_start = run_start > from ? run_start : from;
	*ret_end = run_end < end ? run_end : end;
	return true;
}

/* [START, END) of M by its pages; gaps between them of LARGEST bytes or more are left out. */
static struct kage_err *add_runs(struct core_segments *s, const Kage__Mapping *m, uint64_t start,
				 uint64_t end, uint64_t largest)
{
	uint64_t at = start, from, to;

	while (next_run(s, at, end, &from, &to)) {
		TRY(add(s, m, at, from,
			from - at >= largest ? CORE_FROM_NOWHERE : CORE_FROM_SPACE));
		TRY(add(s, m, from, to, CORE_FROM_SPACE));
		at = to;
	}
	return add(s, m, at, end, end - at >= largest ? CORE_FROM_NOWHERE : CORE_FROM_SPACE);
}

/* --- each backing ----------------------------------------------------------------------------- */

static struct kage_err *plan_anonymous(struct core_segments *s, const Kage__Mapping *m)
{
	/* Reserved memory that nobody can read has no zeros to show either. */
	uint64_t largest = m->prot ? LARGE_GAP_BYTES : KAGE_PAGE_BYTES, at = m->start;

	for (size_t i = 0; i < m->n_guards; i++) {
		TRY(add_runs(s, m, at, m->guards[i]->start, largest));
		TRY(add(s, m, m->guards[i]->start, m->guards[i]->end, CORE_FROM_NOWHERE));
		at = m->guards[i]->end;
	}
	return add_runs(s, m, at, m->end, largest);
}

/* The first SIZE bytes of the object or file that SPACE holds, seen through M. */
static struct kage_err *plan_space(struct core_segments *s, const Kage__Mapping *m, uint32_t space,
				   uint64_t size)
{
	uint64_t length = m->end - m->start, left = page_ceil(size);
	struct core_segment *seg;

	TRY(add_whole(s, m, CORE_FROM_SPACE));
	seg = &s->v[s->n - 1];
	left = left > m->offset_bytes ? left - m->offset_bytes : 0;
	seg->file_bytes = left < length ? left : length;
	seg->space = space;
	seg->first = m->offset_bytes / KAGE_PAGE_BYTES;
	return NULL;
}

static struct kage_err *plan_object(struct core_segments *s, const Kage__Mapping *m)
{
	const Kage__Space *object = kage_image_space(s->image, m->object_space);

	return plan_space(s, m, m->object_space, object ? object->size_bytes : 0);
}

/* Tells, once for each file, why its pages cannot be had. */
static void tell_lost(struct core_segments *s, struct kage_ctx *ctx, const Kage__Mapping *m,
		      struct kage_err *e)
{
	if (s->lost_file != m->file)
		kage_ctx_notice(ctx, "the core lacks pages: %s", kage_err_message(e));
	s->lost_file = m->file;
	err_drop(e);
}

/* Whether the page at ADDRESS, which the file of M is to give, can be read. */
static bool can_read(struct core_segments *s, struct kage_ctx *ctx, const Kage__Mapping *m,
		     uint64_t address)
{
	uint8_t byte;
	size_t n;
	struct kage_err *e = kage_image_read(s->image, address, &byte, 1, &n);

	if (e)
		tell_lost(s, ctx, m, e);
	return !e;
}

/* A private mapping of which the process changed something: [FROM, TO) is the first such stretch. */
static struct kage_err *plan_changed(struct core_segments *s, struct kage_ctx *ctx,
				     const Kage__Mapping *m, uint64_t from, uint64_t to)
{
	if (from == m->start && to == m->end)
		return add_whole(s, m, CORE_FROM_SPACE);
	if (can_read(s, ctx, m, from > m->start ? m->start : to))
		return add_whole(s, m, CORE_FROM_IMAGE);
	return add_runs(s, m, m->start, m->end, KAGE_PAGE_BYTES);
}

/* Nothing of it differs from the file: debuggers read that, once the first page says which it is. */
static struct kage_err *plan_clean(struct core_segments *s, struct kage_ctx *ctx,
				   const Kage__Mapping *m)
{
	uint8_t magic[SELFMAG];
	struct kage_err *e;
	size_t n;

	TRY(add_whole(s, m, CORE_FROM_NOWHERE));
	if (m->offset_bytes || !m->prot)
		return NULL;
	e = kage_image_read(s->image, m->start, magic, sizeof(magic), &n);
	if (e) {
		tell_lost(s, ctx, m, e);
	} else if (n == sizeof(magic) && memcmp(magic, ELFMAG, SELFMAG) == 0) {
		s->v[s->n - 1].from = CORE_FROM_IMAGE;
		s->v[s->n - 1].file_bytes = KAGE_PAGE_BYTES;
	}
	return NULL;
}

static struct kage_err *plan_file(struct core_segments *s, struct kage_ctx *ctx,
				  const Kage__Mapping *m)
{
	const Kage__FileObject *f = kage_image_file(s->image, m->file);
	uint64_t from, to;

	if (!m->shared && next_run(s, m->start, m->end, &from, &to))
		return plan_changed(s, ctx, m, from, to);
	if (f && f->content_space)
		return plan_space(s, m, f->content_space, f->size_bytes);
	return plan_clean(s, ctx, m);
}

/* Our vDSO when it is the one of the image. Its size is that of the image's mapping; that ours has
 * as much is not known, so the copy must be able to fail. */
static struct kage_err *find_vdso(struct core_segments *s, const Kage__Mapping *m)
{
	const ProtobufCBinaryData *expected = &memory_of(s)->vdso_hash;
	size_t size = (size_t)(m->end - m->start);
	void *ours = (void *)getauxval(AT_SYSINFO_EHDR);
	XXH128_canonical_t hash;
	struct iovec to, from = { ours, size };

	if (!ours || m->end - m->start > MAX_VDSO_BYTES || expected->len != sizeof(hash))
		return NULL;
	to = (struct iovec){ arena_alloc(&s->arena, size), size };
	if (!to.iov_base)
		return kage_err_nomem();
	if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != (ssize_t)size)
		return NULL;
	XXH128_canonicalFromHash(&hash, XXH3_128bits(to.iov_base, size));
	if (memcmp(&hash, expected->data, sizeof(hash)) == 0)
		s->vdso = to.iov_base;
	return NULL;
}

static struct kage_err *plan_vdso(struct core_segments *s, struct kage_ctx *ctx,
				  const Kage__Mapping *m)
{
	if (s->vdso) /* there are never two; one whose size we know is enough */
		return add_whole(s, m, CORE_FROM_NOWHERE);
	TRY(find_vdso(s, m));
	if (!s->vdso)
		kage_ctx_notice(ctx, "the core lacks the vDSO: this kernel's is another one than "
				     "the image's, so calls through it may end a backtrace");
	return add_whole(s, m, s->vdso ? CORE_FROM_VDSO : CORE_FROM_NOWHERE);
}

static struct kage_err *plan_mapping(struct core_segments *s, struct kage_ctx *ctx,
				     const Kage__Mapping *m)
{
	if (m->dont_dump && m->backing != KAGE__MAPPING__BACKING__VDSO)
		return add_whole(s, m, CORE_FROM_NOWHERE);
	switch (m->backing) {
	case KAGE__MAPPING__BACKING__ANONYMOUS:
		return plan_anonymous(s, m);
	case KAGE__MAPPING__BACKING__SHARED_OBJECT:
		return plan_object(s, m);
	case KAGE__MAPPING__BACKING__MEMFD_PRIVATE:
		return add_whole(s, m, CORE_FROM_IMAGE);
	case KAGE__MAPPING__BACKING__FILE_PRIVATE:
	case KAGE__MAPPING__BACKING__FILE_SHARED:
		return plan_file(s, ctx, m);
	case KAGE__MAPPING__BACKING__VDSO:
		return plan_vdso(s, ctx, m);
	default:
		return add_whole(s, m, CORE_FROM_NOWHERE);
	}
}

struct kage_err *core_segments_init(struct core_segments *s, struct kage_ctx *ctx,
				    const struct kage_image *image)
{
	const Kage__Memory *memory;

	*s = (struct core_segments){ .image = image };
	s->buffer = arena_alloc(&s->arena, CHUNK_BYTES);
	if (!s->buffer)
		return kage_err_nomem();
	memory = memory_of(s);
	for (size_t i = 0; i < memory->n_mappings; i++)
		TRY(plan_mapping(s, ctx, memory->mappings[i]));
	return NULL;
}

void core_segments_deinit(struct core_segments *s)
{
	arena_deinit(&s->arena);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* COUNT pages from FIRST of SPACE, all of one run. */
static struct kage_err *write_run(const struct core_segments *s, struct kage_ctx *ctx,
				  uint32_t space, uint64_t first, uint64_t count,
				  struct core_out *out)
{
	while (count) {
		uint64_t n = count < CHUNK_PAGES ? count : CHUNK_PAGES;

		TRY(kage_ctx_poll(ctx));
		TRY(kage_pages_read(s->image->pages, space, first, n, s->buffer));
		TRY(core_out_pages(out, s->buffer, (size_t)n * KAGE_PAGE_BYTES));
		first += n;
		count -= n;
	}
	return NULL;
}

static struct kage_err *write_space(const struct core_segments *s, struct kage_ctx *ctx,
				    const struct core_segment *seg, struct core_out *out)
{
	const struct kage_pages *p = s->image->pages;
	uint64_t at = seg->first, end = at + seg->file_bytes / KAGE_PAGE_BYTES;
	size_t i = p ? kage_pages_find(p, seg->space, at) : 0;

	for (; p && i < p->n_runs && p->runs[i].space == seg->space; i++) {
		const struct page_run *run = &p->runs[i];
		uint64_t from = run->first > at ? run->first : at;
		uint64_t to = run->first + run->count < end ? run->first + run->count : end;

		if (run->first >= end)
			break;
		TRY(core_out_skip(out, (from - at) * KAGE_PAGE_BYTES));
		TRY(write_run(s, ctx, seg->space, from, to - from, out));
		at = to;
	}
	return core_out_skip(out, (end - at) * KAGE_PAGE_BYTES);
}

static struct kage_err *write_image(const struct core_segments *s, struct kage_ctx *ctx,
				    const struct core_segment *seg, struct core_out *out)
{
	uint64_t done = 0;

	while (done < seg->file_bytes) {
		uint64_t left = seg->file_bytes - done;
		size_t n = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES, got;

		TRY(kage_ctx_poll(ctx));
		TRY(kage_image_read(s->image, seg->start + done, s->buffer, n, &got));
		memset(s->buffer + got, 0, n - got);
		TRY(core_out_pages(out, s->buffer, n));
		done += n;
	}
	return NULL;
}

struct kage_err *core_segments_write(const struct core_segments *s, struct kage_ctx *ctx, size_t i,
				     struct core_out *out)
{
	const struct core_segment *seg = &s->v[i];

	TRY(kage_ctx_poll(ctx));
	switch (seg->from) {
	case CORE_FROM_SPACE:
		return write_space(s, ctx, seg, out);
	case CORE_FROM_IMAGE:
		return write_image(s, ctx, seg, out);
	case CORE_FROM_VDSO:
		return core_out_write(out, s->vdso, (size_t)seg->file_bytes);
	case CORE_FROM_NOWHERE:
		break;
	}
	return NULL;
}
