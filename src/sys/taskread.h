/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel knows of the threads of one process, read without stopping, tracing or otherwise
 * touching any of them: a BPF iterator visits each thread and copies it out (bpf/task.bpf.c).
 *
 * A thread that slept from the beginning to the end of its visit is read exactly: registers, masks
 * and timers are those it will wake with. Of a thread that ran meanwhile only what changes seldom
 * can be used; kage_taskthread.asleep tells them apart. Two readings between which a thread did not
 * run are told by kage_taskthread_slept_on().
 *
 * Needs a kernel with BTF whose task iterator can be told the process (Linux 6.1), and CAP_BPF
 * with CAP_PERFMON, which root has.
 *
 * Not told, because the kernel does not keep it in a form that can be read from there: rseq_cs (it
 * lies in the target's memory, at kage_task_thread.rseq + 8), seccomp filters, mempolicy.
 */
#ifndef SYS_TASKREAD_H
#define SYS_TASKREAD_H

#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"
#include "sys/bpf/task_record.h"

/* What restart_syscall would go on with, by the kernel function that does it. */
enum kage_restart {
	KAGE_RESTART_NONE,
	KAGE_RESTART_NANOSLEEP, /* also clock_nanosleep */
	KAGE_RESTART_CPU_NANOSLEEP,
	KAGE_RESTART_ALARM_NANOSLEEP,
	KAGE_RESTART_POLL,
	KAGE_RESTART_FUTEX,
	KAGE_RESTART_OTHER,
};

/* The end of a sleep with a timeout, which the kernel keeps only on the sleeper's stack. */
struct kage_tasksleep {
	bool timed;            /* there is one */
	bool coarse;           /* it counts ticks (SO_RCVTIMEO and the like): right to one tick */
	int clock;             /* CLOCK_… that the timer runs on; monotonic when coarse */
	uint64_t deadline_ns;  /* on that clock, as asked for: without slack */
	uint64_t remaining_ns; /* from the moment of reading; 0: about to end */
};

/* How far a call that moves bytes to or from one buffer has come (read, write, recvfrom, sendto). */
struct kage_tasktransfer {
	bool known;
	uint64_t done, left; /* bytes */
};

struct kage_taskthread {
	struct kage_task_thread task;
	struct kage_task_creds creds;
	struct kage_task_regs regs;
	struct kage_task_pulse end; /* task.pulse is the beginning */
	bool asleep;                /* it slept from beginning to end: what is told here is exact */
	enum kage_restart restart_kind;
	struct kage_task_restart restart; /* see kage_taskthread_restarting() */
	struct kage_tasksleep sleep;
	struct kage_tasktransfer transfer;
	struct kage_task_signal *signals; /* pending for this thread, in order of arrival */
	size_t n_signals;
	bool signals_cut; /* there are more than KAGE_TASK_MAX_SIGNALS */
	struct kage_task_xsave xsave;
	uint8_t *
		xsave_area; /* xsave.bytes as the kernel keeps them (arch/x86_64/xsave.h); may be NULL */
};

/* Remaining time and interval; both 0: not armed. */
struct kage_taskitimer {
	uint64_t remaining_ns;
	uint64_t interval_ns;
};

struct kage_tasktimer {
	int id;
	int clock;
	int notify; /* SIGEV_… */
	int signo;
	uint64_t value;     /* sigev_value */
	pid_t tid;          /* SIGEV_THREAD_ID, as the target sees it; else 0 */
	bool pending;       /* expired; its signal waits to be taken */
	bool absolute_real; /* set to an instant of CLOCK_REALTIME: deadline_ns */
	bool unknown;       /* remaining_ns could not be found: the CPU time of another process */
	uint64_t remaining_ns; /* 0: not armed */
	uint64_t deadline_ns;  /* on its clock */
	uint64_t interval_ns;
	int64_t overrun;      /* since the signal that is pending */
	int64_t overrun_last; /* timer_getoverrun() */
};

struct kage_taskinfo {
	struct kage_task_process process;
	bool has_mm; /* false: every thread has ended or is ending */
	struct kage_task_mm mm;
	bool has_actions; /* false: a kernel that keeps them in a form we do not know */
	struct kage_task_action actions[KAGE_TASK_NSIG]; /* [n-1]: signal n */
	struct kage_taskitimer itimers[3];               /* ITIMER_REAL, _VIRTUAL, _PROF */
	struct kage_tasktimer *timers;
	size_t n_timers;
	bool timers_cut;                  /* there are more than KAGE_TASK_MAX_TIMERS */
	struct kage_task_signal *signals; /* pending for the process, in order of arrival */
	size_t n_signals;
	bool signals_cut;
	struct kage_taskthread *threads; /* at least one */
	size_t n_threads;
	bool torn; /* a list changed while it was read */
};

struct kage_taskread;

/** Gets the program ready. PINS is the directory of pins (sys/iter.h), KAGE_ITER_PINS unless in tests; NULL: load,
 *  and leave nothing behind. Fails with KAGE_PERM without the rights, KAGE_UNSUPPORTED when the kernel
 *  cannot. */
struct kage_err *kage_taskread_open(const char *pins, struct kage_taskread **ret_reader)
	_must_check_;

/** Whether the program was taken from its pin. */
bool kage_taskread_was_pinned(const struct kage_taskread *reader);

void kage_taskread_close(struct kage_taskread *reader);

/** Reads all threads of the process TGID (as the caller sees it). Fails with KAGE_GONE when there is
 *  none, KAGE_BUSY when its signals came and went too fast to be read, KAGE_UNSUPPORTED when the kernel
 *  cannot visit one process alone. The caller frees *ret_info. Any number of threads may read with
 *  one reader. */
struct kage_err *kage_taskread_read(const struct kage_taskread *reader, pid_t tgid,
				    struct kage_taskinfo **ret_info) _must_check_;

void kage_taskinfo_free(struct kage_taskinfo *info);

/** What the SIZE bytes at BUF, written by the iterator, say. TICK_NS is the length of a kernel tick.
 *  Pure; any bytes will do. KAGE_CORRUPT when they are not such a stream, KAGE_GONE when it is empty. */
struct kage_err *kage_taskinfo_parse(const void *buf, size_t size, uint64_t tick_ns,
				     struct kage_taskinfo **ret_info) _must_check_;

/** The thread TID, or NULL. */
struct kage_taskthread *kage_taskinfo_thread(struct kage_taskinfo *info, pid_t tid);

/** Whether the thread is inside a system call, and which: of the i386 table when *ret_compat. */
bool kage_taskthread_in_syscall(const struct kage_taskthread *t, uint64_t *ret_number,
				bool *ret_compat);

/** Whether its restart block is in use: it is inside restart_syscall. Else the block is stale. */
bool kage_taskthread_restarting(const struct kage_taskthread *t);

/** The signal mask outside of the call it sleeps in: sigsuspend, ppoll, pselect, epoll_pwait and
 *  sigtimedwait change the mask while they last. */
uint64_t kage_taskthread_sigmask(const struct kage_taskthread *t);

/** Whether the thread slept without a break from reading BEFORE to the later reading AFTER. */
bool kage_taskthread_slept_on(const struct kage_taskthread *before,
			      const struct kage_taskthread *after);

#endif
