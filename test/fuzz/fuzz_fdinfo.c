/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/PID/fdinfo: every kind gets every text. What was understood, written again as the kernel writes
 * it, gives the same message. */
#include "kind/kind.h"
#include "kind/obstacles.h"
#include "kind/parse.h"
#include "lib/fuzzing.h"
#include "sys/text.h"

#include <inttypes.h>

extern const struct kage_kind kage_kind_locks;

/* What a capture of one descriptor makes of its fdinfo. */
struct made {
	struct kage_image *image;
	struct kage_obstacles *obstacles;
	Kage__Process *process;
	Kage__Description *description;
};

static void made_deinit(struct made *m)
{
	kage_obstacles_destroy(m->obstacles);
	kage_image_close(m->image);
}

/* Captures INFO as kind WHICH, or the locks in it when that is NOT_SET. */
static bool capture(char *info, Kage__Description__KindCase which, struct made *m)
{
	struct kage_fd_seen fd = { .fd = 5, .ours = -1, .link = "anon_inode:[x]", .info = info };
	struct kage_capture c = { .fds = &fd, .n_fds = 1 };
	struct arena *a;

	holds(!kage_image_create(&m->image));
	a = &m->image->arena;
	m->obstacles = kage_obstacles_create();
	m->process = msg_append(a, m->image->msg, processes, Kage__Process, kage__process__init);
	m->description = fd.description = msg_append(a, m->image->msg, descriptions,
						     Kage__Description, kage__description__init);
	holds(m->obstacles && m->process && m->description);
	m->description->kind_case = which;
	c.image = m->image;
	c.obstacles = m->obstacles;
	c.process = m->process;
	if (which == KAGE__DESCRIPTION__KIND__NOT_SET)
		return !fuzz_refused(kage_kind_locks.capture(&c));
	return !fuzz_refused(kage_fd_kind_of(m->description)->capture(&c, &fd, m->description));
}

static void print_epoll(FILE *out, const Kage__Description *d)
{
	for (size_t i = 0; i < d->epoll->n_watches; i++)
		fprintf(out, "tfd: %8u events: %8x data: %16" PRIx64 "  pos:-1 ino:2a sdev:f\n",
			d->epoll->watches[i]->fd, d->epoll->watches[i]->events,
			d->epoll->watches[i]->data);
}

static void print_timerfd(FILE *out, const Kage__Description *d)
{
	const Kage__TimerFd *m = d->timerfd;
	const uint64_t s = 1000000000;

	fprintf(out, "clockid: %d\nticks: %" PRIu64 "\nsettime flags: 0%o\n", m->clock, m->ticks,
		m->settime_flags);
	fprintf(out,
		"it_value: (%" PRIu64 ", %" PRIu64 ")\nit_interval: (%" PRIu64 ", %" PRIu64 ")\n",
		m->left_ns / s, m->left_ns % s, m->interval_ns / s, m->interval_ns % s);
}

static void print_lock(FILE *out, const Kage__FileLock *m)
{
	static const char *const names[] = { "", "FLOCK ", "POSIX ", "OFDLCK" };

	fprintf(out, "lock:\t1: %s ADVISORY  %s -1 fe:00:123456 %" PRIu64 " ", names[m->kind],
		m->exclusive ? "WRITE" : "READ ", m->start);
	if (m->end == UINT64_MAX)
		fputs("EOF\n", out);
	else
		fprintf(out, "%" PRIu64 "\n", m->end);
}

static void print(FILE *out, const struct made *m)
{
	const Kage__Description *d = m->description;

	switch (d->kind_case) {
	case KAGE__DESCRIPTION__KIND_EPOLL:
		print_epoll(out, d);
		break;
	case KAGE__DESCRIPTION__KIND_TIMERFD:
		print_timerfd(out, d);
		break;
	case KAGE__DESCRIPTION__KIND_SIGNALFD:
		fprintf(out, "sigmask:\t%016" PRIx64 "\n", d->signalfd->mask);
		break;
	case KAGE__DESCRIPTION__KIND_EVENTFD:
		fprintf(out, "eventfd-count: %16" PRIx64 "\neventfd-semaphore: %d\n",
			d->eventfd->count, d->eventfd->semaphore);
		break;
	default:
		for (size_t i = 0; i < m->process->n_locks; i++)
			print_lock(out, m->process->locks[i]);
	}
}

static void check_kind(char *info, Kage__Description__KindCase which)
{
	_cleanup_(made_deinit) struct made m = { 0 }, again = { 0 };
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ uint8_t *bytes = NULL, *bytes_again = NULL;
	size_t size, n, n_again;
	FILE *out = open_memstream(&text, &size);

	holds(out);
	if (!capture(info, which, &m)) {
		fclose(out);
		return;
	}
	print(out, &m);
	fclose(out);
	holds(capture(text, which, &again));
	holds(!kage_image_encode(m.image, &bytes, &n));
	holds(!kage_image_encode(again.image, &bytes_again, &n_again));
	holds(n == n_again && memcmp(bytes, bytes_again, n) == 0);
}

static void check_inotify(const char *info)
{
	struct kage_inotify_line l, again;
	char text[512], *to = text;

	if (fuzz_refused(kage_inotify_parse(info, &l)))
		return;
	to += sprintf(to, "inotify wd:%x ino:%" PRIx64 " sdev:%x mask:%x ignored_mask:0 ", l.wd,
		      l.ino, l.dev_major << 20 | l.dev_minor, l.mask);
	to += sprintf(to, "fhandle-bytes:%x fhandle-type:%x f_handle:", l.handle.head.handle_bytes,
		      l.handle.head.handle_type);
	for (unsigned i = 0; i < l.handle.head.handle_bytes; i++)
		to += sprintf(to, "%02x", l.handle.head.f_handle[i]);
	holds(!fuzz_refused(kage_inotify_parse(text, &again)));
	holds(memcmp(&l, &again, sizeof(l)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *info = fuzz_text(data, size);

	check_kind(info, KAGE__DESCRIPTION__KIND__NOT_SET);
	check_kind(info, KAGE__DESCRIPTION__KIND_EPOLL);
	check_kind(info, KAGE__DESCRIPTION__KIND_TIMERFD);
	check_kind(info, KAGE__DESCRIPTION__KIND_SIGNALFD);
	check_kind(info, KAGE__DESCRIPTION__KIND_EVENTFD);
	for (const char *line = info; line; line = kage_text_next_line(line))
		check_inotify(line);
	return 0;
}
