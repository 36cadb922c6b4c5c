/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory map of a restored process: emptying the stub, mapping, and what comes last. It is filled in
 * between (restore/fill.c).
 *
 * The kernel's own mappings (vDSO and its data) are those that the stub was born with, moved to
 * where the program knows them; mremap(2) tells the kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "kind/memory.h"
#include "sys/kernel.h"

static const char *label(struct kage_restore *r, const char *what, const Kage__Mapping *m)
{
	const char *s =
		arena_printf(&r->scratch, "%s %" PRIx64 "-%" PRIx64, what, m->start, m->end);
	return s ? s : what;
}

static const char *kernel_path(Kage__Mapping__Backing b)
{
	switch (b) {
	case KAGE__MAPPING__BACKING__VDSO:
		return "[vdso]";
	case KAGE__MAPPING__BACKING__VVAR:
		return "[vvar]";
	case KAGE__MAPPING__BACKING__VVAR_VCLOCK:
		return "[vvar_vclock]";
	default:
		return NULL;
	}
}

/* --- check ------------------------------------------------------------------------------------ */

static void check_kernel_mapping(struct kage_restore *r, const struct kage_maps *ours,
				 const Kage__Mapping *m)
{
	const char *path = kernel_path(m->backing);
	const struct kage_vma *v = path ? kage_maps_named(ours, path) : NULL;

	if (path && (!v || v->end - v->start != m->end - m->start))
		kage_obstacle(r->obstacles, true, "restore it on the kernel it was taken on", path,
			      "this kernel's has %" PRIu64 " bytes, the image's %" PRIu64,
			      v ? v->end - v->start : 0, m->end - m->start);
}

static void check_vdso_code(struct kage_restore *r, const struct kage_maps *ours)
{
	const struct kage_vma *v = kage_maps_named(ours, "[vdso]");
	const Kage__Memory *m = r->process->memory;
	XXH128_canonical_t hash;

	if (!v || !m->vdso_hash.len)
		return;
	/* Our own, at an address of our own. */
	XXH128_canonicalFromHash(&hash,
				 XXH3_128bits((void *)(uintptr_t)v->start, v->end - v->start));
	if (m->vdso_hash.len != sizeof(hash) || memcmp(m->vdso_hash.data, &hash, sizeof(hash)) != 0)
		kage_obstacle(r->obstacles, true, "restore it on the kernel it was taken on",
			      "[vdso]", "this kernel's code is another one than the image's (%s)",
			      r->image->msg->source ? r->image->msg->source->kernel_release : "?");
}

static uint32_t highest_key(const Kage__Memory *m)
{
	uint32_t highest = 0;

	for (size_t i = 0; i < m->n_mappings; i++)
		if (m->mappings[i]->pkey > highest)
			highest = m->mappings[i]->pkey;
	return highest;
}

static void check_keys(struct kage_restore *r)
{
	int key;

	if (!highest_key(r->process->memory))
		return;
	key = pkey_alloc(0, 0);
	if (key < 0)
		kage_obstacle(r->obstacles, true, "restore it on a machine that has them",
			      "protection keys",
			      "memory of the program has some, and here there are none");
	else
		pkey_free(key);
}

static void check_backing(struct kage_restore *r, const Kage__Mapping *m)
{
	char object[64];

	if (m->backing != KAGE__MAPPING__BACKING__NONE)
		return;
	snprintf(object, sizeof(object), "mapping %" PRIx64 "-%" PRIx64, m->start, m->end);
	kage_obstacle(r->obstacles, true,
		      "restore an image of a time when the program did not have it", object,
		      "this kind of mapping cannot be restored");
}

struct kage_err *kage_memory_check(struct kage_restore *r)
{
	_cleanup_(kage_maps_deinit) struct kage_maps ours = { 0 };
	_cleanup_fd_ int self = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const Kage__Memory *m = r->process->memory;

	for (size_t i = 0; i < m->n_mappings; i++)
		check_backing(r, m->mappings[i]);
	if (r->twin)
		return NULL;
	if (self < 0)
		return kage_err_sys(errno, "open /proc/self");
	TRY(kage_maps_read(self, false, &ours));
	for (size_t i = 0; i < m->n_mappings; i++)
		check_kernel_mapping(r, &ours, m->mappings[i]);
	check_vdso_code(r, &ours);
	check_keys(r);
	return NULL;
}

/* --- prepare: what mappings need is opened in our own process ---------------------------------- */

static bool needs_file(const Kage__Mapping *m)
{
	return m->backing == KAGE__MAPPING__BACKING__FILE_PRIVATE ||
	       m->backing == KAGE__MAPPING__BACKING__FILE_SHARED ||
	       m->backing == KAGE__MAPPING__BACKING__FILE_DEVICE;
}

static bool needs_object(const Kage__Mapping *m)
{
	return m->backing == KAGE__MAPPING__BACKING__SHARED_OBJECT ||
	       m->backing == KAGE__MAPPING__BACKING__MEMFD_PRIVATE;
}

static int open_flags(const Kage__Mapping *m)
{
	return m->shared && m->max_writable ? O_RDWR : O_RDONLY;
}

struct kage_err *kage_memory_mapping_fd(struct kage_restore *r, const Kage__Mapping *m, int *ret_fd)
{
	if (needs_object(m))
		return kage_shm_open(r, m->object_space, ret_fd);
	if (needs_file(m))
		return kage_file_open(r, m->file, open_flags(m), ret_fd);
	*ret_fd = -1;
	return NULL;
}

/* With its contents, because a fork has brought it. */
static bool is_there(const struct kage_restore *r, const Kage__Mapping *m)
{
	return r->twin && !r->in_place && kage_memory_is_carried(m);
}

struct kage_err *kage_memory_prepare(struct kage_restore *r)
{
	const Kage__Memory *m = r->process->memory;
	int fd;

	for (size_t i = 0; i < m->n_mappings; i++)
		if (!is_there(r, m->mappings[i]))
			TRY_WRAP(kage_memory_mapping_fd(r, m->mappings[i], &fd), "map %" PRIx64,
				 m->mappings[i]->start);
	return r->twin ? NULL : kage_file_open(r, m->exe_file, O_RDONLY, &fd);
}

const Kage__Mapping *kage_memory_at(const Kage__Memory *m, uint64_t address)
{
	for (size_t low = 0, high = m->n_mappings; low < high;) {
		size_t mid = low + (high - low) / 2;
		const Kage__Mapping *map = m->mappings[mid];

		if (address >= map->start && address < map->end)
			return map;
		if (address < map->start)
			high = mid;
		else
			low = mid + 1;
	}
	return NULL;
}

struct kage_err *kage_memory_layout(const Kage__Memory *m, struct kage_maps *ret_maps)
{
	_cleanup_(kage_maps_deinit) struct kage_maps maps = { 0 };

	for (size_t i = 0; i < m->n_mappings; i++) {
		struct kage_vma *v =
			arena_push(&maps.arena, &maps.vmas, &maps.n, sizeof(*maps.vmas));

		if (!v)
			return kage_err_nomem();
		v->start = m->mappings[i]->start;
		v->end = m->mappings[i]->end;
		v->path = "";
	}
	*ret_maps = maps;
	maps = (struct kage_maps){ 0 };
	return NULL;
}

/* --- build -------------------------------------------------------------------------------------- */

static bool is_kernels(const char *path)
{
	return strcmp(path, "[vdso]") == 0 || strncmp(path, "[vvar", 5) == 0 ||
	       strcmp(path, "[vsyscall]") == 0;
}

/* The stub inherited our area for restartable sequences, which the kernel would go on writing to
 * after it is unmapped. */
static void unregister_rseq(struct kage_restore *r, struct kage_batch *b)
{
	struct kptrace_rseq_configuration rseq;

	if (ptrace(KPTRACE_GET_RSEQ_CONFIGURATION, r->stub->pid, (void *)sizeof(rseq), &rseq) < 0 ||
	    !rseq.rseq_abi_pointer)
		return;
	BATCH(b, "unregister restartable sequences", SYS_rseq, V(rseq.rseq_abi_pointer),
	      V(rseq.rseq_abi_size), V(1 /* RSEQ_FLAG_UNREGISTER */), V(rseq.signature));
}

/* Everything goes but the vDSO, its data, and what the batch runs in. */
static void unmap_all(struct kage_restore *r, const struct kage_maps *now, struct kage_batch *b)
{
	const struct kage_site *s = r->stub->site;

	for (size_t i = 0; i < now->n; i++) {
		const struct kage_vma *v = &now->vmas[i];
		bool site = v->start < s->area + s->area_bytes && v->end > s->runner;

		if (site || is_kernels(v->path))
			continue;
		BATCH(b, "empty the new process", SYS_munmap, V(v->start), V(v->end - v->start));
	}
}

static void move(const char *what, uint64_t from, uint64_t bytes, uint64_t to, struct kage_batch *b)
{
	if (from != to)
		BATCH(b, what, SYS_mremap, V(from), V(bytes), V(bytes),
		      V(MREMAP_MAYMOVE | MREMAP_FIXED), V(to));
}

/* By way of SPARE, so that no old place is in the way of a new one. */
static void move_kernel_mappings(struct kage_restore *r, const struct kage_maps *now,
				 uint64_t spare, struct kage_batch *b)
{
	const Kage__Memory *m = r->process->memory;
	uint64_t at = spare;

	for (int out = 1; out >= 0; out--) {
		at = spare;
		for (size_t i = 0; i < m->n_mappings; i++) {
			const Kage__Mapping *map = m->mappings[i];
			const char *path = kernel_path(map->backing);
			const struct kage_vma *v = path ? kage_maps_named(now, path) : NULL;

			if (!v)
				continue;
			if (out)
				move("take the vDSO aside", v->start, v->end - v->start, at, b);
			else
				move("bring the vDSO to its place", at, v->end - v->start,
				     map->start, b);
			at += v->end - v->start;
		}
	}
}

static int map_flags(const Kage__Mapping *m)
{
	int flags = MAP_FIXED_NOREPLACE | (m->shared ? MAP_SHARED : MAP_PRIVATE);

	if (m->backing == KAGE__MAPPING__BACKING__ANONYMOUS)
		flags |= MAP_ANONYMOUS;
	if (m->grows_down)
		flags |= MAP_GROWSDOWN;
	if (m->no_reserve)
		flags |= MAP_NORESERVE;
	if (m->hugetlb_bytes && m->backing == KAGE__MAPPING__BACKING__ANONYMOUS)
		flags |= MAP_HUGETLB | __builtin_ctzll(m->hugetlb_bytes) << MAP_HUGE_SHIFT;
	return flags;
}

static void advise(struct kage_restore *r, const Kage__Mapping *m, bool wanted, int advice,
		   struct kage_batch *b)
{
	if (wanted)
		BATCH(b, label(r, "advise about", m), SYS_madvise, V(m->start),
		      V(m->end - m->start), V(advice));
}

/* The note stays when the last guard is gone, or was in another mapping that became one with this. */
static void had_guards(struct kage_restore *r, const Kage__Mapping *m, struct kage_batch *b)
{
	BATCH_TRY(b, label(r, "install a guard in", m), SYS_madvise, V(m->start),
		  V(KAGE_PAGE_BYTES), V(KMADV_GUARD_INSTALL));
	BATCH_TRY(b, label(r, "remove a guard from", m), SYS_madvise, V(m->start),
		  V(KAGE_PAGE_BYTES), V(KMADV_GUARD_REMOVE));
}

void kage_memory_map_part(struct kage_restore *r, const Kage__Mapping *m, uint64_t start,
			  uint64_t end, int fd, struct kage_batch *b)
{
	BATCH(b, label(r, "map", m), SYS_mmap, V(start), V(end - start), V(m->prot),
	      V(map_flags(m)), V((int64_t)fd),
	      V(fd < 0 ? 0 : m->offset_bytes + (start - m->start)));
	/* These decide how pages come into being, so they stand before the contents. */
	if (m->huge_page)
		BATCH(b, label(r, "advise about", m), SYS_madvise, V(start), V(end - start),
		      V(MADV_HUGEPAGE));
	if (m->no_huge_page)
		BATCH(b, label(r, "advise about", m), SYS_madvise, V(start), V(end - start),
		      V(MADV_NOHUGEPAGE));
}

static struct kage_err *build_mapping(struct kage_restore *r, const Kage__Mapping *m,
				      struct kage_batch *b)
{
	int fd;

	TRY(kage_memory_mapping_fd(r, m, &fd));
	kage_memory_map_part(r, m, m->start, m->end, fd, b);
	if (m->maybe_guards && !m->n_guards)
		had_guards(r, m, b);
	return NULL;
}

static bool is_mapped_by_us(const Kage__Mapping *m)
{
	return !kernel_path(m->backing) && m->backing != KAGE__MAPPING__BACKING__VSYSCALL &&
	       m->backing != KAGE__MAPPING__BACKING__UPROBES;
}

static struct kage_err *build_mm(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Memory *m = r->process->memory;
	size_t auxv = kage_batch_data(b, m->auxv.data, m->auxv.len), map;
	struct prctl_mm_map mm = {
		.start_code = m->start_code,
		.end_code = m->end_code,
		.start_data = m->start_data,
		.end_data = m->end_data,
		.start_brk = m->start_brk,
		.brk = m->brk,
		.start_stack = m->start_stack,
		.arg_start = m->arg_start,
		.arg_end = m->arg_end,
		.env_start = m->env_start,
		.env_end = m->env_end,
		.auxv_size = (uint32_t)m->auxv.len,
	};
	int exe;

	TRY(kage_file_open(r, m->exe_file, O_RDONLY, &exe));
	mm.exe_fd = (uint32_t)exe;
	map = kage_batch_data(b, &mm, sizeof(mm));
	kage_batch_point(b, map + offsetof(struct prctl_mm_map, auxv), auxv);
	BATCH(b, "describe its memory to the kernel (PR_SET_MM_MAP)", SYS_prctl, V(PR_SET_MM),
	      V(PR_SET_MM_MAP), DATA(map), V(sizeof(mm)));
	if (m->thp_disabled)
		BATCH(b, "disable transparent huge pages", SYS_prctl, V(PR_SET_THP_DISABLE), V(1));
	return NULL;
}

struct kage_err *kage_memory_build(struct kage_restore *r, const struct kage_maps *now,
				   uint64_t spare, struct kage_batch *b)
{
	const Kage__Memory *m = r->process->memory;

	unregister_rseq(r, b);
	unmap_all(r, now, b);
	move_kernel_mappings(r, now, spare, b);
	for (size_t i = 0; i < m->n_mappings; i++)
		if (is_mapped_by_us(m->mappings[i]))
			TRY(build_mapping(r, m->mappings[i], b));
	return build_mm(r, b);
}

struct kage_err *kage_memory_build_rest(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Memory *m = r->process->memory;

	for (size_t i = 0; i < m->n_mappings; i++) {
		const Kage__Mapping *map = m->mappings[i];

		if (is_there(r, map) || !is_mapped_by_us(map))
			continue;
		BATCH(b, label(r, "clear", map), SYS_munmap, V(map->start),
		      V(map->end - map->start));
		TRY(build_mapping(r, map, b));
	}
	return NULL;
}

/* --- the end: what would have been in the way before --------------------------------------------- */

/* What cannot be read is locked as well, but then it cannot be faulted in, which the call is sorry for. */
static void lock(struct kage_restore *r, const Kage__Mapping *m, struct kage_batch *b)
{
	uint64_t bytes = m->end - m->start, flags = m->lock_on_fault ? MLOCK_ONFAULT : 0;

	if (m->prot == PROT_NONE || m->n_guards)
		BATCH_TRY(b, label(r, "lock", m), SYS_mlock2, V(m->start), V(bytes), V(flags));
	else
		BATCH(b, label(r, "lock", m), SYS_mlock2, V(m->start), V(bytes), V(flags));
}

void kage_memory_finish_one(struct kage_restore *r, const Kage__Mapping *m, struct kage_batch *b)
{
	uint64_t bytes = m->end - m->start;

	/* A fork takes all of it along but this (kernel/fork.c, dup_mmap()). */
	if (m->locked && is_there(r, m))
		lock(r, m, b);
	if (is_there(r, m))
		return;
	advise(r, m, m->dont_fork, MADV_DONTFORK, b);
	advise(r, m, m->dont_dump, MADV_DONTDUMP, b);
	advise(r, m, m->wipe_on_fork, MADV_WIPEONFORK, b);
	advise(r, m, m->mergeable, MADV_MERGEABLE, b);
	advise(r, m, m->sequential, MADV_SEQUENTIAL, b);
	advise(r, m, m->random, MADV_RANDOM, b);
	for (size_t i = 0; i < m->n_guards; i++)
		BATCH(b, label(r, "install guards in", m), SYS_madvise, V(m->guards[i]->start),
		      V(m->guards[i]->end - m->guards[i]->start), V(KMADV_GUARD_INSTALL));
	if (m->locked)
		lock(r, m, b);
	if (m->name && m->name[0])
		BATCH_TRY(b, label(r, "name", m), SYS_prctl, V(KPR_SET_VMA),
			  V(KPR_SET_VMA_ANON_NAME), V(m->start), V(bytes),
			  DATA(kage_batch_string(b, m->name)));
}

/* pkey_alloc(2) gives the lowest number that is free, so all up to the highest are taken, and those that
 * no mapping has go back. (One the kernel has taken by itself, for memory that can be executed and
 * nothing else, may come before them.) What a key allows is in a register of each thread. A key that no
 * mapping has cannot be seen from outside. */
static void build_keys(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Memory *m = r->process->memory;
	uint32_t highest = highest_key(m);
	uint64_t used = 0;

	for (uint32_t key = 1; key <= highest; key++)
		BATCH_TRY(b, "take a protection key", SYS_pkey_alloc, V(0), V(0));
	for (size_t i = 0; i < m->n_mappings; i++) {
		const Kage__Mapping *map = m->mappings[i];

		used |= 1ull << map->pkey;
		if (map->pkey)
			BATCH(b, label(r, "protect by a key", map), SYS_pkey_mprotect,
			      V(map->start), V(map->end - map->start), V(map->prot), V(map->pkey));
	}
	for (uint32_t key = 1; highest && key <= highest + 1; key++)
		if (!(used & 1ull << key))
			BATCH_TRY(b, "give a protection key back", SYS_pkey_free, V(key));
}

struct kage_err *kage_memory_finish(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Memory *m = r->process->memory;

	if (r->in_place) /* it was done mapping by mapping */
		return NULL;
	for (size_t i = 0; i < m->n_mappings; i++)
		if (is_mapped_by_us(m->mappings[i]))
			kage_memory_finish_one(r, m->mappings[i], b);
	if (!r->twin)
		build_keys(r, b);
	if (m->lock_future)
		BATCH(b, "lock later mappings", SYS_mlockall, V(m->lock_future));
	return NULL;
}
