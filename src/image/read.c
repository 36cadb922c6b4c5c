/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of an image by address. Where the bytes of a page come from:
 *
 *	a page of the process's space       those bytes
 *	private or anonymous, none there    zeros, the mapped object, or the mapped file
 *	a mapped file                       its contents in the image, else the file itself, which has to
 *	                                    be what it was then
 *	what the kernel provides (vvar …)   nothing: a hole
 */
#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"

static const Kage__Mapping *find_mapping(const Kage__Memory *memory, uint64_t address)
{
	for (size_t i = 0; i < memory->n_mappings; i++)
		if (address >= memory->mappings[i]->start && address < memory->mappings[i]->end)
			return memory->mappings[i];
	return NULL;
}

static bool has_page(const struct kage_image *image, uint32_t space, uint64_t page)
{
	const struct kage_pages *p = image->pages;
	size_t i = p ? kage_pages_find(p, space, page) : 0;

	return p && i < p->n_runs && p->runs[i].space == space && p->runs[i].first <= page;
}

/* A page of an object or a file in the image; behind its end it is zero. */
static struct kage_err *read_space(const struct kage_image *image, uint32_t space, uint64_t page,
				   void *buffer)
{
	memset(buffer, 0, KAGE_PAGE_BYTES);
	if (!has_page(image, space, page))
		return NULL;
	return kage_pages_read(image->pages, space, page, 1, buffer);
}

static struct kage_err *read_file(const Kage__FileObject *f, uint64_t offset, void *buffer)
{
	_cleanup_fd_ int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	size_t n;

	if (fd < 0)
		return kage_err_sys(errno, "open %s, which the image has mapped", f->path);
	if (fstat(fd, &st) < 0)
		return kage_err_sys(errno, "stat %s", f->path);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != f->size_bytes ||
	    (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec != f->mtime_ns)
		return kage_err_new(KAGE_CHANGED,
				    "%s changed since the image was taken, and its contents "
				    "are not in it",
				    f->path);
	memset(buffer, 0, KAGE_PAGE_BYTES);
	return kage_file_read(fd, buffer, KAGE_PAGE_BYTES, (off_t)offset, f->path, &n);
}

static struct kage_err *read_mapped(const struct kage_image *image, uint32_t id, uint64_t offset,
				    void *buffer, bool *ret_hole)
{
	const Kage__FileObject *f = kage_image_file(image, id);

	*ret_hole = !f;
	if (!f)
		return NULL;
	if (f->content_space)
		return read_space(image, f->content_space, offset / KAGE_PAGE_BYTES, buffer);
	return read_file(f, offset, buffer);
}

/* The page at ADDRESS, which lies in M. */
static struct kage_err *read_page(const struct kage_image *image, const Kage__Memory *memory,
				  const Kage__Mapping *m, uint64_t address, void *buffer,
				  bool *ret_hole)
{
	uint64_t offset = m->offset_bytes + (address - m->start);

	*ret_hole = false;
	if (has_page(image, memory->space, address / KAGE_PAGE_BYTES))
		return kage_pages_read(image->pages, memory->space, address / KAGE_PAGE_BYTES, 1,
				       buffer);
	switch (m->backing) {
	case KAGE__MAPPING__BACKING__ANONYMOUS:
		memset(buffer, 0, KAGE_PAGE_BYTES);
		return NULL;
	case KAGE__MAPPING__BACKING__SHARED_OBJECT:
	case KAGE__MAPPING__BACKING__MEMFD_PRIVATE:
		return read_space(image, m->object_space, offset / KAGE_PAGE_BYTES, buffer);
	case KAGE__MAPPING__BACKING__FILE_PRIVATE:
	case KAGE__MAPPING__BACKING__FILE_SHARED:
		return read_mapped(image, m->file, offset, buffer, ret_hole);
	default:
		*ret_hole = true;
		return NULL;
	}
}

struct kage_err *kage_image_read(const struct kage_image *image, uint64_t address, void *buffer,
				 size_t size, size_t *ret_n)
{
	const Kage__Memory *memory =
		image->msg->n_processes ? image->msg->processes[0]->memory : NULL;
	const Kage__Mapping *m = NULL;
	size_t done = 0;

	while (memory && done < size) {
		unsigned char page[KAGE_PAGE_BYTES];
		uint64_t at = address + done, in = at % KAGE_PAGE_BYTES;
		size_t n = KAGE_PAGE_BYTES - in < size - done ? KAGE_PAGE_BYTES - in : size - done;
		bool hole = true;

		if (at < address)
			break;
		if (!m || at < m->start || at >= m->end)
			m = find_mapping(memory, at);
		if (m)
			TRY_WRAP(read_page(image, memory, m, at - in, page, &hole),
				 "read memory at %#llx", (unsigned long long)at);
		if (hole)
			break;
		memcpy((unsigned char *)buffer + done, page + in, n);
		done += n;
	}
	*ret_n = done;
	return NULL;
}
