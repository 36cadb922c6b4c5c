/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper: a process that holds the twins of one program and serves those who ask for them, one after the other.
 *
 * It ends with its last twin, on SIGTERM, or killed, and its twins end with it. An image of a twin is stored by a child of
 * the keeper, so that wakes need not wait. What it has to say goes to its standard error, a file of bounded size.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "capture/cloned.h"
#include "capture/versions.h"
#include "keeper/brood.h"
#include "keeper/talk.h"
#include "keeper/triggers.h"
#include "restore/back.h"
#include "restore/wake.h"
#include "store/store.h"

typedef Kage__Keeper__Request Request;
typedef Kage__Keeper__Reply Reply;

enum {
	CONNECTIONS = 64,
	NOTICES = 16, /* of one request */
	LOOK_EVERY_NS = 1000000000,
	LOOK_SHARE =
		100, /* looks at memory take at most one part in so many of a processor's time */
	LOG_BYTES = 1 << 20,
};

struct keeper {
	struct kage_ctx *ctx;
	struct brood brood;
	struct triggers triggers;
	char name[KAGE_TWINS_NAME_BYTES];
	int listening, lock, signals, timer;
	int connections[CONNECTIONS];
	size_t n_connections;
	char *notices[NOTICES]; /* of the request that is being served */
	size_t n_notices;
	bool serving, ending;
	bool more; /* triggers may have been met that nobody will tell of again */
};

/* --- what is said ----------------------------------------------------------------------------- */

static void to_log(const char *line)
{
	time_t now = time(NULL);
	struct tm tm;
	char stamp[32];

	if (lseek(STDERR_FILENO, 0, SEEK_END) > LOG_BYTES && ftruncate(STDERR_FILENO, 0) == 0)
		lseek(STDERR_FILENO, 0, SEEK_SET);
	gmtime_r(&now, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ", &tm);
	dprintf(STDERR_FILENO, "%s %s\n", stamp, line);
}

static void on_notice(void *user, const char *line)
{
	struct keeper *k = user;

	if (k->serving && k->n_notices < NOTICES) {
		k->notices[k->n_notices] = strdup(line);
		k->n_notices += k->notices[k->n_notices] != NULL;
	}
	to_log(line);
}

static void forget_notices(struct keeper *k)
{
	while (k->n_notices)
		free(k->notices[--k->n_notices]);
}

/* The last reply to a request, or one of several; with FD unless it is -1. */
static struct kage_err *reply(struct keeper *k, int to, Reply *r, bool more, int fd)
{
	struct kage_err *e;

	r->more = more;
	r->notices = k->notices;
	r->n_notices = more ? 0 : k->n_notices;
	e = talk_send(to, &r->base, &fd, fd >= 0 ? 1 : 0);
	r->notices = NULL;
	r->n_notices = 0;
	return e;
}

static void reply_failure(struct keeper *k, int to, struct kage_err *e)
{
	Reply r = KAGE__KEEPER__REPLY__INIT;
	Kage__Keeper__Failure f = KAGE__KEEPER__FAILURE__INIT;

	f.code = kage_err_code(e);
	f.message = (char *)kage_err_message(e);
	r.failure = &f;
	err_drop(reply(k, to, &r, false, -1));
	err_drop(e);
}

static const char *or_null(const char *s)
{
	return s[0] ? s : NULL;
}

/* --- requests --------------------------------------------------------------------------------- */

static void describe(struct keeper *k, const struct brood_twin *t, Kage__Keeper__Twin *m)
{
	const Kage__Image *image = t->image->msg;

	m->name = k->name;
	m->number = t->number;
	m->pid = image->processes[0]->pid;
	m->comm = image->processes[0]->comm;
	m->alive = brood_program_lives(&k->brood);
	m->twin_pid = t->twin->process->pid;
	m->keeper_pid = getpid();
	m->realtime_ns = image->source->realtime_ns;
	m->pause_ns = image->source->pause_ns;
	m->own_bytes = t->own_bytes;
	m->total_ns = t->total_ns;
	m->threads = (uint32_t)image->processes[0]->n_threads;
	m->lives = t->n_lives;
}

static struct kage_err *serve_clone(struct keeper *k, int to, const Kage__Keeper__Clone *q)
{
	Reply r = KAGE__KEEPER__REPLY__INIT;
	Kage__Keeper__Twin m = KAGE__KEEPER__TWIN__INIT;
	struct brood_twin *t;
	size_t n_dropped = 0;

	if (q->max_memory)
		k->brood.max_memory = q->max_memory;
	if (q->keep)
		k->brood.keep = q->keep;
	TRY(brood_add(&k->brood, q->pid, q->start_ticks, &t, &n_dropped));

	describe(k, t, &m);
	m.dropped = n_dropped;
	r.twin = &m;
	return reply(k, to, &r, false, -1);
}

static struct kage_err *serve_list(struct keeper *k, int to)
{
	Reply last = KAGE__KEEPER__REPLY__INIT;

	brood_bury(&k->brood);
	brood_count(&k->brood);
	for (size_t i = 0; i < k->brood.n; i++) {
		Reply r = KAGE__KEEPER__REPLY__INIT;
		Kage__Keeper__Twin m = KAGE__KEEPER__TWIN__INIT;

		if (k->brood.v[i]->dropped)
			continue;
		describe(k, k->brood.v[i], &m);
		r.twin = &m;
		TRY(reply(k, to, &r, true, -1));
	}
	return reply(k, to, &last, false, -1);
}

static struct kage_err *serve_wake(struct keeper *k, int to, const Kage__Keeper__Wake *q,
				   const struct talk_fds *fds)
{
	struct kage_restore_options how = { .pid = (enum kage_pid_mode)q->pid_mode,
					    .files = (enum kage_files_mode)q->files_mode,
					    .connections =
						    (enum kage_connections_mode)q->connections_mode,
					    .stopped = q->stopped,
					    .detached = true,
					    .tty = or_null(q->tty) };
	struct wake_options wake = { .restore = &how, .event = or_null(q->event) };
	struct kage_fd_given instead[TALK_FDS];
	Reply r = KAGE__KEEPER__REPLY__INIT;
	Kage__Keeper__Life m = KAGE__KEEPER__LIFE__INIT;
	struct kage_life life;
	struct brood_twin *t;
	struct kage_err *e;

	if (q->n_instead != fds->n)
		return kage_err_new(KAGE_INVALID, "%zu descriptors for %zu numbers", fds->n,
				    q->n_instead);
	for (size_t i = 0; i < fds->n; i++)
		instead[i] = (struct kage_fd_given){ .fd = q->instead[i], .from = fds->v[i] };
	how.fds = instead;
	how.n_fds = fds->n;
	TRY(brood_find(&k->brood, q->which, &t));
	wake.event_value = t->n_lives + 1;
	TRY_WRAP(kage_wake(k->ctx, t->image, t->twin, &wake, &life), "wake %s@%" PRIu64, k->name,
		 t->number);
	t->n_lives++;
	m.pid = life.pid;
	m.total_ns = life.total_ns;
	m.redraw = life.redraw;
	r.life = &m;
	e = reply(k, to, &r, false, life.pidfd);
	close(life.pidfd);
	return e;
}

static struct kage_err *roll_back(struct keeper *k, const Kage__Keeper__Rollback *q,
				  struct brood_twin *t, struct back_result *ret_result)
{
	const struct back_options how = {
		.restore = { .files = (enum kage_files_mode)q->files_mode,
			     .connections = (enum kage_connections_mode)q->connections_mode },
		.end_children = q->end_children,
	};
	struct kage_target *program = k->brood.program;
	struct kage_err *e;

	if (!brood_program_lives(&k->brood))
		return kage_err_new(KAGE_GONE,
				    "process %d (%s) has ended: kage wake %s@%" PRIu64
				    " makes another one",
				    program->pid, k->brood.comm, k->name, t->number);
	if (kage_target_replaced(program))
		return kage_err_new(KAGE_GONE, "process %d has executed another program",
				    program->pid);
	if (q->pid && q->pid != program->pid)
		return kage_err_new(KAGE_NOTFOUND, "%s is of process %d", k->name, program->pid);
	e = kage_back(k->ctx, program, t->image, t->twin, &t->instant, &k->brood.tracking, &how,
		      ret_result);
	if (!e)
		watch_went_back(&k->triggers.watch);
	return e;
}

/* By a trigger. */
static struct kage_err *back_to(void *user, const char *which)
{
	Kage__Keeper__Rollback q = KAGE__KEEPER__ROLLBACK__INIT;
	struct keeper *k = user;
	struct back_result result = { 0 };
	struct brood_twin *t;

	TRY(brood_find(&k->brood, which, &t));
	return roll_back(k, &q, t, &result);
}

static struct kage_err *serve_rollback(struct keeper *k, int to, const Kage__Keeper__Rollback *q)
{
	Reply r = KAGE__KEEPER__REPLY__INIT;
	Kage__Keeper__Gone m = KAGE__KEEPER__GONE__INIT;
	struct back_result result = { 0 };
	struct brood_twin *t;

	TRY(brood_find(&k->brood, q->which, &t));
	TRY_WRAP(roll_back(k, q, t, &result), "roll back to %s@%" PRIu64, k->name, t->number);
	m.pid = k->brood.program->pid;
	m.number = t->number;
	m.pause_ns = result.pause_ns;
	m.total_ns = result.total_ns;
	m.pages = result.pages;
	m.descriptors = result.n_made;
	r.gone = &m;
	return reply(k, to, &r, false, -1);
}

/* Whoever has taken away the last wants to find none, so the name goes before the answer; and nobody is to make one in a
 * keeper without a name. */
static void end_if_idle(struct keeper *k)
{
	if (k->brood.n || triggers_any(&k->triggers))
		return;
	talk_unlisten(k->name);
	k->ending = true;
}

static struct kage_err *serve_drop(struct keeper *k, int to, const Kage__Keeper__Drop *q)
{
	Reply r = KAGE__KEEPER__REPLY__INIT;
	struct brood_twin *t;

	if (q->which[0]) {
		TRY(brood_find(&k->brood, q->which, &t));
		brood_drop(&k->brood, t);
	} else {
		for (size_t i = k->brood.n; i-- > 0;)
			brood_drop(&k->brood, k->brood.v[i]);
	}
	end_if_idle(k);
	return reply(k, to, &r, false, -1);
}

static struct kage_err *serve_on(struct keeper *k, int to, const Kage__Keeper__On *q)
{
	Reply r = KAGE__KEEPER__REPLY__INIT;
	Kage__Keeper__Trigger m = KAGE__KEEPER__TRIGGER__INIT;
	uint64_t id = 0;

	TRY(brood_open(&k->brood, q->pid, q->start_ticks));
	TRY(triggers_add(&k->triggers, q, &id));
	for (size_t i = 0; triggers_tell(&k->triggers, i, &m) && m.number != id; i++)
		;
	r.trigger = &m;
	return reply(k, to, &r, false, -1);
}

static struct kage_err *serve_off(struct keeper *k, int to, const Kage__Keeper__Off *q)
{
	Reply r = KAGE__KEEPER__REPLY__INIT;

	TRY(triggers_remove(&k->triggers, q->number));
	end_if_idle(k);
	return reply(k, to, &r, false, -1);
}

static struct kage_err *serve_triggers(struct keeper *k, int to)
{
	Reply last = KAGE__KEEPER__REPLY__INIT;
	Kage__Keeper__Trigger m = KAGE__KEEPER__TRIGGER__INIT;

	for (size_t i = 0; triggers_tell(&k->triggers, i, &m); i++) {
		Reply r = KAGE__KEEPER__REPLY__INIT;

		m.comm = k->brood.comm;
		r.trigger = &m;
		TRY(reply(k, to, &r, true, -1));
	}
	return reply(k, to, &last, false, -1);
}

/* In the child. */
static struct kage_err *store_image(struct keeper *k, const struct brood_twin *t,
				    const Kage__Keeper__Snap *q,
				    struct kage_snap_result *ret_result)
{
	const struct kage_snap_options how = { .name = or_null(q->name),
					       .message = or_null(q->message),
					       .compression = q->compression,
					       .recipient = or_null(q->recipient),
					       .git = or_null(q->git) };
	_cleanup_(kage_versions_close) struct versions versions = { 0 };
	struct kage_store *store = NULL;
	struct cloned_whole whole;
	struct kage_err *e;

	TRY(kage_versions_open(&versions, how.git, how.recipient));
	TRY(kage_store_open(k->ctx, q->store, KAGE_STORE_CREATE, &store));
	e = kage_cloned_begin(k->ctx, t->image, t->twin, &whole);
	t->image->msg->source->copied_bytes = kage_pages_total(t->image->pages) * KAGE_PAGE_BYTES;
	if (!e)
		e = kage_snap_store(k->ctx, store, &versions, t->image, &how, ret_result);
	kage_cloned_end(t->image, &whole);
	kage_store_close(store);
	return e;
}

static struct kage_err *snap(struct keeper *k, int to, const struct brood_twin *t,
			     const Kage__Keeper__Snap *q)
{
	uint64_t begin = kage_clock_mono_ns();
	struct kage_snap_result result = { 0 };
	Reply r = KAGE__KEEPER__REPLY__INIT;
	Kage__Keeper__Stored m = KAGE__KEEPER__STORED__INIT;

	TRY_WRAP(store_image(k, t, q, &result), "store an image of %s@%" PRIu64, k->name,
		 t->number);
	m.name = result.name;
	m.number = result.number;
	m.stored_bytes = result.stored_bytes;
	m.memory_bytes = result.memory_bytes;
	m.threads = result.n_threads;
	m.pause_ns = result.pause_ns;
	m.rung = result.rung;
	m.pid = result.pid;
	m.total_ns = kage_clock_mono_ns() - begin;
	r.stored = &m;
	return reply(k, to, &r, false, -1);
}

static struct kage_err *serve_snap(struct keeper *k, int to, const Kage__Keeper__Snap *q)
{
	struct brood_twin *t;
	struct kage_err *e;
	pid_t pid;

	TRY(brood_find(&k->brood, q->which, &t));
	if (t->reader)
		return kage_err_new(KAGE_BUSY, "an image of %s@%" PRIu64 " is being stored",
				    k->name, t->number);
	pid = fork();
	if (pid < 0)
		return kage_err_sys(errno, "make a process");
	t->reader = pid;
	if (pid > 0)
		return NULL;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	e = snap(k, to, t, q);
	if (e)
		reply_failure(k, to, e);
	_exit(0);
}

static struct kage_err *serve_one(struct keeper *k, int to, const Request *q,
				  const struct talk_fds *fds)
{
	switch (q->what_case) {
	case KAGE__KEEPER__REQUEST__WHAT_CLONE:
		return serve_clone(k, to, q->clone);
	case KAGE__KEEPER__REQUEST__WHAT_LIST:
		return serve_list(k, to);
	case KAGE__KEEPER__REQUEST__WHAT_WAKE:
		return serve_wake(k, to, q->wake, fds);
	case KAGE__KEEPER__REQUEST__WHAT_ROLLBACK:
		return serve_rollback(k, to, q->rollback);
	case KAGE__KEEPER__REQUEST__WHAT_DROP:
		return serve_drop(k, to, q->drop);
	case KAGE__KEEPER__REQUEST__WHAT_SNAP:
		return serve_snap(k, to, q->snap);
	case KAGE__KEEPER__REQUEST__WHAT_ON:
		return serve_on(k, to, q->on);
	case KAGE__KEEPER__REQUEST__WHAT_OFF:
		return serve_off(k, to, q->off);
	case KAGE__KEEPER__REQUEST__WHAT_TRIGGERS:
		return serve_triggers(k, to);
	default:
		return kage_err_new(
			KAGE_UNSUPPORTED,
			"the keeper of %s, process %d, is of another version of kage and "
			"cannot do that",
			k->name, getpid());
	}
}

/* Serves a request of connection FD. False: it is at its end. */
static bool serve(struct keeper *k, int fd)
{
	ProtobufCMessage *m;
	struct talk_fds fds;
	struct kage_err *e = talk_receive(fd, &kage__keeper__request__descriptor, &m, &fds);

	if (e || !m) {
		err_drop(e);
		return false;
	}
	k->serving = true;
	e = serve_one(k, fd, (Request *)m, &fds);
	k->serving = false;
	if (e)
		reply_failure(k, fd, e);
	forget_notices(k);
	talk_fds_close(&fds);
	protobuf_c_message_free_unpacked(m, NULL);
	return true;
}

/* --- the loop --------------------------------------------------------------------------------- */

static void add_connection(struct keeper *k, int fd)
{
	struct kage_err *e = k->n_connections < CONNECTIONS ? talk_check_peer(fd) : NULL;

	if (e) {
		to_log(kage_err_message(e));
		err_drop(e);
	}
	if (e || k->n_connections == CONNECTIONS)
		close(fd);
	else
		k->connections[k->n_connections++] = fd;
}

static void accept_one(struct keeper *k)
{
	const struct timeval patience = { .tv_sec = 5 };
	int fd = accept4(k->listening, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	/* Who asks and does not listen must not keep others waiting. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	add_connection(k, fd);
}

static void reap(struct keeper *k)
{
	pid_t pid;

	/* Only children: twins and lives are traced, and waited for by their numbers. */
	for (size_t i = 0; i < k->brood.n; i++) {
		pid = k->brood.v[i]->reader;
		if (pid && waitpid(pid, NULL, WNOHANG) == pid) {
			brood_unread(&k->brood, pid);
			i = (size_t)-1;
		}
	}
}

static void take_signal(struct keeper *k)
{
	struct signalfd_siginfo si;

	while (read(k->signals, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo == SIGCHLD) {
			k->more |= triggers_take(&k->triggers, (pid_t)si.ssi_pid);
			reap(k);
		} else
			k->ending = true;
	}
}

static void arm(struct keeper *k, uint64_t ns)
{
	const struct itimerspec spec = { .it_value = { (time_t)(ns / 1000000000),
						       (long)(ns % 1000000000) } };

	timerfd_settime(k->timer, 0, &spec, NULL);
}

/* Memory grows without an event that would tell. */
static void look(struct keeper *k)
{
	uint64_t begin = kage_clock_mono_ns(), took, ticks;

	(void)!read(k->timer, &ticks, sizeof(ticks));
	brood_bury(&k->brood);
	brood_fit(&k->brood);
	took = (kage_clock_mono_ns() - begin) * LOOK_SHARE;
	arm(k, took > LOOK_EVERY_NS ? took : LOOK_EVERY_NS);
}

static void serve_ready(struct keeper *k, const struct pollfd *p, size_t n)
{
	for (size_t i = 0; i < n && !k->ending; i++) {
		if (!p[i].revents || serve(k, p[i].fd))
			continue;
		close(p[i].fd);
		for (size_t c = 0; c < k->n_connections; c++)
			if (k->connections[c] == p[i].fd)
				k->connections[c--] = k->connections[--k->n_connections];
	}
}

/* Whether somebody may still ask for the first twin. */
static bool is_needed(const struct keeper *k)
{
	return !k->ending && (k->brood.n || k->n_connections || triggers_any(&k->triggers));
}

static void loop(struct keeper *k)
{
	enum { OURS = 3 };
	struct pollfd p[OURS + CONNECTIONS];

	while (is_needed(k)) {
		size_t n = k->n_connections;

		p[0] = (struct pollfd){ k->listening, POLLIN, 0 };
		p[1] = (struct pollfd){ k->signals, POLLIN, 0 };
		p[2] = (struct pollfd){ k->timer, POLLIN, 0 };
		for (size_t i = 0; i < n; i++)
			p[OURS + i] = (struct pollfd){ k->connections[i], POLLIN, 0 };
		if (poll(p, OURS + n, k->more ? 0 : -1) < 0)
			continue;
		if (k->more)
			k->more = triggers_take(&k->triggers, 0);
		if (p[1].revents)
			take_signal(k);
		if (p[2].revents)
			look(k);
		serve_ready(k, p + OURS, n);
		if (p[0].revents)
			accept_one(k);
	}
}

static struct kage_err *open_all(struct keeper *k)
{
	sigset_t mine;

	sigemptyset(&mine);
	sigaddset(&mine, SIGCHLD);
	sigaddset(&mine, SIGTERM);
	sigaddset(&mine, SIGINT);
	if (pthread_sigmask(SIG_BLOCK, &mine, NULL) != 0)
		return kage_err_sys(errno, "block signals");
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	k->signals = signalfd(-1, &mine, SFD_CLOEXEC | SFD_NONBLOCK);
	k->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (k->signals < 0 || k->timer < 0)
		return kage_err_sys(errno, "make descriptors for signals and time");
	arm(k, LOOK_EVERY_NS);
	return talk_listen(k->name, &k->listening, &k->lock);
}

struct kage_err *kage_twins_keep(struct kage_ctx *ctx, const char *name, int first_fd)
{
	struct keeper k = { .ctx = ctx,
			    .brood = { .ctx = ctx, .name = name },
			    .listening = -1,
			    .lock = -1,
			    .signals = -1,
			    .timer = -1 };
	struct kage_err *e;

	k.triggers =
		(struct triggers){ .ctx = ctx, .brood = &k.brood, .back = back_to, .user = &k };
	TRY(talk_check_name(name));
	snprintf(k.name, sizeof(k.name), "%s", name);
	kage_ctx_set_notice(ctx, on_notice, &k);
	e = open_all(&k);
	if (!e) {
		if (first_fd >= 0)
			add_connection(&k, first_fd);
		loop(&k);
		talk_unlisten(k.name);
	} else if (first_fd >= 0) {
		reply_failure(&k, first_fd, e);
		e = NULL;
	}
	triggers_end(&k.triggers);
	brood_deinit(&k.brood);
	for (size_t i = 0; i < k.n_connections; i++)
		close(k.connections[i]);
	close_fd(k.listening);
	close_fd(k.signals);
	close_fd(k.timer);
	close_fd(k.lock);
	kage_ctx_set_notice(ctx, NULL, NULL);
	return e;
}
