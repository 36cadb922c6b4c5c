/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking keepers: the public functions of kage/twins.h, each a request and what is replied.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <kage/twins.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "keeper/request.h"
#include "store/store.h"

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
	TRY_WRAP(request_start_of(pid, &m.start_ticks, comm, sizeof(comm)), "clone process %d",
		 pid);
	TRY_WRAP(request_of_program(
			 ctx, &(struct request_program){ pid, comm, o->name, o->program }, &q, &r),
		 "clone process %d", pid);
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
	TRY(request_ask(ctx, fd, &q, NULL, 0, &r, NULL));
	while (r->more) {
		if (r->twin)
			TRY(add_entry(list, r->twin));
		request_reply_free(take_ptr(r));
		TRY(request_next_reply(ctx, fd, &r, NULL));
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
	return request_ask(ctx, fd, q, fds ? fds->v : NULL, fds ? fds->n : 0, ret_reply, ret_fd);
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
