/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that sleep in a system call and are not stopped: what their call is worth in another life,
 * and their registers, as a stop would have shown them.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "arch/arch.h"
#include "arch/x86_64/x86_64.h"
#include "arch/x86_64/xsave.h"
#include "sys/taskread.h"

static enum kage_sleep futex_sleep(uint64_t op)
{
	switch (op & FUTEX_CMD_MASK) {
	case FUTEX_WAIT:
	case FUTEX_WAIT_BITSET:
	case FUTEX_LOCK_PI:
	case FUTEX_LOCK_PI2:
		return KAGE_SLEEP_AGAIN;
	default:
		return KAGE_SLEEP_OTHER;
	}
}

enum kage_sleep kage_arch_sleep(uint64_t number, const uint64_t args[6])
{
	switch (number) {
	case SYS_poll:
	case SYS_ppoll:
	case SYS_select:
	case SYS_pselect6:
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
	case SYS_futex_waitv:
	case SYS_pause:
	case SYS_rt_sigsuspend:
	case SYS_rt_sigtimedwait:
	case SYS_wait4:
	case SYS_waitid:
	case SYS_accept:
	case SYS_accept4:
	case SYS_connect:
	case SYS_open: /* of a FIFO */
	case SYS_openat:
	case SYS_msgrcv:
	case SYS_msgsnd:
	case SYS_mq_timedsend:
	case SYS_mq_timedreceive:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_flock:
	case SYS_fcntl: /* F_SETLKW and F_OFD_SETLKW are its only commands that sleep */
	case SYS_restart_syscall:
	case SYS_readv:
		return KAGE_SLEEP_AGAIN;
	case SYS_futex:
		return futex_sleep(args[1]);
	case SYS_io_getevents:
	case SYS_io_pgetevents:
		/* Of several events some may have been handed over. */
		return args[1] <= 1 ? KAGE_SLEEP_AGAIN : KAGE_SLEEP_OTHER;
	case SYS_recvmmsg:
		return args[2] <= 1 ? KAGE_SLEEP_AGAIN : KAGE_SLEEP_OTHER;
	case SYS_recvmsg:
		return args[2] & MSG_WAITALL ? KAGE_SLEEP_OTHER : KAGE_SLEEP_AGAIN;
	case SYS_recvfrom:
		return args[3] & MSG_WAITALL ? KAGE_SLEEP_TRANSFER : KAGE_SLEEP_AGAIN;
	case SYS_read:
		return KAGE_SLEEP_AGAIN;
	case SYS_write:
	case SYS_sendto:
		return KAGE_SLEEP_TRANSFER;
	default:
		return KAGE_SLEEP_OTHER;
	}
}

bool kage_arch_stop_is_felt(uint64_t number, const uint64_t args[6], bool timed)
{
	switch (number) {
	case SYS_select:
	case SYS_pselect6:
	case SYS_ppoll:
		return timed; /* with EINTR, where the time left cannot be written back */
	case SYS_recvfrom:
		return timed || args[3] & MSG_WAITALL;
	case SYS_recvmsg:
		return timed || args[2] & MSG_WAITALL;
	case SYS_recvmmsg:
		return timed || args[2] > 1;
	case SYS_read:
	case SYS_readv:
	case SYS_accept:
	case SYS_accept4:
	case SYS_connect:
		return timed; /* a socket with a timeout; without one the kernel makes the call again */
	case SYS_write:
	case SYS_sendto:
		return timed || args[2] > PIPE_BUF; /* up to that it is all or nothing */
	case SYS_writev:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_sendfile:
	case SYS_splice:
	case SYS_tee:
	case SYS_vmsplice:
		return true;
	default:
		return kage_x86_ends_with_eintr(number);
	}
}

static_assert(sizeof(struct kage_task_regs) == sizeof(struct user_regs_struct),
	      "the task iterator's registers are those of ptrace");

struct kage_err *kage_arch_task_regs(const struct kage_taskthread *t, struct kage_regs *ret_regs)
{
	memcpy(&ret_regs->gp, &t->regs, sizeof(ret_regs->gp));
	ret_regs->gp.rax = t->transfer.done ? t->transfer.done : (uint64_t)-ERESTARTNOINTR;
	return kage_x86_xsave_standard(&t->xsave, t->xsave_area, ret_regs->xstate,
				       sizeof(ret_regs->xstate), &ret_regs->xstate_size);
}
