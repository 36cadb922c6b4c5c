/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that wait for a time: where their time stands among the arguments.
 */
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "arch/arch.h"
#include "arch/x86_64/x86_64.h"

struct kage_timed_call kage_arch_timed_call(uint64_t number, const uint64_t args[6])
{
	switch (number) {
	case SYS_nanosleep:
		return (struct kage_timed_call){ .kind = KAGE_TIME_POINTER, .arg = 0 };
	case SYS_clock_nanosleep:
		if (args[1] & TIMER_ABSTIME)
			break;
		return (struct kage_timed_call){ .kind = KAGE_TIME_POINTER, .arg = 2 };
	case SYS_poll:
		return (struct kage_timed_call){ .kind = KAGE_TIME_MS, .arg = 2 };
	case SYS_futex:
		if ((args[1] & FUTEX_CMD_MASK) != FUTEX_WAIT || !args[3])
			break;
		return (struct kage_timed_call){ .kind = KAGE_TIME_POINTER, .arg = 3 };
	default:
		break;
	}
	return (struct kage_timed_call){ .kind = KAGE_TIME_NONE };
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

/* Most wrappers of system calls are `mov $number, %eax; syscall`. */
bool kage_arch_number_before(const uint8_t code[KAGE_ARCH_CODE_BEFORE], uint64_t *ret_number)
{
	uint32_t number;

	if (code[0] != 0xb8)
		return false;
	memcpy(&number, code + 1, sizeof(number));
	*ret_number = number;
	return true;
}
