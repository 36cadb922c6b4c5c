/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects of shared memory (memfd_create(2), shared anonymous mappings) of a program that goes back. One that it has still
 * gets its contents back where it is; the others are made anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "image/runs.h"
#include "kind/fds.h"
#include "kind/memory.h"
#include "restore/back.h"
#include "restore/restore.h"

/* --- finding ---------------------------------------------------------------------------------- */

static int by_descriptor(const struct kage_restore *r, uint32_t space)
{
	for (size_t i = 0; i < r->image->msg->n_descriptions; i++) {
		const Kage__Description *d = r->image->msg->descriptions[i];

		if (d->kind_case == KAGE__DESCRIPTION__KIND_MEMFD && d->memfd->space == space &&
		    r->fds[i] >= 0)
			return kage_fds_reopen(r->fds[i], O_RDWR);
	}
	return -1;
}

/* What the program had mapped THEN may be anywhere now. */
static int by_mapping(struct back *k, const struct kage_vma *then)
{
	for (size_t i = 0; i < k->now.n; i++) {
		const struct kage_vma *now = &k->now.vmas[i];
		struct kage_err *e;
		int fd = -1, both;

		if (now->ino != then->ino || now->dev_major != then->dev_major ||
		    now->dev_minor != then->dev_minor)
			continue;
		e = kage_memory_open_mapped(k->program, now, &fd);
		if (e) {
			err_drop(e);
			return -1;
		}
		both = kage_fds_reopen(fd, O_RDWR);
		close(fd);
		return both;
	}
	return -1;
}

/* memfd_create(2): what may not be written to cannot get its contents back, unless nobody could write to it at all. */
static struct kage_err *check_seals(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals > 0 && (seals & F_SEAL_FUTURE_WRITE) && !(seals & F_SEAL_WRITE))
		return kage_err_new(KAGE_UNSUPPORTED,
				    "it has shared memory that only old mappings can write to "
				    "(F_SEAL_FUTURE_WRITE); wake the twin instead");
	return NULL;
}

static struct kage_err *find(struct back *k, size_t i)
{
	struct kage_restore *r = k->r;
	const Kage__Memory *m = r->process->memory;
	uint32_t space = r->image->msg->spaces[i]->id;

	r->spaces[i] = by_descriptor(r, space);
	for (size_t n = 0; n < m->n_mappings && r->spaces[i] < 0; n++) {
		const struct kage_vma *then;

		if (m->mappings[n]->object_space != space)
			continue;
		then = kage_maps_find(&k->then->maps, m->mappings[n]->start);
		if (then)
			r->spaces[i] = by_mapping(k, then);
	}
	k->has_space[i] = r->spaces[i] >= 0;
	return k->has_space[i] ? check_seals(r->spaces[i]) : NULL;
}

struct kage_err *back_find_spaces(struct back *k)
{
	const Kage__Image *m = k->r->image->msg;

	k->has_space = calloc(m->n_spaces + 1, sizeof(*k->has_space));
	if (!k->has_space)
		return kage_err_nomem();
	for (size_t i = 0; i < m->n_spaces; i++)
		if (m->spaces[i]->kind == KAGE__SPACE__KIND__SHARED_MEMORY)
			TRY(find(k, i));
	return NULL;
}

/* --- contents --------------------------------------------------------------------------------- */

static struct kage_err *find_data(int fd, struct page_runs *data)
{
	for (off_t at = 0, end;; at = end) {
		at = lseek(fd, at, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			return NULL;
		end = at < 0 ? -1 : lseek(fd, at, SEEK_HOLE);
		if (end < 0)
			return kage_err_sys(errno, "see where there is data");
		TRY(kage_runs_add(data, 0, (uint64_t)at >> KAGE_PAGE_SHIFT,
				  (page_ceil((uint64_t)end) >> KAGE_PAGE_SHIFT) -
					  ((uint64_t)at >> KAGE_PAGE_SHIFT)));
	}
}

static struct kage_err *put_page(struct back *k, int fd, uint32_t space, uint64_t page)
{
	uint8_t then[KAGE_PAGE_BYTES], now[KAGE_PAGE_BYTES] = { 0 };
	off_t at = (off_t)(page << KAGE_PAGE_SHIFT);
	size_t got = 0;

	TRY(kage_pages_read(k->r->image->pages, space, page, 1, then));
	TRY(kage_file_read(fd, now, sizeof(now), at, "shared memory", &got));
	if (memcmp(then, now, sizeof(now)) == 0)
		return NULL;
	k->result.pages++;
	return kage_file_write(fd, then, sizeof(then), at, "shared memory");
}

static struct kage_err *punch(int fd, const struct page_runs *holes)
{
	for (size_t i = 0; i < holes->n; i++)
		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)(holes->v[i].first << KAGE_PAGE_SHIFT),
			      (off_t)(holes->v[i].count << KAGE_PAGE_SHIFT)) < 0)
			return kage_err_sys(errno, "empty a part of shared memory");
	return NULL;
}

static struct kage_err *set_size(int fd, uint64_t bytes)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return kage_err_sys(errno, "see how large shared memory is");
	if ((uint64_t)st.st_size != bytes && ftruncate(fd, (off_t)bytes) < 0)
		return kage_err_sys(errno, "make shared memory as large as it was");
	return NULL;
}

static struct kage_err *put(struct back *k, int fd, const Kage__Space *space,
			    struct page_runs sets[3])
{
	struct page_runs *data = &sets[0], *then = &sets[1], *holes = &sets[2];
	const struct kage_pages *pages = k->r->image->pages;

	if (fcntl(fd, F_GET_SEALS) > 0 && (fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE))
		return NULL; /* as it was */
	TRY(set_size(fd, space->size_bytes));
	TRY(find_data(fd, data));
	for (size_t i = 0; i < pages->n_runs; i++)
		if (pages->runs[i].space == space->id)
			TRY(kage_runs_add(then, 0, pages->runs[i].first, pages->runs[i].count));
	kage_runs_sort(data);
	kage_runs_sort(then);
	TRY(kage_runs_minus(data->v, data->n, then->v, then->n, holes));
	TRY(punch(fd, holes));
	for (size_t i = 0; i < then->n; i++)
		for (uint64_t n = 0; n < then->v[i].count; n++)
			TRY(put_page(k, fd, space->id, then->v[i].first + n));
	return NULL;
}

struct kage_err *back_spaces(struct back *k)
{
	const Kage__Image *m = k->r->image->msg;

	for (size_t i = 0; i < m->n_spaces; i++) {
		struct page_runs sets[3] = { 0 };
		struct kage_err *e;

		if (!k->has_space[i])
			continue;
		e = put(k, k->r->spaces[i], m->spaces[i], sets);
		for (size_t n = 0; n < ARRAY_SIZE(sets); n++)
			kage_runs_deinit(&sets[n]);
		TRY_WRAP(e, "shared memory %u", m->spaces[i]->id);
	}
	return NULL;
}
