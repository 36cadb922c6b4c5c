/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs of blind.bpf.c share with us, in memory that both have mapped. Both sides are compiled from this
 * header.
 */
#ifndef SYS_BPF_BLIND_RECORD_H
#define SYS_BPF_BLIND_RECORD_H

#include <linux/types.h>

enum { BLIND_RANGES = 16384 };

struct kage_blind_range {
	__u64 start, end;
};

struct kage_blind_log {
	__u64 n; /* that were told; those beyond BLIND_RANGES are not in it */
	struct kage_blind_range ranges[BLIND_RANGES];
};

struct kage_blind_shared {
	__u64 mm; /* whose ranges are told: an address in the kernel, to be compared; 0: nobody's */
	__u64 now;       /* which log they go to */
	__u64 n_cleared; /* how often its soft-dirty bits were cleared, by whomsoever */
	struct kage_blind_log logs[2];
};

#endif
