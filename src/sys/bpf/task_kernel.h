/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The members of kernel structures that task.bpf.c reads. Order and offsets mean nothing here: every
 * access is relocated at load time to where the running kernel has the member (CO-RE), so that the
 * machine which builds needs no kernel. A name with three underscores is another form of the same
 * structure, from kernels before or after the one named.
 */
#ifndef SYS_BPF_TASK_KERNEL_H
#define SYS_BPF_TASK_KERNEL_H

/* What iterators are given, and lists: the same in every kernel, so not relocated. */
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct list_head {
	struct list_head *next, *prev;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	long counter;
} atomic64_t;

struct hlist_node {
	struct hlist_node *next, **pprev;
};

struct hlist_head {
	struct hlist_node *first;
};

typedef struct {
	unsigned long sig[1];
} sigset_t;

struct upid {
	int nr;
};

struct pid {
	unsigned int level;
	struct upid numbers[2]; /* of any length */
};

/* --- timers --------------------------------------------------------------------------------- */

struct timerqueue_node {
	__s64 expires;
};

struct hrtimer_clock_base {
	int clockid;
	__s64 offset;
};

struct hrtimer {
	struct timerqueue_node node;
	__s64 _softexpires;
	void *function;
	struct hrtimer_clock_base *base;
	__u8 state;
};

struct hrtimer_sleeper {
	struct hrtimer timer;
	struct task_struct *task;
};

/* Where a transfer of bytes stands. */
struct iov_iter {
	__u8 iter_type;
	unsigned long iov_offset;
	void *ubuf; /* since 6.0 */
	unsigned long count;
	unsigned long nr_segs;
};

struct timer_list {
	struct hlist_node entry;
	unsigned long expires;
	void *function;
};

struct process_timer {
	struct timer_list timer;
	struct task_struct *task;
};

struct cpu_timer {
	struct timerqueue_node node;
	void *head;
	struct pid *pid;
};

struct alarm {
	struct hrtimer timer;
};

struct kernel_siginfo {
	int si_signo, si_errno, si_code;
};

struct sigqueue {
	struct list_head list;
	struct kernel_siginfo info;
};

struct k_itimer {
	struct hlist_node list;
	int it_id;
	int it_clock;
	int it_sigev_notify;
	struct signal_struct *it_signal;
	int it_status;
	__s64 it_overrun;
	__s64 it_overrun_last;
	__s64 it_interval;
	struct pid *it_pid;
	struct sigqueue sigq;
	union {
		struct {
			struct hrtimer timer;
		} real;
		struct cpu_timer cpu;
		struct {
			struct alarm alarmtimer;
		} alarm;
	} it;
};

struct k_itimer___before_6_13 {
	int it_active;
	int it_requeue_pending;
	struct sigqueue *sigq;
};

struct cpu_itimer {
	__u64 expires;
	__u64 incr;
};

struct task_cputime_atomic {
	atomic64_t utime, stime, sum_exec_runtime;
};

struct thread_group_cputimer {
	struct task_cputime_atomic cputime_atomic;
};

/* --- signals -------------------------------------------------------------------------------- */

struct sigpending {
	struct list_head list;
	sigset_t signal;
};

struct sigaction {
	void *sa_handler;
};

struct k_sigaction {
	struct sigaction sa;
};

struct sighand_struct {
	struct k_sigaction action[64];
};

struct signal_struct {
	int nr_threads;
	struct sigpending shared_pending;
	int group_exit_code;
	int group_stop_count;
	unsigned int flags;
	unsigned int is_child_subreaper : 1;
	unsigned int timer_create_restore_ids : 1; /* since 6.16 */
	struct hlist_head posix_timers;            /* a list_head before 6.12 */
	struct hrtimer real_timer;
	__s64 it_real_incr;
	struct cpu_itimer it[2];
	struct thread_group_cputimer cputimer;
	short oom_score_adj;
};

struct signal_struct___before_6_14 {
	int next_posix_timer_id;
};

struct signal_struct___since_6_14 {
	atomic_t next_posix_timer_id;
};

/* --- memory and rights ------------------------------------------------------------------------ */

typedef struct {
	unsigned long words[1];
} mm_flags_t;

struct mm_struct {
	unsigned long def_flags;
	unsigned long start_code, end_code, start_data, end_data;
	unsigned long start_brk, brk, start_stack;
	unsigned long arg_start, arg_end, env_start, env_end;
	atomic_t membarrier_state;
	mm_flags_t flags;
};

struct mm_struct___before_6_18 {
	unsigned long flags;
};

typedef struct {
	unsigned int val;
} kuid_t;

typedef struct {
	unsigned int val;
} kgid_t;

typedef struct {
	__u64 val;
} kernel_cap_t;

struct cred {
	kuid_t uid, suid, euid, fsuid;
	kgid_t gid, sgid, egid, fsgid;
	unsigned int securebits;
	kernel_cap_t cap_inheritable, cap_permitted, cap_effective, cap_bset, cap_ambient;
};

/* --- registers ---------------------------------------------------------------------------------- */

struct pt_regs {
	unsigned long r15;
};

union fpregs_state {
	__u64 words[8];
};

struct fpstate {
	unsigned int size;
	__u64 xfeatures;
	__u64 user_xfeatures;
	union fpregs_state regs;
};

struct fpu {
	struct fpstate *fpstate;
};

struct desc_struct {
	__u16 limit0;
};

struct thread_struct {
	struct desc_struct tls_array[3];
	unsigned long sp;
	unsigned short es, ds, fsindex, gsindex;
	unsigned long fsbase, gsbase;
	unsigned long iopl_emul;
	__u32 pkru;
};

/* --- the thread ----------------------------------------------------------------------------------- */

struct restart_block {
	void *fn;
	union {
		struct {
			__u32 *uaddr;
			__u32 val;
			__u32 flags;
			__u32 bitset;
			__u64 time;
			__u32 *uaddr2;
		} futex;
		struct {
			int clockid;
			void *rmtp;
			__u64 expires;
		} nanosleep;
		struct {
			void *ufds;
			int nfds;
			int has_timeout;
			unsigned long tv_sec;
			unsigned long tv_nsec;
		} poll;
	};
};

struct seccomp {
	int mode;
};

struct syscall_user_dispatch {
	char *selector;
	unsigned long offset;
	unsigned long len;
};

struct sched_entity {
	__u64 exec_start;
	__u64 sum_exec_runtime;
};

struct thread_info {
	unsigned long flags;
	unsigned long syscall_work;
	__u32 status;
};

struct sysv_sem {
	void *undo_list;
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int __state;
	void *stack;
	unsigned int flags;
	unsigned int ptrace;
	int on_cpu;
	struct sched_entity se;
	struct mm_struct *mm;
	int exit_state;
	int exit_signal;
	int pdeath_signal;
	unsigned long jobctl;
	unsigned int personality;
	unsigned int restore_sigmask : 1;
	unsigned long atomic_flags;
	struct restart_block restart_block;
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	void *vfork_done;
	struct list_head children;
	int *set_child_tid;
	int *clear_child_tid;
	__u64 utime, stime;
	unsigned long nvcsw, nivcsw;
	__u64 start_time;
	__u64 start_boottime;
	const struct cred *real_cred;
	char comm[16];
	struct sysv_sem sysvsem;
	void *io_uring;
	struct signal_struct *signal;
	struct sighand_struct *sighand;
	sigset_t blocked, real_blocked, saved_sigmask;
	struct sigpending pending;
	unsigned long sas_ss_sp;
	unsigned long sas_ss_size;
	unsigned int sas_ss_flags;
	struct seccomp seccomp;
	struct syscall_user_dispatch syscall_dispatch;
	void *robust_list;
	void *rseq;
	__u32 rseq_len, rseq_sig;
	__u64 timer_slack_ns, default_timer_slack_ns;
	struct thread_struct thread;
};

struct rseq_data {
	void *usrptr;
	__u32 len;
	__u32 sig;
};

struct task_struct___before_6_16 {
	struct {
		struct fpu fpu;
	} thread;
};

struct task_struct___since_6_19 {
	struct rseq_data rseq;
};

#pragma clang attribute pop

#endif
