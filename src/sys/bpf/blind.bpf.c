/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Notes ranges of one process in which soft-dirty bits do not tell all that was written (sys/blind.h says why).
 *
 * All functions are met where one file of the kernel calls another one, so that no compiler can have inlined them. Their
 * arguments are taken as numbers: what is behind them is read with CO-RE.
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "blind_record.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum { PAGE_SHIFT = 12, PROT_WRITE = 2, FOLL_WRITE = 1 };
#define VM_SHARED    0x00000008ull
#define VM_SOFTDIRTY 0x08000000ull

/* The members that are read; see task_kernel.h. */
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct mm_struct;

struct task_struct {
	struct mm_struct *mm;
} __attribute__((preserve_access_index));

struct vm_area_struct {
	unsigned long vm_start, vm_end, vm_flags, vm_pgoff;
	struct mm_struct *vm_mm;
} __attribute__((preserve_access_index));

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kage_blind_shared);
} shared SEC(".maps");

static __always_inline __u64 argument(void *ctx, __u32 n)
{
	__u64 value = 0;

	bpf_get_func_arg(ctx, n, &value);
	return value;
}

/* What is ours to tell, or NULL when MM is somebody else's. */
static __always_inline struct kage_blind_shared *shared_of(__u64 mm)
{
	__u32 zero = 0;
	struct kage_blind_shared *s = bpf_map_lookup_elem(&shared, &zero);

	return s && mm && s->mm == mm ? s : NULL;
}

static __always_inline void note(struct kage_blind_shared *s, __u64 start, __u64 bytes)
{
	struct kage_blind_log *log = &s->logs[s->now & 1];
	__u64 i = __sync_fetch_and_add(&log->n, 1);

	if (i >= BLIND_RANGES)
		return;
	log->ranges[i].start = start;
	log->ranges[i].end = start + bytes;
}

/* copy_vma(struct vm_area_struct **, unsigned long addr, unsigned long len, pgoff_t pgoff, ...): mremap(2) is about to
 * move pages to LEN bytes at ADDR. */
SEC("fentry/copy_vma")
int kage_moved(void *ctx)
{
	struct vm_area_struct *vma = NULL;
	__u64 len = argument(ctx, 2), from;
	struct kage_blind_shared *s;

	bpf_probe_read_kernel(&vma, sizeof(vma), (void *)argument(ctx, 0));
	s = shared_of((__u64)BPF_CORE_READ(vma, vm_mm));
	if (!s)
		return 0;
	from = BPF_CORE_READ(vma, vm_start) +
	       ((argument(ctx, 3) - BPF_CORE_READ(vma, vm_pgoff)) << PAGE_SHIFT);
	note(s, from, len);
	note(s, argument(ctx, 1), len);
	return 0;
}

/* security_file_mprotect(struct vm_area_struct *, unsigned long reqprot, unsigned long prot): a part of the mapping
 * is about to be made so. */
SEC("fentry/security_file_mprotect")
int kage_protected(void *ctx)
{
	struct vm_area_struct *vma = (void *)argument(ctx, 0);
	struct kage_blind_shared *s = shared_of((__u64)BPF_CORE_READ(vma, vm_mm));
	__u64 start, flags;

	if (!s || !(argument(ctx, 2) & PROT_WRITE))
		return 0;
	flags = BPF_CORE_READ(vma, vm_flags);
	if (!(flags & VM_SOFTDIRTY) || flags & VM_SHARED)
		return 0;
	start = BPF_CORE_READ(vma, vm_start);
	note(s, start, BPF_CORE_READ(vma, vm_end) - start);
	return 0;
}

/* walk_page_range(struct mm_struct *, unsigned long start, unsigned long end, ...): over all that there is, by who writes
 * to clear_refs (clear_refs_write() in fs/proc/task_mmu.c). */
SEC("fentry/walk_page_range")
int kage_cleared(void *ctx)
{
	struct kage_blind_shared *s;

	if (argument(ctx, 1) != 0 || argument(ctx, 2) != ~0ull)
		return 0;
	s = shared_of(argument(ctx, 0));
	if (s)
		__sync_fetch_and_add(&s->n_cleared, 1);
	return 0;
}

/* ..._user_pages_remote(struct mm_struct *, unsigned long start, unsigned long nr_pages, unsigned int gup_flags, ...):
 * too many arguments for fentry. */
static __always_inline int remote(struct pt_regs *regs)
{
	struct kage_blind_shared *s = shared_of(PT_REGS_PARM1(regs));

	if (s && PT_REGS_PARM4(regs) & FOLL_WRITE)
		note(s, PT_REGS_PARM2(regs) >> PAGE_SHIFT << PAGE_SHIFT,
		     (PT_REGS_PARM3(regs) + 1) << PAGE_SHIFT);
	return 0;
}

SEC("kprobe/get_user_pages_remote")
int kage_got(struct pt_regs *regs)
{
	return remote(regs);
}

SEC("kprobe/pin_user_pages_remote")
int kage_pinned(struct pt_regs *regs)
{
	return remote(regs);
}

/* Whose ranges to tell: writes where the kernel has the memory of the process that is visited. */
SEC("iter/task")
int kage_mm(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	__u64 mm;

	if (!task)
		return 0;
	mm = (__u64)BPF_CORE_READ(task, mm);
	bpf_seq_write(ctx->meta->seq, &mm, sizeof(mm));
	return 0;
}
