/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Writes the flags of all mappings of one process (vma_record.h). smaps tells them too, but walks through all
 * page tables for that: 3 ms for each GiB.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "vma_record.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The members that are read; see task_kernel.h. */
struct seq_file;
struct task_struct;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct anon_vma;

struct vm_area_struct {
	unsigned long vm_start, vm_end, vm_flags;
	struct anon_vma *anon_vma;
} __attribute__((preserve_access_index));

struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
};

SEC("iter/task_vma")
int kage_vma(struct bpf_iter__task_vma *ctx)
{
	struct vm_area_struct *vma = ctx->vma;
	struct kage_vma_record r;

	if (!vma)
		return 0;
	r.start = vma->vm_start;
	r.end = vma->vm_end;
	r.flags = vma->vm_flags;
	/* Without one there can be no anonymous page (mm/rmap.c), nor, until bit 11 of the flags tells of them, a guard
	   (mm/madvise.c, madvise_guard_install()). */
	r.untouched = !vma->anon_vma;
	bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
	return 0;
}
