/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rfork with nothing but POSIX. This file is complete by itself:
 *
 *	cc -Iinclude -c src/keeper/rfork.c
 *
 * A process that watches is forked and does not go on: it stays what the caller was at that instant, and each start of the
 * child is a fork of it. It sleeps in sigwait(3) with all signals blocked: SIGCHLD tells of the child, others it sends on.
 * It may be a fork of a program with several threads, so it calls nothing that could need a lock.
 */
#include <kage/rfork.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

/* Shared by caller, watcher and child. */
struct shared {
	_Atomic pid_t child;
	_Atomic uint64_t n_restarts;
	_Atomic int last_status;
	_Atomic bool gave_up;
};

/* What the caller knows of its children. */
struct known {
	struct known *next;
	pid_t pid;
	struct shared *shared;
};

static struct known *children;
static atomic_flag children_lock = ATOMIC_FLAG_INIT;

/* Of the child itself. */
static struct shared *own;
static int own_restart_status;

/* One rfork. */
struct fork {
	const struct rfork_options *options;
	struct shared *shared;
	int ready
		[2]; /* the first start tells through it an errno, or by its end that all is well */
	sigset_t mask;             /* of the caller */
	struct sigaction on_child; /* of the caller */
	pid_t caller;
	time_t *restarts; /* times of the last MOST ones */
};

/* --- the child's own rights ------------------------------------------------------------------- */

#ifdef __linux__
static int keep_capabilities(bool keep)
{
	return prctl(PR_SET_KEEPCAPS, keep ? 1L : 0L, 0L, 0L, 0L);
}

/* Also what it executes gets no others. */
static int bound_capabilities(uint64_t wanted)
{
	for (unsigned long cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap, 0L, 0L, 0L) >= 0; cap++)
		if (!(wanted >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0L, 0L, 0L) < 0 &&
		    errno != EPERM)
			return -1;
	return 0;
}

static int set_capabilities(uint64_t wanted)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = {
		{ .effective = (uint32_t)wanted, .permitted = (uint32_t)wanted },
		{ .effective = (uint32_t)(wanted >> 32), .permitted = (uint32_t)(wanted >> 32) },
	};

	return (int)syscall(SYS_capset, &head, data);
}

/* Without its watcher nobody would start it again, or send signals on. */
static void die_with_parent(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, (unsigned long)SIGKILL, 0L, 0L, 0L);
	if (getppid() != parent)
		_exit(1);
}
#else
static int keep_capabilities(bool keep)
{
	(void)keep;
	return 0;
}

static int bound_capabilities(uint64_t wanted)
{
	(void)wanted;
	errno = ENOTSUP;
	return -1;
}

static int set_capabilities(uint64_t wanted)
{
	return bound_capabilities(wanted);
}

static void die_with_parent(pid_t parent)
{
	(void)parent;
}
#endif

static int set_ids(const struct rfork_options *o)
{
	if (setgroups(o->n_groups, o->groups) < 0 || setgid(o->gid) < 0 || setuid(o->uid) < 0)
		return -1;
	/* The saved ones went along; if not, it could come back. */
	if (o->uid != 0 && !o->set_capabilities && setuid(0) == 0) {
		errno = EPERM;
		return -1;
	}
	return 0;
}

static int take_rights(const struct rfork_options *o)
{
	if (o->root && (chroot(o->root) < 0 || chdir("/") < 0))
		return -1;
	if (o->directory && chdir(o->directory) < 0)
		return -1;
	if (o->set_capabilities &&
	    (bound_capabilities(o->capabilities) < 0 || keep_capabilities(true) < 0))
		return -1;
	if (o->set_ids && set_ids(o) < 0)
		return -1;
	if (!o->set_capabilities)
		return 0;
	return set_capabilities(o->capabilities) < 0 || keep_capabilities(false) < 0 ? -1 : 0;
}

/* --- the child -------------------------------------------------------------------------------- */

static int restart_status(const struct rfork_options *o)
{
	return o->restart_status ? o->restart_status : RFORK_RESTART;
}

/* What the caller knows of its other children is none of its business. Nothing is freed: see above. */
static void forget_all(void)
{
	for (const struct known *k = children; k; k = k->next)
		munmap(k->shared, sizeof(*k->shared));
	children = NULL;
	atomic_flag_clear(&children_lock);
}

static void tell_errno(const struct fork *f, int num)
{
	while (write(f->ready[1], &num, sizeof(num)) < 0 && errno == EINTR)
		;
	_exit(num ? 127 : 0);
}

static void begin_life(struct fork *f, pid_t watcher)
{
	own = f->shared;
	own_restart_status = restart_status(f->options);
	die_with_parent(watcher);
	if (take_rights(f->options) < 0)
		tell_errno(f, errno ? errno : EPERM);
	/* They may have taken it away again. */
	die_with_parent(watcher);
	if (f->ready[1] >= 0)
		close(f->ready[1]);
	forget_all();
	sigaction(SIGCHLD, &f->on_child, NULL);
	sigprocmask(SIG_SETMASK, &f->mask, NULL);
}

/* --- the watcher ------------------------------------------------------------------------------ */

static bool is_error(const struct rfork_options *o, int signal)
{
	static const int usual[] = { SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP };

	if (o->errors)
		return sigismember(o->errors, signal) == 1;
	for (size_t i = 0; i < sizeof(usual) / sizeof(*usual); i++)
		if (usual[i] == signal)
			return true;
	return false;
}

static bool wants_restart(const struct rfork_options *o, int status)
{
	if (WIFEXITED(status))
		return WEXITSTATUS(status) == restart_status(o);
	return is_error(o, WTERMSIG(status));
}

/* Whether it may be started once more; notes that it was. */
static bool may_restart(struct fork *f)
{
	const struct rfork_options *o = f->options;
	uint64_t n = atomic_load(&f->shared->n_restarts);
	struct timespec now;
	time_t *oldest;

	if (!o->most)
		return true;
	clock_gettime(CLOCK_MONOTONIC, &now);
	oldest = &f->restarts[n % o->most];
	if (n >= o->most && (!o->within_s || now.tv_sec - *oldest < (time_t)o->within_s))
		return false;
	*oldest = now.tv_sec;
	return true;
}

/* As the child ended, so that who waits for us learns it. */
static _Noreturn void end_as(int status)
{
	const struct rlimit no_core = { 0, 0 };
	sigset_t all;
	int signal;

	if (WIFEXITED(status))
		_exit(WEXITSTATUS(status));
	signal = WTERMSIG(status);
	setrlimit(RLIMIT_CORE, &no_core);
	sigaction(signal, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
	kill(getpid(), signal);
	sigfillset(&all);
	sigprocmask(SIG_UNBLOCK, &all, NULL);
	_exit(128 + signal);
}

/* Sleeps until the child has ended; what others send us goes on to it. Keys of a terminal reach both by themselves. */
static int watch(pid_t child)
{
	sigset_t all;
	siginfo_t si;
	int status;

	sigfillset(&all);
	for (;;) {
		int signal = sigwaitinfo(&all, &si);

		if (signal < 0)
			continue;
		if (signal == SIGCHLD && waitpid(child, &status, WNOHANG) == child)
			return status;
		if (signal != SIGCHLD && (si.si_code == SI_USER || si.si_code == SI_QUEUE))
			sigqueue(child, signal, si.si_value);
	}
}

static void tell_caller(const struct fork *f)
{
	if (f->options->signal && getppid() == f->caller)
		sigqueue(f->caller, f->options->signal, (union sigval){ .sival_int = getpid() });
}

static void pause_ms(unsigned ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };

	while (ms && nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

/* Another start. Returns in the child only. */
static void start_again(struct fork *f, int status)
{
	pid_t watcher = getpid(), child;

	atomic_store(&f->shared->last_status, status);
	pause_ms(f->options->pause_ms);
	atomic_fetch_add(&f->shared->n_restarts, 1);
	tell_caller(f);
	child = fork();
	if (child == 0) {
		f->ready[1] = -1;
		begin_life(f, watcher);
		return;
	}
	atomic_store(&f->shared->child, child);
}

/* Returns in the child only, at each start. */
static void be_watcher(struct fork *f)
{
	pid_t watcher = getpid(), child;

	sigaction(SIGCHLD, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
	close(f->ready[0]);
	child = fork();
	if (child == 0) {
		begin_life(f, watcher);
		return;
	}
	if (child < 0)
		tell_errno(f, errno);
	atomic_store(&f->shared->child, child);
	close(f->ready[1]);
	for (;;) {
		int status = watch(atomic_load(&f->shared->child));

		if (!wants_restart(f->options, status))
			end_as(status);
		if (!may_restart(f)) {
			atomic_store(&f->shared->gave_up, true);
			end_as(status);
		}
		start_again(f, status);
		if (getpid() != watcher)
			return;
		if (atomic_load(&f->shared->child) < 0)
			end_as(status);
	}
}

/* --- the caller ------------------------------------------------------------------------------- */

static void lock(void)
{
	while (atomic_flag_test_and_set(&children_lock))
		;
}

static void unlock(void)
{
	atomic_flag_clear(&children_lock);
}

/* What the first start says: 0, or an errno value. */
static int learn_errno(const struct fork *f)
{
	int num = 0;

	while (read(f->ready[0], &num, sizeof(num)) < 0 && errno == EINTR)
		;
	return num;
}

static pid_t be_caller(struct fork *f, struct known *k, pid_t pid)
{
	int num;

	close(f->ready[1]);
	f->ready[1] = -1;
	num = learn_errno(f);
	if (num) {
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		errno = num;
		return -1;
	}
	*k = (struct known){ .pid = pid, .shared = f->shared };
	lock();
	k->next = children;
	children = k;
	unlock();
	return pid;
}

static bool are_valid(const struct rfork_options *o)
{
	return o->restart_status >= 0 && o->restart_status <= 255 && o->most <= 100000;
}

static pid_t fork_watched(struct fork *f, struct known *k)
{
	sigset_t all;
	pid_t pid;
	int num;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &f->mask);
	sigaction(SIGCHLD, NULL, &f->on_child);
	pid = fork();
	if (pid == 0) {
		be_watcher(f);
		return 0;
	}
	num = errno;
	pthread_sigmask(SIG_SETMASK, &f->mask, NULL);
	errno = num;
	return pid < 0 ? -1 : be_caller(f, k, pid);
}

static void close_both(const int ready[2])
{
	for (int i = 0; i < 2; i++)
		if (ready[i] >= 0)
			close(ready[i]);
}

pid_t rfork(const struct rfork_options *options)
{
	static const struct rfork_options defaults;
	struct fork f = { .options = options ? options : &defaults, .ready = { -1, -1 } };
	struct known *k = malloc(sizeof(*k));
	pid_t pid = -1;
	int num;

	f.caller = getpid();
	f.shared = mmap(NULL, sizeof(*f.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	f.restarts = calloc(f.options->most + 1, sizeof(*f.restarts));
	if (!are_valid(f.options))
		errno = EINVAL;
	else if (k && f.shared != MAP_FAILED && f.restarts && pipe(f.ready) == 0 &&
		 fcntl(f.ready[0], F_SETFD, FD_CLOEXEC) == 0 &&
		 fcntl(f.ready[1], F_SETFD, FD_CLOEXEC) == 0)
		pid = fork_watched(&f, k);
	if (pid == 0)
		return 0;
	num = errno;
	close_both(f.ready);
	free(f.restarts);
	if (pid < 0) {
		free(k);
		if (f.shared != MAP_FAILED)
			munmap(f.shared, sizeof(*f.shared));
	}
	errno = num;
	return pid;
}

_Noreturn void rfork_restart(void)
{
	if (!own)
		abort();
	_exit(own_restart_status);
}

static void read_state(struct shared *s, struct rfork_state *ret_state)
{
	*ret_state = (struct rfork_state){ .child = atomic_load(&s->child),
					   .n_restarts = atomic_load(&s->n_restarts),
					   .last_status = atomic_load(&s->last_status),
					   .gave_up = atomic_load(&s->gave_up) };
}

int rfork_look(pid_t pid, struct rfork_state *ret_state)
{
	bool found = pid == 0 && own;

	if (found)
		read_state(own, ret_state);
	if (pid == 0 && own)
		ret_state->child = getpid();
	lock();
	for (struct known *k = children; k && pid; k = k->next)
		if (k->pid == pid) {
			read_state(k->shared, ret_state);
			found = true;
		}
	unlock();
	if (!found)
		errno = ESRCH;
	return found ? 0 : -1;
}

void rfork_forget(pid_t pid)
{
	struct known *gone = NULL;

	lock();
	for (struct known **k = &children; *k && !gone; k = gone ? k : &(*k)->next)
		if ((*k)->pid == pid) {
			gone = *k;
			*k = gone->next;
		}
	unlock();
	if (!gone)
		return;
	munmap(gone->shared, sizeof(*gone->shared));
	free(gone);
}
