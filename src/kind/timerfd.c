/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timerfd_create(2). What is left of the time is kept relative, so that a timer goes on where it
 * stood; only an absolute timer of the real-time clock means a time of day and keeps that.
 * Started at the very end of a restore.
 *
 * A periodic timer that has expired and was not read stands still: only a look at it counts the
 * periods that went by and sets it going again (fs/timerfd.c). Such a look through our duplicate would
 * wake an edge-triggered epoll of the target once more, so fdinfo alone is read. The restored timer
 * stands expired too, and counts from then on.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/fds.h"
#include "kind/timers.h"
#include "sys/text.h"

enum { EXPIRY_MS = 1000 };

static const uint64_t second_ns = 1000000000;

/* include/uapi/linux/timerfd.h, since 3.17, with CONFIG_CHECKPOINT_RESTORE */
#define KTFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)

static bool match(const struct kage_fd_seen *fd)
{
	return kage_fds_link_is(fd, "anon_inode:[timerfd]");
}

static struct timespec to_timespec(uint64_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / second_ns),
				  .tv_nsec = (long)(ns % second_ns) };
}

/* "(3, 500)": seconds and nanoseconds. */
static bool read_pair(const char *info, const char *name, uint64_t *ret_ns)
{
	uint64_t s, ns;
	size_t n;
	const char *p = kage_text_field(info, name, &n);

	if (!p || !kage_text_char(&p, '(') || !kage_text_number(&p, 10, &s) ||
	    !kage_text_char(&p, ',') || !kage_text_char(&p, ' ') ||
	    !kage_text_number(&p, 10, &ns) || ns >= second_ns || s > UINT64_MAX / second_ns - 1)
		return false;
	*ret_ns = s * second_ns + ns;
	return true;
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	Kage__TimerFd *m = msg_new(&c->image->arena, Kage__TimerFd, kage__timer_fd__init);
	uint64_t clock, flags;

	if (!m)
		return kage_err_nomem();
	d->kind_case = KAGE__DESCRIPTION__KIND_TIMERFD;
	d->timerfd = m;
	if (!kage_text_u64(fd->info, "clockid", 10, &clock) ||
	    !kage_text_u64(fd->info, "settime flags", 8, &flags) ||
	    !kage_text_u64(fd->info, "ticks", 10, &m->ticks) ||
	    !read_pair(fd->info, "it_value", &m->left_ns) ||
	    !read_pair(fd->info, "it_interval", &m->interval_ns))
		return kage_err_new(KAGE_UNSUPPORTED, "this kernel does not show timers");
	if (clock > INT32_MAX || flags > UINT32_MAX)
		return kage_err_new(KAGE_CORRUPT, "a timer of clock %" PRIu64, clock);
	m->clock = (int32_t)clock;
	m->settime_flags = (uint32_t)flags;
	return NULL;
}

static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	int fd = timerfd_create(d->timerfd->clock, TFD_CLOEXEC | TFD_NONBLOCK);

	(void)r;
	if (fd < 0)
		return kage_err_sys(errno, "timerfd of clock %d", d->timerfd->clock);
	*ret_fd = fd;
	return NULL;
}

/* Lets a periodic timer expire and stand, as it stood. */
static struct kage_err *let_expire(const Kage__TimerFd *m, int fd)
{
	const struct itimerspec at_once = { .it_value = { .tv_nsec = 1 },
					    .it_interval = to_timespec(m->interval_ns) };
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (timerfd_settime(fd, 0, &at_once, NULL) < 0)
		return kage_err_sys(errno, "let a timer expire");
	if (poll(&p, 1, EXPIRY_MS) < 1)
		return kage_err_new(KAGE_LIMIT, "a timer does not expire");
	return NULL;
}

/* Expirations not read yet. Setting a timer resets the count, so it comes after. Without the ioctl one
 * expiration is made in place of all, and what is left of the time is lost with it. */
static struct kage_err *set_ticks(const Kage__TimerFd *m, int fd)
{
	uint64_t ticks = m->ticks;

	if (ioctl(fd, KTFD_IOC_SET_TICKS, &ticks) == 0)
		return NULL;
	if (errno != ENOTTY && errno != EINVAL)
		return kage_err_sys(errno, "set the count of a timer");
	return let_expire(m, fd);
}

/* ECANCELED is how a timer with TFD_TIMER_CANCEL_ON_SET is set while the clock was just changed: it is
 * set all the same (timerfd_create(2)). */
static struct kage_err *start(struct kage_restore *r, const Kage__Description *d, int ours)
{
	const Kage__TimerFd *m = d->timerfd;
	const Kage__Source *s = r->image->msg->source;
	bool time_of_day = m->clock == CLOCK_REALTIME && (m->settime_flags & TFD_TIMER_ABSTIME) &&
			   s && s->realtime_ns;
	struct itimerspec t = { .it_interval = to_timespec(m->interval_ns) };
	int flags =
		time_of_day
			? (int)(m->settime_flags & (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET))
			: 0;

	t.it_value = to_timespec(m->left_ns + (time_of_day ? s->realtime_ns : 0));
	if (m->left_ns && timerfd_settime(ours, flags, &t, NULL) < 0 && errno != ECANCELED)
		return kage_err_sys(errno, "set a timer");
	if (m->ticks && m->interval_ns && !m->left_ns)
		TRY(let_expire(m, ours));
	return m->ticks ? set_ticks(m, ours) : NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	const Kage__TimerFd *m = d->timerfd;

	(void)image;
	fprintf(out, "%s clock, ", kage_clock_name(m->clock));
	if (m->left_ns)
		fprintf(out, "expires in %.6f s", (double)m->left_ns / 1e9);
	else
		fputs("not armed", out);
	if (m->interval_ns)
		fprintf(out, ", every %.6f s", (double)m->interval_ns / 1e9);
	if (m->ticks)
		fprintf(out, ", %" PRIu64 " expirations unread", m->ticks);
}

const struct kage_fd_kind kage_fd_timerfd = {
	.name = "timerfd",
	.which = KAGE__DESCRIPTION__KIND_TIMERFD,
	.match = match,
	.capture = capture,
	.make = make,
	.start = start,
	.print = print,
};
