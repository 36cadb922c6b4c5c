/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the mapping iterator writes for each mapping, in ascending order. Both sides are compiled from this header.
 */
#ifndef SYS_BPF_VMA_RECORD_H
#define SYS_BPF_VMA_RECORD_H

#include <linux/types.h>

struct kage_vma_record {
	__u64 start, end;
	__u64 flags;     /* VM_… of the kernel */
	__u64 untouched; /* 1: nothing in it has ever been the process's own */
};

#endif
