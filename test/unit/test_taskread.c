/* SPDX-License-Identifier: Apache-2.0 */
/* Threads read without a stop: what is told is compared with what the child itself knows, or with
 * what ptrace says afterwards. */
#include "lib/asleep.h"

#include <elf.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>

#include "arch/x86_64/xsave.h"
#include "sys/iter.h"

/* --- one process with everything ------------------------------------------------------------------ */

static void on_signal(int signo)
{
	(void)signo;
}

static timer_t make_timer(int clock, int notify, int signo, int value, int flags, uint64_t in_s,
			  uint64_t every_s)
{
	struct sigevent ev = { .sigev_notify = notify, .sigev_signo = signo };
	struct itimerspec its = { { (time_t)every_s, 0 }, { (time_t)in_s, 0 } };
	struct timespec now;
	timer_t id;

	ev.sigev_value.sival_int = value;
	if (notify == SIGEV_THREAD_ID)
		ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (syscall(SYS_timer_create, clock, &ev, &id) < 0)
		return (timer_t)-1;
	if (flags & TIMER_ABSTIME) {
		clock_gettime(clock, &now);
		its.it_value.tv_sec += now.tv_sec;
		its.it_value.tv_nsec = now.tv_nsec;
	}
	syscall(SYS_timer_settime, id, flags, &its, NULL);
	return (timer_t)(intptr_t)(int)(intptr_t)id;
}

static void make_timers(struct truth *t)
{
	struct itimerval real = { { 7, 0 }, { FAR_S, 0 } }, cpu = { { 3, 0 }, { 50, 0 } };
	int64_t now = (int64_t)kage_clock_mono_ns();

	t->timers[0] = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 2, 77, 0, FAR_S, 5);
	t->timers[1] = make_timer(CLOCK_REALTIME, SIGEV_NONE, 0, 0, TIMER_ABSTIME, FAR_S, 0);
	t->timers[2] = make_timer(CLOCK_BOOTTIME, SIGEV_THREAD_ID, SIGUSR2, 78, 0, FAR_S, 0);
	t->timers[3] = make_timer(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGUSR2, 79, 0, FAR_S, 0);
	t->timers[4] = make_timer(CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, SIGUSR2, 80, 0, FAR_S, 0);
	t->timers[5] =
		make_timer(CLOCK_REALTIME, SIGEV_SIGNAL, SIGUSR2, 81, TIMER_ABSTIME, FAR_S, 0);
	t->timers[6] = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR2, 82, 0, 0, 0);
	t->deadline_ns = (uint64_t)now + FAR_S * S_NS;
	setitimer(ITIMER_REAL, &real, NULL);
	setitimer(ITIMER_VIRTUAL, &cpu, NULL);
	cpu.it_value.tv_sec = 60;
	setitimer(ITIMER_PROF, &cpu, NULL);
}

static void make_signals(void)
{
	siginfo_t info = { .si_code = SI_QUEUE, .si_signo = SIGUSR2 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int i = 1; i <= 3; i++)
		sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_int = 11 * i });
	info.si_value.sival_int = 99;
	syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGUSR2, &info);
}

static void everything(struct truth *t)
{
	static char altstack[16384];
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART | SA_NODEFER };
	stack_t ss = { .ss_sp = altstack, .ss_size = sizeof(altstack) };
	size_t len;

	sigaddset(&sa.sa_mask, SIGTERM);
	sigaction(SIGUSR1, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	sigaltstack(&ss, NULL);
	t->altstack = (uintptr_t)altstack;
	make_signals();
	make_timers(t);
	for (int i = 0; i < 64; i++)
		syscall(SYS_rt_sigaction, i + 1, NULL, &t->actions[i], 8);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_TIMERSLACK, 123456);
	prctl(PR_SET_KEEPCAPS, 1);
	prctl(PR_SET_NAME, "kage-every");
	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	t->words[0] =
		syscall(SYS_mlockall, MCL_FUTURE) == 0; /* sanitizers make the other do nothing */
	syscall(SYS_get_robust_list, 0, &t->robust, &len);
	t->rseq = (uintptr_t)__builtin_thread_pointer() + (uintptr_t)__rseq_offset;
	syscall(SYS_arch_prctl, 0x1003, &t->fs_base);
	t->brk = (uintptr_t)sbrk(0);
	t->ready = 1;
	for (;;)
		syscall(SYS_futex, &t->words[1], FUTEX_WAIT, 0, NULL, NULL, 0);
}

static const struct kage_tasktimer *find_timer(const struct kage_taskinfo *info, timer_t id)
{
	for (size_t i = 0; i < info->n_timers; i++)
		if (info->timers[i].id == (int)(intptr_t)id)
			return &info->timers[i];
	fail_msg("timer %d is not told", (int)(intptr_t)id);
	return NULL;
}

static void check_timers(const struct kage_taskinfo *info, const struct truth *t, pid_t pid)
{
	uint64_t left = t->deadline_ns - info->process.now_ns;
	const struct kage_tasktimer *k;

	assert_int_equal(info->n_timers, 7);
	for (int i = 0; i < 3; i++)
		near(find_timer(info, t->timers[i])->remaining_ns, left, 200 * MS);
	k = find_timer(info, t->timers[0]);
	assert_int_equal(k->clock, CLOCK_MONOTONIC);
	assert_int_equal(k->signo, SIGRTMIN + 2);
	assert_int_equal((int)k->value, 77);
	assert_int_equal(k->interval_ns, 5 * S_NS);
	assert_true(find_timer(info, t->timers[1])->notify == SIGEV_NONE);
	k = find_timer(info, t->timers[2]);
	assert_int_equal(k->notify, SIGEV_THREAD_ID);
	assert_int_equal(k->tid, pid);
	assert_int_equal(k->clock, CLOCK_BOOTTIME);
	for (int i = 3; i < 5; i++) {
		k = find_timer(info, t->timers[i]);
		assert_false(k->unknown);
		near(k->remaining_ns, FAR_S * S_NS, 100 * MS);
		assert_true(k->remaining_ns < FAR_S * S_NS);
		assert_int_equal((int)k->value, 76 + i);
	}
	k = find_timer(info, t->timers[5]);
	assert_true(k->absolute_real);
	near(k->deadline_ns, kage_clock_real_ns() + left, S_NS);
	assert_int_equal(find_timer(info, t->timers[6])->remaining_ns, 0);
	assert_false(find_timer(info, t->timers[0])->absolute_real);
	near(info->itimers[ITIMER_REAL].remaining_ns, left, 200 * MS);
	assert_int_equal(info->itimers[ITIMER_REAL].interval_ns, 7 * S_NS);
	near(info->itimers[ITIMER_VIRTUAL].remaining_ns, 50 * S_NS, 100 * MS);
	near(info->itimers[ITIMER_PROF].remaining_ns, 60 * S_NS, 100 * MS);
	assert_int_equal(info->itimers[ITIMER_PROF].interval_ns, 3 * S_NS);
}

static int signal_value(const struct kage_task_signal *s, int *ret_signo)
{
	siginfo_t info = { 0 };

	memcpy(&info, s->info, sizeof(s->info));
	*ret_signo = info.si_signo;
	return info.si_value.sival_int;
}

static void check_signals(const struct kage_taskinfo *info, const struct truth *t)
{
	const struct kage_taskthread *k = &info->threads[0];
	int signo;

	assert_true(info->has_actions);
	assert_memory_equal(info->actions, t->actions, sizeof(t->actions));
	assert_int_equal(info->actions[SIGUSR1 - 1].handler.v, (uintptr_t)on_signal);
	assert_int_equal(info->n_signals, 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(signal_value(&info->signals[i], &signo), 11 * (i + 1));
		assert_int_equal(signo, SIGRTMIN + 1);
	}
	assert_int_equal(k->n_signals, 1);
	assert_int_equal(signal_value(&k->signals[0], &signo), 99);
	assert_int_equal(signo, SIGUSR2);
	assert_false(info->signals_cut || k->signals_cut || info->timers_cut);
	assert_int_equal(kage_taskthread_sigmask(k), 1ull << (SIGUSR2 - 1) | 1ull << SIGRTMIN);
	assert_int_equal(k->task.altstack.v, t->altstack);
	assert_int_equal(k->task.altstack_bytes, 16384);
}

static void check_rest(const struct kage_taskinfo *info, const struct truth *t, pid_t pid)
{
	const struct kage_taskthread *k = &info->threads[0];
	uint64_t number;
	bool compat;

	assert_int_equal(k->task.tid, pid);
	assert_int_equal(k->task.tgid, pid);
	assert_string_equal(k->task.comm, "kage-every");
	assert_int_equal(k->task.timer_slack_ns, 123456);
	assert_int_equal(k->task.pdeath_signal, SIGKILL);
	assert_int_equal(k->task.exit_signal, SIGCHLD);
	assert_true(k->task.atomic_flags & 1);
	assert_true(k->creds.securebits & 1 << 4);
	assert_int_equal(k->creds.euid, geteuid());
	assert_int_equal(k->task.robust_list.v, t->robust);
	if (__rseq_size) {
		assert_int_equal(k->task.rseq.v, t->rseq);
		assert_true(k->task.rseq_bytes >= 20);
		assert_int_equal(k->task.rseq_signature, RSEQ_SIG);
	}
	assert_int_equal(k->regs.fs_base, t->fs_base);
	assert_true(kage_taskthread_in_syscall(k, &number, &compat));
	assert_int_equal(number, SYS_futex);
	assert_false(compat);
	assert_true(info->process.child_subreaper);
	assert_true(info->has_mm);
	assert_int_equal(info->mm.brk.v, t->brk);
	assert_int_equal(info->mm.flags & 3, 0);
	if (t->words[0])
		assert_true(info->mm.def_flags & 0x2000);
	assert_false(k->sleep.timed);
}

static void test_everything(void **state)
{
	struct truth *t = share();
	pid_t pid = start(everything, t);
	struct kage_taskinfo *info = read_asleep(*state, pid, t);

	assert_int_equal(info->n_threads, 1);
	check_signals(info, t);
	check_timers(info, t, pid);
	check_rest(info, t, pid);
	kage_taskinfo_free(info);
	stop(pid);
	munmap(t, sizeof(*t));
}

/* A timer that fired while its signal was blocked. */
static void expired_timer(struct truth *t)
{
	struct itimerspec its = { { 0, 20 * MS }, { 0, 1 } };
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2 };
	sigset_t set;
	timer_t id;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	timer_create(CLOCK_MONOTONIC, &ev, &id);
	timer_settime(id, 0, &its, NULL);
	usleep(100000);
	t->ready = 1;
	pause();
}

static void test_expired_timer(void **state)
{
	struct truth *t = share();
	pid_t pid = start(expired_timer, t);
	struct kage_taskinfo *info = read_asleep(*state, pid, t);
	int signo;

	assert_int_equal(info->n_timers, 1);
	assert_true(info->timers[0].pending);
	assert_true(info->timers[0].remaining_ns > 0);
	assert_true(info->timers[0].remaining_ns <= 20 * MS);
	assert_int_equal(info->n_signals, 1);
	signal_value(&info->signals[0], &signo);
	assert_int_equal(signo, SIGUSR2);
	kage_taskinfo_free(info);
	stop(pid);
	munmap(t, sizeof(*t));
}

/* --- registers ------------------------------------------------------------------------------------------ */

/* Sleeps in the futex at WORD with known values in registers that a call keeps. */
#define ASM_SLEEP(t, SETUP, ...)                                                          \
	__asm__ volatile(SETUP "mov $0x1111111111111111, %%rbx\n"                         \
			       "mov $0x2222222222222222, %%r12\n"                         \
			       "mov $202, %%eax\n"                                        \
			       "xor %%esi, %%esi\nxor %%edx, %%edx\nxor %%r10d, %%r10d\n" \
			       "syscall\n"                                                \
			 :                                                                \
			 : "D"(&(t)->words[1]), "r"(&(t)->words[8])                       \
			 : "rax", "rbx", "rcx", "rdx", "rsi", "r10", "r11", "r12",        \
			   "memory" __VA_ARGS__)

static void fill_words(struct truth *t)
{
	for (int i = 8; i < 64; i++)
		t->words[i] = 0x0101010101010101ull * (uint64_t)(i + 1);
	t->ready = 1;
}

static void with_plain(struct truth *t)
{
	fill_words(t);
	ASM_SLEEP(t, "");
}

static void with_sse(struct truth *t)
{
	uint32_t mxcsr = 0x1fa0;

	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	fill_words(t);
	ASM_SLEEP(t, "movdqu (%1), %%xmm5\n", , "xmm5");
}

static void with_x87(struct truth *t)
{
	fill_words(t);
	ASM_SLEEP(t, "fldpi\nfld1\n", , "st");
}

__attribute__((target("avx2"))) static void with_avx(struct truth *t)
{
	fill_words(t);
	ASM_SLEEP(t, "vmovdqu (%1), %%ymm3\nvmovdqu 32(%1), %%ymm15\n", , "xmm3", "xmm15");
}

__attribute__((target("avx512f"))) static void with_avx512(struct truth *t)
{
	fill_words(t);
	ASM_SLEEP(t, "vmovdqu64 (%1), %%zmm3\nvmovdqu64 64(%1), %%zmm30\nkmovw %%eax, %%k3\n", ,
		  "xmm3");
}

static void trace(pid_t pid, struct user_regs_struct *gp, uint8_t *xstate, size_t *size)
{
	struct iovec iov = { gp, sizeof(*gp) };
	int status;

	assert_int_equal(ptrace(PTRACE_SEIZE, pid, 0, 0), 0);
	assert_int_equal(ptrace(PTRACE_INTERRUPT, pid, 0, 0), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(ptrace(PTRACE_GETREGSET, pid, (void *)NT_PRSTATUS, &iov), 0);
	iov = (struct iovec){ xstate, *size };
	assert_int_equal(ptrace(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &iov), 0);
	*size = iov.iov_len;
}

static void compare_gp(const struct kage_taskthread *k, const struct user_regs_struct *gp)
{
	struct user_regs_struct mine;

	assert_int_equal(sizeof(k->regs), sizeof(mine));
	memcpy(&mine, &k->regs, sizeof(mine));
	assert_int_equal(mine.rbx, 0x1111111111111111);
	assert_int_equal(mine.r12, 0x2222222222222222);
	/* Told to leave the call, it has that call's result. */
	assert_int_equal((int64_t)mine.rax, -ENOSYS);
	mine.rax = gp->rax;
	assert_memory_equal(&mine, gp, sizeof(mine));
}

static void check_registers(struct kage_taskread *r, child_fn *f)
{
	static uint8_t mine[16384], theirs[16384];
	struct truth *t = share();
	pid_t pid = start(f, t);
	struct kage_taskinfo *info = read_asleep(r, pid, t);
	struct kage_taskthread *k = &info->threads[0];
	size_t mine_size, size = sizeof(theirs);
	struct user_regs_struct gp;

	assert_non_null(k->xsave_area);
	trace(pid, &gp, theirs, &size);
	compare_gp(k, &gp);
	memset(mine, 0xaa, sizeof(mine));
	must(kage_x86_xsave_standard(&k->xsave, k->xsave_area, mine, sizeof(mine), &mine_size));
	assert_int_equal(mine_size, size);
	assert_memory_equal(mine, theirs, size);
	/* No byte of the area is trusted. */
	must_fail(kage_x86_xsave_standard(&k->xsave, k->xsave_area, mine, 100, &mine_size),
		  KAGE_LIMIT);
	k->xsave.bytes = 576;
	err_drop(kage_x86_xsave_standard(&k->xsave, k->xsave_area, mine, sizeof(mine), &mine_size));
	k->xsave.bytes = 100;
	must_fail(kage_x86_xsave_standard(&k->xsave, k->xsave_area, mine, sizeof(mine), &mine_size),
		  KAGE_CORRUPT);
	kage_taskinfo_free(info);
	stop(pid);
	munmap(t, sizeof(*t));
}

static void test_registers(void **state)
{
	check_registers(*state, with_plain);
	check_registers(*state, with_sse);
	check_registers(*state, with_x87);
	if (__builtin_cpu_supports("avx2"))
		check_registers(*state, with_avx);
	if (__builtin_cpu_supports("avx512f"))
		check_registers(*state, with_avx512);
}

/* --- many threads ------------------------------------------------------------------------------------------ */

static void *sleeper(void *arg)
{
	struct truth *t = arg;
	long n = __atomic_fetch_add((long *)&t->words[3], 1, __ATOMIC_SEQ_CST);
	char name[16];

	snprintf(name, sizeof(name), "sleeper-%ld", n);
	prctl(PR_SET_NAME, name);
	if (n < 64)
		t->tids[n] = (pid_t)syscall(SYS_gettid);
	if (__atomic_add_fetch((long *)&t->words[4], 1, __ATOMIC_SEQ_CST) == (long)t->words[5])
		t->ready = 1;
	while (pause())
		;
	return NULL;
}

static void many(struct truth *t)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 32768);
	for (uint64_t i = 0; i < t->words[5]; i++)
		pthread_create(&thread, &attr, sleeper, t);
	if (!t->words[5])
		t->ready = 1;
	for (;;)
		pause();
}

static void test_threads(void **state)
{
	struct truth *t = share();
	struct kage_taskinfo *info;
	char name[16];
	pid_t pid;

	t->words[5] = 40;
	pid = start(many, t);
	info = read_asleep(*state, pid, t);
	assert_int_equal(info->n_threads, 41);
	assert_int_equal(info->process.nr_threads, 41);
	for (int i = 0; i < 40; i++) {
		struct kage_taskthread *k = kage_taskinfo_thread(info, t->tids[i]);

		assert_non_null(k);
		snprintf(name, sizeof(name), "sleeper-%d", i);
		assert_string_equal(k->task.comm, name);
		assert_true(k->task.clear_child_tid.v != 0);
		assert_true(k->task.robust_list.v != 0);
	}
	assert_null(kage_taskinfo_thread(info, pid + 30000));
	kage_taskinfo_free(info);
	stop(pid);
	munmap(t, sizeof(*t));
}

static void leader_gone(struct truth *t)
{
	pthread_t thread;

	t->words[5] = 1;
	pthread_create(&thread, NULL, sleeper, t);
	pthread_exit(NULL);
}

/* The first thread has ended and has no memory any more; the other one has. */
static void test_leader_gone(void **state)
{
	struct truth *t = share();
	pid_t pid = start(leader_gone, t);
	struct kage_taskinfo *info;

	while (!t->ready)
		usleep(1000);
	usleep(50000);
	must(kage_taskread_read(*state, pid, &info));
	assert_int_equal(info->n_threads, 2);
	assert_true(info->threads[0].task.exit_state != 0);
	assert_int_equal(info->threads[1].task.exit_state, 0);
	assert_true(info->has_mm);
	kage_taskinfo_free(info);
	stop(pid);
	munmap(t, sizeof(*t));
}

static void many_signals(struct truth *t)
{
	sigset_t set;

	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < (int)t->words[0]; i++)
		sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i });
	t->ready = 1;
	pause();
}

static void test_limits(void **state)
{
	static const size_t numbers[] = { KAGE_TASK_MAX_SIGNALS - 1, KAGE_TASK_MAX_SIGNALS, 100 };

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct truth *t = share();
		struct kage_taskinfo *info;
		pid_t pid;

		t->words[0] = numbers[i];
		pid = start(many_signals, t);
		info = read_asleep(*state, pid, t);
		assert_int_equal(info->signals_cut, numbers[i] > KAGE_TASK_MAX_SIGNALS);
		if (!info->signals_cut)
			assert_int_equal(info->n_signals, numbers[i]);
		else
			assert_true(info->n_signals >= KAGE_TASK_MAX_SIGNALS);
		kage_taskinfo_free(info);
		stop(pid);
		munmap(t, sizeof(*t));
	}
}

static void test_gone(void **state)
{
	struct kage_taskinfo *info;
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	must_fail(kage_taskread_read(*state, pid, &info), KAGE_GONE);
}

/* Signals are sent and taken while we read: never a crash, never a wrong number. */
static void take_signals(struct truth *t)
{
	sigset_t set;

	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	t->ready = 1;
	for (;;)
		sigwaitinfo(&set, NULL);
}

static void test_storm(void **state)
{
	struct truth *t = share();
	pid_t pid = start(take_signals, t), sender;

	while (!t->ready)
		usleep(1000);
	sender = fork();
	if (!sender)
		for (int i = 0;; i++)
			sigqueue(pid, SIGRTMIN + i % 8, (union sigval){ .sival_int = i });
	for (int i = 0; i < 2000; i++) {
		struct kage_taskinfo *info;
		struct kage_err *e = kage_taskread_read(*state, pid, &info);
		int signo;

		if (e) {
			must_fail(e, KAGE_BUSY);
			continue;
		}
		for (size_t k = 0; k < info->n_signals; k++) {
			signal_value(&info->signals[k], &signo);
			assert_in_range(signo, SIGRTMIN, SIGRTMIN + 7);
		}
		kage_taskinfo_free(info);
	}
	stop(sender);
	stop(pid);
	munmap(t, sizeof(*t));
}

/* --- the parser ------------------------------------------------------------------------------------------- */

struct stream {
	uint8_t bytes[4096];
	size_t size;
};

static void add(struct stream *s, uint32_t type, size_t size)
{
	struct task_record head = { type, (uint32_t)size };

	memcpy(s->bytes + s->size, &head, sizeof(head));
	memset(s->bytes + s->size + sizeof(head), 0, size);
	s->size += sizeof(head) + size;
}

static void refused(const struct stream *s, enum kage_code code)
{
	struct kage_taskinfo *info;

	must_fail(kage_taskinfo_parse(s->bytes, s->size, 1, &info), code);
}

static struct stream small(void)
{
	struct stream s = { .size = 0 };

	add(&s, TASK_THREAD, sizeof(struct kage_task_thread));
	add(&s, TASK_PROCESS, sizeof(struct kage_task_process));
	add(&s, TASK_SIGNAL, sizeof(struct kage_task_signal));
	add(&s, TASK_XSAVE, sizeof(struct kage_task_xsave));
	add(&s, TASK_RESTART, sizeof(struct kage_task_restart) + KAGE_TASK_SYMBOL_BYTES);
	add(&s, TASK_END, sizeof(struct kage_task_pulse));
	return s;
}

static void test_parse(void **state)
{
	struct stream s = small();
	struct kage_taskinfo *info;

	(void)state;
	must(kage_taskinfo_parse(s.bytes, s.size, 1, &info));
	assert_int_equal(info->n_threads, 1);
	kage_taskinfo_free(info);
	must_fail(kage_taskinfo_parse(s.bytes, 0, 1, &info), KAGE_GONE);
	for (size_t n = 1; n < s.size; n++)
		must_fail(kage_taskinfo_parse(s.bytes, n, 1, &info), KAGE_CORRUPT);
	add(&s, TASK_END, sizeof(struct kage_task_pulse));
	refused(&s, KAGE_CORRUPT);
	s = small();
	add(&s, TASK_THREAD, sizeof(struct kage_task_thread));
	add(&s, TASK_THREAD, sizeof(struct kage_task_thread));
	refused(&s, KAGE_CORRUPT);
	s = small();
	add(&s, 77, 0);
	refused(&s, KAGE_CORRUPT);
	s.size = 0;
	add(&s, TASK_THREAD, sizeof(struct kage_task_thread));
	add(&s, TASK_END, sizeof(struct kage_task_pulse));
	refused(&s, KAGE_CORRUPT);
}

/* --- pins -------------------------------------------------------------------------------------------------- */

static double open_ms(const char *pins, bool *ret_pinned)
{
	struct kage_taskread *r;
	uint64_t begin = kage_clock_mono_ns();

	must(kage_taskread_open(pins, &r));
	begin = kage_clock_mono_ns() - begin;
	*ret_pinned = kage_taskread_was_pinned(r);
	kage_taskread_close(r);
	return (double)begin / 1e6;
}

static void test_pins(void **state)
{
	char mount_point[] = "/tmp/kage-test-XXXXXX", dir[64];
	bool pinned;
	double ms;

	(void)state;
	assert_non_null(mkdtemp(mount_point));
	snprintf(dir, sizeof(dir), "%s/kage", mount_point);
	/* No BPF file system: nothing is made there. */
	print_message("open: %.2f ms\n", open_ms(dir, &pinned));
	assert_false(pinned);
	assert_int_equal(access(dir, F_OK), -1);
	if (mount("bpf", mount_point, "bpf", 0, NULL) < 0) {
		rmdir(mount_point);
		skip();
	}
	open_ms(dir, &pinned);
	assert_false(pinned);
	ms = open_ms(dir, &pinned);
	assert_true(pinned);
	print_message("open, pinned: %.3f ms\n", ms);
	/* One that others could have written is not believed. */
	assert_int_equal(chmod(dir, 0755), 0);
	open_ms(dir, &pinned);
	assert_false(pinned);
	assert_int_equal(chmod(dir, 0700), 0);
	assert_int_equal(chown(dir, 12345, 0), 0);
	open_ms(dir, &pinned);
	assert_false(pinned);
	assert_int_equal(umount2(mount_point, MNT_DETACH), 0);
	rmdir(mount_point);
}

/* Who may not is told so. */
static void test_rights(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	pid = fork();
	if (!pid) {
		struct kage_taskread *r;
		struct kage_err *e;

		if (setresuid(65534, 65534, 65534) < 0)
			_exit(2);
		e = kage_taskread_open(KAGE_ITER_PINS, &r);
		_exit(e && kage_err_code(e) == KAGE_PERM ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* --- figures ------------------------------------------------------------------------------------------------ */

static void test_speed(void **state)
{
	static const uint64_t numbers[] = { 0, 7, 63, 511 };

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct truth *t = share();
		struct kage_taskinfo *info;
		uint64_t best = UINT64_MAX;
		pid_t pid;

		t->words[5] = numbers[i];
		pid = start(many, t);
		kage_taskinfo_free(read_asleep(*state, pid, t));
		for (int k = 0; k < 50; k++) {
			uint64_t begin = kage_clock_mono_ns(), took;

			must(kage_taskread_read(*state, pid, &info));
			took = kage_clock_mono_ns() - begin;
			best = took < best ? took : best;
			kage_taskinfo_free(info);
		}
		print_message("read, %llu threads: %.1f us\n", (unsigned long long)numbers[i] + 1,
			      (double)best / 1e3);
		stop(pid);
		munmap(t, sizeof(*t));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everything),  cmocka_unit_test(test_expired_timer),
		cmocka_unit_test(test_registers),   cmocka_unit_test(test_threads),
		cmocka_unit_test(test_leader_gone), cmocka_unit_test(test_limits),
		cmocka_unit_test(test_gone),        cmocka_unit_test(test_storm),
		cmocka_unit_test(test_parse),       cmocka_unit_test(test_pins),
		cmocka_unit_test(test_rights),      cmocka_unit_test(test_speed),
	};

	if (!can_read())
		return 77;
	return cmocka_run_group_tests(tests, open_reader, close_reader);
}
