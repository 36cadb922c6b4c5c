/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target: a live process seen from outside, and the scope in which it stands still.
 *
 * A target is opened, frozen, thawed, closed. Frozen means that no thread of it runs: each is stopped
 * by ptrace or, where the freeze allows it, was asleep and is left so; whether all slept on is known in the
 * end (kage_target_still()). Thawing and closing always work, on every path, and leave each
 * thread as it was: its registers, its signal mask, stopped by a signal if it was before.
 *
 *	opened  --kage_target_freeze-->  frozen  --kage_target_thaw-->  opened
 *
 * While a target is frozen all signals of the calling thread are blocked, so that nothing can stop
 * kage at that time.
 */
#ifndef TARGET_TARGET_H
#define TARGET_TARGET_H

#include <signal.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "arch/arch.h"
#include "base/ctx.h"
#include "base/types.h"

/* What ended a wait. */
struct kage_stop {
	enum {
		STOP_EVENT,   /* PTRACE_EVENT_STOP: interrupted, or job control */
		STOP_SIGNAL,  /* about to receive `signal` */
		STOP_SYSCALL, /* at the beginning or end of a system call */
		STOP_CLONE,   /* about to go on after clone; other events likewise */
		STOP_ENDED,   /* the thread is no more */
	} what;
	int signal;
	int status; /* as of waitpid */
};

struct kage_thread {
	pid_t tid;
	pid_t inner_tid;   /* in its own PID namespace, when that is not ours; else 0 */
	bool attached;     /* ptrace knows it */
	bool interrupted;  /* and was asked to stop, by PTRACE_INTERRUPT */
	bool stopped;      /* it stands */
	bool job_stopped;  /* it stood already, by SIGSTOP or the like */
	bool asleep;       /* it is not stopped, because it sleeps; ptrace does not know it */
	bool restless;     /* it was left asleep once and woke up */
	bool kept;         /* it stands until its holder lets it go (target/held.h) */
	bool executing;    /* at the end of its call it is another program */
	bool has_met;      /* while others were being stopped: */
	int event;         /* will stop it in its program (target/sender.h); -1: none */
	int event_signal;  /* by this */
	unsigned n_events; /* so often it had one */
	const struct kage_taskthread *seen; /* in t->info; NULL without a reader */
	struct kage_stop met;
	uint64_t sigmask;      /* as of the freeze */
	struct kage_regs regs; /* as of the freeze, general and extended */
};

enum { SENDER_SIGNALS = 3 };

/* Programs that send a thread a signal, by the signal; target/sender.h. */
struct kage_sender {
	int programs[SENDER_SIGNALS]; /* -1: not loaded */
	int own_event;                /* of the caller, does nothing; -1: not ready */
};

struct kage_target {
	struct kage_ctx *ctx; /* borrowed */
	pid_t pid;
	pid_t inner_pid; /* in its own PID namespace, when that is not ours; else 0 */
	int pidfd;
	int proc_fd;                  /* /proc/PID */
	int mem_fd;                   /* /proc/PID/mem, for reading and, where allowed, writing */
	uint64_t start_ticks;         /* since boot; with the PID it names a process for ever */
	struct kage_thread **threads; /* the leader first */
	size_t n_threads;
	size_t n_own; /* as of the freeze, the first in `threads`: the program's, not the kernel's */
	const struct kage_taskread *reader; /* borrowed, as long as it is frozen; may be NULL */
	struct kage_taskinfo *info;         /* all threads as of the freeze; NULL: not to be had */
	bool stop_all;                      /* none is left asleep */
	bool stop_resumed;                  /* none in a call that the kernel resumes */
	bool frozen;
	bool gone;       /* it ended while we held it */
	bool stop_again; /* a SIGSTOP came for a thread in a batch; it gets it when it goes on */
	bool held;       /* its threads stay traced when it is thawed (target/held.h) */
	bool held_calls; /* at each system call */
	bool leaving;    /* they are let go one by one */
	uint64_t held_signals;  /* that its holder wants to see */
	bool ours;              /* a stub of ours: dies with us, and need not be put back */
	unsigned attempts;      /* to freeze it at one instant, this one included */
	uint64_t paused_ns;     /* that any of its threads stood, in earlier attempts */
	uint64_t stopped_at_ns; /* CLOCK_MONOTONIC: the first of its threads; 0: none */
	sigset_t caller_mask;   /* of our own thread, to be set again by thaw */
	bool chld_eaten;        /* a SIGCHLD of the caller may have been consumed while waiting */
	uint64_t zone_start, zone_end; /* behind the vDSO's code: only a runner executes there */
	uint64_t tail_start;           /* behind all of its contents; 0: no room */
	struct kage_sender sender;
	struct kage_site *site; /* where batches run, NULL before the first (target/batch.h) */
};

/** Opens the process PID, which the caller must be allowed to trace. A process that somebody else
 *  traces is refused with KAGE_BUSY, naming the tracer. Kernel threads and zombies are refused. */
struct kage_err *kage_target_open(struct kage_ctx *ctx, pid_t pid, struct kage_target **ret_target)
	_must_check_;

/** Thaws if need be, and frees; NULL is fine. */
void kage_target_close(struct kage_target *t);

struct kage_taskread;

/** Gets ready to stop the threads of T: what takes long and can be done before. */
struct kage_err *kage_target_get_ready(struct kage_target *t, const struct kage_taskread *reader)
	_must_check_;

struct kage_freeze {
	const struct kage_taskread *reader; /* NULL: every thread is stopped */
	bool stop_all;                      /* also those that sleep */
	bool stop_resumed; /* also those that sleep in a call which the kernel resumes */
	uint64_t span_ns;  /* how long it is going to last, about */
};

/** Stops every thread, but those that sleep and may be left so. Of a target that is frozen already it makes
 *  another attempt, with what was learnt of its threads. On failure all go on as before. Fails with KAGE_LIMIT when some thread cannot be
 *  stopped in time (in uninterruptible sleep, or waiting for a vfork child). */
struct kage_err *kage_target_freeze(struct kage_target *t, const struct kage_freeze *how)
	_must_check_;

/** An own thread of T, frozen, that stands and could run a batch; NULL when all sleep. */
struct kage_thread *kage_target_who_stands(const struct kage_target *t);

/** Freezes T so that a thread stands, to run a batch, which should not feel it: one that runs; else one that
 *  sleeps in a call which the kernel resumes (those are stopped at the second attempt); only where there is
 *  neither, any. *RET_THREAD is that one; registers are read. T is frozen also after an error, and wants
 *  to be thawed. STOP_ALL leaves none asleep from the beginning. TID: only that one will do; 0: any. */
struct kage_err *kage_target_stop_one(struct kage_target *t, const struct kage_taskread *reader,
				      pid_t tid, bool stop_all, uint64_t span_ns,
				      struct kage_thread **ret_thread) _must_check_;

/** While THREAD of T, frozen, goes on with a batch that may take long: all others go on, too. */
void kage_target_let_others_run(struct kage_target *t, const struct kage_thread *thread);

/** Freezes those again. After an error THREAD stands still, and some of the others may. */
struct kage_err *kage_target_hold_others(struct kage_target *t) _must_check_;

/** For how long T, frozen, has had a thread that stood since it was first frozen. */
uint64_t kage_target_pause_ns(const struct kage_target *t);

/** Whether every thread that was left asleep is so still, without a break. Otherwise what was read of the
 *  target is not of one instant; the next kage_target_freeze() stops those that woke up. */
struct kage_err *kage_target_still(struct kage_target *t, bool *ret_still) _must_check_;

/** Reads the registers and signal masks of all threads. */
struct kage_err *kage_target_read_threads(struct kage_target *t) _must_check_;

/** Where THREAD, which stands, has its struct rseq, whose numbers the kernel writes each time that it goes on after a
 *  break; 0: nowhere, or the kernel does not tell. */
uint64_t kage_thread_rseq(const struct kage_thread *thread);

/** Learns the number of THREAD in its own PID namespace, when that is not ours. */
struct kage_err *kage_thread_learn_inner(const struct kage_target *t, struct kage_thread *thread)
	_must_check_;

/** Gives THREAD, which stands, the signal mask MASK, now and when it goes on. */
struct kage_err *kage_thread_set_mask(struct kage_thread *thread, uint64_t mask) _must_check_;

/** Lets every thread go on. With KILL the process is ended instead. */
void kage_target_thaw(struct kage_target *t, bool kill);

/** Reads exactly SIZE bytes at address FROM, also where the target itself may not read. */
struct kage_err *kage_target_read(struct kage_target *t, kage_addr from, void *to, size_t size)
	_must_check_;

/** The same for N ranges at once: THERE[i] (addresses in the target) to HERE[i] of the same length. At most
 *  IOV_MAX of them. */
struct kage_err *kage_target_readv(struct kage_target *t, const struct iovec *here,
				   const struct iovec *there, size_t n) _must_check_;

/** Writes exactly SIZE bytes at address TO, also where the target itself may not write (private
 *  mappings only). The fast path needs the mapping to be writable. */
struct kage_err *kage_target_write(struct kage_target *t, kage_addr to, const void *from,
				   size_t size) _must_check_;
struct kage_err *kage_target_write_forced(struct kage_target *t, kage_addr to, const void *from,
					  size_t size) _must_check_;

/** Duplicates descriptor FD of the target into this process (pidfd_getfd(2)), close-on-exec. */
struct kage_err *kage_target_get_fd(struct kage_target *t, int fd, int *ret_fd) _must_check_;

/** The name of its command; "?" when it has ended. */
void kage_target_comm(const struct kage_target *t, char ret_comm[17]);

/** KAGE_GONE if the target has ended. */
struct kage_err *kage_target_alive(const struct kage_target *t) _must_check_;

/** T has executed another program just now: what was known of its memory is forgotten. */
struct kage_err *kage_target_renew(struct kage_target *t) _must_check_;

/** Whether T lives but has executed another program since it was opened: its memory is not the one that
 *  we hold. */
bool kage_target_replaced(const struct kage_target *t);

/** The thread with number TID, or NULL. */
struct kage_thread *kage_target_thread(struct kage_target *t, pid_t tid);

/* --- for the files of this folder and for restore -------------------------------------------- */

/** Waits until thread TID stops, at most TIMEOUT_NS; KAGE_LIMIT after that. */
struct kage_err *kage_target_wait(struct kage_target *t, pid_t tid, uint64_t timeout_ns,
				  struct kage_stop *ret_stop) _must_check_;

/** Whether thread TID has stopped or ended by now, and how. */
struct kage_err *kage_target_poll(pid_t tid, struct kage_stop *ret_stop, bool *ret_changed)
	_must_check_;

/** Sleeps until some traced thread may have changed, for at most NS (less than a second). */
void kage_target_nap(struct kage_target *t, long ns);

/** Notes that from now on some thread of T stands. */
void kage_target_note_stop(struct kage_target *t);

/** Traces THREAD without stopping it; thread->attached is false afterwards when it has ended. */
struct kage_err *kage_target_seize(struct kage_target *t, struct kage_thread *thread) _must_check_;

/** Lets THREAD go to the beginning or the end of a system call, or to the event of a clone. */
struct kage_err *kage_target_step_syscall(struct kage_target *t, struct kage_thread *thread)
	_must_check_;

/** Brings THREAD from any stop to one inside signal handling, without running an instruction of it:
 *  only from there the kernel makes an interrupted system call again as it would have. */
struct kage_err *kage_target_settle(struct kage_target *t, struct kage_thread *thread) _must_check_;

/** Blocks all signals of this thread; kage_target_thaw() undoes it. */
void kage_target_block_signals(struct kage_target *t);
void kage_target_unblock_signals(struct kage_target *t);

/** A new entry in the list of threads. */
struct kage_thread *kage_target_add_thread(struct kage_target *t, pid_t tid);
void kage_thread_free(struct kage_thread *thread);

/** An empty target for a process that is being made; see restore/stub.c. */
struct kage_err *kage_target_adopt(struct kage_ctx *ctx, pid_t pid, int pidfd,
				   struct kage_target **ret_target) _must_check_;

enum {
	KAGE_STOP_TIMEOUT_MS = 2000,
	KAGE_STOP_NAP_NS = 10 * 1000 * 1000,
	KAGE_STOP_SPIN_NS = 100 * 1000, /* a stop takes some microseconds: at first look often */
};

#endif
