/* SPDX-License-Identifier: Apache-2.0 */
/* rfork(3): when a child starts again, as what, and what its parent learns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <kage/rfork.h>

/* Seen by all lives. */
static struct seen {
	_Atomic int starts, wrong;
	_Atomic pid_t watcher;
	_Atomic uid_t uid;
} * seen;

static int set_up(void **state)
{
	(void)state;
	seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return seen == MAP_FAILED;
}

static int tear_down(void **state)
{
	(void)state;
	return munmap(seen, sizeof(*seen));
}

static int wait_for(pid_t pid)
{
	int status = -1;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void asked_for(void **state)
{
	static char memory[1 << 20];
	struct rfork_state s;
	int on_stack = 1, status;
	pid_t pid = rfork(NULL);

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		int n = ++seen->starts;

		seen->wrong += on_stack != 1 || memory[70000] != 0;
		on_stack = n;
		memset(memory, n, sizeof(memory));
		seen->wrong += rfork_look(0, &s) < 0 || s.child != getpid() ||
			       s.n_restarts != (uint64_t)n - 1;
		if (n <= 20)
			rfork_restart();
		_exit(7);
	}
	status = wait_for(pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	assert_int_equal(seen->wrong, 0);
	assert_int_equal(rfork_look(pid, &s), 0);
	assert_int_equal(s.n_restarts, 20);
	assert_true(WIFEXITED(s.last_status) && WEXITSTATUS(s.last_status) == RFORK_RESTART);
	assert_false(s.gave_up);
	rfork_forget(pid);
	assert_true(rfork_look(pid, &s) < 0 && errno == ESRCH);
}

static void by_errors(void **state)
{
	static const int errors[] = { SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSYS };
	const int n_errors = (int)(sizeof(errors) / sizeof(*errors));
	struct rfork_state s;
	int status;
	pid_t pid = rfork(NULL);

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		int n = seen->starts++;

		if (n < n_errors) {
			signal(errors[n], SIG_DFL);
			raise(errors[n]);
		}
		raise(SIGKILL);
	}
	status = wait_for(pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(seen->starts, n_errors + 1);
	assert_int_equal(rfork_look(pid, &s), 0);
	assert_true(WIFSIGNALED(s.last_status) && WTERMSIG(s.last_status) == SIGSYS);
	rfork_forget(pid);
}

static void other_reasons(void **state)
{
	struct rfork_options o = { .restart_status = 3 };
	sigset_t errors;
	int status;
	pid_t pid;

	(void)state;
	sigemptyset(&errors);
	sigaddset(&errors, SIGTERM);
	o.errors = &errors;
	pid = rfork(&o);
	assert_true(pid >= 0);
	if (pid == 0) {
		switch (seen->starts++) {
		case 0:
			_exit(3);
		case 1:
			raise(SIGTERM);
			break;
		default:
			_exit(RFORK_RESTART);
		}
	}
	status = wait_for(pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == RFORK_RESTART);
	assert_int_equal(seen->starts, 3);
	rfork_forget(pid);
}

static void gives_up(void **state)
{
	const struct rfork_options o = { .most = 4, .within_s = 3600 };
	struct rfork_state s;
	int status;
	pid_t pid = rfork(&o);

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		seen->starts++;
		rfork_restart();
	}
	status = wait_for(pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == RFORK_RESTART);
	assert_int_equal(seen->starts, 5);
	assert_int_equal(rfork_look(pid, &s), 0);
	assert_true(s.gave_up);
	rfork_forget(pid);
}

static _Atomic int n_told;
static _Atomic int told_value;

static void on_restart(int signal, siginfo_t *si, void *context)
{
	(void)signal;
	(void)context;
	n_told++;
	told_value = si->si_value.sival_int;
}

/* Real-time signals queue, so that none is lost. */
static void caller_is_told(void **state)
{
	const struct rfork_options o = { .signal = SIGRTMIN + 3 };
	struct sigaction action = { .sa_sigaction = on_restart,
				    .sa_flags = SA_SIGINFO | SA_RESTART };
	pid_t pid;

	(void)state;
	sigaction(o.signal, &action, NULL);
	pid = rfork(&o);
	assert_true(pid >= 0);
	if (pid == 0) {
		if (seen->starts++ < 5)
			rfork_restart();
		_exit(0);
	}
	assert_int_equal(wait_for(pid), 0);
	assert_int_equal(n_told, 5);
	assert_int_equal(told_value, pid);
	rfork_forget(pid);
}

static void end_with_3(int signal)
{
	(void)signal;
	_exit(3);
}

static void signals_go_on(void **state)
{
	sigset_t blocked, now;
	int status;
	pid_t pid;

	(void)state;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR2);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	signal(SIGCHLD, SIG_IGN);
	signal(SIGTERM, end_with_3);
	pid = rfork(NULL);
	assert_true(pid >= 0);
	if (pid == 0) {
		struct sigaction on_child;

		sigprocmask(SIG_SETMASK, NULL, &now);
		sigaction(SIGCHLD, NULL, &on_child);
		seen->wrong = sigismember(&now, SIGUSR2) != 1 || sigismember(&now, SIGTERM) ||
			      on_child.sa_handler != SIG_IGN;
		seen->starts = 1;
		for (;;)
			pause();
	}
	signal(SIGCHLD, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	sigprocmask(SIG_SETMASK, NULL, &now);
	assert_false(sigismember(&now, SIGTERM));
	sigprocmask(SIG_UNBLOCK, &blocked, NULL);
	while (!seen->starts)
		usleep(1000);
	kill(pid, SIGTERM);
	status = wait_for(pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
	assert_int_equal(seen->wrong, 0);
	rfork_forget(pid);
}

static void own_rights(void **state)
{
	const struct rfork_options o = { .set_ids = true,
					 .uid = 65534,
					 .gid = 65534,
					 .root = "/proc",
					 .set_capabilities = true,
					 .capabilities = 1 << 0 /* CAP_CHOWN */ };
	pid_t pid;

	(void)state;
	if (geteuid() != 0)
		skip();
	pid = rfork(&o);
	assert_true(pid >= 0);
	if (pid == 0) {
		seen->wrong += getuid() != 65534 || getgid() != 65534 || getgroups(0, NULL) != 0 ||
			       access("/self/status", R_OK) < 0 || access("/proc", F_OK) == 0 ||
			       setuid(0) == 0;
		if (seen->starts++ < 3)
			rfork_restart();
		_exit(0);
	}
	assert_int_equal(wait_for(pid), 0);
	assert_int_equal(seen->wrong, 0);
	assert_int_equal(getuid(), 0);
	rfork_forget(pid);
}

static void impossible(void **state)
{
	(void)state;
	assert_int_equal(rfork(&(struct rfork_options){ .directory = "/nonexistent" }), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(rfork(&(struct rfork_options){ .restart_status = 256 }), -1);
	assert_int_equal(errno, EINVAL);
	assert_true(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(asked_for),      TEST(by_errors),     TEST(other_reasons), TEST(gives_up),
		TEST(caller_is_told), TEST(signals_go_on), TEST(own_rights),    TEST(impossible),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
