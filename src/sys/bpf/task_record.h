/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the task iterator writes and taskinfo.c parses: a stream of records in the byte order of the
 * machine, each a header and a body. Both sides are compiled from this header, so the stream is a
 * private matter of one build; it is never stored.
 *
 * Order: for every thread TASK_THREAD, then its other records, then TASK_END. The first thread that
 * is visited also carries the process-wide records. Sizes are multiples of 8, so bodies are aligned.
 *
 * All times are nanoseconds of CLOCK_MONOTONIC of the initial time namespace unless said otherwise.
 * All addresses are the target's. Numbers of users and groups are those of the initial namespace.
 */
#ifndef SYS_BPF_TASK_RECORD_H
#define SYS_BPF_TASK_RECORD_H

#ifdef __bpf__
typedef struct {
	__u64 v;
} kage_addr;
#else
#include "base/types.h"
#include <linux/types.h>
#endif

/* One visit of the iterator may write 32 KiB (the kernel's buffer for iterators). Within it lie the
 * process-wide records, so lists are cut at these lengths; the reader says that they were. */
enum {
	KAGE_TASK_MAX_SIGNALS = 64, /* queued signals: of the process, and of each thread */
	KAGE_TASK_MAX_TIMERS = 64,
	KAGE_TASK_MAX_XSAVE = 12288, /* bytes; with AMX tiles it is 11,008 */
	KAGE_TASK_SYMBOL_BYTES = 64,
	KAGE_TASK_NSIG = 64,
};

enum task_record_type {
	TASK_THREAD = 1,
	TASK_PROCESS,
	TASK_MM,
	TASK_ACTIONS, /* KAGE_TASK_NSIG times struct kage_task_action */
	TASK_SHARED_SIGNAL,
	TASK_TIMER,
	TASK_LIST,
	TASK_CREDS,
	TASK_REGS,
	TASK_SIGNAL,
	TASK_RESTART, /* struct kage_task_restart, then a symbol */
	TASK_SLEEP,   /* struct kage_task_sleep, then a symbol */
	TASK_XSAVE,   /* struct kage_task_xsave, then its bytes, filled up to 8 */
	TASK_TRANSFER,
	TASK_END, /* struct kage_task_pulse, when the reading of this thread ended */
};

struct task_record {
	__u32 type;
	__u32 size; /* of the body */
};

/* Whether a thread ran: equal at two instants of sleep means that it did not run between them. */
struct kage_task_pulse {
	__u64 nvcsw; /* voluntary and involuntary context switches */
	__u64 nivcsw;
	__u32 state; /* task_struct.__state: 0 running, 1 interruptible, 2 not interruptible, … */
	__u32 on_cpu; /* it is on a CPU at this moment */
};

struct kage_task_thread {
	__s32 tid;                    /* as the reader sees it */
	__s32 tgid;                   /* as the reader sees it */
	__s32 own_tid;                /* as the thread itself sees it, in its PID namespace */
	__u32 flags;                  /* task_struct.flags: PF_… of the kernel */
	struct kage_task_pulse pulse; /* when the reading of this thread began */
	__u64 now_ns;                 /* likewise */
	__u64 exit_state;
	__u64 jobctl; /* group stops and ptrace traps, as in include/linux/sched/jobctl.h */
	__u64 ptrace; /* not 0: traced */

	__u64 start_ns;      /* monotonic */
	__u64 start_boot_ns; /* boottime: the one in /proc/PID/stat */
	__u64 utime_ns;
	__u64 stime_ns;
	__u64 cpu_ns;        /* CLOCK_THREAD_CPUTIME_ID, as of the last switch */
	__u64 exec_start_ns; /* scheduler clock of the CPU, not monotonic: when it last went to sleep */

	__u64 blocked;         /* signal masks: bit n-1 is signal n */
	__u64 real_blocked;    /* not 0: inside sigtimedwait, and this is the mask outside of it */
	__u64 saved_sigmask;   /* the mask outside of sigsuspend, ppoll, … */
	__u64 restore_sigmask; /* saved_sigmask is to be put back at the end of the call */
	__u64 pending;         /* signals pending for this thread only */
	kage_addr altstack;
	__u64 altstack_bytes;
	__u64 altstack_flags; /* SS_… */

	kage_addr set_child_tid;
	kage_addr clear_child_tid;
	kage_addr robust_list; /* its length is always that of struct robust_list_head */
	kage_addr rseq;        /* 0: not registered */
	__u32 rseq_bytes;
	__u32 rseq_signature;

	__u64 timer_slack_ns;
	__u64 default_timer_slack_ns;
	__u32 pdeath_signal;
	__u32 exit_signal;
	__u32 personality;
	__u32 seccomp_mode;
	__u64 atomic_flags;          /* PFA_…; bit 0 is no_new_privs */
	__u64 thread_flags;          /* thread_info.flags: TIF_… of the kernel */
	__u64 syscall_work;          /* thread_info.syscall_work */
	__u32 thread_status;         /* thread_info.status; bit 1 on x86: a 32-bit system call */
	__u32 io_privilege;          /* iopl, emulated */
	kage_addr dispatch_selector; /* PR_SET_SYSCALL_USER_DISPATCH */
	kage_addr dispatch_offset;
	__u64 dispatch_bytes;
	/* Not 0 (the value means nothing): it used io_uring; has System V semaphore adjustments to be
	 * undone at its end; is a child of vfork whose parent waits. */
	__u64 io_uring;
	__u64 sem_undo;
	__u64 vfork_done;
	__u64 has_children; /* processes that it made */
	char comm[16];
};

struct kage_task_process {
	__u64 now_ns;
	__s32 nr_threads;
	__u32 flags; /* signal_struct.flags: SIGNAL_… (include/linux/sched/signal.h) */
	__s32 group_stop_count;
	__s32 group_exit_code;
	__u32 child_subreaper;
	__u32 timer_restore_ids; /* PR_TIMER_CREATE_RESTORE_IDS is on */
	__s32 oom_score_adj;
	__s32 next_timer_id;
	__u64 pending; /* signals pending for the process */
	/* ITIMER_REAL as an instant; the other two in CPU time of the process. */
	__u64 real_active;
	__u64 real_expires_ns;
	__u64 real_interval_ns;
	__u64 cpu_expires_ns[2]; /* PROF, VIRTUAL; 0: not armed */
	__u64 cpu_interval_ns[2];
	__u64 group_utime_ns; /* as the kernel's CPU timers count; valid while one is armed */
	__u64 group_stime_ns;
	__u64 group_cpu_ns;
};

struct kage_task_mm {
	kage_addr start_code, end_code;
	kage_addr start_data, end_data;
	kage_addr start_brk, brk;
	kage_addr start_stack;
	kage_addr arg_start, arg_end;
	kage_addr env_start, env_end;
	__u64 def_flags;        /* VM_… of new mappings: VM_LOCKED after mlockall(MCL_FUTURE) */
	__u64 flags;            /* MMF_…; bits 0-1 are dumpable */
	__u64 membarrier_state; /* MEMBARRIER_STATE_…: what is registered */
};

struct kage_task_action {
	kage_addr handler;
	__u64 flags; /* SA_… */
	kage_addr restorer;
	__u64 mask;
};

/* A queued signal. The kernel keeps the first 48 of the 128 bytes of siginfo_t, the rest is zero. */
struct kage_task_signal {
	__u8 info[48];
};

struct kage_task_expiry {
	__s64 expires_ns;
	__s64 offset_ns; /* what `clock` is ahead of the monotonic one */
	__s32 clock;     /* of expires_ns */
	__u32 pad;
};

struct kage_task_timer {
	__u64 foreign; /* not 0: a timer that is being made or deleted */
	__s32 id;
	__s32 clock;
	__s32 notify;  /* SIGEV_… */
	__s32 tid;     /* whom the signal is for, as the target sees it */
	__s32 cpu_tid; /* whose CPU time counts, as the target sees it */
	__s32 status;  /* since 6.13: 0 not armed, 1 armed, 2 its signal is pending */
	__s32 active;  /* before */
	__s32 requeue_pending;
	struct kage_task_signal info;         /* the signal it sends */
	struct kage_task_expiry plain, alarm; /* which of these is meant depends on the clock */
	__u64 cpu_expires_ns;                 /* in CPU time */
	__s64 interval_ns;
	__s64 overrun;      /* counted since the last signal, from -1 */
	__s64 overrun_last; /* what timer_getoverrun says */
};

struct kage_task_creds {
	__u32 uid, euid, suid, fsuid;
	__u32 gid, egid, sgid, fsgid;
	__u64 cap_inheritable, cap_permitted, cap_effective, cap_bounding, cap_ambient;
	__u64 securebits; /* with SECBIT_KEEP_CAPS */
	__u64 identity; /* threads in which it is equal share one set of rights, groups included */
};

/* In the order of struct user_regs_struct. While the thread sleeps in a system call, ax is -ENOSYS and
 * orig_ax the call's number; -1 outside of calls. */
struct kage_task_regs {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	__u64 orig_ax, ip, cs, flags, sp, ss, fs_base, gs_base, ds, es, fs, gs;
};

/* What restart_syscall would do. Stale unless the thread is in that call or was stopped on its way
 * to it. */
struct kage_task_restart {
	/* futex */
	kage_addr uaddr, uaddr2;
	__u32 val, futex_flags, bitset;
	/* nanosleep */
	__s32 clock;
	__s32 nfds;
	kage_addr rmtp;
	__u64 expires_ns; /* on `clock` */
	/* futex: an instant; 0 means none */
	__u64 futex_time_ns;
	/* poll: an instant */
	kage_addr ufds;
	__s32 has_timeout;
	__u32 pad;
	__u64 tv_sec, tv_nsec;
};

/* The timer that ends the sleep, found on the kernel stack of the thread. */
struct kage_task_sleep {
	__u64 kind;    /* 1: high resolution, expires in ns; 2: timer wheel, expires in ticks */
	__s64 expires; /* with the slack that the kernel allows itself */
	__s64 soft_expires; /* what was asked for (kind 1) */
	__s64 offset_ns;    /* what its clock is ahead of the monotonic one (kind 1) */
	__s32 clock;        /* CLOCK_… of expires (kind 1) */
	__u32 pad;
	__s64 now; /* monotonic ns, or ticks */
};

/* What looks like the kernel's note (struct iov_iter) of how far a transfer has come, found on the
 * kernel stack by the address of the buffer. */
struct kage_task_transfer {
	__u64 done, left; /* bytes */
};

struct kage_task_xsave {
	__u32 bytes;         /* that follow */
	__u32 size;          /* of the kernel's area: larger than `bytes` when cut */
	__u64 features;      /* the components that the area has room for */
	__u64 user_features; /* those of them that a program may see */
	__u64 pkru;
	__u64 tls[3]; /* descriptors of set_thread_area */
};

/* The walk along a list did not come to its end. */
struct kage_task_list {
	__u32 type; /* of the records */
	__u32 end;  /* enum walk_end */
};

enum walk_end {
	WALK_COMPLETE, /* not written */
	WALK_CUT,      /* the list was longer than its limit */
	WALK_TORN,     /* it changed meanwhile: read again */
};

#endif
