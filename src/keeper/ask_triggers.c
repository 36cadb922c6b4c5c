/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking keepers for triggers: the public functions of kage/triggers.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <kage/triggers.h>

#include "base/cleanup.h"
#include "keeper/request.h"
#include "trigger/rule.h"

static char *or_empty(const char *s)
{
	return (char *)(s ? s : "");
}

static void fill(const struct kage_trigger_options *o, Kage__Keeper__On *m)
{
	m->call = or_empty(o->call);
	m->signal = or_empty(o->signal);
	m->exit = o->exit;
	m->exec = o->exec;
	m->args = (char **)o->args;
	m->n_args = o->n_args;
	m->results = (char **)o->results;
	m->n_results = o->n_results;
	m->tid = o->tid;
	m->count = or_empty(o->count);
	m->max = o->max;
	m->follow = o->follow;
	m->action = or_empty(o->action);
}

/* Before anybody is asked, and a keeper made. */
static struct kage_err *check(const struct kage_trigger_options *o)
{
	struct trigger_rule *rule = NULL;
	bool stores;

	TRY(trigger_rule_parse(o, &rule));
	stores = rule->action == DO_SNAP;
	trigger_rule_free(rule);
	return stores && !o->store ? kage_err_new(KAGE_INVALID, "images need a store") : NULL;
}

static struct kage_err *on(struct kage_ctx *ctx, pid_t pid, const struct kage_trigger_options *o,
			   struct kage_trigger_result *ret_result)
{
	Request q = KAGE__KEEPER__REQUEST__INIT;
	Kage__Keeper__On m = KAGE__KEEPER__ON__INIT;
	_cleanup_reply_ Reply *r = NULL;
	_cleanup_free_ char *path = NULL;
	char comm[32];

	TRY(check(o));
	path = o->store ? realpath(kage_store_path(o->store), NULL) : NULL;
	if (o->store && !path)
		return kage_err_sys(errno, "find %s", kage_store_path(o->store));
	q.what_case = KAGE__KEEPER__REQUEST__WHAT_ON;
	q.on = &m;
	m.pid = pid;
	fill(o, &m);
	m.store = or_empty(path);
	TRY(request_start_of(pid, &m.start_ticks, comm, sizeof(comm)));
	TRY(request_of_program(ctx, &(struct request_program){ pid, comm, o->name, o->program }, &q,
			       &r));
	if (!r->trigger)
		return kage_err_new(KAGE_CORRUPT, "the keeper's answer is not understood");
	snprintf(ret_result->id, sizeof(ret_result->id), "%s:%" PRIu64, r->trigger->name,
		 r->trigger->number);
	snprintf(ret_result->rung, sizeof(ret_result->rung), "%s", r->trigger->rung);
	ret_result->keeper_pid = r->trigger->keeper_pid;
	return NULL;
}

struct kage_err *kage_trigger_on(struct kage_ctx *ctx, pid_t pid,
				 const struct kage_trigger_options *options,
				 struct kage_trigger_result *ret_result)
{
	TRY_WRAP(on(ctx, pid, options, ret_result), "set a trigger for process %d", pid);
	return NULL;
}

/* --- list ---------------------------------------------------------------------------------------- */

static struct kage_err *add(struct kage_trigger_list *list, const Kage__Keeper__Trigger *m)
{
	struct kage_trigger_entry *grown =
		reallocarray(list->entries, list->n + 1, sizeof(*list->entries));
	struct kage_trigger_entry *t;

	if (!grown)
		return kage_err_nomem();
	list->entries = grown;
	t = &grown[list->n++];
	*t = (struct kage_trigger_entry){ .pid = m->pid,
					  .told = strdup(m->told),
					  .n_met = m->met,
					  .n_done = m->done,
					  .n_failed = m->failed,
					  .max = m->max,
					  .last_ns = m->last_ns,
					  .delay_ns = m->delay_ns,
					  .keeper_pid = m->keeper_pid };
	if (m->last_error[0])
		t->last_error = strdup(m->last_error);
	snprintf(t->id, sizeof(t->id), "%s:%" PRIu64, m->name, m->number);
	snprintf(t->comm, sizeof(t->comm), "%s", m->comm);
	snprintf(t->rung, sizeof(t->rung), "%s", m->rung);
	return t->told ? NULL : kage_err_nomem();
}

static struct kage_err *list_of(struct kage_ctx *ctx, const char *name, pid_t pid,
				struct kage_trigger_list *list)
{
	Request q = KAGE__KEEPER__REQUEST__INIT;
	Kage__Keeper__Triggers m = KAGE__KEEPER__TRIGGERS__INIT;
	_cleanup_reply_ Reply *r = NULL;
	_cleanup_fd_ int fd = -1;

	q.what_case = KAGE__KEEPER__REQUEST__WHAT_TRIGGERS;
	q.triggers = &m;
	TRY(talk_connect(name, &fd));
	TRY(request_ask(ctx, fd, &q, NULL, 0, &r, NULL));
	while (r->more) {
		if (r->trigger && (!pid || r->trigger->pid == pid))
			TRY(add(list, r->trigger));
		request_reply_free(take_ptr(r));
		TRY(request_next_reply(ctx, fd, &r, NULL));
	}
	return NULL;
}

/* A keeper that was killed has left its socket; one may end just now, or be of a version without triggers. */
static bool has_none(const struct kage_err *e)
{
	return kage_err_code(e) == KAGE_NOTFOUND || kage_err_code(e) == KAGE_GONE ||
	       kage_err_code(e) == KAGE_UNSUPPORTED || kage_err_errno(e) == ECONNRESET;
}

struct kage_err *kage_triggers(struct kage_ctx *ctx, pid_t pid, struct kage_trigger_list *ret_list)
{
	struct kage_trigger_list list = { 0 };
	struct kage_err *e = NULL;
	char **names;
	size_t n;

	TRY(talk_names(&names, &n));
	for (size_t i = 0; i < n; i++) {
		if (!e)
			e = list_of(ctx, names[i], pid, &list);
		if (e && has_none(e)) {
			err_drop(e);
			e = NULL;
		}
		free(names[i]);
	}
	free(names);
	if (e)
		kage_triggers_free(&list);
	else
		*ret_list = list;
	return e;
}

void kage_triggers_free(struct kage_trigger_list *list)
{
	for (size_t i = 0; i < list->n; i++) {
		free(list->entries[i].told);
		free(list->entries[i].last_error);
	}
	free(list->entries);
	*list = (struct kage_trigger_list){ 0 };
}

/* --- off ----------------------------------------------------------------------------------------- */

/* NAME:NUMBER, or NAME. */
static struct kage_err *split(const char *id, char ret_name[KAGE_TWINS_NAME_BYTES],
			      uint64_t *ret_number)
{
	size_t n = strcspn(id, ":");
	char *end;

	if (n >= KAGE_TWINS_NAME_BYTES)
		return kage_err_new(KAGE_NOTFOUND, "there are no triggers called %.*s", (int)n, id);
	memcpy(ret_name, id, n);
	ret_name[n] = '\0';
	*ret_number = 0;
	if (!id[n])
		return NULL;
	*ret_number = strtoull(id + n + 1, &end, 10);
	return *end || !*ret_number
		       ? kage_err_new(KAGE_INVALID, "'%s' is no trigger, such as redis:1", id)
		       : NULL;
}

struct kage_err *kage_trigger_off(struct kage_ctx *ctx, const char *id)
{
	Request q = KAGE__KEEPER__REQUEST__INIT;
	Kage__Keeper__Off m = KAGE__KEEPER__OFF__INIT;
	_cleanup_reply_ Reply *r = NULL;
	char name[KAGE_TWINS_NAME_BYTES];
	_cleanup_fd_ int fd = -1;
	struct kage_err *e;

	TRY(split(id, name, &m.number));
	q.what_case = KAGE__KEEPER__REQUEST__WHAT_OFF;
	q.off = &m;
	e = talk_connect(name, &fd);
	if (e && kage_err_code(e) == KAGE_NOTFOUND) {
		err_drop(e);
		return kage_err_new(KAGE_NOTFOUND, "there are no triggers called %s", name);
	}
	TRY(e);
	return request_ask(ctx, fd, &q, NULL, 0, &r, NULL);
}
