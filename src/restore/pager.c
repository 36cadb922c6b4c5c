/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pager brings the pages of a program that was restored lazily: at once those that it waits for, the
 * others meanwhile, in the order of the image. One process, these threads:
 *
 *	listener	(the first) reads what the userfaultfds tell: faults, and what the program does to its memory
 *	bringer		reads units of pages that somebody waits for
 *	fetchers	read all units, those that somebody waits for first; the last makes the end
 *
 * A unit goes	WANTED or not --take()--> TAKEN --bring()--> DONE.
 *
 * What a program does to its memory is told before it has happened (MADV_DONTNEED) or before the program goes on
 * (mremap, munmap, fork), and no page can be put anywhere until that was read (EAGAIN). So two
 * things must not come between each other: reading such a message with noting it, and looking up where a
 * page belongs with putting it there. That is what the lock is for.
 *
 * Whoever drops a page that was brought (MADV_DONTNEED, MADV_FREE) gets zeros next: nothing is owed there, or the
 * unit is done.
 */
#include "restore/pager.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/workers.h"
#include "image/units.h"
#include "restore/pager_end.h"
#include "restore/pager_map.h"
#include "sys/uffd.h"

enum {
	SLICE_PAGES = 32, /* put with the lock held: a message waits no longer than that takes */
	MAX_FETCHERS = 3,
	AGAIN_MS = 1,
};

enum unit_state { IDLE, WANTED, TAKEN, DONE };

/* A thread of the program that waits for a page. */
struct waiter {
	size_t space;
	uint64_t at;
};

struct pager {
	const struct pager_job *job;
	struct kage_units *units;
	pthread_rwlock_t lock;
	struct pager_map map;

	pthread_mutex_t mutex; /* of these: */
	pthread_cond_t wanted;
	uint8_t *state; /* of each unit */
	size_t *queue;  /* units that are wanted; each at most once */
	size_t n_queue, n_queued;
	size_t next, n_done;
	bool over;

	struct waiter *waiters; /* the listener's */
	size_t n_waiters, max_waiters;
	bool forked; /* since it was looked which children are gone */
	bool failed;
	int bell; /* eventfd: look after the waiters, or the end */
};

/* --- putting ---------------------------------------------------------------------------------- */

/* What came of an attempt. */
enum put { PUT, PUT_AGAIN, PUT_GONE, PUT_FAILED };

/*
 * ENOENT is no proof that the mapping is gone: since 6.9 the kernel looks it up before it asks the second time whether
 * the map is being changed (mm/userfaultfd.c: mfill_atomic()), so a mremap(2) may be under way. It is believed of a
 * single page, the second time in a row: the lock is held, so what mremap tells has not been read since, and the
 * question at the entry of the second call answers EAGAIN.
 */
static enum put put_pages(const struct pager_space *s, uint64_t at, const uint8_t *bytes,
			  uint64_t size, int *ret_errno)
{
	uint64_t n = size; /* at once */
	bool sure = false;

	while (size > 0) {
		uint64_t done;
		int num;

		n = n < size ? n : size;
		num = kage_uffd_copy(s->uffd, at, bytes, n, &done);
		if (num == ENOENT && (n > KAGE_PAGE_BYTES || !sure)) {
			sure = n == KAGE_PAGE_BYTES;
			n = KAGE_PAGE_BYTES; /* of several mappings, it seems */
			continue;
		}
		/* There already; or the mapping is no more, or not in this child. */
		if (num == EEXIST || num == ENOENT)
			done += KAGE_PAGE_BYTES;
		else if (num == EAGAIN && done == 0)
			return PUT_AGAIN;
		else if (num == ESRCH || num == ENOSPC)
			return PUT_GONE;
		else if (num != 0 && num != EAGAIN) {
			*ret_errno = num;
			return PUT_FAILED;
		}
		sure = false;
		at += done;
		bytes += done;
		size -= done;
	}
	return PUT;
}

/* COUNT pages from PAGE to wherever space number I owes them. */
static enum put put_slice(struct pager *p, size_t number, uint64_t page, uint64_t count,
			  const uint8_t *bytes, int *ret_errno)
{
	struct pager_space *s = &p->map.spaces[number];
	enum put put = PUT;

	for (size_t i = pager_map_find(s, page); put == PUT && i < s->n && !s->gone; i++) {
		const struct owed *o = &s->owed[i];
		uint64_t from = o->page > page ? o->page : page;
		uint64_t to = o->page + o->count < page + count ? o->page + o->count : page + count;

		if (from >= to)
			break;
		put = put_pages(s, o->start + ((from - o->page) << KAGE_PAGE_SHIFT),
				bytes + ((from - page) << KAGE_PAGE_SHIFT),
				(to - from) << KAGE_PAGE_SHIFT, ret_errno);
	}
	if (put == PUT_GONE)
		__atomic_store_n(&s->gone, true, __ATOMIC_RELAXED);
	return put;
}

/* Is given pages of a unit. Where a page of zeros is, nothing has to be brought. */
static struct kage_err *put_piece(void *user, uint32_t space, uint64_t first, uint64_t count,
				  const void *bytes)
{
	struct pager *p = user;

	(void)space;
	for (uint64_t done = 0, n; bytes && done < count; done += n) {
		bool more = true;

		n = count - done < SLICE_PAGES ? count - done : SLICE_PAGES;
		for (size_t i = 0; more;) {
			enum put put = PUT;
			int num = 0;

			pthread_rwlock_rdlock(&p->lock);
			more = i < p->map.n;
			if (more)
				put = put_slice(p, i, first + done, n,
						(const uint8_t *)bytes + (done << KAGE_PAGE_SHIFT),
						&num);
			pthread_rwlock_unlock(&p->lock);
			if (put == PUT_FAILED)
				return kage_err_sys(
					num, "put page %#llx into process %d",
					(unsigned long long)((first + done) << KAGE_PAGE_SHIFT),
					p->job->pid);
			if (put == PUT_AGAIN)
				sched_yield(); /* the listener reads why, and its reader goes on */
			else
				i++;
		}
	}
	return NULL;
}

/* --- fetching --------------------------------------------------------------------------------- */

static void ring(const struct pager *p)
{
	const uint64_t one = 1;

	if (write(p->bell, &one, sizeof(one)) < 0)
		return; /* it rings already */
}

/* Of several threads that fail, one says so. */
static _Noreturn void fail(struct pager *p, struct kage_err *e)
{
	while (__atomic_exchange_n(&p->failed, true, __ATOMIC_RELAXED))
		pause();
	pager_give_up(p->job, e);
	_exit(1);
}

/* The next unit for a thread, waiting if it is the BRINGER. False at the end. */
static bool take(struct pager *p, bool bringer, size_t *ret_unit)
{
	bool got = false;

	pthread_mutex_lock(&p->mutex);
	while (bringer && p->n_queue == p->n_queued && p->n_done < p->units->n)
		pthread_cond_wait(&p->wanted, &p->mutex);
	while (!got && p->n_queue < p->n_queued) {
		*ret_unit = p->queue[p->n_queue++];
		got = p->state[*ret_unit] == WANTED;
	}
	while (!got && !bringer && p->next < p->units->n) {
		*ret_unit = p->next++;
		got = p->state[*ret_unit] == IDLE || p->state[*ret_unit] == WANTED;
	}
	if (got)
		p->state[*ret_unit] = TAKEN;
	else if (bringer)
		got = p->n_done < p->units->n, *ret_unit = SIZE_MAX;
	pthread_mutex_unlock(&p->mutex);
	return got;
}

/* Whether that was the last. */
static bool note_done(struct pager *p, size_t unit)
{
	bool last;

	pthread_mutex_lock(&p->mutex);
	p->state[unit] = DONE;
	last = ++p->n_done == p->units->n;
	if (last)
		pthread_cond_broadcast(&p->wanted);
	pthread_mutex_unlock(&p->mutex);
	ring(p);
	return last;
}

/* All pages are in. */
static void make_end(struct pager *p)
{
	pager_end(p->job);
	pthread_mutex_lock(&p->mutex);
	p->over = true;
	pthread_mutex_unlock(&p->mutex);
	ring(p);
}

static void work(struct pager *p, bool bringer)
{
	void *room = p->units->ops->room_create(p->units);
	size_t unit;

	if (!room)
		fail(p, kage_err_nomem());
	while (take(p, bringer, &unit)) {
		struct kage_err *e;

		if (unit == SIZE_MAX)
			continue;
		e = p->units->ops->read(p->units, unit, room, put_piece, p);
		if (e)
			fail(p, e);
		if (note_done(p, unit))
			make_end(p);
	}
	p->units->ops->room_destroy(room);
}

static void *bringer_main(void *arg)
{
	work(arg, true);
	return NULL;
}

static void *fetcher_main(void *arg)
{
	struct pager *p = arg;
	struct pollfd begin = { .fd = p->job->begin_fd, .events = POLLIN };

	while (poll(&begin, 1, -1) < 0)
		;
	work(p, false);
	return NULL;
}

static struct kage_err *start_threads(struct pager *p)
{
	unsigned n_processors = kage_processors();
	pthread_t thread;
	int num = pthread_create(&thread, NULL, bringer_main, p);

	for (unsigned i = 0; !num && i < MAX_FETCHERS && (i == 0 || i < n_processors); i++)
		num = pthread_create(&thread, NULL, fetcher_main, p);
	return num ? kage_err_sys(num, "start a thread that brings pages") : NULL;
}

/* --- listening -------------------------------------------------------------------------------- */

/* Makes UNIT come before others. False when it is done already. */
static bool want(struct pager *p, size_t unit)
{
	bool done;

	pthread_mutex_lock(&p->mutex);
	done = p->state[unit] == DONE;
	if (p->state[unit] == IDLE) {
		p->state[unit] = WANTED;
		p->queue[p->n_queued++] = unit;
		pthread_cond_signal(&p->wanted);
	}
	pthread_mutex_unlock(&p->mutex);
	return !done;
}

static void add_waiter(struct pager *p, const struct waiter *w)
{
	if (p->n_waiters == p->max_waiters) {
		size_t max = p->max_waiters ? p->max_waiters * 2 : 64;
		struct waiter *grown = reallocarray(p->waiters, max, sizeof(*grown));

		if (!grown)
			fail(p, kage_err_nomem());
		p->waiters = grown;
		p->max_waiters = max;
	}
	p->waiters[p->n_waiters++] = *w;
}

/* A page that is not owed, or whose unit is done: zeros, if there is nothing. False: not now. */
static bool settle(struct pager *p, const struct waiter *w)
{
	int num;

	if (p->map.spaces[w->space].gone)
		return true;
	num = kage_uffd_zero(p->map.spaces[w->space].uffd, w->at);
	if (num != 0 && num != EEXIST && num != EAGAIN && num != ENOENT && num != ESRCH)
		fail(p, kage_err_sys(num, "put a page of zeros into process %d", p->job->pid));
	return num != EAGAIN;
}

/*
 * Whether W has to wait still. What it waits for is looked up each time: faults are told before what else the program
 * did, and a mremap(2) that was read since may owe another page to that address. *AGAIN is set if it could have been
 * helped but for a map that is being changed.
 */
static bool has_to_wait(struct pager *p, const struct waiter *w, bool *again)
{
	uint64_t page;
	size_t unit = p->units->n;

	/* Nobody else changes the map. */
	if (pager_map_page(&p->map.spaces[w->space], w->at, &page))
		unit = kage_units_find(p->units, page);
	if (unit < p->units->n && want(p, unit))
		return true;
	if (settle(p, w))
		return false;
	*again = true;
	return true;
}

/* Whether some of those whose time has come could not be helped. */
static bool look_after_waiters(struct pager *p)
{
	bool again = false;
	size_t n = 0;

	for (size_t i = 0; i < p->n_waiters; i++) {
		const struct waiter w = p->waiters[i];

		if (has_to_wait(p, &w, &again))
			p->waiters[n++] = w;
	}
	p->n_waiters = n;
	return again;
}

static void hear_fault(struct pager *p, size_t space, uint64_t address)
{
	struct waiter w = { space, address & ~(uint64_t)(KAGE_PAGE_BYTES - 1) };
	bool again;

	if (has_to_wait(p, &w, &again))
		add_waiter(p, &w);
}

/* The message at the end of the log counts, for the map and for the next pager. */
static void note_message(struct pager *p)
{
	struct pager_log *log = p->job->log;
	const struct pager_message *m = &log->messages[log->n];
	struct kage_err *e = pager_map_apply(&p->map, m->space, &m->msg);

	if (e)
		fail(p, e);
	if (log->n < PAGER_LOG_MAX)
		log->n++;
	else
		log->overflow = true;
}

/* Children that have ended, or executed something. It is noted first, so that a pager that comes after us does not
 * take the same number, which the kernel gives again, for theirs. */
static void bury_gone(struct pager *p)
{
	struct pager_log *log = p->job->log;

	for (size_t i = 1; i < p->map.n; i++) {
		struct pager_message *m = &log->messages[log->n];
		int uffd = p->map.spaces[i].uffd;

		if (uffd < 0 || kage_uffd_is_alive(uffd))
			continue;
		pthread_rwlock_wrlock(&p->lock);
		m->space = (uint32_t)i;
		__atomic_store_n(&m->msg.event, PAGER_EVENT_GONE, __ATOMIC_RELEASE);
		note_message(p);
		close_fd(uffd);
		pthread_rwlock_unlock(&p->lock);
	}
}

/* Reads one message of a space. False: there is none. */
static bool hear(struct pager *p, size_t space)
{
	struct pager_message *m = &p->job->log->messages[p->job->log->n];
	uint64_t fault = 0;
	ssize_t n;

	pthread_rwlock_wrlock(&p->lock);
	m->space = (uint32_t)space;
	n = read(p->map.spaces[space].uffd, &m->msg, sizeof(m->msg));
	/* A fork without a descriptor for us (EMFILE, ENFILE, ENOMEM) stays there, and its program stands. */
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		fail(p,
		     kage_err_sys(errno, "read what process %d does to its memory", p->job->pid));
	if (n == sizeof(m->msg) && m->msg.event == UFFD_EVENT_PAGEFAULT) {
		fault = m->msg.arg.pagefault.address;
		m->msg.event = 0;
	} else if (n == sizeof(m->msg)) {
		p->forked |= m->msg.event == UFFD_EVENT_FORK;
		note_message(p);
	}
	pthread_rwlock_unlock(&p->lock);
	if (fault)
		hear_fault(p, space, fault);
	return n == sizeof(m->msg);
}

/* What to wait for: the bell, the program's end, the spaces. */
static size_t fill_polls(const struct pager *p, bool ended, struct pollfd **polls)
{
	struct pollfd *v = reallocarray(*polls, p->map.n + 2, sizeof(*v));

	if (!v)
		return 0;
	*polls = v;
	v[0] = (struct pollfd){ .fd = p->bell, .events = POLLIN };
	v[1] = (struct pollfd){ .fd = ended ? -1 : p->job->pidfd, .events = POLLIN };
	for (size_t i = 0; i < p->map.n; i++)
		v[i + 2] =
			(struct pollfd){ .fd = p->map.spaces[i].gone ? -1 : p->map.spaces[i].uffd,
					 .events = POLLIN };
	return p->map.n + 2;
}

/* Whether there is anybody left to bring pages to. */
static bool all_gone(const struct pager *p)
{
	for (size_t i = 0; i < p->map.n; i++)
		if (!p->map.spaces[i].gone)
			return false;
	return true;
}

static bool is_over(struct pager *p)
{
	bool over;

	pthread_mutex_lock(&p->mutex);
	over = p->over;
	pthread_mutex_unlock(&p->mutex);
	return over;
}

static void listen_all(struct pager *p)
{
	struct pollfd *polls = NULL;
	bool ended = false;
	uint64_t rung;

	while (!is_over(p) && !all_gone(p)) {
		bool again = look_after_waiters(p);
		size_t n;

		/* Only here: below, POLLS goes by numbers of spaces. */
		if (p->forked)
			bury_gone(p);
		p->forked = false;
		n = fill_polls(p, ended, &polls);
		if (n == 0)
			fail(p, kage_err_nomem());
		/* Who could not be helped waits for another thread of the program, which is about to go on. */
		if (poll(polls, n, again ? AGAIN_MS : -1) < 0 && errno != EINTR)
			fail(p, kage_err_sys(errno, "wait for faults"));
		if (polls[0].revents && read(p->bell, &rung, sizeof(rung)) < 0)
			continue;
		if (polls[1].revents & POLLIN) {
			ended = true;
			/* A process that it has made with CLONE_VM may have its memory still. */
			p->map.spaces[0].gone = !kage_uffd_is_alive(p->job->uffd);
		}
		for (size_t i = 2; i < n; i++)
			if (polls[i].revents & POLLIN)
				while (hear(p, i - 2))
					;
			else if (polls[i].revents)
				p->map.spaces[i - 2].gone = true;
	}
	free(polls);
}

/* --- beginning -------------------------------------------------------------------------------- */

/* Whoever waits for a page looks again: a pager before us may have heard of it, and was killed. */
static void wake_all(const struct pager_space *s)
{
	struct uffdio_range all = { .start = 1 << 16, .len = KAGE_ARCH_USER_CEILING - (1 << 16) };

	(void)ioctl(s->uffd, UFFDIO_WAKE, &all);
}

/* The map as it is after all that was told so far. */
static struct kage_err *make_map(struct pager *p)
{
	const Kage__Memory *m = p->job->memory;
	struct pager_log *log = p->job->log;
	size_t first;

	TRY(pager_map_add_space(&p->map, p->job->uffd, &first));
	for (size_t i = 0; i < m->n_mappings; i++)
		if (p->job->later[i])
			TRY(pager_map_owe(&p->map.spaces[first], m->mappings[i]->start,
					  m->mappings[i]->end));
	if (log->messages[log->n].msg.event == UFFD_EVENT_PAGEFAULT)
		log->messages[log->n].msg.event = 0;
	if (log->messages[log->n].msg.event && log->n < PAGER_LOG_MAX)
		log->n++;
	for (size_t i = 0; i < log->n; i++)
		TRY(pager_map_apply(&p->map, log->messages[i].space, &log->messages[i].msg));
	for (size_t i = 0; i < p->map.n; i++)
		if (p->map.spaces[i].uffd >= 0)
			wake_all(&p->map.spaces[i]);
	return NULL;
}

static struct kage_err *begin(struct pager *p)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&p->lock, &attr);
	pthread_mutex_init(&p->mutex, NULL);
	pthread_cond_init(&p->wanted, NULL);
	p->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->bell < 0)
		return kage_err_sys(errno, "make an eventfd");
	if (p->job->log->overflow)
		return kage_err_new(KAGE_LIMIT,
				    "the process that brought its pages was killed, "
				    "and it had done more to its memory than was noted");
	TRY(kage_units_create(p->job->image->pages, p->job->space, &p->units));
	p->state = calloc(p->units->n + 1, 1);
	p->queue = calloc(p->units->n + 1, sizeof(*p->queue));
	if (!p->state || !p->queue)
		return kage_err_nomem();
	TRY(make_map(p));
	return start_threads(p);
}

void pager_run(const struct pager_job *job)
{
	struct pager p = { .job = job };
	struct kage_err *e = begin(&p);

	if (e)
		fail(&p, e);
	listen_all(&p);
	/* From here, because other threads may work with P as long as there is this process. */
	_exit(0);
}
