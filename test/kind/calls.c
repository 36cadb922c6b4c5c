/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls in progress: `calls NAME SECONDS` blocks in one call, and afterwards checks what it
 * returned. Calls with a timeout end by it, after SECONDS; the others when another thread, told by the
 * file "go", makes happen what they wait for. How long it took is printed, for the driver to judge:
 *
 *	took BEGIN END WANTED KIND CALLS
 *
 * in nanoseconds of CLOCK_MONOTONIC; KIND is "relative", "absolute" or "event"; CALLS is how many
 * calls a transfer needed. `calls --list` prints all names, each with what it can: "survive" alone,
 * or "restore" too.
 */
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "lib/kindtest.h"

static double seconds;
static int64_t begin_ns, end_ns;
static const char *kind = "relative";
static int n_calls = 1;
static pthread_t caller;
static void (*on_go)(void); /* makes happen what the call waits for */
static pthread_t helper;

static struct timespec wanted(void)
{
	return (struct timespec){ (time_t)seconds,
				  (long)((seconds - (double)(time_t)seconds) * 1e9) };
}

/* The program's own time is as it was. */
static bool is_wanted(const struct timespec *t)
{
	return t->tv_sec == wanted().tv_sec && t->tv_nsec == wanted().tv_nsec;
}

static struct timespec deadline(clockid_t clock)
{
	int64_t at = kt_now_ns(clock) + (int64_t)(seconds * 1e9);

	return (struct timespec){ at / 1000000000, at % 1000000000 };
}

static int wanted_ms(void)
{
	return (int)(seconds * 1000);
}

static void begin(void)
{
	kt_say("ready\n");
	begin_ns = kt_now_ns(CLOCK_MONOTONIC);
}

static void end(void)
{
	int num = errno;

	end_ns = kt_now_ns(CLOCK_MONOTONIC);
	errno = num;
}

/* The expression EXPR is the call. */
#define CALL(expr)                       \
	({                               \
		begin();                 \
		errno = 0;               \
		__auto_type r_ = (expr); \
		end();                   \
		r_;                      \
	})

static void *help(void *arg)
{
	(void)arg;
	while (!kt_told("go"))
		kt_nap(10);
	on_go();
	return NULL;
}

static void by_event(void (*what)(void))
{
	kind = "event";
	on_go = what;
	KT_NEED(pthread_create(&helper, NULL, help, NULL) == 0);
}

static void on_signal(int s)
{
	(void)s;
}

static void send_signal(void)
{
	pthread_kill(caller, SIGUSR1);
}

static int pair[2], other = -1;

static void poke_pair(void)
{
	if (write(pair[1], "poke", 4) != 4)
		abort();
}

/* --- those that end by their timeout --------------------------------------------------------- */

static void call_nanosleep(void)
{
	struct timespec t = wanted(), left;

	KT(CALL(nanosleep(&t, &left)) == 0);
}

static void call_clock_nanosleep(void)
{
	struct timespec t = wanted();

	KT(CALL(clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL)) == 0);
}

static void call_clock_nanosleep_boot(void)
{
	struct timespec t = wanted();

	KT(CALL(clock_nanosleep(CLOCK_BOOTTIME, 0, &t, NULL)) == 0);
}

static void call_clock_nanosleep_abs(void)
{
	struct timespec t = deadline(CLOCK_MONOTONIC);

	kind = "absolute";
	KT(CALL(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL)) == 0);
}

static void call_clock_nanosleep_real(void)
{
	struct timespec t = deadline(CLOCK_REALTIME);

	kind = "absolute";
	KT(CALL(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL)) == 0);
}

static void call_poll(void)
{
	struct pollfd fd = { eventfd(0, 0), POLLIN, 0 };

	KT(CALL(poll(&fd, 1, wanted_ms())) == 0, "errno %d", errno);
	KT(fd.revents == 0);
}

static void call_poll_nothing(void)
{
	KT(CALL(poll(NULL, 0, wanted_ms())) == 0, "errno %d", errno);
}

static void call_ppoll(void)
{
	struct pollfd fd = { eventfd(0, 0), POLLIN, 0 };
	struct timespec t = wanted();
	sigset_t set;

	sigfillset(&set);
	KT(CALL(ppoll(&fd, 1, &t, &set)) == 0, "errno %d", errno);
	sigprocmask(SIG_BLOCK, NULL, &set);
	KT(!sigismember(&set, SIGTERM));
}

static void call_select(void)
{
	struct timeval t = { wanted().tv_sec, wanted().tv_nsec / 1000 };
	int fd = eventfd(0, 0);
	fd_set set;

	FD_ZERO(&set);
	FD_SET(fd, &set);
	KT(CALL(select(fd + 1, &set, NULL, NULL, &t)) == 0, "errno %d", errno);
	KT(!FD_ISSET(fd, &set));
}

static void call_pselect(void)
{
	struct timespec t = wanted();
	int fd = eventfd(0, 0);
	fd_set set;
	sigset_t mask;

	sigfillset(&mask);
	FD_ZERO(&set);
	FD_SET(fd, &set);
	KT(CALL(pselect(fd + 1, &set, NULL, NULL, &t, &mask)) == 0, "errno %d", errno);
}

static int epoll_of(int fd)
{
	int ep = epoll_create1(0);

	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN });
	return ep;
}

static void call_epoll_wait(void)
{
	struct epoll_event e;
	int ep = epoll_of(eventfd(0, 0));

	KT(CALL(epoll_wait(ep, &e, 1, wanted_ms())) == 0, "errno %d", errno);
}

static void call_epoll_pwait2(void)
{
	struct timespec t = wanted();
	struct epoll_event e;
	int ep = epoll_of(eventfd(0, 0));

	KT(CALL(syscall(SYS_epoll_pwait2, ep, &e, 1, &t, NULL, 8)) == 0, "errno %d", errno);
	KT(is_wanted(&t));
}

static uint32_t word;

static void call_futex(void)
{
	struct timespec t = wanted();

	KT(CALL(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0)) == -1 &&
		   errno == ETIMEDOUT,
	   "errno %d", errno);
}

static void call_futex_abs(void)
{
	struct timespec t = deadline(CLOCK_MONOTONIC);

	kind = "absolute";
	KT(CALL(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, NULL, ~0u)) == -1 &&
		   errno == ETIMEDOUT,
	   "errno %d", errno);
}

static void call_cond_timedwait(void)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t c = PTHREAD_COND_INITIALIZER;
	struct timespec t = deadline(CLOCK_REALTIME);

	kind = "absolute";
	pthread_mutex_lock(&m);
	KT(CALL(pthread_cond_timedwait(&c, &m, &t)) == ETIMEDOUT);
	pthread_mutex_unlock(&m);
}

static void call_sigtimedwait(void)
{
	struct timespec t = wanted();
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	KT(CALL(sigtimedwait(&set, NULL, &t)) == -1 && errno == EAGAIN, "errno %d", errno);
	KT(is_wanted(&t));
}

static void tell_ipc(const char *what, int id)
{
	dprintf(1, "ipc -%s %d\n", what, id);
}

static void call_semtimedop(void)
{
	int id = semget(IPC_PRIVATE, 1, 0600);
	struct sembuf op = { 0, -1, 0 };
	struct timespec t = wanted();

	KT_NEED(id >= 0);
	tell_ipc("s", id);
	KT(CALL(semtimedop(id, &op, 1, &t)) == -1 && errno == EAGAIN, "errno %d", errno);
	KT(is_wanted(&t));
	semctl(id, 0, IPC_RMID);
}

static struct timeval timeout; /* of the socket, as the kernel has rounded it */

static int timeout_of(int fd, struct timeval *ret_timeout)
{
	socklen_t size = sizeof(*ret_timeout);

	return getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, ret_timeout, &size);
}

static void set_timeout(int fd, struct timespec ts)
{
	struct timeval t = { ts.tv_sec, ts.tv_nsec / 1000 };

	KT_NEED(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) == 0);
	KT_NEED(timeout_of(fd, &timeout) == 0);
}

static bool has_timeout(int fd)
{
	struct timeval now;

	return timeout_of(fd, &now) == 0 && now.tv_sec == timeout.tv_sec &&
	       now.tv_usec == timeout.tv_usec;
}

static int udp_socket(struct timespec time)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	KT_NEED(fd >= 0 && bind(fd, (void *)&a, sizeof(a)) == 0);
	set_timeout(fd, time);
	return fd;
}

static void call_recv_timeout(void)
{
	int fd = udp_socket(wanted());
	char c;

	KT(CALL(recv(fd, &c, 1, 0)) == -1 && errno == EAGAIN, "errno %d", errno);
	KT(has_timeout(fd));
}

static void call_recvmsg_timeout(void)
{
	int fd = udp_socket(wanted());
	char c;
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

	KT(CALL(recvmsg(fd, &m, 0)) == -1 && errno == EAGAIN, "errno %d", errno);
	KT(has_timeout(fd));
}

static void call_accept_timeout(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	KT_NEED(fd >= 0 && listen(fd, 3) == 0);
	set_timeout(fd, wanted());
	KT(CALL(accept(fd, NULL, NULL)) == -1 && errno == EAGAIN, "errno %d", errno);
	KT(has_timeout(fd));
}

/* On one of a connected pair: such sockets are only for survivors in this version. */
static void call_pair_recv_timeout(void)
{
	struct timeval t = { wanted().tv_sec, wanted().tv_nsec / 1000 };
	char c;

	KT_NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	KT_NEED(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) == 0);
	KT(CALL(recv(pair[0], &c, 1, 0)) == -1 && errno == EAGAIN, "errno %d", errno);
}

static void call_mq_timedreceive(void)
{
	struct mq_attr attr = { .mq_maxmsg = 2, .mq_msgsize = 16 };
	struct timespec t = deadline(CLOCK_REALTIME);
	char name[64], message[16];
	mqd_t q;

	kind = "absolute";
	snprintf(name, sizeof(name), "/kage-test-%d", getpid());
	q = mq_open(name, O_RDWR | O_CREAT, 0600, &attr);
	KT_NEED(q >= 0 && mq_unlink(name) == 0);
	KT(CALL(mq_timedreceive(q, message, 16, NULL, &t)) == -1 && errno == ETIMEDOUT, "errno %d",
	   errno);
}

static void call_io_getevents(void)
{
	aio_context_t context = 0;
	struct io_event e;
	struct timespec t = wanted();

	KT_NEED(syscall(SYS_io_setup, 4, &context) == 0);
	KT(CALL(syscall(SYS_io_getevents, context, 1, 1, &e, &t)) == 0, "errno %d", errno);
}

/* --- those that end when something happens ---------------------------------------------------- */

static void wake_word(void)
{
	word = 1;
	/* Until it has been woken: who is told too early would sleep for ever. */
	while (syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 0)
		kt_nap(1);
}

static void call_futex_forever(void)
{
	by_event(wake_word);
	/* In a new life it may be woken before it has come to sleep again. */
	KT(CALL(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0)) == 0 ||
		   errno == EAGAIN,
	   "errno %d", errno);
	KT(word == 1);
}

static void call_pipe_read(void)
{
	char got[8] = "";

	KT_NEED(pipe(pair) == 0);
	by_event(poke_pair);
	KT(CALL(read(pair[0], got, 8)) == 4 && memcmp(got, "poke", 4) == 0, "errno %d", errno);
}

static void count_nine(void)
{
	eventfd_write(pair[1], 9);
}

static void call_eventfd_read(void)
{
	uint64_t n = 0;

	pair[1] = eventfd(0, 0);
	by_event(count_nine);
	KT(CALL(read(pair[1], &n, 8)) == 8 && n == 9, "errno %d", errno);
}

static void call_poll_forever(void)
{
	struct pollfd fd;

	KT_NEED(pipe(pair) == 0);
	fd = (struct pollfd){ pair[0], POLLIN, 0 };
	by_event(poke_pair);
	KT(CALL(poll(&fd, 1, -1)) == 1 && fd.revents == POLLIN, "errno %d", errno);
}

static void call_select_forever(void)
{
	fd_set set;

	KT_NEED(pipe(pair) == 0);
	FD_ZERO(&set);
	FD_SET(pair[0], &set);
	by_event(poke_pair);
	KT(CALL(select(pair[0] + 1, &set, NULL, NULL, NULL)) == 1, "errno %d", errno);
}

static void call_epoll_forever(void)
{
	struct epoll_event e;
	int ep;

	KT_NEED(pipe(pair) == 0);
	ep = epoll_of(pair[0]);
	by_event(poke_pair);
	KT(CALL(epoll_wait(ep, &e, 1, -1)) == 1, "errno %d", errno);
}

static struct sockaddr_in server;

static void connect_to_it(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (connect(fd, (void *)&server, sizeof(server)))
		abort();
}

static void call_accept(void)
{
	socklen_t n = sizeof(server);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	KT_NEED(fd >= 0 && listen(fd, 3) == 0 && getsockname(fd, (void *)&server, &n) == 0);
	by_event(connect_to_it);
	KT(CALL(accept(fd, NULL, NULL)) >= 0, "errno %d", errno);
}

static void call_pause(void)
{
	signal(SIGUSR1, on_signal);
	by_event(send_signal);
	KT(CALL(pause()) == -1 && errno == EINTR, "errno %d", errno);
}

static void call_sigsuspend(void)
{
	sigset_t set, now;

	signal(SIGUSR1, on_signal);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	by_event(send_signal);
	sigfillset(&set);
	sigdelset(&set, SIGUSR1);
	KT(CALL(sigsuspend(&set)) == -1 && errno == EINTR, "errno %d", errno);
	pthread_sigmask(SIG_BLOCK, NULL, &now);
	KT(sigismember(&now, SIGUSR1) && !sigismember(&now, SIGTERM), "the mask from before");
}

static void call_sigwaitinfo(void)
{
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	by_event(send_signal);
	KT(CALL(sigwaitinfo(&set, &info)) == SIGUSR1, "errno %d", errno);
}

/* --- those that a handler ends, once, and only by that signal ----------------------------------- */

static volatile sig_atomic_t n_handled;

static void count(int s)
{
	(void)s;
	n_handled++;
}

static void by_signal(int flags)
{
	struct sigaction action = { .sa_handler = count, .sa_flags = flags };

	sigaction(SIGUSR1, &action, NULL);
	by_event(send_signal);
}

/* A time that does not pass before the signal comes. */
static struct timespec long_time(void)
{
	return (struct timespec){ wanted().tv_sec + 120, wanted().tv_nsec };
}

static bool is_long(const struct timespec *t)
{
	return t->tv_sec == long_time().tv_sec && t->tv_nsec == long_time().tv_nsec;
}

/* What is left of it: 50 ms at least must have passed. */
static bool is_left_of_long(int64_t s, int64_t ns)
{
	struct timespec whole = long_time();

	return s > 20 &&
	       s * 1000000000 + ns <= (int64_t)whole.tv_sec * 1000000000 + whole.tv_nsec - 50000000;
}

static void call_read_interrupted(void)
{
	char c;

	KT_NEED(pipe(pair) == 0);
	by_signal(0);
	KT(CALL(read(pair[0], &c, 1)) == -1 && errno == EINTR, "errno %d", errno);
	KT(n_handled == 1);
}

static void signal_and_poke(void)
{
	send_signal();
	while (!n_handled)
		kt_nap(1);
	poke_pair();
}

static void call_read_restarted(void)
{
	char got[8] = "";

	KT_NEED(pipe(pair) == 0);
	by_signal(SA_RESTART);
	on_go = signal_and_poke;
	KT(CALL(read(pair[0], got, 8)) == 4 && memcmp(got, "poke", 4) == 0, "errno %d", errno);
	KT(n_handled >= 1);
}

static void call_nanosleep_interrupted(void)
{
	struct timespec t = long_time(), left = t;

	by_signal(SA_RESTART);
	KT(CALL(nanosleep(&t, &left)) == -1 && errno == EINTR, "errno %d", errno);
	KT(is_long(&t));
	KT(is_left_of_long(left.tv_sec, left.tv_nsec), "left %ld.%09ld", left.tv_sec, left.tv_nsec);
}

static void call_futex_interrupted(void)
{
	struct timespec t = long_time();

	by_signal(SA_RESTART);
	KT(CALL(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0)) == -1 &&
		   errno == EINTR,
	   "errno %d", errno);
	KT(is_long(&t));
}

static void call_select_interrupted(void)
{
	struct timeval t = { long_time().tv_sec, long_time().tv_nsec / 1000 };

	by_signal(SA_RESTART);
	KT(CALL(syscall(SYS_select, 0, NULL, NULL, NULL, &t)) == -1 && errno == EINTR, "errno %d",
	   errno);
	KT(is_left_of_long(t.tv_sec, t.tv_usec * 1000), "left %ld.%06ld", t.tv_sec, t.tv_usec);
}

/* The kernel cannot write what is left where it may not write. */
static void call_ppoll_constant(void)
{
	struct timespec *t =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*t = wanted();
	KT_NEED(mprotect(t, 4096, PROT_READ) == 0);
	KT(CALL(syscall(SYS_ppoll, NULL, 0, t, NULL, 8)) == 0, "errno %d", errno);
	KT(is_wanted(t));
}

static void call_epoll_interrupted(void)
{
	struct epoll_event e;
	int ep = epoll_of(eventfd(0, 0));

	by_signal(SA_RESTART);
	KT(CALL(epoll_wait(ep, &e, 1, (int)long_time().tv_sec * 1000)) == -1 && errno == EINTR,
	   "errno %d", errno);
}

static void call_epoll_pwait2_interrupted(void)
{
	struct timespec t = long_time();
	struct epoll_event e;
	int ep = epoll_of(eventfd(0, 0));

	by_signal(SA_RESTART);
	KT(CALL(syscall(SYS_epoll_pwait2, ep, &e, 1, &t, NULL, 8)) == -1 && errno == EINTR,
	   "errno %d", errno);
	KT(is_long(&t));
}

static void call_recv_interrupted(void)
{
	int fd = udp_socket(long_time());
	char c;

	by_signal(SA_RESTART);
	KT(CALL(recv(fd, &c, 1, 0)) == -1 && errno == EINTR, "errno %d", errno);
	KT(has_timeout(fd));
}

/* --- and others that end when something happens -------------------------------------------------- */

static int queue;

static void send_message(void)
{
	struct {
		long type;
		char text[8];
	} m = { 5, "message" };

	if (msgsnd(queue, &m, 8, 0))
		abort();
}

static void call_msgrcv(void)
{
	struct {
		long type;
		char text[8];
	} m = { 0 };

	queue = msgget(IPC_PRIVATE, 0600);
	KT_NEED(queue >= 0);
	tell_ipc("q", queue);
	by_event(send_message);
	KT(CALL(msgrcv(queue, &m, 8, 5, 0)) == 8 && strcmp(m.text, "message") == 0, "errno %d",
	   errno);
	msgctl(queue, IPC_RMID, NULL);
}

static void raise_semaphore(void)
{
	struct sembuf op = { 0, 2, 0 };

	if (semop(queue, &op, 1))
		abort();
}

static void call_semop(void)
{
	struct sembuf op = { 0, -2, 0 };

	queue = semget(IPC_PRIVATE, 1, 0600);
	KT_NEED(queue >= 0);
	tell_ipc("s", queue);
	by_event(raise_semaphore);
	KT(CALL(semop(queue, &op, 1)) == 0, "errno %d", errno);
	semctl(queue, 0, IPC_RMID);
}

static void unlock_other(void)
{
	flock(other, LOCK_UN);
}

static void call_flock(void)
{
	int mine;

	other = open("lock", O_RDWR | O_CREAT, 0600);
	mine = open("lock", O_RDWR);
	KT_NEED(other >= 0 && mine >= 0 && flock(other, LOCK_EX) == 0);
	by_event(unlock_other);
	KT(CALL(flock(mine, LOCK_EX)) == 0, "errno %d", errno);
}

static void unlock_range(void)
{
	struct flock l = { .l_type = F_UNLCK, .l_len = 10 };

	fcntl(other, F_OFD_SETLK, &l);
}

static void call_ofd_lock(void)
{
	struct flock l = { .l_type = F_WRLCK, .l_len = 10 };
	int mine;

	other = open("lock", O_RDWR | O_CREAT, 0600);
	mine = open("lock", O_RDWR);
	KT_NEED(other >= 0 && mine >= 0 && fcntl(other, F_OFD_SETLK, &l) == 0);
	by_event(unlock_range);
	KT(CALL(fcntl(mine, F_OFD_SETLKW, &l)) == 0, "errno %d", errno);
}

static pid_t child;

static void end_child(void)
{
	kill(child, SIGTERM);
}

static void call_wait4(void)
{
	int status = 0;

	child = fork();
	if (child == 0) {
		pause();
		_exit(9);
	}
	by_event(end_child);
	KT(CALL(waitpid(child, &status, 0)) == child, "errno %d", errno);
	KT(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

static void call_waitid(void)
{
	siginfo_t info;

	child = fork();
	if (child == 0) {
		pause();
		_exit(9);
	}
	by_event(end_child);
	KT(CALL(waitid(P_PID, (id_t)child, &info, WEXITED)) == 0, "errno %d", errno);
}

static volatile int joined_leave;

static void *joined(void *arg)
{
	while (!joined_leave)
		kt_nap(10);
	return arg;
}

static void let_go(void)
{
	joined_leave = 1;
}

static void call_join(void)
{
	pthread_t thread;
	void *result;

	KT_NEED(pthread_create(&thread, NULL, joined, &word) == 0);
	by_event(let_go);
	KT(CALL(pthread_join(thread, &result)) == 0 && result == &word);
}

/* --- transfers that are larger than what fits ------------------------------------------------- */

enum { MUCH = 1 << 20 };
static unsigned char sent[MUCH], received[MUCH];

static void drain(void)
{
	size_t n = 0;
	ssize_t r;

	while (n < MUCH && (r = read(pair[0], received + n, MUCH - n)) > 0) {
		n += (size_t)r;
		kt_nap(1);
	}
}

static void call_pipe_write(void)
{
	size_t at = 0;

	KT_NEED(pipe(pair) == 0);
	kt_fill(sent, MUCH, 1);
	by_event(drain);
	begin();
	for (n_calls = 0; at < MUCH; n_calls++) {
		ssize_t n = write(pair[1], sent + at, MUCH - at);

		KT(n > 0, "errno %d", errno);
		if (n <= 0)
			break;
		at += (size_t)n;
	}
	end();
	pthread_join(helper, NULL);
	KT(memcmp(sent, received, MUCH) == 0);
}

static void call_recv_waitall(void)
{
	char got[9] = "";

	KT_NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	KT_NEED(write(pair[1], "half", 4) == 4);
	by_event(poke_pair);
	KT(CALL(recv(pair[0], got, 8, MSG_WAITALL)) == 8, "errno %d", errno);
	KT(strcmp(got, "halfpoke") == 0, "'%s'", got);
}

static void send_rest(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "datagrams" };
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

	if (sendto(fd, "poke", 4, 0, (void *)&a, sizeof(a)) != 4)
		abort();
}

static void call_recvfrom(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "datagrams" };
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	char got[8];

	KT_NEED(fd >= 0 && bind(fd, (void *)&a, sizeof(a)) == 0);
	by_event(send_rest);
	KT(CALL(recv(fd, got, 8, 0)) == 4 && memcmp(got, "poke", 4) == 0, "errno %d", errno);
}

/* --- all of them --------------------------------------------------------------------------------- */

#define RESTORED(name)                   \
	{                                \
#name, call_##name, true \
	}
#define SURVIVES(name)                    \
	{                                 \
#name, call_##name, false \
	}
static const struct {
	const char *name;
	void (*run)(void);
	bool restored;
} calls[] = {
	RESTORED(nanosleep),
	RESTORED(clock_nanosleep),
	RESTORED(clock_nanosleep_boot),
	RESTORED(clock_nanosleep_abs),
	RESTORED(clock_nanosleep_real),
	RESTORED(poll),
	RESTORED(poll_nothing),
	RESTORED(ppoll),
	RESTORED(ppoll_constant),
	RESTORED(select),
	RESTORED(pselect),
	RESTORED(epoll_wait),
	RESTORED(epoll_pwait2),
	RESTORED(futex),
	RESTORED(futex_abs),
	RESTORED(cond_timedwait),
	RESTORED(sigtimedwait),
	RESTORED(semtimedop),
	RESTORED(recv_timeout),
	RESTORED(recvmsg_timeout),
	RESTORED(accept_timeout),
	RESTORED(futex_forever),
	RESTORED(pipe_read),
	RESTORED(eventfd_read),
	RESTORED(poll_forever),
	RESTORED(select_forever),
	RESTORED(epoll_forever),
	RESTORED(accept),
	RESTORED(pause),
	RESTORED(sigsuspend),
	RESTORED(sigwaitinfo),
	RESTORED(read_interrupted),
	RESTORED(read_restarted),
	RESTORED(nanosleep_interrupted),
	RESTORED(futex_interrupted),
	RESTORED(select_interrupted),
	RESTORED(epoll_interrupted),
	RESTORED(epoll_pwait2_interrupted),
	RESTORED(recv_interrupted),
	RESTORED(msgrcv),
	RESTORED(semop),
	RESTORED(flock),
	RESTORED(ofd_lock),
	RESTORED(join),
	RESTORED(pipe_write),
	RESTORED(recvfrom),
	SURVIVES(pair_recv_timeout),
	SURVIVES(mq_timedreceive),
	SURVIVES(io_getevents),
	SURVIVES(wait4),
	SURVIVES(waitid),
	SURVIVES(recv_waitall),
};
enum { N_CALLS = sizeof(calls) / sizeof(*calls) };

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--list") == 0) {
		for (int i = 0; i < N_CALLS; i++)
			printf("%s %s\n", calls[i].name, calls[i].restored ? "restore" : "survive");
		return 0;
	}
	if (argc != 3)
		return 2;
	seconds = atof(argv[2]);
	caller = pthread_self();
	for (int i = 0; i < N_CALLS; i++)
		if (strcmp(calls[i].name, argv[1]) == 0) {
			calls[i].run();
			dprintf(1, "took %ld %ld %ld %s %d\n", (long)begin_ns, (long)end_ns,
				(long)(seconds * 1e9), kind, n_calls);
			kt_end();
		}
	return 2;
}
