/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/dirtybits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"

/* Bits of an entry of pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define ENTRY_PRESENT   (1ull << 63)
#define ENTRY_SWAPPED   (1ull << 62)
#define ENTRY_FILE      (1ull << 61)
#define ENTRY_EXCLUSIVE (1ull << 56)
#define ENTRY_DIRTY     (1ull << 55)
#define ENTRY_FRAME     ((1ull << 55) - 1)

#define KPAGE_FLAG_ZERO (1ull << 24) /* KPF_ZERO_PAGE, linux/kernel-page-flags.h */

enum { ENTRIES = 16384, HUGE_PAGES = 512 };

struct kage_dirtybits {
	uint64_t zero_frame;
	uint64_t huge_zero_frame; /* the one seen last, for as long as one look takes; 0: none */
	int kpageflags_fd;
	uint64_t entries[ENTRIES];
};

/* --- making and unmaking ---------------------------------------------------------------------- */

/* Reads the entry of a page of ours. */
static struct kage_err *own_entry(int pagemap_fd, const void *page, uint64_t *ret_entry)
{
	off_t at = (off_t)((uintptr_t)page / KAGE_PAGE_BYTES * sizeof(*ret_entry));
	size_t got = 0;

	TRY(kage_file_read(pagemap_fd, ret_entry, sizeof(*ret_entry), at, "pagemap", &got));
	return got == sizeof(*ret_entry)
		       ? NULL
		       : kage_err_new(KAGE_UNSUPPORTED, "the page map does not tell a page");
}

/* By two pages of our own: one that we write, whose bit is set if there are such bits; one that we only read. */
static struct kage_err *try_pages(struct kage_dirtybits *bits, int pagemap_fd, volatile char *pages)
{
	uint64_t written, zero;

	pages[0] = 1;
	(void)pages[KAGE_PAGE_BYTES];
	TRY(own_entry(pagemap_fd, (const void *)pages, &written));
	TRY(own_entry(pagemap_fd, (const void *)(pages + KAGE_PAGE_BYTES), &zero));
	if (!(written & ENTRY_DIRTY))
		return kage_err_new(KAGE_UNSUPPORTED, "this kernel has no soft-dirty bits");
	if (!(written & ENTRY_FRAME) || !(zero & ENTRY_FRAME))
		return kage_err_new(KAGE_PERM, "we may not know numbers of page frames");
	bits->zero_frame = zero & ENTRY_FRAME;
	return NULL;
}

static struct kage_err *prepare(struct kage_dirtybits *bits)
{
	_cleanup_fd_ int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct kage_err *e;
	void *pages;

	bits->kpageflags_fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (bits->kpageflags_fd < 0 || pagemap < 0)
		return kage_err_new(errno == EACCES || errno == EPERM ? KAGE_PERM
								      : KAGE_UNSUPPORTED,
				    "the kernel does not show flags of page frames");
	pages = mmap(NULL, 2ul * KAGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED)
		return kage_err_nomem();
	e = try_pages(bits, pagemap, pages);
	munmap(pages, 2ul * KAGE_PAGE_BYTES);
	return e;
}

struct kage_err *kage_dirtybits_open(struct kage_dirtybits **ret_bits)
{
	struct kage_dirtybits *bits = calloc(1, sizeof(*bits));
	struct kage_err *e;

	if (!bits)
		return kage_err_nomem();
	bits->kpageflags_fd = -1;
	e = prepare(bits);
	if (e) {
		kage_dirtybits_close(bits);
		return e;
	}
	*ret_bits = bits;
	return NULL;
}

void kage_dirtybits_close(struct kage_dirtybits *bits)
{
	if (!bits)
		return;
	close_fd(bits->kpageflags_fd);
	free(bits);
}

struct kage_err *kage_dirtybits_clear(int proc_fd)
{
	_cleanup_fd_ int fd = openat(proc_fd, "clear_refs", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "4", 1) != 1)
		return kage_err_sys(errno, "clear soft-dirty bits");
	return NULL;
}

/* --- looking ---------------------------------------------------------------------------------- */

/* Whether FRAME, whose page stands where a huge one can begin, is the kernel's huge zero page. It may come and go, so
 * nothing of it is kept. */
static bool is_huge_zero(struct kage_dirtybits *bits, uint64_t frame)
{
	uint64_t flags = 0;
	size_t got = 0;

	err_drop(kage_file_read(bits->kpageflags_fd, &flags, sizeof(flags),
				(off_t)(frame * sizeof(flags)), "kpageflags", &got));
	return flags & KPAGE_FLAG_ZERO;
}

/* A zero page is no page of the process's own: it is nobody's alone. Page tables map a huge one only where it is aligned. */
static bool is_zero(struct kage_dirtybits *bits, uint64_t page, uint64_t entry)
{
	uint64_t frame = entry & ENTRY_FRAME;

	if (!(entry & ENTRY_PRESENT) || entry & ENTRY_EXCLUSIVE)
		return false;
	if (frame == bits->zero_frame)
		return true;
	if (page % HUGE_PAGES == 0 && frame % HUGE_PAGES == 0)
		bits->huge_zero_frame = is_huge_zero(bits, frame) ? frame : 0;
	return bits->huge_zero_frame && frame - bits->huge_zero_frame < HUGE_PAGES;
}

enum { NONE = -1 };

static int state_of(struct kage_dirtybits *bits, uint64_t page, uint64_t entry)
{
	if (!(entry & (ENTRY_PRESENT | ENTRY_SWAPPED)) || entry & ENTRY_FILE ||
	    is_zero(bits, page, entry))
		return NONE;
	return entry & ENTRY_DIRTY ? KAGE_PAGE_WRITTEN : KAGE_PAGE_SAME;
}

/* A run of pages in one state, from `first` on. */
struct run {
	uint64_t first;
	int state;
	kage_pagemap_changes_fn *fn;
	void *user;
};

/* PAGE is in STATE: the run ends there if it is in another one. */
static struct kage_err *go_on(struct run *r, uint64_t page, int state)
{
	const struct run was = *r;

	if (state == r->state)
		return NULL;
	r->first = page;
	r->state = state;
	return was.state == NONE ? NULL
				 : was.fn(was.user, was.first << KAGE_PAGE_SHIFT,
					  page << KAGE_PAGE_SHIFT, was.state);
}

struct kage_err *kage_dirtybits_look(struct kage_dirtybits *bits, int pagemap_fd, uint64_t start,
				     uint64_t end, kage_pagemap_changes_fn *fn, void *user)
{
	uint64_t page = start >> KAGE_PAGE_SHIFT, last = end >> KAGE_PAGE_SHIFT;
	struct run run = { .state = NONE, .fn = fn, .user = user };

	bits->huge_zero_frame = 0;
	while (page < last) {
		size_t want = last - page < ENTRIES ? last - page : ENTRIES, got = 0;

		TRY(kage_file_read(pagemap_fd, bits->entries, want * sizeof(*bits->entries),
				   (off_t)(page * sizeof(*bits->entries)), "pagemap", &got));
		if (got < sizeof(*bits->entries))
			break;
		for (size_t i = 0; i < got / sizeof(*bits->entries); i++, page++)
			TRY(go_on(&run, page, state_of(bits, page, bits->entries[i])));
	}
	return go_on(&run, page, NONE);
}
