/* SPDX-License-Identifier: Apache-2.0 */
#include "core/out.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/types.h"

enum { ZEROS_BYTES = 64 << 10 };
static const char name[] = "the core file";

void core_out_init(struct core_out *out, int fd)
{
	off_t at = lseek(fd, 0, SEEK_CUR);
	int flags = fcntl(fd, F_GETFL);
	struct stat st;

	*out = (struct core_out){ .fd = fd };
	out->sparse = at >= 0 && flags >= 0 && !(flags & O_APPEND) && fstat(fd, &st) == 0 &&
		      S_ISREG(st.st_mode) && ftruncate(fd, at) == 0;
}

static struct kage_err *write_zeros(struct core_out *out)
{
	static const uint8_t zeros[ZEROS_BYTES];

	while (out->pending) {
		size_t n = out->pending < sizeof(zeros) ? (size_t)out->pending : sizeof(zeros);

		TRY(kage_file_write(out->fd, zeros, n, -1, name));
		out->pending -= n;
	}
	return NULL;
}

/* Brings the position of the file to where we are. */
static struct kage_err *flush(struct core_out *out)
{
	if (!out->pending)
		return NULL;
	if (!out->sparse)
		return write_zeros(out);
	if (lseek(out->fd, (off_t)out->pending, SEEK_CUR) < 0)
		return kage_err_sys(errno, "leave a hole in %s", name);
	out->pending = 0;
	return NULL;
}

struct kage_err *core_out_write(struct core_out *out, const void *p, size_t size)
{
	TRY(flush(out));
	TRY(kage_file_write(out->fd, p, size, -1, name));
	out->at += size;
	return NULL;
}

struct kage_err *core_out_skip(struct core_out *out, uint64_t size)
{
	if (size > INT64_MAX - out->at)
		return kage_err_new(KAGE_LIMIT, "%s would be larger than files can be", name);
	out->at += size;
	out->pending += size;
	/* A reader at the other end should not wait for zeros that may never be needed here. */
	return out->sparse ? NULL : write_zeros(out);
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, KAGE_PAGE_BYTES - 1) == 0;
}

struct kage_err *core_out_pages(struct core_out *out, const void *p, size_t size)
{
	const uint8_t *bytes = p;
	size_t done = 0;

	if (!out->sparse)
		return core_out_write(out, p, size);
	while (done < size) {
		bool zero = is_zero(bytes + done);
		size_t end = done + KAGE_PAGE_BYTES;

		while (end < size && is_zero(bytes + end) == zero)
			end += KAGE_PAGE_BYTES;
		if (zero)
			TRY(core_out_skip(out, end - done));
		else
			TRY(core_out_write(out, bytes + done, end - done));
		done = end;
	}
	return NULL;
}

struct kage_err *core_out_align(struct core_out *out)
{
	return core_out_skip(out, page_ceil(out->at) - out->at);
}

struct kage_err *core_out_finish(struct core_out *out)
{
	bool hole_at_end = out->pending && out->sparse;
	off_t end;

	TRY(flush(out));
	if (!hole_at_end)
		return NULL;
	end = lseek(out->fd, 0, SEEK_CUR);
	if (end < 0 || ftruncate(out->fd, end) < 0)
		return kage_err_sys(errno, "set the size of %s", name);
	return NULL;
}
