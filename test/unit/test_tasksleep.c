/* SPDX-License-Identifier: Apache-2.0 */
/* How long a sleeper that is not stopped has yet to sleep; and that it does not notice. */
#include "lib/asleep.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

/* --- the end of sleeps --------------------------------------------------------------------------------- */

static struct timespec far_away(void)
{
	return (struct timespec){ FAR_S, 0 };
}

static sigset_t other_mask(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	return set;
}

static void about_to_sleep(struct truth *t)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	t->deadline_ns = kage_clock_mono_ns() + FAR_S * S_NS;
	t->ready = 1;
}

static void in_nanosleep(struct truth *t)
{
	struct timespec ts = far_away();

	about_to_sleep(t);
	syscall(SYS_nanosleep, &ts, NULL);
}

static void in_clock_nanosleep(struct truth *t)
{
	struct timespec ts;

	about_to_sleep(t);
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += FAR_S;
	clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &ts, NULL);
}

static void in_poll(struct truth *t)
{
	about_to_sleep(t);
	syscall(SYS_poll, NULL, 0, FAR_S * 1000);
}

static void in_ppoll(struct truth *t)
{
	struct timespec ts = far_away();
	sigset_t mask = other_mask();

	about_to_sleep(t);
	syscall(SYS_ppoll, NULL, 0, &ts, &mask, 8);
}

static void in_pselect(struct truth *t)
{
	struct timespec ts = far_away();
	sigset_t mask = other_mask();

	about_to_sleep(t);
	pselect(0, NULL, NULL, NULL, &ts, &mask);
}

static void in_epoll_pwait(struct truth *t)
{
	int fd = epoll_create1(0);
	sigset_t mask = other_mask();
	struct epoll_event ev;

	about_to_sleep(t);
	epoll_pwait(fd, &ev, 1, FAR_S * 1000, &mask);
}

static void in_epoll_wait(struct truth *t)
{
	int fd = epoll_create1(0);
	struct epoll_event ev;

	about_to_sleep(t);
	syscall(SYS_epoll_wait, fd, &ev, 1, FAR_S * 1000);
}

static void in_futex(struct truth *t)
{
	struct timespec ts = far_away();

	about_to_sleep(t);
	syscall(SYS_futex, &t->words[1], FUTEX_WAIT, 0, &ts, NULL, 0);
}

static void in_sigtimedwait(struct truth *t)
{
	struct timespec ts = far_away();
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	about_to_sleep(t);
	sigtimedwait(&set, NULL, &ts);
}

static void in_sigsuspend(struct truth *t)
{
	sigset_t mask = other_mask();

	about_to_sleep(t);
	sigsuspend(&mask);
}

static void in_recv(struct truth *t)
{
	struct timeval tv = { FAR_S, 0 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char c;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	about_to_sleep(t);
	recv(fd, &c, 1, 0);
}

static void in_semtimedop(struct truth *t)
{
	int id = semget(IPC_PRIVATE, 1, 0600);
	struct sembuf op = { 0, -1, 0 };
	struct timespec ts = far_away();

	t->words[2] = (uint64_t)id;
	about_to_sleep(t);
	semtimedop(id, &op, 1, &ts);
}

static void test_sleeps(void **state)
{
	static const struct {
		child_fn *f;
		uint64_t number;
		bool timed, coarse;
	} rows[] = {
		{ in_nanosleep, SYS_nanosleep, true, false },
		{ in_clock_nanosleep, SYS_clock_nanosleep, true, false },
		{ in_poll, SYS_poll, true, false },
		{ in_ppoll, SYS_ppoll, true, false },
		{ in_pselect, SYS_pselect6, true, false },
		{ in_epoll_wait, SYS_epoll_wait, true, false },
		{ in_epoll_pwait, SYS_epoll_pwait, true, false },
		{ in_futex, SYS_futex, true, false },
		{ in_sigtimedwait, SYS_rt_sigtimedwait, true, false },
		{ in_sigsuspend, SYS_rt_sigsuspend, false, false },
		{ in_recv, SYS_recvfrom, true, true },
		{ in_semtimedop, SYS_semtimedop, true, false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct truth *t = share();
		pid_t pid = start(rows[i].f, t);
		struct kage_taskinfo *info = read_asleep(*state, pid, t);
		const struct kage_taskthread *k = &info->threads[0];
		uint64_t number, expected;
		bool compat;

		assert_true(kage_taskthread_in_syscall(k, &number, &compat));
		assert_int_equal(number, rows[i].number);
		assert_int_equal(kage_taskthread_sigmask(k), 1ull << (SIGUSR1 - 1));
		assert_false(kage_taskthread_restarting(k));
		assert_int_equal((int64_t)k->regs.ax, -ENOSYS);
		if (k->sleep.timed != rows[i].timed || k->sleep.coarse != rows[i].coarse)
			fail_msg("row %zu: timed %d coarse %d", i, k->sleep.timed, k->sleep.coarse);
		expected = t->deadline_ns - k->task.now_ns;
		if (k->sleep.timed)
			near(k->sleep.remaining_ns, expected, 200 * MS);
		if (rows[i].f == in_clock_nanosleep)
			assert_int_equal(k->sleep.clock, CLOCK_REALTIME);
		kage_taskinfo_free(info);
		stop(pid);
		if (rows[i].f == in_semtimedop)
			semctl((int)t->words[2], 0, IPC_RMID);
		munmap(t, sizeof(*t));
	}
}

/* A sleep that was interrupted goes on in restart_syscall, and the restart block has its end. */
static void test_restart_block(void **state)
{
	struct truth *t = share();
	pid_t pid = start(in_nanosleep, t);
	struct kage_taskinfo *info = read_asleep(*state, pid, t);
	const struct kage_taskthread *k;
	int status;

	kage_taskinfo_free(info);
	kill(pid, SIGSTOP);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	kill(pid, SIGCONT);
	usleep(50000);
	info = read_asleep(*state, pid, t);
	k = &info->threads[0];
	assert_true(kage_taskthread_restarting(k));
	assert_int_equal(k->restart_kind, KAGE_RESTART_NANOSLEEP);
	near(k->restart.expires_ns, t->deadline_ns, 200 * MS);
	assert_true(k->sleep.timed);
	near(k->sleep.deadline_ns, t->deadline_ns, 200 * MS);
	kage_taskinfo_free(info);
	stop(pid);
	munmap(t, sizeof(*t));
}

/* --- not noticed ------------------------------------------------------------------------------------------ */

static void wait_epoll(struct truth *t)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int fd = epoll_create1(0), pipes[2];

	if (pipe(pipes) < 0)
		_exit(1);
	epoll_ctl(fd, EPOLL_CTL_ADD, pipes[0], &ev);
	t->ready = 1;
	t->result = epoll_wait(fd, &ev, 1, 1200);
	t->deadline_ns = kage_clock_mono_ns();
	t->woken = 1;
}

static void wait_recv(struct truth *t)
{
	struct timeval tv = { 1, 200000 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char c;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	t->ready = 1;
	t->result = recv(fd, &c, 1, 0) < 0 ? -errno : 1;
	t->deadline_ns = kage_clock_mono_ns();
	t->woken = 1;
}

static void watch(struct kage_taskread *r, child_fn *f, long result)
{
	struct truth *t = share();
	uint64_t begin = kage_clock_mono_ns();
	pid_t pid = start(f, t);
	struct kage_taskinfo *first = read_asleep(r, pid, t), *next;

	for (int i = 0; i < 100; i++) {
		must(kage_taskread_read(r, pid, &next));
		assert_true(kage_taskthread_slept_on(&first->threads[0], &next->threads[0]));
		kage_taskinfo_free(next);
		usleep(5000);
	}
	assert_int_equal(t->woken, 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(t->woken, 1);
	assert_int_equal(t->result, result);
	near(t->deadline_ns - begin, 1200 * MS, 400 * MS);
	kage_taskinfo_free(first);
	munmap(t, sizeof(*t));
}

static void test_undisturbed(void **state)
{
	watch(*state, wait_epoll, 0);
	watch(*state, wait_recv, -EAGAIN);
}

static void spin(struct truth *t)
{
	t->ready = 1;
	for (;;)
		t->words[0]++;
}

static void test_running(void **state)
{
	struct truth *t = share();
	pid_t pid = start(spin, t);
	struct kage_taskinfo *info;

	while (!t->ready)
		usleep(1000);
	must(kage_taskread_read(*state, pid, &info));
	assert_false(info->threads[0].asleep);
	assert_false(kage_taskthread_slept_on(&info->threads[0], &info->threads[0]));
	kage_taskinfo_free(info);
	stop(pid);
	munmap(t, sizeof(*t));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sleeps),
		cmocka_unit_test(test_restart_block),
		cmocka_unit_test(test_undisturbed),
		cmocka_unit_test(test_running),
	};

	if (!can_read())
		return 77;
	return cmocka_run_group_tests(tests, open_reader, close_reader);
}
