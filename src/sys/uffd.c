/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/uffd.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

/* include/uapi/linux/userfaultfd.h */
#define KUFFD_FEATURE_WP_UNPOPULATED (1 << 13) /* since 6.4 */
#define KUFFD_FEATURE_WP_ASYNC       (1 << 15) /* since 6.7 */

struct kage_err *kage_uffd_begin(int uffd)
{
	struct uffdio_api api = { .api = UFFD_API,
				  .features = KUFFD_FEATURE_WP_ASYNC |
					      KUFFD_FEATURE_WP_UNPOPULATED |
					      UFFD_FEATURE_WP_HUGETLBFS_SHMEM };

	if (ioctl(uffd, UFFDIO_API, &api) == 0)
		return NULL;
	if (errno == EINVAL)
		return kage_err_new(KAGE_UNSUPPORTED,
				    "this kernel does not tell which pages were written "
				    "(userfaultfd without WP_ASYNC)");
	return kage_err_sys(errno, "set up a userfaultfd");
}

void kage_uffd_register(int uffd, uint64_t start, uint64_t end, int *ret_errno)
{
	struct uffdio_register r = { .range = { .start = start, .len = end - start },
				     .mode = UFFDIO_REGISTER_MODE_WP };

	*ret_errno = ioctl(uffd, UFFDIO_REGISTER, &r) == 0 ? 0 : errno;
}

void kage_uffd_unprotect(int uffd, uint64_t start, uint64_t end)
{
	struct uffdio_writeprotect w = { .range = { .start = start, .len = end - start } };

	while (ioctl(uffd, UFFDIO_WRITEPROTECT, &w) < 0 && errno == EAGAIN)
		; /* the map is being changed (mmap_changing): the kernel asks to come again */
}

void kage_uffd_unregister(int uffd, uint64_t start, uint64_t end)
{
	struct uffdio_range r = { .start = start, .len = end - start };

	/* Gone mappings need it no more. */
	(void)ioctl(uffd, UFFDIO_UNREGISTER, &r);
}

struct kage_err *kage_uffd_begin_missing(int uffd, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return ioctl(uffd, UFFDIO_API, &api) == 0 ? NULL
						  : kage_err_sys(errno, "set up a userfaultfd");
}

bool kage_uffd_register_missing(int uffd, uint64_t start, uint64_t end)
{
	struct uffdio_register r = { .range = { .start = start, .len = end - start },
				     .mode = UFFDIO_REGISTER_MODE_MISSING };

	return ioctl(uffd, UFFDIO_REGISTER, &r) == 0;
}

int kage_uffd_copy(int uffd, uint64_t to, const void *from, uint64_t bytes, uint64_t *ret_done)
{
	struct uffdio_copy c = { .dst = to, .src = (uint64_t)(uintptr_t)from, .len = bytes };
	int num = ioctl(uffd, UFFDIO_COPY, &c) == 0 ? 0 : errno;

	/* Stopped in the middle, it fails with EAGAIN and says there how far it came. */
	*ret_done = c.copy > 0 ? (uint64_t)c.copy : 0;
	return num;
}

int kage_uffd_zero(int uffd, uint64_t at)
{
	struct uffdio_zeropage z = { .range = { .start = at, .len = KAGE_PAGE_BYTES } };
	int num = ioctl(uffd, UFFDIO_ZEROPAGE, &z) == 0 ? 0 : errno;

	if (num)
		(void)ioctl(uffd, UFFDIO_WAKE, &z.range);
	return num;
}

/* Nothing is registered for write protection, so this can only fail (fs/userfaultfd.c: userfaultfd_writeprotect()). */
bool kage_uffd_is_alive(int uffd)
{
	struct uffdio_writeprotect w = { .range = { .start = 1 << 16, .len = KAGE_PAGE_BYTES } };

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &w) == 0 || errno != ESRCH;
}
