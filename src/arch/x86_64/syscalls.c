/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each system call is like: where its arguments stand, how it waits for a time, what becomes of it
 * when it is interrupted.
 */
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#include "arch/arch.h"
#include "arch/x86_64/x86_64.h"

static struct kage_timed_call in_ms(const uint64_t args[6], int arg)
{
	/* Negative means for ever. */
	return (struct kage_timed_call){ .kind = (int32_t)args[arg] < 0 ? KAGE_TIME_NONE
									: KAGE_TIME_MS,
					 .arg = arg };
}

static struct kage_timed_call in_timespec(const uint64_t args[6], int arg)
{
	return (struct kage_timed_call){ .kind = args[arg] ? KAGE_TIME_TIMESPEC : KAGE_TIME_NONE,
					 .arg = arg };
}

/* fs/select.c, poll_select_finish(): what is left is written to the program's memory at the end, unless
 * the program has asked for the way of other systems (personality(2), STICKY_TIMEOUTS). */
static struct kage_timed_call written_back(struct kage_timed_call call)
{
	call.written_back = call.kind != KAGE_TIME_NONE;
	return call;
}

/* kernel/time/hrtimer.c, fs/select.c, kernel/futex/waitwake.c: who calls set_restart_fn(). */
static struct kage_timed_call with_restart_block(struct kage_timed_call call)
{
	call.restart_block = call.kind != KAGE_TIME_NONE;
	return call;
}

static struct kage_timed_call of_socket(int option)
{
	return (struct kage_timed_call){ .kind = KAGE_TIME_SOCKET, .arg = 0, .option = option };
}

static struct kage_timed_call clock_nanosleep_time(const uint64_t args[6])
{
	if (args[1] & TIMER_ABSTIME)
		return (struct kage_timed_call){ .kind = KAGE_TIME_NONE };
	return with_restart_block(in_timespec(args, 2));
}

/* All other operations wait until an instant. */
static struct kage_timed_call futex_time(const uint64_t args[6])
{
	if ((args[1] & FUTEX_CMD_MASK) != FUTEX_WAIT)
		return (struct kage_timed_call){ .kind = KAGE_TIME_NONE };
	return with_restart_block(in_timespec(args, 3));
}

/* The timeouts of sockets count for the call as a whole. recvmmsg's own argument is looked at between
 * messages only: nothing wakes it by that time (recvmmsg(2), BUGS). */
static struct kage_timed_call socket_time(uint64_t number)
{
	switch (number) {
	case SYS_read:
	case SYS_readv:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_accept:
	case SYS_accept4:
		return of_socket(SO_RCVTIMEO);
	case SYS_write:
	case SYS_writev:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_sendfile:
	case SYS_connect:
		return of_socket(SO_SNDTIMEO);
	default:
		return (struct kage_timed_call){ .kind = KAGE_TIME_NONE };
	}
}

struct kage_timed_call kage_arch_timed_call(uint64_t number, const uint64_t args[6])
{
	switch (number) {
	case SYS_nanosleep:
		return with_restart_block(in_timespec(args, 0));
	case SYS_clock_nanosleep:
		return clock_nanosleep_time(args);
	case SYS_futex:
		return futex_time(args);
	case SYS_poll:
		return with_restart_block(in_ms(args, 2));
	case SYS_ppoll:
		return written_back(in_timespec(args, 2));
	case SYS_pselect6:
		return written_back(in_timespec(args, 4));
	case SYS_select:
		return (struct kage_timed_call){ .kind = args[4] ? KAGE_TIME_TIMEVAL
								 : KAGE_TIME_NONE,
						 .arg = 4,
						 .written_back = args[4] != 0 };
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
		return in_ms(args, 3);
	case SYS_epoll_pwait2:
	case SYS_semtimedop:
		return in_timespec(args, 3);
	case SYS_rt_sigtimedwait:
		return in_timespec(args, 2);
	case SYS_io_getevents:
	case SYS_io_pgetevents:
		return in_timespec(args, 4);
	default:
		return socket_time(number);
	}
}

/* The registers that carry arguments of a system call, in order. */
static unsigned long long *argument(struct user_regs_struct *r, int i)
{
	unsigned long long *const at[6] = {
		(void *)&r->rdi, (void *)&r->rsi, (void *)&r->rdx,
		(void *)&r->r10, (void *)&r->r8,  (void *)&r->r9,
	};
	return at[i];
}

void kage_arch_set_arg(struct kage_regs *regs, int i, uint64_t value)
{
	*argument(&regs->gp, i) = value;
}

uint64_t kage_arch_arg(const struct kage_regs *regs, int i)
{
	return *argument((struct user_regs_struct *)&regs->gp, i);
}

void kage_arch_set_number(struct kage_regs *regs, uint64_t number)
{
	regs->gp.orig_rax = number;
}

/* At any stop, though nothing has happened that the program could see. */
bool kage_x86_ends_with_eintr(uint64_t number)
{
	switch (number) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_rt_sigtimedwait:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_io_getevents:
	case SYS_io_pgetevents:
		return true;
	default:
		return false;
	}
}

/* Calls that can simply be made again after EINTR. Those on sockets end with it only when they have a
 * timeout (SO_RCVTIMEO). connect and close are not among them. */
static bool can_be_made_again(uint64_t number)
{
	switch (number) {
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_read:
	case SYS_accept:
	case SYS_accept4:
		return true;
	default:
		return kage_x86_ends_with_eintr(number);
	}
}

bool kage_arch_undo_eintr(struct kage_regs *regs)
{
	uint64_t number;

	if (!kage_arch_in_syscall(regs, &number) || -(int64_t)regs->gp.rax != EINTR ||
	    !can_be_made_again(number))
		return false;
	regs->gp.rax = (uint64_t)-ERESTARTNOHAND;
	return true;
}

void kage_arch_shorten_wait(struct kage_regs *regs, uint64_t left_ns)
{
	const uint64_t ms = (left_ns + 999999) / 1000000;
	uint64_t number;

	if (!kage_arch_in_syscall(regs, &number) ||
	    (number != SYS_epoll_wait && number != SYS_epoll_pwait))
		return;
	if ((int32_t)regs->gp.r10 > 0 && ms < (uint32_t)regs->gp.r10)
		regs->gp.r10 = ms;
}

/* Of all calls only these are gone on with by restart_syscall. */
static bool has_restart_block(uint32_t number)
{
	return number == SYS_nanosleep || number == SYS_clock_nanosleep || number == SYS_poll ||
	       number == SYS_futex;
}

/* Most wrappers of system calls have `mov $number, %eax` right before the instruction, or a few
 * others in between. */
static bool number_in_code(const uint8_t code[KAGE_ARCH_CODE_BEFORE], uint64_t *ret_number)
{
	uint32_t number;

	for (size_t i = KAGE_ARCH_CODE_BEFORE - sizeof(number); i-- > 0;) {
		memcpy(&number, code + i + 1, sizeof(number));
		if (code[i] != 0xb8 || !has_restart_block(number))
			continue;
		*ret_number = number;
		return true;
	}
	return false;
}

bool kage_arch_restart_number(enum kage_restart kind, const uint64_t args[6],
			      const uint8_t code[KAGE_ARCH_CODE_BEFORE], uint64_t *ret_number)
{
	enum { CLOCKS = 16 }; /* MAX_CLOCKS of linux/time.h */

	switch (kind) {
	case KAGE_RESTART_NANOSLEEP:
		/* The one begins with a clock, the other with an address; none is that low. */
		*ret_number = args[0] < CLOCKS ? SYS_clock_nanosleep : SYS_nanosleep;
		return true;
	case KAGE_RESTART_CPU_NANOSLEEP:
	case KAGE_RESTART_ALARM_NANOSLEEP:
		*ret_number = SYS_clock_nanosleep;
		return true;
	case KAGE_RESTART_POLL:
		*ret_number = SYS_poll;
		return true;
	case KAGE_RESTART_FUTEX:
		*ret_number = SYS_futex;
		return true;
	default:
		return number_in_code(code, ret_number);
	}
}

/* --- interrupted ---------------------------------------------------------------------------------- */

static bool is_futex_wait(const uint64_t args[6])
{
	uint64_t op = args[1] & FUTEX_CMD_MASK;

	return op == FUTEX_WAIT || op == FUTEX_WAIT_BITSET;
}

/* A handler ends these with EINTR, whatever SA_RESTART says (signal(7), "Interruption of system calls and
 * library functions by signal handlers"). */
static bool never_restarted(const Kage__SyscallState *state, const uint64_t args[6])
{
	switch (state->number) {
	case SYS_pause:
	case SYS_rt_sigsuspend:
	case SYS_poll:
	case SYS_ppoll:
	case SYS_select:
	case SYS_pselect6:
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
	case SYS_msgrcv:
	case SYS_msgsnd:
		return true;
	case SYS_futex:
		return is_futex_wait(args) && args[3];
	default:
		/* With a time left: sockets that have a timeout. */
		return kage_x86_ends_with_eintr(state->number) ||
		       state->restart == KAGE__SYSCALL_STATE__RESTART__TIME_LEFT;
	}
}

/* A handler without SA_RESTART ends these with EINTR. All calls that are in neither list can only be made
 * again: for them nothing is known that a handler would change. */
static bool may_be_restarted(uint64_t number, const uint64_t args[6])
{
	switch (number) {
	case SYS_read:
	case SYS_readv:
	case SYS_write:
	case SYS_writev:
	case SYS_ioctl:
	case SYS_open:
	case SYS_openat:
	case SYS_wait4:
	case SYS_waitid:
	case SYS_accept:
	case SYS_accept4:
	case SYS_connect:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_flock:
	case SYS_fcntl:
	case SYS_mq_timedsend:
	case SYS_mq_timedreceive:
	case SYS_futex_waitv:
		return true;
	case SYS_futex:
		return is_futex_wait(args);
	default:
		return false;
	}
}

/* What the kernel returns inside itself for the call when it is interrupted; 0: not known. */
static int restart_error(const Kage__SyscallState *state, const struct kage_regs *regs)
{
	uint64_t args[6];

	for (int i = 0; i < 6; i++)
		args[i] = kage_arch_arg(regs, i);
	if (never_restarted(state, args))
		return ERESTARTNOHAND;
	return may_be_restarted(state->number, args) ? ERESTARTSYS : 0;
}

bool kage_arch_interrupt_call(const Kage__SyscallState *state, struct kage_regs *regs)
{
	int error;

	if (!state || !state->in_progress || state->restart == KAGE__SYSCALL_STATE__RESTART__NONE ||
	    regs->gp.rax != state->number)
		return false;
	error = restart_error(state, regs);
	if (!error)
		return false;
	regs->gp.orig_rax = state->number;
	regs->gp.rax = (uint64_t)-error;
	regs->gp.rip += KAGE_ARCH_SYSCALL_BYTES;
	return true;
}
