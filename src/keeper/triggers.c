/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/triggers.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "calls/request.h"
#include "capture/capture.h"
#include "capture/versions.h"
#include "keeper/talk.h"
#include "kind/obstacles.h"
#include "store/store.h"
#include "target/batch.h"

extern char **environ;

/* A process that does a part of an action. */
struct triggers_child {
	pid_t pid;
	pid_t standing; /* this program stands until it has ended; 0: none */
	uint64_t rule;
};

/* --- actions ------------------------------------------------------------------------------------- */

static struct kage_err *add_child(struct triggers *t, pid_t pid, pid_t standing, uint64_t rule)
{
	struct triggers_child *grown =
		reallocarray(t->children, t->n_children + 1, sizeof(*t->children));

	if (!grown)
		return kage_err_nomem();
	t->children = grown;
	grown[t->n_children++] = (struct triggers_child){ pid, standing, rule };
	return NULL;
}

/* Now that none of its threads runs. */
static struct kage_err *run_call(struct kage_target *t, struct kage_thread *thread,
				 struct kage_syscall *call)
{
	struct kage_err *e;

	TRY(kage_target_read_threads(t));
	calls_add(call);
	e = kage_batch_run(t, thread, &call->batch);
	if (!e)
		calls_note_result(call, thread->tid);
	return e;
}

static struct kage_err *call_in(struct triggers *t, const struct watch_event *event,
				struct kage_syscall *call)
{
	const struct kage_freeze how = watch_freeze(&t->watch);
	_cleanup_free_ char *text = NULL;
	struct kage_target *p = event->target;
	struct kage_thread *thread;
	struct kage_err *e;

	TRY(kage_target_freeze(p, &how));
	thread = kage_target_thread(p, event->tid);
	e = thread ? run_call(p, thread, call)
		   : kage_err_new(KAGE_GONE, "thread %d has ended", event->tid);
	kage_target_thaw(p, false);
	if (!e)
		e = kage_syscall_describe(call, &text);
	if (!e)
		kage_ctx_notice(t->ctx, "process %d: %s", p->pid, text);
	return e;
}

static struct kage_err *do_call(struct triggers *t, const struct trigger_rule *r,
				const struct watch_event *event)
{
	struct kage_syscall *call = NULL;
	struct kage_err *e;

	TRY(calls_parse_line(r->argument, &call));
	e = call_in(t, event, call);
	kage_syscall_free(call);
	return e;
}

static struct kage_err *do_clone(struct triggers *t, const struct watch_event *event)
{
	struct brood_twin *twin;
	size_t n_dropped;

	if (event->target != t->brood->program)
		return kage_err_new(KAGE_UNSUPPORTED,
				    "process %d is another one than twins %s are of: 'snap' and "
				    "'exec:kage clone' go with --follow",
				    event->target->pid, t->brood->name);
	TRY(brood_add(t->brood, event->target->pid, event->target->start_ticks, &twin, &n_dropped));
	kage_ctx_notice(t->ctx, "%s@%" PRIu64 " made", t->brood->name, twin->number);
	return NULL;
}

/* In a child. */
static struct kage_err *store(struct triggers *t, const char *where, struct kage_image *image)
{
	const struct kage_snap_options how = { .name = t->brood->name, .reason = "trigger" };
	_cleanup_(kage_versions_close) struct versions versions = { 0 };
	struct kage_snap_result result = { 0 };
	struct kage_store *s = NULL;
	struct kage_err *e;

	TRY(kage_versions_open(&versions, NULL, NULL));
	TRY(kage_store_open(t->ctx, where, KAGE_STORE_CREATE, &s));
	e = kage_snap_store(t->ctx, s, &versions, image, &how, &result);
	kage_store_close(s);
	if (!e)
		kage_ctx_notice(t->ctx, "image %s@%" PRIu64 " stored", result.name, result.number);
	return e;
}

static _Noreturn void store_and_exit(struct triggers *t, const char *where,
				     struct kage_image *image)
{
	struct kage_err *e;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	e = store(t, where, image);
	if (e)
		kage_ctx_notice(t->ctx, "%s", kage_err_message(e));
	_exit(e ? 1 : 0);
}

/* One after the other, so that images are in order, and not more are in memory than one. */
static void await_images(struct triggers *t)
{
	for (size_t i = 0; i < t->n_children; i++)
		while (!t->children[i].standing &&
		       waitid(P_PID, (id_t)t->children[i].pid, NULL, WEXITED | WNOWAIT) < 0 &&
		       errno == EINTR)
			;
}

static struct kage_err *do_snap(struct triggers *t, const struct trigger_rule *r,
				const struct watch_event *event)
{
	_cleanup_(kage_obstacles_cleanup) struct kage_obstacles *obstacles =
		kage_obstacles_create();
	const struct capture_options how = { 0 };
	struct kage_image *image = NULL;
	struct kage_err *e;
	pid_t pid;

	if (!obstacles)
		return kage_err_nomem();
	await_images(t);
	TRY(kage_capture(t->ctx, event->target, &how, obstacles, &image));
	pid = fork();
	if (pid == 0)
		store_and_exit(t, r->store, image);
	e = pid < 0 ? kage_err_sys(errno, "make a process") : add_child(t, pid, 0, r->id);
	kage_image_close(image);
	return e;
}

static void set_number(char **env, size_t *n, const char *name, int64_t value)
{
	if (asprintf(&env[*n], "%s=%" PRId64, name, value) >= 0)
		++*n;
}

/* The environment of the command: ours, and what was met. */
static char **environment(const struct triggers *t, const struct trigger_rule *r,
			  const struct watch_event *event)
{
	enum { MORE = 16 };
	size_t n = 0, n_ours = 0;
	char **env;

	while (environ[n_ours])
		n_ours++;
	env = calloc(n_ours + MORE + 1, sizeof(*env));
	if (!env)
		return NULL;
	set_number(env, &n, "KAGE_PID", event->target->pid);
	set_number(env, &n, "KAGE_TID", event->tid);
	set_number(env, &n, "KAGE_COUNT", (int64_t)r->n_met);
	if (asprintf(&env[n], "KAGE_TRIGGER=%s:%" PRIu64, t->brood->name, r->id) >= 0)
		n++;
	if (event->on == ON_SIGNAL)
		set_number(env, &n, "KAGE_SIGNAL", event->signal);
	if (event->on == ON_CALL) {
		set_number(env, &n, "KAGE_RESULT", event->hit.result);
		for (int i = 0; i < EXIT_ARGS; i++) {
			char name[] = "KAGE_ARG0";

			name[sizeof(name) - 2] = (char)('0' + i);
			set_number(env, &n, name, (int64_t)event->hit.args[i]);
		}
	}
	for (size_t i = 0; i < n_ours; i++) {
		env[n] = strdup(environ[i]);
		n += env[n] != NULL;
	}
	return env;
}

static int spawn(const char *command, char **env, pid_t *ret_pid)
{
	char *argv[] = { "sh", "-c", (char *)command, NULL };
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
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
						POSIX_SPAWN_SETPGROUP);
	posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
	posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
	num = posix_spawn(ret_pid, "/bin/sh", &actions, &attr, argv, env);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return num;
}

static struct kage_err *do_exec(struct triggers *t, const struct trigger_rule *r,
				const struct watch_event *event, bool *ret_begun)
{
	char **env = environment(t, r, event);
	pid_t pid = 0;
	int num;

	if (!env)
		return kage_err_nomem();
	num = spawn(r->argument, env, &pid);
	for (size_t i = 0; env[i]; i++)
		free(env[i]);
	free(env);
	if (num)
		return kage_err_sys(num, "run /bin/sh");
	TRY(add_child(t, pid, event->target->pid, r->id));
	*ret_begun = true;
	return NULL;
}

/* Of that thread, so that it stops before it sees anything. */
static struct kage_err *do_stop(const struct watch_event *event)
{
	if (syscall(SYS_tgkill, event->target->pid, event->tid, SIGSTOP) < 0)
		return kage_err_sys(errno, "stop process %d", event->target->pid);
	return NULL;
}

static struct kage_err *act(void *user, struct trigger_rule *r, const struct watch_event *event,
			    bool *ret_begun)
{
	struct triggers *t = user;

	switch (r->action) {
	case DO_COUNT:
		return NULL;
	case DO_SNAP:
		return do_snap(t, r, event);
	case DO_CLONE:
		return do_clone(t, event);
	case DO_ROLLBACK:
		if (event->target != t->brood->program)
			return kage_err_new(KAGE_UNSUPPORTED, "process %d has no twin",
					    event->target->pid);
		return t->back(t->user, r->argument);
	case DO_STOP:
		return do_stop(event);
	case DO_CALL:
		return do_call(t, r, event);
	case DO_EXEC:
		return do_exec(t, r, event, ret_begun);
	}
	return NULL;
}

/* --- rules --------------------------------------------------------------------------------------- */

static const char *or_null(const char *s)
{
	return s[0] ? s : NULL;
}

/* Only one keeper at a time looks whether there is a table, and makes one. */
static struct kage_err *add_alone(struct triggers *t, struct trigger_rule *rule)
{
	_cleanup_fd_ int dir = -1;
	struct kage_err *e = talk_open_dir(true, &dir);

	if (!e && flock(dir, LOCK_EX) < 0)
		e = kage_err_sys(errno, "lock the directory of keepers");
	if (e) {
		trigger_rule_free(rule);
		return e;
	}
	return watch_add(&t->watch, t->brood->program, rule);
}

struct kage_err *triggers_add(struct triggers *t, const Kage__Keeper__On *m, uint64_t *ret_id)
{
	const struct kage_trigger_options o = { .call = or_null(m->call),
						.signal = or_null(m->signal),
						.exit = m->exit,
						.exec = m->exec,
						.args = (const char *const *)m->args,
						.n_args = m->n_args,
						.results = (const char *const *)m->results,
						.n_results = m->n_results,
						.tid = m->tid,
						.count = or_null(m->count),
						.max = m->max,
						.follow = m->follow,
						.action = m->action };
	struct trigger_rule *rule = NULL;

	TRY(trigger_rule_parse(&o, &rule));
	rule->store = strdup(m->store);
	if (!rule->store) {
		trigger_rule_free(rule);
		return kage_err_nomem();
	}
	t->watch.ctx = t->ctx;
	t->watch.act = act;
	t->watch.user = t;
	TRY(add_alone(t, rule));
	*ret_id = t->watch.last_id;
	return NULL;
}

struct kage_err *triggers_remove(struct triggers *t, uint64_t id)
{
	struct trigger_rule *r = id ? watch_find(&t->watch, id) : NULL;

	if (id && !r)
		return kage_err_new(KAGE_NOTFOUND,
				    "there is no trigger %s:%" PRIu64 "; 'kage on --list' shows "
				    "those that there are",
				    t->brood->name, id);
	while (!id && t->watch.n_rules)
		watch_remove(&t->watch, t->watch.rules[0]);
	if (r)
		watch_remove(&t->watch, r);
	return NULL;
}

bool triggers_tell(const struct triggers *t, size_t i, Kage__Keeper__Trigger *m)
{
	const struct trigger_rule *r;

	if (i >= t->watch.n_rules)
		return false;
	r = t->watch.rules[i];
	m->name = (char *)t->brood->name;
	m->number = r->id;
	m->pid = t->brood->program->pid;
	m->told = r->told;
	m->last_error = r->last_error ? r->last_error : (char *)"";
	m->rung = (char *)(r->on == ON_CALL ? watch_rung(&t->watch) : "ptrace");
	m->met = r->n_met;
	m->done = r->n_done;
	m->failed = r->n_failed;
	m->max = r->max;
	m->last_ns = r->last_ns;
	m->delay_ns = trigger_rule_median_delay(r);
	m->keeper_pid = getpid();
	return true;
}

bool triggers_any(const struct triggers *t)
{
	return t->watch.n_rules || t->n_children;
}

/* --- children ------------------------------------------------------------------------------------ */

static void note_status(struct triggers *t, const struct triggers_child *c, int status)
{
	struct trigger_rule *r = watch_find(&t->watch, c->rule);

	if (!r || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
		return;
	r->n_failed++;
	free(r->last_error);
	if (asprintf(&r->last_error, "%s %s %d", c->standing ? "the command" : "storing",
		     WIFEXITED(status) ? "ended with status" : "was ended by signal",
		     WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status)) < 0)
		r->last_error = NULL;
}

static void reap(struct triggers *t)
{
	for (size_t i = 0; i < t->n_children; i++) {
		struct triggers_child c = t->children[i];
		int status;

		if (waitpid(c.pid, &status, WNOHANG) != c.pid)
			continue;
		note_status(t, &c, status);
		t->children[i--] = t->children[--t->n_children];
		if (c.standing)
			watch_done(&t->watch, c.standing);
	}
}

bool triggers_take(struct triggers *t, pid_t child)
{
	bool more = watch_take(&t->watch, child);

	reap(t);
	return more;
}

void triggers_end(struct triggers *t)
{
	watch_end(&t->watch);
	free(t->children);
	t->children = NULL;
	t->n_children = 0;
}
