/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contents of the stub's memory. Several threads unpack groups of pages, and each puts what it has
 * unpacked where it belongs, while it is in the processor's cache:
 *
 *	by userfaultfd	pages of private anonymous mappings: the kernel makes each with its contents, without a
 *			fault, and without zeroing it before
 *	by writing	(process_vm_writev) all others, and where the program has huge pages: those come only by faults
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "image/units.h"
#include "restore/lazy.h"
#include "restore/restore.h"
#include "sys/uffd.h"

/* Below this much a userfaultfd costs more than it saves. */
enum { MANY_PAGES = 2048 };

enum how { BY_WRITING, BY_UFFD, LATER };

struct fill {
	struct kage_restore *r;
	int uffd;
	uint8_t *how; /* enum how of each mapping */
};

/* The first mapping that ends behind ADDRESS, n_mappings if none. */
static size_t mapping_at(const Kage__Memory *m, uint64_t address)
{
	size_t low = 0, high = m->n_mappings;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (m->mappings[mid]->end <= address)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* --- pages to their places -------------------------------------------------------------------- */

/* Zeros: fresh anonymous memory has them already; over a file's page they must be written. */
static struct kage_err *put_zeros(const struct fill *f, const Kage__Mapping *m, uint64_t at,
				  uint64_t bytes)
{
	static const uint8_t zeros[KAGE_PAGE_BYTES];

	if (m->backing == KAGE__MAPPING__BACKING__ANONYMOUS)
		return NULL;
	for (uint64_t done = 0; done < bytes; done += KAGE_PAGE_BYTES)
		TRY(kage_target_write(f->r->stub, addr(at + done), zeros, sizeof(zeros)));
	return NULL;
}

static struct kage_err *put(const struct fill *f, size_t mapping, uint64_t at, const void *from,
			    uint64_t bytes)
{
	uint64_t done = 0;

	if (f->how[mapping] == LATER)
		return NULL;
	if (!from)
		return put_zeros(f, f->r->process->memory->mappings[mapping], at, bytes);
	if (f->how[mapping] == BY_UFFD)
		(void)kage_uffd_copy(f->uffd, at, from, bytes, &done);
	/* Whatever the kernel did not want to do that way. */
	if (done == bytes)
		return NULL;
	return kage_target_write(f->r->stub, addr(at + done), (const uint8_t *)from + done,
				 bytes - done);
}

/* Pages that follow each other may be of several mappings. */
static struct kage_err *put_piece(void *user, uint32_t space, uint64_t first, uint64_t count,
				  const void *from)
{
	const struct fill *f = user;
	const Kage__Memory *m = f->r->process->memory;
	uint64_t at = first << KAGE_PAGE_SHIFT, end = at + (count << KAGE_PAGE_SHIFT), n;
	const uint8_t *bytes = from;

	(void)space;
	for (size_t i = mapping_at(m, at); at < end && i < m->n_mappings; i++, at += n) {
		n = (m->mappings[i]->end < end ? m->mappings[i]->end : end) - at;
		TRY(put(f, i, at, bytes, n));
		bytes = bytes ? bytes + n : NULL;
	}
	return NULL;
}

/* --- by which way ----------------------------------------------------------------------------- */

/* Whether the kernel makes huge pages also where nobody asks for them. */
static bool huge_pages_are_usual(void)
{
	char text[128];
	int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	close_fd(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	return strstr(text, "[always]") != NULL;
}

static bool has_huge_pages(const struct kage_restore *r, const Kage__Mapping *m, bool usual)
{
	if (m->no_huge_page || r->process->memory->thp_disabled)
		return false;
	return m->huge_page || usual;
}

/* A userfaultfd of the stub, which has none afterwards. -1 where it cannot have one. */
static struct kage_err *make_uffd(struct kage_restore *r, int *ret_uffd)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;
	_cleanup_fd_ int uffd = -1;
	struct kage_err *e;
	size_t at;

	*ret_uffd = -1;
	kage_batch_init(&b);
	at = BATCH_TRY(&b, "make a userfaultfd", SYS_userfaultfd,
		       V(O_CLOEXEC | KUFFD_USER_MODE_ONLY));
	TRY(kage_batch_run(r->stub, r->stub->threads[0], &b));
	if (kage_batch_result(&b, at) < 0)
		return NULL;
	e = kage_target_get_fd(r->stub, (int)kage_batch_result(&b, at), &uffd);
	if (!e)
		e = kage_uffd_begin_missing(uffd, 0);
	if (!e)
		*ret_uffd = take_fd(&uffd);
	err_drop(e);
	at = (size_t)kage_batch_result(&b, at);
	kage_batch_reset(&b);
	BATCH(&b, "close the userfaultfd", SYS_close, V(at));
	return kage_batch_run(r->stub, r->stub->threads[0], &b);
}

static struct kage_err *choose_ways(struct fill *f)
{
	const Kage__Memory *m = f->r->process->memory;
	bool usual = huge_pages_are_usual();

	TRY(make_uffd(f->r, &f->uffd));
	for (size_t i = 0; f->uffd >= 0 && i < m->n_mappings; i++) {
		const Kage__Mapping *map = m->mappings[i];

		if (map->backing == KAGE__MAPPING__BACKING__ANONYMOUS && !map->hugetlb_bytes &&
		    !has_huge_pages(f->r, map, usual) &&
		    kage_uffd_register_missing(f->uffd, map->start, map->end))
			f->how[i] = BY_UFFD;
	}
	return NULL;
}

/* The units in which there is a page that is not left for later. */
static struct kage_err *choose_units(const struct fill *f, const struct kage_units *units,
				     size_t **ret_only, size_t *ret_n)
{
	const Kage__Memory *m = f->r->process->memory;
	_cleanup_free_ uint8_t *chosen = calloc(units->n + 1, 1);
	size_t *only = calloc(units->n + 1, sizeof(*only)), n = 0;

	*ret_only = only;
	if (!only || !chosen)
		return kage_err_nomem();
	for (size_t i = 0; i < units->n_pieces; i++) {
		const struct kage_unit_piece *p = &units->pieces[i];
		uint64_t at = p->page << KAGE_PAGE_SHIFT;
		uint64_t end = (p->page + p->count) << KAGE_PAGE_SHIFT;

		for (size_t k = mapping_at(m, at); k < m->n_mappings && m->mappings[k]->start < end;
		     k++)
			if (f->how[k] != LATER)
				chosen[p->unit] = 1;
	}
	for (size_t i = 0; i < units->n; i++)
		if (chosen[i])
			only[n++] = i;
	*ret_n = n;
	return NULL;
}

static struct kage_err *fill_some(struct fill *f, struct kage_units *units, const struct lazy *lazy)
{
	_cleanup_free_ size_t *only = NULL;
	size_t n = 0;

	for (size_t i = 0; i < f->r->process->memory->n_mappings; i++)
		if (lazy_later(lazy)[i])
			f->how[i] = LATER;
	TRY(choose_units(f, units, &only, &n));
	return kage_units_each(units, only, n, put_piece, f);
}

struct kage_err *restore_fill(struct kage_restore *r, const struct lazy *lazy)
{
	const Kage__Memory *m = r->process->memory;
	_cleanup_free_ uint8_t *how = calloc(m->n_mappings + 1, 1);
	struct fill f = { .r = r, .uffd = -1, .how = how };
	struct kage_units *units;
	struct kage_err *e = NULL;

	if (!how)
		return kage_err_nomem();
	TRY(kage_units_create(r->image->pages, m->space, &units));
	if (!lazy && kage_pages_total(r->image->pages) >= MANY_PAGES)
		e = choose_ways(&f);
	if (!e && lazy)
		e = fill_some(&f, units, lazy);
	else if (!e)
		e = kage_units_each(units, NULL, 0, put_piece, &f);
	/* With its last descriptor all is unregistered. */
	close_fd(f.uffd);
	kage_units_destroy(units);
	return e;
}
