/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking keepers: the public functions of kage/twins.h, each a request and what is replied.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <kage/twins.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "keeper/talk.h"
#include "store/store.h"
#include "sys/text.h"

typedef Kage__Keeper__Request Request;
typedef Kage__Keeper__Reply Reply;

enum { TRIES = 5, FIRST_FD = 3 };

extern char **environ;

/* --- a request and its replies ---------------------------------------------------------------- */

static void reply_free(Reply *r)
{
	if (r)
		kage__keeper__reply__free_unpacked(r, NULL);
}

static void reply_cleanup(Reply **r)
{
	reply_free(*r);
}
#define _cleanup_reply_ __attribute__((cleanup(reply_cleanup)))

/* The next reply on FD; KAGE_GONE when the keeper ended instead. A descriptor that comes along goes to RET_FD, which may be
 * NULL. */
static struct kage_err *next_reply(struct kage_ctx *ctx, int fd, Reply **ret_reply, int *ret_fd)
{
	_cleanup_reply_ Reply *r = NULL;
	struct talk_fds fds;

	TRY(talk_receive(fd, &kage__keeper__reply__descriptor, (ProtobufCMessage **)&r, &fds));
	if (r && ret_fd && fds.n == 1 && !r->failure) {
		*ret_fd = fds.v[0];
		fds.n = 0;
	}
	talk_fds_close(&fds);
	if (!r)
		return kage_err_new(KAGE_GONE, "the keeper has ended; its twins are gone");
	for (size_t i = 0; i < r->n_notices; i++)
		kage_ctx_notice(ctx, "%s", r->notices[i]);
	if (r->failure)
		return kage_err_new((enum kage_code)r->failure->code, "%s", r->failure->message);
	*ret_reply = take_ptr(r);
	return NULL;
}

static struct kage_err *ask(struct kage_ctx *ctx, int fd, const Request *q, const int *fds,
			    size_t n, Reply **ret_reply, int *ret_fd)
{
	struct kage_err *e = talk_send(fd, &q->base, fds, n);

	/* What an ended keeper had to say may be there still. */
	if (e && kage_err_errno(e) != EPIPE)
		return e;
	err_drop(e);
	return next_reply(ctx, fd, ret_reply, ret_fd);
}

/* NAME@WHICH into its parts. */
static struct kage_err *split(const char *spec, char ret_name[KAGE_TWINS_NAME_BYTES],
			      const char **ret_which)
{
	size_t n = strcspn(spec, "@");

	if (n >= KAGE_TWINS_NAME_BYTES)
		return kage_err_new(KAGE_NOTFOUND, "there are no twins called %.*s", (int)n, spec);
	memcpy(ret_name, spec, n);
	ret_name[n] = '\0';
	*ret_which = spec[n] ? spec + n + 1 : "";
	return spec[n] && !spec[n + 1]
		       ? kage_err_new(KAGE_INVALID, "%s: what stands behind the '@' is missing",
				      spec)
		       : NULL;
}

/* --- clone ------------------------------------------------------------------------------------ */

static struct kage_err *open_log(const char *name, int *ret_fd)
{
	_cleanup_fd_ int dir = -1;
	char file[TALK_NAME_BYTES + 16];

	TRY(talk_open_dir(true, &dir));
	snprintf(file, sizeof(file), "%s.log", name);
	*ret_fd = openat(dir, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	return *ret_fd < 0 ? kage_err_sys(errno, "open %s", file) : NULL;
}

/* kage(1), with the connection as its descriptor FIRST_FD, and nothing else of ours. */
static int spawn(const char *program, const char *name, int connection, int log, pid_t *ret_pid)
{
	char *argv[] = { "kage", "twins", "--be-keeper-of", (char *)name, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int num;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, log, STDERR_FILENO);
	posix_spawn_file_actions_adddup2(&actions, connection, FIRST_FD);
	posix_spawn_file_actions_addclosefrom_np(&actions, FIRST_FD + 1);
	num = posix_spawnp(ret_pid, program, &actions, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return num;
}

/* Above those that it gets. */
static struct kage_err *lift(int *fd)
{
	int high = fcntl(*fd, F_DUPFD_CLOEXEC, FIRST_FD + 1);

	if (high < 0)
		return kage_err_sys(errno, "duplicate a descriptor");
	close(*fd);
	*fd = high;
	return NULL;
}

static struct kage_err *make_keeper(const char *program, const char *name, int *ret_fd)
{
	_cleanup_fd_ int ours = -1, theirs = -1, log = -1;
	int pair[2], num, status;
	pid_t pid = 0;

	TRY(open_log(name, &log));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return kage_err_sys(errno, "make a socket");
	ours = pair[0];
	theirs = pair[1];
	TRY(lift(&log));
	TRY(lift(&theirs));
	num = spawn(program ? program : "kage", name, theirs, log, &pid);
	if (num)
		return kage_err_sys(num, "start a keeper (%s)", program ? program : "kage");
	/* It makes the keeper, and ends at once. */
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	*ret_fd = take_fd(&ours);
	return NULL;
}

static struct kage_err *start_of(pid_t pid, uint64_t *ret_ticks, char *ret_comm, size_t size)
{
	_cleanup_free_ char *text = NULL;
	const char *open, *close;
	char path[64];
	size_t n;
	struct kage_err *e;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	e = kage_file_slurp(AT_FDCWD, path, 1 << 16, &text, &n);
	if (e && kage_err_errno(e) == ENOENT) {
		err_drop(e);
		return kage_err_new(KAGE_NOTFOUND, "there is no process %d", pid);
	}
	TRY(e);
	open = strchr(text, '(');
	close = strrchr(text, ')');
	if (!open || !close || !kage_text_stat_u64(text, 22, ret_ticks))
		return kage_err_new(KAGE_CORRUPT, "/proc/%d/stat is not understood", pid);
	snprintf(ret_comm, size, "%.*s", (int)(close - open - 1), open + 1);
	return NULL;
}

/* Asks the keeper of NAME, or a new one. *RET_AGAIN: it was about to end, or another one has become it. */
static struct kage_err *clone_once(struct kage_ctx *ctx, const char *name, const char *program,
				   const Request *q, Reply **ret_reply, bool *ret_again)
{
	_cleanup_fd_ int fd = -1;
	struct kage_err *e = talk_connect(name, &fd);

	*ret_again = false;
	if (e && kage_err_code(e) == KAGE_NOTFOUND) {
		err_drop(e);
		e = make_keeper(program, name, &fd);
	}
	TRY(e);
	e = ask(ctx, fd, q, NULL, 0, ret_reply, NULL);
	*ret_again = e && (kage_err_code(e) == KAGE_GONE || kage_err_code(e) == KAGE_CHANGED ||
			   kage_err_errno(e) == ECONNRESET);
	return e;
}

static struct kage_err *clone_as(struct kage_ctx *ctx, const char *name, const char *program,
				 const Request *q, Reply **ret_reply)
{
	bool again = true;
	struct kage_err *e = NULL;

	TRY(talk_check_name(name));
	for (int i = 0; i < TRIES && again; i++) {
		err_drop(e);
		e = clone_once(ctx, name, program, q, ret_reply, &again);
	}
	return e;
}

static struct kage_err *clone_request(struct kage_ctx *ctx, const struct kage_clone_options *o,
				      const char *comm, const Request *q, Reply **ret_reply)
{
	char name[64], other[KAGE_TWINS_NAME_BYTES];
	struct kage_err *e;

	if (o->name)
		return clone_as(ctx, o->name, o->program, q, ret_reply);
	kage_store_default_name(comm, name);
	e = clone_as(ctx, name, o->program, q, ret_reply);
	if (!e || kage_err_code(e) != KAGE_BUSY)
		return e;
	/* Of another program with the same command. */
	err_drop(e);
	snprintf(other, sizeof(other), "%.40s-%d", name, q->clone->pid);
	return clone_as(ctx, other, o->program, q, ret_reply);
}

struct kage_err *kage_clone(struct kage_ctx *ctx, pid_t pid,
			    const struct kage_clone_options *options,
			    struct kage_clone_result *ret_result)
{
	static const struct kage_clone_options defaults;
	const struct kage_clone_options *o = options ? options : &defaults;
	Request q = KAGE__KEEPER__REQUEST__INIT;
	Kage__Keeper__Clone m = KAGE__KEEPER__CLONE__INIT;
	_cleanup_reply_ Reply *r = NULL;
	uint64_t begin = kage_clock_mono_ns();
	char comm[32];

	q.what_case = KAGE__KEEPER__REQUEST__WHAT_CLONE;
	q.clone = &m;
	m.pid = pid;
	m.max_memory = o->max_memory;
	m.keep = o->keep;
	TRY_WRAP(start_of(pid, &m.start_ticks, comm, sizeof(comm)), "clone process %d", pid);
	TRY_WRAP(clone_request(ctx, o, comm, &q, &r), "clone process %d", pid);
	if (!r->twin)
		return kage_err_new(KAGE_CORRUPT, "the keeper's answer is not understood");
	*ret_result = (struct kage_clone_result){ .number = r->twin->number,
						  .twin_pid = r->twin->twin_pid,
						  .keeper_pid = r->twin->keeper_pid,
						  .pause_ns = r->twin->pause_ns,
						  .n_dropped = r->twin->dropped,
						  .total_ns = kage_clock_mono_ns() - begin };
	snprintf(ret_result->name, sizeof(ret_result->name), "%s", r->twin->name);
	return NULL;
}

/* --- list ------------------------------------------------------------------------------------- */

static struct kage_err *add_entry(struct kage_twin_list *list, const Kage__Keeper__Twin *m)
{
	struct kage_twin_entry *grown =
		realloc(list->entries, (list->n + 1) * sizeof(*list->entries));
	struct kage_twin_entry *t;

	if (!grown)
		return kage_err_nomem();
	list->entries = grown;
	t = &grown[list->n++];
	*t = (struct kage_twin_entry){ .number = m->number,
				       .pid = m->pid,
				       .alive = m->alive,
				       .twin_pid = m->twin_pid,
				       .keeper_pid = m->keeper_pid,
				       .realtime_ns = m->realtime_ns,
				       .pause_ns = m->pause_ns,
				       .own_bytes = m->own_bytes,
				       .n_threads = m->threads,
				       .n_lives = m->lives };
	snprintf(t->name, sizeof(t->name), "%s", m->name);
	snprintf(t->comm, sizeof(t->comm), "%s", m->comm);
	return NULL;
}

static struct kage_err *list_of(struct kage_ctx *ctx, const char *name, struct kage_twin_list *list)
{
	Request q = KAGE__KEEPER__REQUEST__INIT;
	Kage__Keeper__List m = KAGE__KEEPER__LIST__INIT;
	_cleanup_reply_ Reply *r = NULL;
	_cleanup_fd_ int fd = -1;

	q.what_case = KAGE__KEEPER__REQUEST__WHAT_LIST;
	q.list = &m;
	TRY(talk_connect(name, &fd));
	TRY(ask(ctx, fd, &q, NULL, 0, &r, NULL));
	while (r->more) {
		if (r->twin)
			TRY(add_entry(list, r->twin));
		reply_free(take_ptr(r));
		TRY(next_reply(ctx, fd, &r, NULL));
	}
	return NULL;
}

static struct kage_err *list_all(struct kage_ctx *ctx, struct kage_twin_list *list)
{
	char **names;
	size_t n;
	struct kage_err *e = NULL;

	TRY(talk_names(&names, &n));
	for (size_t i = 0; i < n; i++) {
		if (!e)
			e = list_of(ctx, names[i], list);
		/* A keeper that was killed has left its socket; one may end just now. */
		if (e && (kage_err_code(e) == KAGE_NOTFOUND || kage_err_code(e) == KAGE_GONE ||
			  kage_err_errno(e) == ECONNRESET)) {
			err_drop(e);
			e = NULL;
		}
		free(names[i]);
	}
	free(names);
	return e;
}

struct kage_err *kage_twins(struct kage_ctx *ctx, const char *name, struct kage_twin_list *ret_list)
{
	struct kage_twin_list list = { 0 };
	struct kage_err *e = name ? list_of(ctx, name, &list) : list_all(ctx, &list);

	if (e)
		kage_twins_free(&list);
	else
		*ret_list = list;
	return e;
}

void kage_twins_free(struct kage_twin_list *list)
{
	free(list->entries);
	*list = (struct kage_twin_list){ 0 };
}

/* --- wake, drop, snap ------------------------------------------------------------------------- */

/* Connects to the keeper of SPEC's name and asks Q, in which *WHICH is to be filled in. */
static struct kage_err *ask_about(struct kage_ctx *ctx, const char *spec, const Request *q,
				  char **which, const struct talk_fds *fds, Reply **ret_reply,
				  int *ret_fd)
{
	char name[KAGE_TWINS_NAME_BYTES];
	_cleanup_fd_ int fd = -1;
	const char *w = "";

	TRY(split(spec, name, &w));
	*which = (char *)w;
	TRY(talk_connect(name, &fd));
	return ask(ctx, fd, q, fds ? fds->v : NULL, fds ? fds->n : 0, ret_reply, ret_fd);
}

static const enum kage_pid_mode modes[] = {
	[KAGE_WAKE_PID_FITTING] = KAGE_PID_FITTING,
	[KAGE_WAKE_PID_OWN] = KAGE_PID_OWN,
	[KAGE_WAKE_PID_SAME] = KAGE_PID_SAME,
	[KAGE_WAKE_PID_NEW] = KAGE_PID_NEW,
};

static struct kage_err *wake_request(const struct kage_wake_options *o, Kage__Keeper__Wake *m,
				     int32_t instead[TALK_FDS], struct talk_fds *fds)
{
	m->pid_mode = modes[o->pid];
	m->files_mode = o->files;
	m->connections_mode = o->connections;
	m->stopped = o->stopped;
	m->tty = (char *)(o->tty ? o->tty : "");
	m->event = (char *)(o->event ? o->event : "");
	if (o->n_instead > TALK_FDS)
		return kage_err_new(KAGE_INVALID, "at most %d descriptors can be given", TALK_FDS);
	for (size_t i = 0; i < o->n_instead; i++) {
		instead[i] = o->instead[i].fd;
		fds->v[fds->n++] = o->instead[i].from;
	}
	m->instead = instead;
	m->n_instead = o->n_instead;
	return NULL;
}

struct kage_err *kage_twin_wake(struct kage_ctx *ctx, const char *spec,
				const struct kage_wake_options *options, struct kage_life *ret_life)
{
	static const struct kage_wake_options defaults;
	Request q = KAGE__KEEPER__REQUEST__INIT;
	Kage__Keeper__Wake m = KAGE__KEEPER__WAKE__INIT;
	_cleanup_reply_ Reply *r = NULL;
	_cleanup_fd_ int pidfd = -1;
	struct talk_fds fds = { 0 };
	int32_t instead[TALK_FDS];

	q.what_case = KAGE__KEEPER__REQUEST__WHAT_WAKE;
	q.wake = &m;
	TRY(wake_request(options ? options : &defaults, &m, instead, &fds));
	TRY(ask_about(ctx, spec, &q, &m.which, &fds, &r, &pidfd));
	if (!r->life || pidfd < 0)
		return kage_err_new(KAGE_CORRUPT, "the keeper's answer is not understood");
	*ret_life = (struct kage_life){ .pid = r->life->pid,
					.pidfd = take_fd(&pidfd),
					.total_ns = r->life->total_ns,
					.redraw = r->life->redraw };
	return NULL;
}

/* The name whose twins are of process PID. */
static struct kage_err *name_of(struct kage_ctx *ctx, long pid,
				char ret_name[KAGE_TWINS_NAME_BYTES])
{
	struct kage_twin_list list;
	bool found = false;

	TRY(kage_twins(ctx, NULL, &list));
	for (size_t i = 0; i < list.n; i++)
		if (list.entries[i].pid == pid && list.entries[i].alive) {
			memcpy(ret_name, list.entries[i].name, KAGE_TWINS_NAME_BYTES);
			found = true;
		}
	kage_twins_free(&list);
	return found ? NULL
		     : kage_err_new(KAGE_NOTFOUND,
				    "process %ld has no twin; 'kage clone %ld' makes one", pid,
				    pid);
}

struct kage_err *kage_rollback(struct kage_ctx *ctx, const char *spec,
			       const struct kage_rollback_options *options,
			       struct kage_rollback_result *ret_result)
{
	static const struct kage_rollback_options defaults;
	const struct kage_rollback_options *o = options ? options : &defaults;
	Request q = KAGE__KEEPER__REQUEST__INIT;
	Kage__Keeper__Rollback m = KAGE__KEEPER__ROLLBACK__INIT;
	_cleanup_reply_ Reply *r = NULL;
	char full[KAGE_TWINS_NAME_BYTES + 32], name[KAGE_TWINS_NAME_BYTES];
	char *end;
	long pid = strtol(spec, &end, 10);

	if (end > spec && (!*end || *end == '@')) {
		TRY(name_of(ctx, pid, name));
		snprintf(full, sizeof(full), "%s%.30s", name, end);
		spec = full;
		m.pid = (int32_t)pid;
	}
	q.what_case = KAGE__KEEPER__REQUEST__WHAT_ROLLBACK;
	q.rollback = &m;
	m.files_mode = o->files;
	m.connections_mode = o->connections;
	m.end_children = o->end_children;
	TRY(ask_about(ctx, spec, &q, &m.which, NULL, &r, NULL));
	if (!r->gone)
		return kage_err_new(KAGE_CORRUPT, "the keeper's answer is not understood");
	*ret_result = (struct kage_rollback_result){ .pid = r->gone->pid,
						     .number = r->gone->number,
						     .pause_ns = r->gone->pause_ns,
						     .total_ns = r->gone->total_ns,
						     .pages = r->gone->pages,
						     .n_descriptors = r->gone->descriptors };
	return NULL;
}

struct kage_err *kage_twin_drop(struct kage_ctx *ctx, const char *spec)
{
	Request q = KAGE__KEEPER__REQUEST__INIT;
	Kage__Keeper__Drop m = KAGE__KEEPER__DROP__INIT;
	_cleanup_reply_ Reply *r = NULL;

	q.what_case = KAGE__KEEPER__REQUEST__WHAT_DROP;
	q.drop = &m;
	return ask_about(ctx, spec, &q, &m.which, NULL, &r, NULL);
}

struct kage_err *kage_twin_snap(struct kage_ctx *ctx, struct kage_store *store, const char *spec,
				const struct kage_snap_options *options,
				struct kage_snap_result *ret_result)
{
	static const struct kage_snap_options defaults;
	const struct kage_snap_options *o = options ? options : &defaults;
	_cleanup_free_ char *path = realpath(kage_store_path(store), NULL);
	Request q = KAGE__KEEPER__REQUEST__INIT;
	Kage__Keeper__Snap m = KAGE__KEEPER__SNAP__INIT;
	_cleanup_reply_ Reply *r = NULL;
	char name[KAGE_TWINS_NAME_BYTES];
	const char *which;

	if (!path)
		return kage_err_sys(errno, "find %s", kage_store_path(store));
	q.what_case = KAGE__KEEPER__REQUEST__WHAT_SNAP;
	q.snap = &m;
	m.store = path;
	TRY(split(spec, name, &which));
	m.name = (char *)(o->name ? o->name : name);
	m.message = (char *)(o->message ? o->message : "");
	m.recipient = (char *)(o->recipient ? o->recipient : "");
	m.git = (char *)(o->git ? o->git : "");
	m.compression = o->compression;
	TRY(ask_about(ctx, spec, &q, &m.which, NULL, &r, NULL));
	if (!r->stored)
		return kage_err_new(KAGE_CORRUPT, "the keeper's answer is not understood");
	*ret_result = (struct kage_snap_result){ .number = r->stored->number,
						 .stored_bytes = r->stored->stored_bytes,
						 .memory_bytes = r->stored->memory_bytes,
						 .n_threads = r->stored->threads,
						 .pause_ns = r->stored->pause_ns,
						 .rung = r->stored->rung,
						 .pid = r->stored->pid,
						 .total_ns = r->stored->total_ns,
						 .tracking = "twin" };
	snprintf(ret_result->name, sizeof(ret_result->name), "%s", r->stored->name);
	return NULL;
}
