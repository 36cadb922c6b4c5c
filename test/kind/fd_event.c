/* SPDX-License-Identifier: Apache-2.0 */
/* eventfd, epoll (nested, edge, one-shot, dup'ed), timerfd, signalfd. */
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include "lib/kindtest.h"

static void watch(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = { .events = events, .data.u64 = data };

	KT_NEED(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) == 0);
}

/* The data of what is ready, in ascending order. */
static int ready(int ep, uint64_t data[16])
{
	struct epoll_event e[16];
	int n = epoll_wait(ep, e, 16, 0);

	for (int i = 0; i < n; i++)
		data[i] = e[i].data.u64;
	for (int i = 0; i < n; i++)
		for (int j = i + 1; j < n; j++)
			if (data[j] < data[i]) {
				uint64_t x = data[i];

				data[i] = data[j];
				data[j] = x;
			}
	return n;
}

/* How TFD was set (TFD_TIMER_…), as fdinfo tells it. */
static const char *set_how(int tfd, char line[64])
{
	static char text[4096];
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", tfd);
	snprintf(line, 64, "%s", kt_line(kt_slurp(path, text, sizeof(text)), "settime flags:"));
	return line;
}

/* Whether fdinfo of FD has FIELD: what a kernel does not tell cannot be in an image. */
static bool shown(int fd, const char *field)
{
	char path[64], text[4096];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return strstr(kt_slurp(path, text, sizeof(text)), field) != NULL;
}

/* How far from DATE a timer expires. An image knows it as exactly as its clocks were read at one time. */
static int64_t off_by_ns(int tfd, int64_t date_ns)
{
	int64_t best = INT64_MAX;

	for (int i = 0; i < 20; i++) {
		int64_t begin = kt_now_ns(CLOCK_REALTIME), off;
		struct itimerspec left;

		timerfd_gettime(tfd, &left);
		off = begin + left.it_value.tv_sec * 1000000000LL + left.it_value.tv_nsec - date_ns;
		best = llabs(off) < best ? llabs(off) : best;
	}
	return best;
}

int main(void)
{
	int count = eventfd(41, EFD_CLOEXEC), sem = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
	int zero = eventfd(0, 0), edge = eventfd(0, 0), once = eventfd(1, 0),
	    closed = eventfd(1, 0);
	int armed = eventfd(0, 0), moved, dupped, outer, inner, p[2], tick, late, absolute, unarmed,
	    expired, sig;
	struct itimerspec spec;
	struct signalfd_siginfo info;
	union sigval value = { .sival_int = 55 };
	uint64_t n, data[16];
	char how[64], how_after[64];
	int64_t armed_ns, date_ns;
	bool shows_semaphore;
	sigset_t set;
	struct pollfd pfd;

	KT_NEED(count >= 0 && sem >= 0 && zero >= 0 && edge >= 0 && once >= 0 && closed >= 0);
	KT_NEED(armed >= 0);
	KT_NEED(pipe(p) == 0 && write(p[1], "x", 1) == 1);
	outer = epoll_create1(EPOLL_CLOEXEC);
	inner = epoll_create1(0);
	watch(inner, count, EPOLLIN, 0xaaaaaaaa11111111);
	watch(inner, zero, EPOLLIN, 2);
	watch(inner, p[0], EPOLLIN | EPOLLRDHUP, 3);
	watch(outer, inner, EPOLLIN, 4);
	watch(outer, edge, EPOLLIN | EPOLLET, 5);
	watch(outer, once, EPOLLIN | EPOLLONESHOT, 6);
	KT_NEED(ready(outer, data) == 2 && data[1] == 6); /* now disarmed */
	KT_NEED(ready(outer, data) == 1 && data[0] == 4);
	dupped = dup(count);
	watch(outer, dupped, EPOLLIN, 7);
	watch(outer, armed, EPOLLIN | EPOLLONESHOT, 10);
	watch(outer, closed, EPOLLIN, 11); /* under a number that it does not have any more */
	moved = dup(closed);
	close(closed);

	tick = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	late = timerfd_create(CLOCK_BOOTTIME, 0);
	absolute = timerfd_create(CLOCK_REALTIME, 0);
	unarmed = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	expired = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	KT_NEED(tick >= 0 && late >= 0 && absolute >= 0 && unarmed >= 0 && expired >= 0);
	spec = (struct itimerspec){ { 0, 10000000 }, { 0, 10000000 } };
	KT_NEED(timerfd_settime(tick, 0, &spec, NULL) == 0);
	spec = (struct itimerspec){ { 5, 6 }, { 1000, 0 } };
	KT_NEED(timerfd_settime(late, 0, &spec, NULL) == 0);
	armed_ns = kt_now_ns(CLOCK_BOOTTIME);
	spec = (struct itimerspec){ { 0, 0 }, { time(NULL) + 1000, 0 } };
	date_ns = spec.it_value.tv_sec * 1000000000LL;
	KT_NEED(timerfd_settime(absolute, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &spec,
				NULL) == 0);
	set_how(absolute, how);
	spec = (struct itimerspec){ { 0, 0 }, { 0, 1 } };
	KT_NEED(timerfd_settime(expired, 0, &spec, NULL) == 0);
	pfd = (struct pollfd){ expired, POLLIN, 0 };
	KT_NEED(poll(&pfd, 1, 10000) == 1); /* it fired, and nobody has read it yet */

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMIN + 2);
	KT_NEED(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	sig = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	KT_NEED(sig >= 0 && sigqueue(getpid(), SIGRTMIN + 2, value) == 0);
	watch(outer, sig, EPOLLIN, 8);
	watch(outer, unarmed, EPOLLIN, 9);

	shows_semaphore = shown(sem, "eventfd-semaphore");
	kt_wait();

	KT((n = (uint64_t)ready(outer, data)) == 4 && data[0] == 4 && data[1] == 7 &&
		   data[2] == 8 && data[3] == 11,
	   "%d ready", (int)n);
	KT(read(moved, &n, 8) == 8 && n == 1 && ready(outer, data) == 3);
	KT(eventfd_write(armed, 1) == 0 && ready(outer, data) == 4 && data[3] == 10);
	KT(ready(inner, data) == 2 && data[0] == 3 && data[1] == 0xaaaaaaaa11111111);
	KT(fcntl(outer, F_GETFD) == FD_CLOEXEC && fcntl(inner, F_GETFD) == 0);
	KT(eventfd_write(edge, 1) == 0 && ready(outer, data) == 4 && data[1] == 5);
	KT(ready(outer, data) == 3);
	struct epoll_event e = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = 66 };
	KT(epoll_ctl(outer, EPOLL_CTL_MOD, once, &e) == 0);
	KT(ready(outer, data) == 4 && data[3] == 66);

	KT(read(dupped, &n, 8) == 8 && n == 41);
	KT(fcntl(count, F_GETFD) == FD_CLOEXEC && fcntl(dupped, F_GETFD) == 0);
	KT(ready(inner, data) == 1 && data[0] == 3);
	for (int i = 0; i < 3 && shows_semaphore; i++)
		KT(read(sem, &n, 8) == 8 && n == 1);
	KT(!shows_semaphore || (read(sem, &n, 8) < 0 && errno == EAGAIN));
	KT(eventfd_write(zero, 5) == 0 && read(zero, &n, 8) == 8 && n == 5);

	pfd = (struct pollfd){ tick, POLLIN, 0 };
	KT(poll(&pfd, 1, 20000) == 1 && read(tick, &n, 8) == 8 && n >= 1);
	KT(poll(&pfd, 1, 20000) == 1 && read(tick, &n, 8) == 8 && n >= 1);
	KT(timerfd_gettime(tick, &spec) == 0 && spec.it_interval.tv_nsec == 10000000);
	KT(timerfd_gettime(late, &spec) == 0 && spec.it_value.tv_sec < 1000 &&
		   spec.it_value.tv_sec >=
			   998 - (kt_now_ns(CLOCK_BOOTTIME) - armed_ns) / 1000000000 &&
		   spec.it_interval.tv_sec == 5 && spec.it_interval.tv_nsec == 6,
	   "%ld left", (long)spec.it_value.tv_sec);
	KT(off_by_ns(absolute, date_ns) < 200000000, "%ld ns off its date",
	   (long)off_by_ns(absolute, date_ns));
	KT(how[0] && strcmp(set_how(absolute, how_after), how) == 0, "'%s' was '%s'", how_after,
	   how);
	KT(timerfd_gettime(unarmed, &spec) == 0 && spec.it_value.tv_sec == 0 &&
	   spec.it_value.tv_nsec == 0);
	KT(read(unarmed, &n, 8) < 0 && errno == EAGAIN);
	KT(read(expired, &n, 8) == 8 && n == 1);
	KT(read(expired, &n, 8) < 0 && errno == EAGAIN);

	KT(fcntl(sig, F_GETFL) & O_NONBLOCK && fcntl(sig, F_GETFD) == FD_CLOEXEC);
	KT(read(sig, &info, sizeof(info)) == sizeof(info) && (int)info.ssi_signo == SIGRTMIN + 2 &&
	   info.ssi_int == 55 && info.ssi_code == SI_QUEUE);
	KT(read(sig, &info, sizeof(info)) < 0 && errno == EAGAIN);
	raise(SIGUSR1);
	KT(read(sig, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGUSR1);
	kt_end();
}
