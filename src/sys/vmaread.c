/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sys/bpf/vma_record.h"
#include "sys/iter.h"
#include "sys/vmaread.h"
#include "vma.lskel.h"

struct kage_vmaread {
	int prog;
};

/* Bits of vm_flags (include/linux/mm.h) as smaps names them (show_smap_vma_flags() in fs/proc/task_mmu.c). They have
 * been the same since long before iterators; whether they are is looked at in our own map. Bits above
 * differ between kernels and machines. */
static const uint16_t names[32] = {
	VMFLAG('r', 'd'), VMFLAG('w', 'r'), VMFLAG('e', 'x'), VMFLAG('s', 'h'), VMFLAG('m', 'r'),
	VMFLAG('m', 'w'), VMFLAG('m', 'e'), VMFLAG('m', 's'), VMFLAG('g', 'd'), VMFLAG('u', 'm'),
	VMFLAG('p', 'f'), VMFLAG('g', 'u'), VMFLAG('u', 'w'), VMFLAG('l', 'o'), VMFLAG('i', 'o'),
	VMFLAG('s', 'r'), VMFLAG('r', 'r'), VMFLAG('d', 'c'), VMFLAG('d', 'e'), VMFLAG('l', 'f'),
	VMFLAG('a', 'c'), VMFLAG('n', 'r'), VMFLAG('h', 't'), VMFLAG('s', 'f'), 0,
	VMFLAG('w', 'f'), VMFLAG('d', 'd'), VMFLAG('s', 'd'), VMFLAG('m', 'm'), VMFLAG('h', 'g'),
	VMFLAG('n', 'h'), VMFLAG('m', 'g'),
};

struct kage_err *kage_vmaread_flags(struct arena *a, uint64_t bits, const uint16_t **ret_flags,
				    size_t *ret_n)
{
	uint16_t *flags = NULL;
	size_t n = 0;

	*ret_flags = NULL;
	*ret_n = 0;
	for (int i = 0; i < 64; i++) {
		uint16_t *f;

		if (!(bits >> i & 1))
			continue;
		if (i >= 32 || !names[i])
			return NULL;
		f = arena_push(a, &flags, &n, sizeof(*f));
		if (!f)
			return kage_err_nomem();
		*f = names[i];
	}
	*ret_flags = flags;
	*ret_n = n;
	return NULL;
}

/* At most MOST of them. */
static struct kage_err *read_bits(int prog, pid_t pid, size_t most,
				  struct kage_vma_record **ret_records, size_t *ret_n)
{
	char *buf;
	size_t size;

	TRY(kage_iter_read_enough(prog, pid, most * sizeof(**ret_records), &buf, &size));
	*ret_records = (struct kage_vma_record *)(void *)buf;
	*ret_n = size / sizeof(**ret_records);
	return NULL;
}

/* Gives V the flags of R, which is of the same mapping; else, and where more than flags is needed, *RET_ALL is false. */
static struct kage_err *add_flags(struct kage_maps *m, struct kage_vma *v,
				  const struct kage_vma_record *r, bool *ret_all)
{
	*ret_all = false;
	if (v->start != r->start || v->end != r->end)
		return NULL;
	TRY(kage_vmaread_flags(&m->arena, r->flags, &v->flags, &v->n_flags));
	*ret_all = v->flags && !kage_vma_has(v, VMFLAG('h', 't'));
	v->untouched = *ret_all && !v->shared && r->untouched && !kage_vma_has(v, VMFLAG('g', 'u'));
	return NULL;
}

/* maps has one more at its end, which belongs to no process: gate_vma in
 * arch/x86/entry/vsyscall/vsyscall_64.c. */
static struct kage_err *flag_vsyscall(struct kage_maps *m, struct kage_vma *v)
{
	uint64_t bits = (v->prot & PROT_READ ? 1 : 0) | (v->prot & PROT_EXEC ? 4 : 0);

	return kage_vmaread_flags(&m->arena, bits, &v->flags, &v->n_flags);
}

static size_t n_of_process(const struct kage_maps *m)
{
	return m->n - (kage_maps_named(m, "[vsyscall]") != NULL);
}

static struct kage_err *fill(int prog, pid_t pid, struct kage_maps *m, bool *ret_all)
{
	_cleanup_free_ struct kage_vma_record *records = NULL;
	size_t n, used = 0;

	*ret_all = true;
	TRY(read_bits(prog, pid, n_of_process(m), &records, &n));
	for (size_t i = 0; i < m->n && *ret_all; i++) {
		struct kage_vma *v = &m->vmas[i];

		if (strcmp(v->path, "[vsyscall]") == 0)
			TRY(flag_vsyscall(m, v));
		else if (used < n)
			TRY(add_flags(m, v, &records[used++], ret_all));
		else
			*ret_all = false;
	}
	*ret_all &= used == n;
	m->has_flags = *ret_all;
	return NULL;
}

struct kage_err *kage_vmaread_maps(const struct kage_vmaread *reader, int proc_fd, pid_t pid,
				   struct kage_maps *ret_maps)
{
	_cleanup_(kage_maps_deinit) struct kage_maps m = { 0 };
	bool all = false;

	if (reader) {
		TRY(kage_maps_read(proc_fd, false, &m));
		TRY(fill(reader->prog, pid, &m, &all));
	}
	if (!all)
		return kage_maps_read(proc_fd, true, ret_maps);
	*ret_maps = m;
	m = (struct kage_maps){ 0 };
	return NULL;
}

/* --- making and unmaking ---------------------------------------------------------------------- */

static bool same_flags(const struct kage_vma *a, const struct kage_vma *b)
{
	return a->n_flags == b->n_flags &&
	       memcmp(a->flags, b->flags, a->n_flags * sizeof(*a->flags)) == 0;
}

/* What both tell of our own map is to be the same, but other threads of ours may change that meanwhile. */
static struct kage_err *compare_own(int prog, const struct kage_maps *truth, bool *ret_same)
{
	_cleanup_(kage_maps_deinit) struct kage_maps m = { 0 };
	_cleanup_fd_ int self = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	size_t n_same = 0;
	bool all;

	if (self < 0)
		return kage_err_sys(errno, "open /proc/self");
	TRY(kage_maps_read(self, false, &m));
	TRY(fill(prog, getpid(), &m, &all));
	*ret_same = true;
	for (size_t i = 0; i < m.n; i++) {
		const struct kage_vma *v = kage_maps_find(truth, m.vmas[i].start);

		if (!v || v->start != m.vmas[i].start || v->end != m.vmas[i].end ||
		    !m.vmas[i].flags)
			continue;
		*ret_same &= same_flags(v, &m.vmas[i]);
		n_same++;
	}
	*ret_same &= n_same > m.n / 2;
	return NULL;
}

static struct kage_err *check(int prog)
{
	_cleanup_(kage_maps_deinit) struct kage_maps truth = { 0 };
	_cleanup_fd_ int self = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool same = false;

	if (self < 0)
		return kage_err_sys(errno, "open /proc/self");
	TRY(kage_maps_read(self, true, &truth));
	TRY(compare_own(prog, &truth, &same));
	return same ? NULL
		    : kage_err_new(KAGE_UNSUPPORTED,
				   "this kernel numbers the flags of mappings otherwise");
}

/* Whoever finds it pinned need not look again. */
static struct kage_err *load(int *ret_prog)
{
	_cleanup_fd_ int prog = -1;
	struct vma_bpf *skel;

	errno = 0;
	skel = vma_bpf__open_and_load();
	if (!skel)
		return kage_err_new(
			errno == EPERM || errno == EACCES ? KAGE_PERM : KAGE_UNSUPPORTED,
			"the BPF iterator over mappings cannot be loaded: %s", strerror(errno));
	prog = fcntl(skel->progs.kage_vma.prog_fd, F_DUPFD_CLOEXEC, 3);
	vma_bpf__destroy(skel);
	if (prog < 0)
		return kage_err_sys(errno, "duplicate a descriptor");
	TRY(check(prog));
	*ret_prog = take_fd(&prog);
	return NULL;
}

struct kage_err *kage_vmaread_open(const char *pins, struct kage_vmaread **ret_reader)
{
	static const struct kage_iter_program program = { "kage_vma", VMA_BPF_HASH, load };
	_cleanup_fd_ int prog = -1;
	struct kage_vmaread *r;
	bool was_pinned;

	TRY(kage_iter_open(pins, &program, &prog, &was_pinned));
	r = calloc(1, sizeof(*r));
	if (!r)
		return kage_err_nomem();
	r->prog = take_fd(&prog);
	*ret_reader = r;
	return NULL;
}

void kage_vmaread_close(struct kage_vmaread *reader)
{
	if (!reader)
		return;
	close_fd(reader->prog);
	free(reader);
}
