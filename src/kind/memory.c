/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory map of a process and what its private pages hold.
 *
 * A private page has contents of its own when it is present or swapped, and is neither a page of the
 * mapped file nor the zero page. All others come from the file, or are zero, by themselves.
 */
#include "kind/memory.h"
#include "kind/content.h"
#include "kind/looked.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/pagemap.h"
#include "sys/text.h"
#include "target/copy.h"

enum { AUXV_MAX = 1 << 16 };

/* --- what a mapping is ------------------------------------------------------------------------ */

static bool starts_with(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* Mappings of the kernel's own, by the names that /proc shows (proc(5)). */
static Kage__Mapping__Backing kernel_backing(const char *path)
{
	static const struct {
		const char *path;
		Kage__Mapping__Backing backing;
	} names[] = {
		{ "[vdso]", KAGE__MAPPING__BACKING__VDSO },
		{ "[vvar]", KAGE__MAPPING__BACKING__VVAR },
		{ "[vvar_vclock]", KAGE__MAPPING__BACKING__VVAR_VCLOCK },
		{ "[vsyscall]", KAGE__MAPPING__BACKING__VSYSCALL },
		{ "[uprobes]", KAGE__MAPPING__BACKING__UPROBES },
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(path, names[i].path) == 0)
			return names[i].backing;
	return KAGE__MAPPING__BACKING__NONE;
}

/* Names of files that have none: objects of the kernel's internal tmpfs and hugetlbfs. */
static bool is_shared_object(const struct kage_vma *v)
{
	return starts_with(v->path, "/memfd:") || starts_with(v->path, "/dev/zero (deleted)") ||
	       starts_with(v->path, "/anon_hugepage") || starts_with(v->path, "/SYSV");
}

static Kage__Mapping__Backing classify(const struct kage_vma *v)
{
	Kage__Mapping__Backing kernel = kernel_backing(v->path);

	if (kernel != KAGE__MAPPING__BACKING__NONE)
		return kernel;
	if (starts_with(v->path, "/anon_hugepage") && !v->shared)
		return KAGE__MAPPING__BACKING__ANONYMOUS;
	if (is_shared_object(v))
		return v->shared ? KAGE__MAPPING__BACKING__SHARED_OBJECT
				 : KAGE__MAPPING__BACKING__MEMFD_PRIVATE;
	if (v->path[0] == '/' && v->ino)
		return v->shared ? KAGE__MAPPING__BACKING__FILE_SHARED
				 : KAGE__MAPPING__BACKING__FILE_PRIVATE;
	if (!v->path[0] || v->path[0] == '[')
		return v->shared ? KAGE__MAPPING__BACKING__SHARED_OBJECT
				 : KAGE__MAPPING__BACKING__ANONYMOUS;
	return KAGE__MAPPING__BACKING__NONE;
}

/* A private mapping of /dev/zero is anonymous memory by another name. */
static bool has_private_pages(Kage__Mapping__Backing b, bool shared)
{
	return b == KAGE__MAPPING__BACKING__ANONYMOUS ||
	       b == KAGE__MAPPING__BACKING__FILE_PRIVATE ||
	       b == KAGE__MAPPING__BACKING__MEMFD_PRIVATE ||
	       (b == KAGE__MAPPING__BACKING__FILE_DEVICE && !shared);
}

static bool is_kernels(Kage__Mapping__Backing b)
{
	return b == KAGE__MAPPING__BACKING__VDSO || b == KAGE__MAPPING__BACKING__VVAR ||
	       b == KAGE__MAPPING__BACKING__VVAR_VCLOCK;
}

/* Letters of VmFlags (fs/proc/task_mmu.c) and the fields that hold them. */
static void copy_flags(const struct kage_vma *v, Kage__Mapping *m)
{
	m->grows_down = kage_vma_has(v, VMFLAG('g', 'd'));
	m->locked = kage_vma_has(v, VMFLAG('l', 'o'));
	m->lock_on_fault = kage_vma_has(v, VMFLAG('l', 'f'));
	m->dont_fork = kage_vma_has(v, VMFLAG('d', 'c'));
	m->dont_dump = kage_vma_has(v, VMFLAG('d', 'd'));
	m->wipe_on_fork = kage_vma_has(v, VMFLAG('w', 'f'));
	m->huge_page = kage_vma_has(v, VMFLAG('h', 'g'));
	m->no_huge_page = kage_vma_has(v, VMFLAG('n', 'h'));
	m->mergeable = kage_vma_has(v, VMFLAG('m', 'g'));
	m->sequential = kage_vma_has(v, VMFLAG('s', 'r'));
	m->random = kage_vma_has(v, VMFLAG('r', 'r'));
	m->no_reserve = kage_vma_has(v, VMFLAG('n', 'r'));
	m->shadow_stack = kage_vma_has(v, VMFLAG('s', 's'));
	m->sealed = kage_vma_has(v, VMFLAG('s', 'l'));
	m->max_writable = kage_vma_has(v, VMFLAG('m', 'w'));
	m->droppable = kage_vma_has(v, VMFLAG('d', 'p'));
	m->maybe_guards = kage_vma_has(v, VMFLAG('g', 'u'));
	m->hugetlb_bytes = kage_vma_has(v, VMFLAG('h', 't')) ? v->huge_bytes : 0;
	m->pkey = v->pkey;
}

static void unsupported(struct kage_capture *c, const struct kage_vma *v, const char *why,
			const char *cure)
{
	char object[256];

	snprintf(object, sizeof(object), "mapping %" PRIx64 "-%" PRIx64 " %.180s", v->start, v->end,
		 v->path);
	kage_obstacle(c->obstacles, true, cure, object, "%s", why);
}

static void find_obstacles(struct kage_capture *c, const struct kage_vma *v,
			   Kage__Mapping__Backing backing)
{
	if (backing == KAGE__MAPPING__BACKING__NONE)
		unsupported(c, v, "this kind of mapping cannot be restored",
			    "let the program close it before the image is taken");
	else if (starts_with(v->path, "/[aio]"))
		unsupported(c, v, "rings of asynchronous I/O cannot be restored yet",
			    "let the program call io_destroy before the image is taken");
	else if (starts_with(v->path, "/SYSV"))
		unsupported(c, v, "System V shared memory cannot be restored yet",
			    "let the program detach it (shmdt) before the image is taken");
	else if (!is_kernels(backing) &&
		 (kage_vma_has(v, VMFLAG('p', 'f')) || kage_vma_has(v, VMFLAG('i', 'o'))))
		unsupported(c, v, "memory of a device cannot be restored",
			    "let the program close the device before the image is taken");
	else if (kage_vma_has(v, VMFLAG('s', 's')))
		unsupported(c, v, "shadow stacks cannot be restored yet",
			    "start the program with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK");
}

/* --- capture ---------------------------------------------------------------------------------- */

/* Opens what VMA maps; the path may lead elsewhere by now, map_files(proc 5) does not. */
struct kage_err *kage_memory_open_mapped(struct kage_target *t, const struct kage_vma *v,
					 int *ret_fd)
{
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "map_files/%" PRIx64 "-%" PRIx64, v->start, v->end);
	fd = openat(t->proc_fd, name, O_RDONLY | O_CLOEXEC);
	/* Without the right to follow these links, or a file that may not be opened for reading: its
	 * name will do when it still leads to the same file. */
	if (fd < 0 && errno != ENOENT) {
		struct stat st;

		fd = open(v->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
		if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_ino != v->ino)) {
			close_fd(fd);
			fd = -1;
			errno = ESTALE;
		}
	}
	if (fd < 0)
		return kage_err_sys(errno, "open what is mapped at %" PRIx64 " (%s)", v->start,
				    v->path);
	*ret_fd = fd;
	return NULL;
}

/* The mapping before this one of the same file or object, so that each is opened once. */
static const Kage__Mapping *same_before(const struct kage_capture *c, const Kage__Memory *m,
					size_t i)
{
	const struct kage_vma *v = &c->maps.vmas[i];

	for (size_t k = i; k-- > 0 && i - k < 64;) {
		const struct kage_vma *o = &c->maps.vmas[k];

		if (o->ino == v->ino && o->dev_major == v->dev_major &&
		    o->dev_minor == v->dev_minor && o->shared == v->shared)
			return m->mappings[k];
	}
	return NULL;
}

static struct kage_err *note_backing(struct kage_capture *c, const Kage__Memory *m, size_t i,
				     Kage__Mapping *msg)
{
	const struct kage_vma *v = &c->maps.vmas[i];
	const Kage__Mapping *same = same_before(c, m, i);
	const struct kage_looked_file *looked;
	_cleanup_fd_ int fd = -1;
	struct stat st;

	if (same && same->file == 0 && same->object_space == 0)
		same = NULL;
	if (same) {
		msg->file = same->file;
		msg->object_space = same->object_space;
		return NULL;
	}
	looked = v->shared ? NULL : kage_looked_mapped(c, v);
	if (looked && msg->backing == KAGE__MAPPING__BACKING__FILE_PRIVATE)
		return kage_file_note(c, looked->fd, &looked->st, looked->path, false, &msg->file);
	TRY(kage_memory_open_mapped(c->target, v, &fd));
	if (fstat(fd, &st) < 0)
		return kage_err_sys(errno, "stat %s", v->path);
	if (msg->backing == KAGE__MAPPING__BACKING__SHARED_OBJECT ||
	    msg->backing == KAGE__MAPPING__BACKING__MEMFD_PRIVATE)
		return kage_shm_note(c, fd, &st, &msg->object_space);
	if (S_ISCHR(st.st_mode))
		msg->backing = KAGE__MAPPING__BACKING__FILE_DEVICE;
	return kage_file_note(c, fd, &st, v->path, v->shared && msg->max_writable, &msg->file);
}

static const char *anon_name(struct arena *a, const struct kage_vma *v)
{
	const char *p = v->path;
	size_t n = strlen(p);

	if (starts_with(p, "[anon:"))
		p += 6;
	else if (starts_with(p, "[anon_shmem:"))
		p += 12;
	else
		return "";
	n -= (size_t)(p - v->path) + 1;
	return arena_dup(a, arena_printf(a, "%.*s", (int)n, p), n + 1);
}

/* Pages that nobody has brought yet would be missing in the image, too, whoever it is that has them. */
static struct kage_err *refuse_missing(struct kage_capture *c, const struct kage_vma *v)
{
	static const char why[] = "pages of it are brought by a userfaultfd when they are needed";
	static const char cure[] =
		"wait until they are all there (after 'kage restore --lazy': a second "
		"or a few), and try again later";

	if (!c->checking)
		return kage_err_new(KAGE_BUSY, "mapping %" PRIx64 "-%" PRIx64 ": %s; %s", v->start,
				    v->end, why, cure);
	unsupported(c, v, why, cure);
	return NULL;
}

static struct kage_err *capture_mapping(struct kage_capture *c, Kage__Memory *m, size_t i)
{
	struct arena *a = &c->image->arena;
	const struct kage_vma *v = &c->maps.vmas[i];
	Kage__Mapping *msg = msg_append(a, m, mappings, Kage__Mapping, kage__mapping__init);

	if (!msg)
		return kage_err_nomem();
	msg->start = v->start;
	msg->end = v->end;
	msg->prot = v->prot;
	msg->shared = v->shared;
	msg->offset_bytes = v->offset;
	msg->backing = classify(v);
	copy_flags(v, msg);
	if (kage_vma_has(v, VMFLAG('u', 'm')))
		TRY(refuse_missing(c, v));
	msg->name = (char *)anon_name(a, v);
	find_obstacles(c, v, msg->backing);
	switch (msg->backing) {
	case KAGE__MAPPING__BACKING__FILE_PRIVATE:
	case KAGE__MAPPING__BACKING__FILE_SHARED:
	case KAGE__MAPPING__BACKING__SHARED_OBJECT:
	case KAGE__MAPPING__BACKING__MEMFD_PRIVATE:
		return note_backing(c, m, i, msg);
	default:
		return NULL;
	}
}

/* Behind its contents a restored process may have slots (target/batch.h), which are no part of it: this is
 * zero in every new process. */
static void clear_tail(const struct kage_target *t, const struct kage_vma *v, uint8_t *code)
{
	if (t->tail_start > v->start && t->tail_start < v->end)
		memset(code + (t->tail_start - v->start), 0, v->end - t->tail_start);
}

static struct kage_err *hash_vdso(struct kage_capture *c, Kage__Memory *m)
{
	for (size_t i = 0; i < c->maps.n; i++) {
		const struct kage_vma *v = &c->maps.vmas[i];
		_cleanup_free_ uint8_t *code = NULL;
		XXH128_canonical_t hash;

		if (strcmp(v->path, "[vdso]") != 0)
			continue;
		code = malloc(v->end - v->start);
		if (!code)
			return kage_err_nomem();
		TRY(kage_target_read(c->target, addr(v->start), code, v->end - v->start));
		clear_tail(c->target, v, code);
		XXH128_canonicalFromHash(&hash, XXH3_128bits(code, v->end - v->start));
		m->vdso_hash.data = arena_dup(&c->image->arena, &hash, sizeof(hash));
		m->vdso_hash.len = m->vdso_hash.data ? sizeof(hash) : 0;
	}
	return NULL;
}

/* By their number in stat(5). */
static struct kage_err *capture_bounds(struct kage_capture *c, Kage__Memory *m)
{
	const struct {
		int number;
		uint64_t *to;
	} fields[] = {
		{ 26, &m->start_code }, { 27, &m->end_code }, { 28, &m->start_stack },
		{ 45, &m->start_data }, { 46, &m->end_data }, { 47, &m->start_brk },
		{ 48, &m->arg_start },  { 49, &m->arg_end },  { 50, &m->env_start },
		{ 51, &m->env_end },
	};
	_cleanup_free_ char *text = NULL;
	size_t size;

	TRY(kage_file_slurp(c->target->proc_fd, "stat", 1 << 16, &text, &size));
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (!kage_text_stat_u64(text, fields[i].number, fields[i].to))
			return kage_err_new(KAGE_CORRUPT, "field %d of /proc/%d/stat is missing",
					    fields[i].number, c->target->pid);
	return NULL;
}

static struct kage_err *capture_auxv(struct kage_capture *c, Kage__Memory *m)
{
	_cleanup_free_ char *bytes = NULL;
	size_t size;

	TRY(kage_file_slurp(c->target->proc_fd, "auxv", AUXV_MAX, &bytes, &size));
	m->auxv.data = arena_dup(&c->image->arena, bytes, size);
	m->auxv.len = size;
	return m->auxv.data ? NULL : kage_err_nomem();
}

static struct kage_err *capture_exe(struct kage_capture *c, Kage__Memory *m)
{
	_cleanup_fd_ int fd = openat(c->target->proc_fd, "exe", O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *link = NULL;
	struct stat st;

	if (fd < 0)
		return kage_err_sys(errno, "open the executable of process %d", c->target->pid);
	TRY(kage_file_readlink(c->target->proc_fd, "exe", &link));
	if (fstat(fd, &st) < 0)
		return kage_err_sys(errno, "stat %s", link);
	return kage_file_note(c, fd, &st, link, false, &m->exe_file);
}

static struct kage_err *capture(struct kage_capture *c)
{
	struct arena *a = &c->image->arena;
	Kage__Memory *m = msg_new(a, Kage__Memory, kage__memory__init);
	Kage__Space *s;
	uint64_t thp;

	if (!m)
		return kage_err_nomem();
	TRY(kage_content_space(c, KAGE__SPACE__KIND__ADDRESS_SPACE, NULL, &s));
	m->space = s->id;
	c->process->memory = m;
	TRY(capture_exe(c, m));
	TRY(capture_bounds(c, m));
	TRY(capture_auxv(c, m));
	for (size_t i = 0; i < c->maps.n; i++)
		TRY(capture_mapping(c, m, i));
	m->brk = c->inside.brk;
	m->lock_future = c->inside.lock_future;
	m->thp_disabled = kage_text_u64(c->status, "THP_enabled", 10, &thp) && !thp;
	return hash_vdso(c, m);
}

/* --- contents --------------------------------------------------------------------------------- */

struct copying {
	struct kage_capture *c;
	struct kage_target *from;
	bool (*which)(const Kage__Mapping *);
	size_t at; /* the mapping that was looked at last; both go upward */
	struct kage_copy copy;
};

static struct kage_err *copy_run(struct copying *k, uint64_t start, uint64_t end)
{
	uint32_t space = k->c->process->memory->space;
	void *to;

	TRY(kage_mem_pages_add(k->c->pages, space, start >> KAGE_PAGE_SHIFT,
			       (end - start) >> KAGE_PAGE_SHIFT, &to));
	return kage_copy_add(&k->copy, to, addr(start), end - start);
}

/* What of a run lies in mappings whose private pages are ours to copy. */
static struct kage_err *copy_found(void *user, uint64_t start, uint64_t end)
{
	struct copying *k = user;
	const Kage__Memory *m = k->c->process->memory;

	for (; k->at < m->n_mappings && m->mappings[k->at]->start < end; k->at++) {
		const Kage__Mapping *map = m->mappings[k->at];
		uint64_t from = start > map->start ? start : map->start;
		uint64_t to = end < map->end ? end : map->end;

		if (from < to && has_private_pages(map->backing, map->shared))
			TRY(copy_run(k, from, to));
		if (map->end >= end)
			break;
	}
	return NULL;
}

struct kage_err *kage_memory_note_guard(struct kage_capture *c, uint64_t start, uint64_t end)
{
	Kage__Memory *m = c->process->memory;

	for (size_t i = 0; i < m->n_mappings; i++) {
		Kage__Mapping *map = m->mappings[i];
		Kage__Range *g;

		if (end <= map->start || start >= map->end)
			continue;
		g = msg_append(&c->image->arena, map, guards, Kage__Range, kage__range__init);
		if (!g)
			return kage_err_nomem();
		g->start = start > map->start ? start : map->start;
		g->end = end < map->end ? end : map->end;
	}
	return NULL;
}

static struct kage_err *note_guard(void *user, uint64_t start, uint64_t end)
{
	return kage_memory_note_guard(user, start, end);
}

static int open_pagemap(const struct kage_target *t)
{
	return openat(t->proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);
}

static struct kage_err *copy_each_mapping(struct copying *k, int pagemap)
{
	const Kage__Memory *m = k->c->process->memory;

	for (size_t i = 0; i < m->n_mappings; i++)
		if (has_private_pages(m->mappings[i]->backing, m->mappings[i]->shared) &&
		    (!k->which || k->which(m->mappings[i])))
			TRY(kage_pagemap_private(pagemap, m->mappings[i]->start,
						 m->mappings[i]->end, copy_found, k));
	return NULL;
}

static struct kage_err *copy_all(struct copying *k, int pagemap)
{
	if (!k->which && kage_pagemap_can_scan(pagemap))
		TRY(kage_pagemap_private(pagemap, 0, KAGE_ARCH_USER_CEILING, copy_found, k));
	else
		TRY(copy_each_mapping(k, pagemap));
	return kage_copy_run(&k->copy, k->from);
}

bool kage_memory_is_private(const struct kage_vma *vma)
{
	return has_private_pages(classify(vma), vma->shared);
}

bool kage_memory_is_carried(const Kage__Mapping *m)
{
	/* An object of shared memory is another one in each life. */
	return has_private_pages(m->backing, m->shared) && !m->dont_fork && !m->wipe_on_fork &&
	       !m->hugetlb_bytes && m->backing != KAGE__MAPPING__BACKING__MEMFD_PRIVATE;
}

bool kage_memory_is_not_carried(const Kage__Mapping *m)
{
	return !kage_memory_is_carried(m);
}

struct kage_err *kage_memory_guards(struct kage_capture *c, const struct kage_target *t)
{
	_cleanup_fd_ int pagemap = open_pagemap(t);

	if (pagemap < 0)
		return kage_err_sys(errno, "open /proc/%d/pagemap", t->pid);
	return kage_pagemap_guards(pagemap, 0, KAGE_ARCH_USER_CEILING, note_guard, c);
}

struct kage_err *kage_memory_copy(struct kage_capture *c, struct kage_target *t,
				  bool (*which)(const Kage__Mapping *))
{
	_cleanup_fd_ int pagemap = open_pagemap(t);
	struct copying k = { .c = c, .from = t, .which = which };
	struct kage_err *e;

	if (pagemap < 0)
		return kage_err_sys(errno, "open /proc/%d/pagemap", t->pid);
	e = copy_all(&k, pagemap);
	kage_copy_deinit(&k.copy);
	return e;
}

static struct kage_err *add_up(void *user, uint64_t start, uint64_t end)
{
	*(uint64_t *)user += end - start;
	return NULL;
}

struct kage_err *kage_memory_estimate(struct kage_target *t, const struct kage_maps *maps,
				      uint64_t *ret_bytes)
{
	_cleanup_fd_ int pagemap = open_pagemap(t);
	uint64_t bytes = 0;

	if (pagemap < 0)
		return kage_err_sys(errno, "open /proc/%d/pagemap", t->pid);
	for (size_t i = 0; i < maps->n; i++)
		if (kage_memory_is_private(&maps->vmas[i]))
			TRY(kage_pagemap_private(pagemap, maps->vmas[i].start, maps->vmas[i].end,
						 add_up, &bytes));
	*ret_bytes = bytes;
	return NULL;
}

/* --- restore: see memory_restore.c ------------------------------------------------------------ */

const struct kage_kind kage_kind_memory = {
	.name = "memory",
	.capture = capture,
	.check = kage_memory_check,
	.prepare = kage_memory_prepare,
	.finish = kage_memory_finish,
	.print = kage_memory_print,
};
