/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared memory objects: memfds (memfd_create(2)) and shared anonymous memory. Both are files of the
 * kernel's own tmpfs without a name; a mapping leads to them through /proc/PID/map_files, a memfd also
 * through its descriptors. Each is one Space, which tells all that is needed to make it again.
 *
 * On restore shared anonymous memory is made as such: mapped shared and anonymous here, and opened
 * through our own map_files, so that /proc/PID/maps of the restored process shows what it showed.
 * Without the right to do so (CAP_CHECKPOINT_RESTORE, proc(5)) a memfd stands in.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/content.h"
#include "kind/fds.h"
#include "kind/noted.h"

static const char prefix[] = "/memfd:", deleted[] = " (deleted)";

/* A seal against writing forbids the mappings which a restore still has to make. */
static const uint32_t late_seals = F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;

static bool match(const struct kage_fd_seen *fd)
{
	return kage_fds_link_is(fd, prefix) && S_ISREG(fd->st.st_mode) &&
	       !(kage_fds_flags(fd) & O_PATH);
}

/* --- capture ------------------------------------------------------------------------------------ */

/* The name in what /proc shows for OURS; "" with *ret_memfd false for anonymous memory. */
static struct kage_err *read_name(struct arena *a, int ours, char **ret_name,
				  protobuf_c_boolean *ret_memfd)
{
	_cleanup_free_ char *link = NULL;
	char path[32];
	size_t n, tail = sizeof(deleted) - 1;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", ours);
	TRY(kage_file_readlink(AT_FDCWD, path, &link));
	*ret_memfd = strncmp(link, prefix, sizeof(prefix) - 1) == 0;
	*ret_name = arena_strdup(a, *ret_memfd ? link + sizeof(prefix) - 1 : "");
	if (!*ret_name)
		return kage_err_nomem();
	n = strlen(*ret_name);
	if (n >= tail && strcmp(*ret_name + n - tail, deleted) == 0)
		(*ret_name)[n - tail] = '\0';
	return NULL;
}

static struct kage_err *describe(struct kage_capture *c, int ours, const struct stat *st,
				 Kage__Space *s)
{
	struct statfs fs;
	int seals = fcntl(ours, F_GET_SEALS);

	TRY(read_name(&c->image->arena, ours, &s->name, &s->memfd));
	if (fstatfs(ours, &fs) < 0)
		return kage_err_sys(errno, "see what kind of memory it is");
	if (fs.f_type == HUGETLBFS_MAGIC)
		s->hugetlb_bytes = (uint64_t)fs.f_bsize;
	s->seals = seals > 0 ? (uint32_t)seals : 0;
	s->mode = st->st_mode & 07777;
	return NULL;
}

/* Reading by read(2) leaves holes alone, and only data is read. The offset that SEEK_DATA moves must
 * not be the target's, so the object is opened once more. */
static struct kage_err *copy(struct kage_capture *c, int ours, const struct stat *st,
			     const Kage__Space *s)
{
	_cleanup_fd_ int fd = kage_fds_reopen(ours, O_RDONLY);

	if (fd < 0)
		return kage_err_sys(errno, "open shared memory for reading");
	return kage_content_copy(c, s, fd, (uint64_t)st->st_size, NULL);
}

struct kage_err *kage_shm_note(struct kage_capture *c, int ours, const struct stat *st,
			       uint32_t *ret_space)
{
	struct kage_noted_entry *known = kage_noted_find(c, st, true);
	Kage__Space *s;

	if (known) {
		*ret_space = known->id;
		return NULL;
	}
	TRY(kage_content_space(c, KAGE__SPACE__KIND__SHARED_MEMORY, st, &s));
	TRY(describe(c, ours, st, s));
	TRY(kage_noted_add(c, st, true, s->id, -1));
	*ret_space = s->id;
	return c->checking ? NULL : copy(c, ours, st, s);
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	Kage__MemFd *m = msg_new(&c->image->arena, Kage__MemFd, kage__mem_fd__init);
	const Kage__Space *s;

	if (!m)
		return kage_err_nomem();
	d->kind_case = KAGE__DESCRIPTION__KIND_MEMFD;
	d->memfd = m;
	TRY(kage_shm_note(c, fd->ours, &fd->st, &m->space));
	s = kage_image_space(c->image, m->space);
	m->name = s->name;
	m->seals = s->seals;
	m->hugetlb_bytes = s->hugetlb_bytes;
	m->mode = s->mode;
	return NULL;
}

/* --- restore ------------------------------------------------------------------------------------ */

static int huge_flags(const Kage__Space *s, int flag, int shift)
{
	return s->hugetlb_bytes ? flag | __builtin_ctzll(s->hugetlb_bytes) << shift : 0;
}

static struct kage_err *make_memfd(const Kage__Space *s, int *ret_fd)
{
	const char *name = s->memfd ? s->name : "kage-shared";
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING |
					    (unsigned)huge_flags(s, MFD_HUGETLB, MFD_HUGE_SHIFT));

	if (fd < 0)
		return kage_err_sys(errno, "make shared memory \"%s\"", name);
	*ret_fd = fd;
	return NULL;
}

/* -1 where this is not allowed. The mapping goes again; the object stays with the descriptor. */
static int make_anonymous(const Kage__Space *s)
{
	uint64_t bytes = page_ceil(s->size_bytes);
	char path[80];
	void *p;
	int fd;

	if (!bytes)
		return -1;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS | huge_flags(s, MAP_HUGETLB, MAP_HUGE_SHIFT), -1, 0);
	if (p == MAP_FAILED)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/map_files/%" PRIxPTR "-%" PRIxPTR, (uintptr_t)p,
		 (uintptr_t)p + bytes);
	fd = open(path, O_RDWR | O_CLOEXEC);
	munmap(p, bytes);
	return fd;
}

static struct kage_err *make_object(struct kage_restore *r, const Kage__Space *s, int *ret_fd)
{
	_cleanup_fd_ int fd = s->memfd ? -1 : make_anonymous(s);

	if (fd < 0)
		TRY(make_memfd(s, &fd));
	TRY(kage_content_fill(r->image->pages, s, fd));
	if (s->memfd) {
		uint32_t early = s->seals & ~late_seals;

		if (fchmod(fd, s->mode & 07777) < 0)
			return kage_err_sys(errno, "set the mode of a memfd");
		if (early && fcntl(fd, F_ADD_SEALS, early) < 0)
			return kage_err_sys(errno, "seal a memfd");
	}
	*ret_fd = take_fd(&fd);
	return NULL;
}

struct kage_err *kage_shm_open(struct kage_restore *r, uint32_t space, int *ret_fd)
{
	const Kage__Image *m = r->image->msg;
	size_t i = 0;

	while (i < m->n_spaces && m->spaces[i]->id != space)
		i++;
	if (i == m->n_spaces)
		return kage_err_new(KAGE_CORRUPT, "the image has no space %u", space);
	if (r->spaces[i] < 0)
		TRY_WRAP(make_object(r, m->spaces[i], &r->spaces[i]), "shared memory %u", space);
	*ret_fd = r->spaces[i];
	return NULL;
}

/* Opened once more, for a description has an offset of its own. */
static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	int base, fd;

	TRY(kage_shm_open(r, d->memfd->space, &base));
	fd = kage_fds_reopen(base, (int)(d->flags & O_ACCMODE));
	if (fd < 0)
		return kage_err_sys(errno, "open a memfd");
	*ret_fd = fd;
	return NULL;
}

/* All mappings are made by now. */
static struct kage_err *start(struct kage_restore *r, const Kage__Description *d, int ours)
{
	const Kage__Space *s = kage_image_space(r->image, d->memfd->space);
	int now = fcntl(ours, F_GET_SEALS), base;

	if (!s || now < 0 || !(s->seals & ~(uint32_t)now))
		return NULL;
	/* F_ADD_SEALS needs a descriptor that is open for writing; ours may not be. */
	TRY(kage_shm_open(r, s->id, &base));
	if (fcntl(base, F_ADD_SEALS, s->seals) < 0)
		return kage_err_sys(errno, "seal a memfd");
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	const Kage__Space *s = kage_image_space(image, d->memfd->space);

	fprintf(out, "\"%s\", %" PRIu64 " bytes", d->memfd->name, s ? s->size_bytes : 0);
	if (d->memfd->seals)
		fprintf(out, ", seals %#x", d->memfd->seals);
	if (d->memfd->hugetlb_bytes)
		fprintf(out, ", huge pages of %" PRIu64 " KiB", d->memfd->hugetlb_bytes / 1024);
}

const struct kage_fd_kind kage_fd_memfd = {
	.name = "memfd",
	.which = KAGE__DESCRIPTION__KIND_MEMFD,
	.match = match,
	.capture = capture,
	.make = make,
	.start = start,
	.print = print,
};
