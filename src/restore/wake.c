/* SPDX-License-Identifier: Apache-2.0 */
#include "restore/wake.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/signame.h"
#include "kind/memory.h"
#include "restore/pidns.h"
#include "restore/restore.h"

enum { ENVIRONMENT_MAX = 8 << 20, NUMBER_TRIES = 50 };

/* --- descriptors ------------------------------------------------------------------------------ */

/* Our descriptors that the life is to have at the same numbers, as a stub inherits them. */
struct passing {
	struct kage_restore *r;
	int *fds;
	size_t n;
	int above; /* a number above all of them */
};

static void note(struct passing *p, int fd)
{
	if (fd < 0)
		return;
	p->fds[p->n++] = fd;
	if (fd >= p->above)
		p->above = fd + 1;
}

static struct kage_err *collect(struct passing *p)
{
	const struct kage_restore *r = p->r;
	const Kage__Image *m = r->image->msg;
	size_t most = m->n_descriptions + r->options->n_fds + m->n_files + m->n_spaces + 1;

	p->fds = calloc(most, sizeof(*p->fds));
	if (!p->fds)
		return kage_err_nomem();
	for (size_t i = 0; i < m->n_descriptions; i++)
		note(p, r->fds[i]);
	for (size_t i = 0; i < r->options->n_fds; i++)
		note(p, r->given[i]);
	for (size_t i = 0; i < m->n_files; i++)
		note(p, r->files[i]);
	for (size_t i = 0; i < m->n_spaces; i++)
		note(p, r->spaces[i]);
	note(p, r->tty_fd);
	if (p->above <= (int)p->n)
		p->above = (int)p->n + 1;
	return NULL;
}

static const Kage__Limit *open_files(const struct kage_restore *r)
{
	for (size_t i = 0; i < r->process->n_limits; i++)
		if (r->process->limits[i]->resource == RLIMIT_NOFILE)
			return r->process->limits[i];
	return NULL;
}

/* While descriptors are on their way their numbers are higher than the program may want to have. */
static void say_limit(const struct kage_restore *r, bool raised, struct kage_batch *b)
{
	const Kage__Limit *m = open_files(r);
	struct rlimit lim;

	if (!m)
		return;
	lim = (struct rlimit){ raised ? m->hard : m->soft, m->hard };
	BATCH_TRY(b, "set a limit", SYS_prlimit64, V(0), V(RLIMIT_NOFILE),
		  DATA(kage_batch_data(b, &lim, sizeof(lim))), V(0));
}

/* They come at the lowest numbers that are free, so they are put out of the way of each other first. */
static void say_receive(const struct passing *p, size_t first, size_t n, struct kage_batch *b)
{
	size_t at;

	kage_twin_say_receive(b, 0, n, &at);
	for (size_t i = 0; i < n; i++)
		BATCH(b, "put a descriptor out of the way", SYS_dup3, LOAD(at + i * sizeof(int)),
		      V(p->above + (int)(first + i)), V(0));
	BATCH(b, "close a descriptor", SYS_close_range, V(1), V(n), V(0));
}

struct kage_err *wake_say_descriptors(struct kage_restore *r, struct kage_batch *b)
{
	struct passing p = { .r = r };
	_cleanup_free_ int *fds = NULL;

	TRY(collect(&p));
	fds = p.fds;
	say_limit(r, true, b);
	for (size_t at = 0, n; at < p.n; at += n) {
		n = p.n - at < KAGE_TWIN_GIVE_MOST ? p.n - at : KAGE_TWIN_GIVE_MOST;
		TRY(kage_twin_give(r->twin, fds + at, n));
		say_receive(&p, at, n, b);
	}
	for (size_t i = 0; i < p.n; i++)
		BATCH(b, "put a descriptor to its number", SYS_dup3, V(p.above + (int)i), V(fds[i]),
		      V(0));
	BATCH(b, "close what was on its way", SYS_close_range, V(p.above), V(~0u), V(0));
	return NULL;
}

/* --- steps ------------------------------------------------------------------------------------ */

static const char last_number[] = "/proc/sys/kernel/ns_last_pid";

/* The kernel gives the number behind this one next, unless it is taken or somebody else makes a process just now. */
static struct kage_err *set_last_number(int fd, long number)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "%ld", number);

	return kage_file_write(fd, text, (size_t)n, 0, last_number);
}

static const struct kage_twin_birth any_number = { .pidns = -1, .own_ns = -1 };

static struct kage_err *try_for(struct kage_restore *r, int fd, pid_t number,
				struct kage_target **ret_life)
{
	for (int i = 0; i < NUMBER_TRIES; i++) {
		struct kage_target *life = NULL;

		TRY(set_last_number(fd, number - 1));
		TRY(kage_twin_split(r->twin, &any_number, &life));
		if (life->pid == number) {
			*ret_life = life;
			return NULL;
		}
		stub_destroy(life);
	}
	return kage_err_new(KAGE_BUSY, "process number %d was not to be had in %d tries", number,
			    NUMBER_TRIES);
}

/* A program without rights cannot choose a number for its copy. We can make it likely, and see. Others go on getting
 * theirs from where the kernel was. Two that do this at a time would each spoil the number of the other. */
static struct kage_err *try_for_number(struct kage_restore *r, pid_t number,
				       struct kage_target **ret_life)
{
	_cleanup_fd_ int fd = open(last_number, O_RDWR | O_CLOEXEC);
	_cleanup_free_ char *before = NULL;
	struct kage_err *e;
	size_t size;

	if (fd < 0)
		return kage_err_sys(errno, "open %s", last_number);
	while (flock(fd, LOCK_EX) < 0)
		if (errno != EINTR)
			return kage_err_sys(errno, "lock %s", last_number);
	TRY(kage_file_slurp(AT_FDCWD, last_number, 64, &before, &size));
	e = try_for(r, fd, number, ret_life);
	err_drop(set_last_number(fd, strtol(before, NULL, 10)));
	return e;
}

static struct kage_err *make_same(struct kage_restore *r, struct kage_target **ret_life)
{
	const struct kage_twin_birth birth = { r->process->pid, -1, -1 };
	struct kage_err *e = kage_twin_split(r->twin, &birth, ret_life);

	if (!e || kage_err_code(e) != KAGE_PERM)
		return e;
	err_drop(e);
	r->own_numbers = true;
	return kage_err_advise(try_for_number(r, r->process->pid, ret_life),
			       "wake it with a number of its own");
}

static struct kage_err *make_in_namespace(struct kage_restore *r, struct kage_target **ret_life)
{
	_cleanup_(pidns_deinit) struct pidns ns = PIDNS_NONE;
	struct kage_twin_birth birth = { .number = r->process->pid };
	struct kage_target *life;

	TRY(pidns_create(true, &ns));
	birth.pidns = ns.pidfd;
	birth.own_ns = ns.own_fd;
	TRY(kage_twin_split(r->twin, &birth, &life));
	life->inner_pid = life->threads[0]->inner_tid = r->process->pid;
	*ret_life = life;
	return pidns_tie(&ns, r->process->pid);
}

static struct kage_err *make_own(struct kage_restore *r, struct kage_target **ret_life)
{
	r->own_numbers = true;
	return kage_twin_split(r->twin, &any_number, ret_life);
}

/* Threads have their numbers in locks that they hold, so several of them keep theirs, where that can be. */
static struct kage_err *make_fitting(struct kage_restore *r, struct kage_target **ret_life)
{
	struct kage_err *e;

	if (r->process->n_threads == 1)
		return make_own(r, ret_life);
	e = make_in_namespace(r, ret_life);
	if (!e || kage_err_code(e) != KAGE_PERM)
		return e;
	err_drop(e);
	return make_own(r, ret_life);
}

struct kage_err *wake_make(struct kage_restore *r, struct kage_target **ret_life)
{
	switch (r->options->pid) {
	case KAGE_PID_SAME:
		return make_same(r, ret_life);
	case KAGE_PID_NEW:
		return make_in_namespace(r, ret_life);
	case KAGE_PID_OWN:
		return make_own(r, ret_life);
	default:
		return make_fitting(r, ret_life);
	}
}

/* --- telling it ------------------------------------------------------------------------------- */

/* A signal with a value, as from sigqueue(3): it waits until the program runs. Or a count of one to an eventfd of its own. */
static void say_event(const struct kage_restore *r, struct kage_batch *b)
{
	const uint64_t one = 1;
	siginfo_t si = { .si_signo = r->event.signal, .si_code = SI_QUEUE };

	if (r->event.signal) {
		si.si_pid = r->process->pid;
		si.si_value.sival_int = (int)r->event.value;
		BATCH(b, "tell it that it is a copy", SYS_rt_sigqueueinfo, V(r->process->pid),
		      V(r->event.signal), DATA(kage_batch_data(b, &si, sizeof(si))));
	}
	if (r->event.fd >= 0)
		BATCH(b, "tell it that it is a copy", SYS_write, V(r->event.fd),
		      DATA(kage_batch_data(b, &one, sizeof(one))), V(sizeof(one)));
}

static bool is_eventfd(const struct kage_restore *r, long fd)
{
	for (size_t i = 0; i < r->process->n_descriptors; i++) {
		const Kage__Descriptor *n = r->process->descriptors[i];
		const Kage__Description *d = kage_image_description(r->image, n->description);

		if ((long)n->fd == fd)
			return d && d->kind_case == KAGE__DESCRIPTION__KIND_EVENTFD;
	}
	return false;
}

static struct kage_err *parse(struct kage_restore *r, const char *text, const char *whence)
{
	char *end;

	if (strcmp(text, "none") == 0)
		return NULL;
	if (strncmp(text, "fd:", 3) == 0) {
		long fd = strtol(text + 3, &end, 10);

		if (text[3] >= '0' && text[3] <= '9' && !*end && is_eventfd(r, fd)) {
			r->event.fd = (int)fd;
			return NULL;
		}
		return kage_err_new(KAGE_INVALID, "%s: '%s' is no eventfd of the program", whence,
				    text);
	}
	r->event.signal = kage_signal_number(text);
	if (r->event.signal && r->event.signal != SIGKILL && r->event.signal != SIGSTOP)
		return NULL;
	return kage_err_new(
		KAGE_INVALID,
		"%s: '%s' is no way to tell a program that it is a copy: a signal such as "
		"SIGUSR1, fd:N for an eventfd, or none",
		whence, text);
}

static struct kage_err *parse_environment(struct kage_restore *r)
{
	static const char name[] = "KAGE_TWIN=";
	const Kage__Memory *m = r->process->memory;
	_cleanup_free_ char *env = NULL;
	size_t size = m->env_end - m->env_start;
	struct kage_err *e;

	if (m->env_end <= m->env_start || size > ENVIRONMENT_MAX)
		return NULL;
	env = calloc(1, size + 1);
	if (!env)
		return kage_err_nomem();
	e = kage_target_read(r->twin->process, addr(m->env_start), env, size);
	for (size_t i = 0; !e && i < size; i += strlen(env + i) + 1)
		if (strncmp(env + i, name, strlen(name)) == 0)
			return parse(r, env + i + strlen(name), "KAGE_TWIN in its environment");
	/* A program may have unmapped it. */
	err_drop(e);
	return NULL;
}

struct kage_err *wake_choose_event(struct kage_restore *r, const char *wish, uint32_t value)
{
	r->event.value = value;
	return wish ? parse(r, wish, "event") : parse_environment(r);
}

struct kage_err *wake_finish(struct kage_restore *r, struct kage_batch *b)
{
	if (!r->twin)
		return NULL;
	say_limit(r, false, b);
	say_event(r, b);
	return NULL;
}
