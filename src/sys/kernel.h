/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel interfaces newer than the headers of the oldest distribution that we build on. Values are
 * part of the kernel's stable interface; each names where it is defined.
 */
#ifndef SYS_KERNEL_H
#define SYS_KERNEL_H

#include <linux/types.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

/* include/uapi/linux/fs.h, since 6.7 */
#define KPAGE_IS_WPALLOWED  (1 << 0)
#define KPAGE_IS_WRITTEN    (1 << 1)
#define KPAGE_IS_FILE       (1 << 2)
#define KPAGE_IS_PRESENT    (1 << 3)
#define KPAGE_IS_SWAPPED    (1 << 4)
#define KPAGE_IS_PFNZERO    (1 << 5)
#define KPAGE_IS_HUGE       (1 << 6)
#define KPAGE_IS_SOFT_DIRTY (1 << 7)
#define KPAGE_IS_GUARD      (1 << 8) /* since 6.15 */

/* include/uapi/asm-generic/mman-common.h, since 5.18 */
#define KMADV_DONTNEED_LOCKED 24

#define KPM_SCAN_WP_MATCHING   (1 << 0)
#define KPM_SCAN_CHECK_WPASYNC (1 << 1)

struct kpage_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};

struct kpm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end;
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};

#define KPAGEMAP_SCAN _IOWR('f', 16, struct kpm_scan_arg)

/* The same, since 6.11 */
#define KPROCMAP_COVERING_OR_NEXT_VMA 0x10

struct kprocmap_query {
	__u64 size;
	__u64 query_flags;
	__u64 query_addr;
	__u64 vma_start;
	__u64 vma_end;
	__u64 vma_flags;
	__u64 vma_page_size;
	__u64 vma_offset;
	__u64 inode;
	__u32 dev_major;
	__u32 dev_minor;
	__u32 vma_name_size;
	__u32 build_id_size;
	__u64 vma_name_addr;
	__u64 build_id_addr;
};

#define KPROCMAP_QUERY _IOWR('f', 17, struct kprocmap_query)

/* include/uapi/linux/ptrace.h, since 5.13 */
#define KPTRACE_GET_RSEQ_CONFIGURATION 0x420f
struct kptrace_rseq_configuration {
	__u64 rseq_abi_pointer;
	__u32 rseq_abi_size;
	__u32 signature;
	__u32 flags;
	__u32 pad;
};

/* include/uapi/linux/rseq.h: struct rseq_cs, and where struct rseq has the address of one */
struct krseq_cs {
	__u32 version, flags;
	__u64 start, length, abort;
};
#define KRSEQ_CS_FIELD_BYTES 8

/* include/uapi/linux/prctl.h */
#define KPR_TIMER_CREATE_RESTORE_IDS     77 /* since 6.16 */
#define KPR_TIMER_CREATE_RESTORE_IDS_OFF 0
#define KPR_TIMER_CREATE_RESTORE_IDS_ON  1
#define KPR_SET_VMA                      0x53564d41
#define KPR_SET_VMA_ANON_NAME            0

/* include/uapi/asm-generic/mman-common.h */
#define KMADV_GUARD_INSTALL 102 /* since 6.13 */
#define KMADV_GUARD_REMOVE  103

/* --- pidfds: linux/pidfd.h, since Linux 6.13; the exit status since 6.15 ---------------------- */

struct kpidfd_info {
	__u64 mask;
	__u64 cgroupid;
	__u32 pid, tgid, ppid;
	__u32 ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
	__s32 exit_code;
};
#define KPIDFD_GET_INFO  _IOWR(0xFF, 11, struct kpidfd_info)
#define KPIDFD_INFO_EXIT (1ull << 3)

#endif
