/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What surrounds a process and is not its own: children, namespaces. In this version they are
 * recorded and, where a restore could not give them back, named.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/kind.h"
#include "sys/taskread.h"
#include "sys/text.h"

extern const struct kage_kind kage_kind_surroundings;

enum { END_MS = 5000 };

static const struct {
	const char *file, *what;
	size_t field;
} namespaces[] = {
	{ "pid", "PID", offsetof(Kage__Namespaces, pid_ino) },
	{ "mnt", "mount", offsetof(Kage__Namespaces, mnt_ino) },
	{ "net", "network", offsetof(Kage__Namespaces, net_ino) },
	{ "ipc", "IPC", offsetof(Kage__Namespaces, ipc_ino) },
	{ "uts", "UTS", offsetof(Kage__Namespaces, uts_ino) },
	{ "user", "user", offsetof(Kage__Namespaces, user_ino) },
	{ "cgroup", "cgroup", offsetof(Kage__Namespaces, cgroup_ino) },
	{ "time", "time", offsetof(Kage__Namespaces, time_ino) },
};

static uint64_t namespace_of(int proc_fd, const char *name)
{
	char path[32];
	struct stat st;

	snprintf(path, sizeof(path), "ns/%s", name);
	return fstatat(proc_fd, path, &st, 0) < 0 ? 0 : st.st_ino;
}

static void check_namespace(struct kage_capture *c, size_t i, uint64_t theirs, uint64_t ours)
{
	char object[48];

	/* A cgroup namespace only changes what is shown. */
	if (!theirs || !ours || theirs == ours || strcmp(namespaces[i].file, "cgroup") == 0)
		return;
	snprintf(object, sizeof(object), "%s namespace", namespaces[i].what);
	kage_obstacle(c->obstacles, true,
		      "run kage inside the same namespace (nsenter), where the container's tools "
		      "are",
		      object,
		      "the program lives in another one; whole containers cannot be restored "
		      "yet");
}

static struct kage_err *capture_namespaces(struct kage_capture *c)
{
	Kage__Namespaces *m = msg_new(&c->image->arena, Kage__Namespaces, kage__namespaces__init);
	_cleanup_fd_ int self = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (!m)
		return kage_err_nomem();
	if (self < 0)
		return kage_err_sys(errno, "open /proc/self");
	for (size_t i = 0; i < ARRAY_SIZE(namespaces); i++) {
		uint64_t theirs = namespace_of(c->target->proc_fd, namespaces[i].file);

		memcpy((char *)m + namespaces[i].field, &theirs, sizeof(theirs));
		check_namespace(c, i, theirs, namespace_of(self, namespaces[i].file));
	}
	c->process->namespaces = m;
	return NULL;
}

struct children {
	pid_t *v;
	size_t n, max;
};

static struct kage_err *add_child(struct children *all, pid_t pid)
{
	size_t max = all->max ? all->max * 2 : 16;
	pid_t *grown;

	if (all->n == all->max) {
		grown = reallocarray(all->v, max, sizeof(*grown));
		if (!grown)
			return kage_err_nomem();
		all->v = grown;
		all->max = max;
	}
	all->v[all->n++] = pid;
	return NULL;
}

static struct kage_err *add_children_of(const struct kage_target *t, pid_t tid,
					struct children *all)
{
	_cleanup_free_ char *text = NULL;
	const char *p;
	char path[64];
	uint64_t child;
	size_t size;

	snprintf(path, sizeof(path), "task/%d/children", tid);
	TRY(kage_file_slurp(t->proc_fd, path, 16 << 20, &text, &size));
	for (p = text; kage_text_number(&p, 10, &child); p += strspn(p, " "))
		TRY(add_child(all, (pid_t)child));
	return NULL;
}

struct kage_err *kage_children(const struct kage_target *t, pid_t **ret_pids, size_t *ret_n)
{
	struct children all = { 0 };

	for (size_t i = 0; i < t->n_own; i++) {
		const struct kage_thread *thread = t->threads[i];
		struct kage_err *e;

		if (thread->seen && !thread->seen->task.has_children)
			continue;
		e = add_children_of(t, thread->tid, &all);
		if (e) {
			free(all.v);
			return e;
		}
	}
	*ret_pids = all.v;
	*ret_n = all.n;
	return NULL;
}

static struct kage_err *check_children(struct kage_capture *c)
{
	_cleanup_free_ pid_t *pids = NULL;
	char object[48];
	size_t n = 0;

	TRY(kage_children(c->target, &pids, &n));
	for (size_t i = 0; i < n; i++) {
		snprintf(object, sizeof(object), "child process %d", pids[i]);
		kage_obstacle(c->obstacles, true,
			      "wait until it has ended, or take images of it alone", object,
			      "trees of processes cannot be restored yet");
	}
	return NULL;
}

/* --- in place --------------------------------------------------------------------------------- */

static bool had_child(const struct kage_restore *r, pid_t pid)
{
	for (size_t i = 0; i < r->children.n_had; i++)
		if (r->children.had[i] == pid)
			return true;
	return false;
}

/* Until its parent takes note of it. */
static bool has_ended(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	const char *state;
	size_t size;
	struct kage_err *e;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	e = kage_file_slurp(AT_FDCWD, path, 1 << 20, &text, &size);
	state = e ? NULL : kage_text_field(text, "State", &size);
	err_drop(e);
	return !state || *state == 'Z' || *state == 'X';
}

static struct kage_err *check_back(struct kage_restore *r)
{
	_cleanup_free_ pid_t *pids = NULL;
	size_t n = 0;

	TRY(kage_children(r->stub, &pids, &n));
	for (size_t i = 0; i < n && !r->children.end; i++)
		if (!had_child(r, pids[i]) && !has_ended(pids[i]))
			return kage_err_new(
				KAGE_BUSY,
				"it has started process %d since, of which it would know nothing; "
				"end that first, or let kage do it (--end-children)",
				pids[i]);
	return NULL;
}

/* Its number may be another process's by now, where the program does not wait for children (SIGCHLD ignored). */
static bool is_child(pid_t pid, pid_t parent)
{
	_cleanup_free_ char *text = NULL;
	uint64_t ppid = 0;
	char path[64];
	size_t size;
	struct kage_err *e;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	e = kage_file_slurp(AT_FDCWD, path, 1 << 20, &text, &size);
	if (!e)
		kage_text_u64(text, "PPid", 10, &ppid);
	err_drop(e);
	return ppid == (uint64_t)parent;
}

static struct kage_err *end(pid_t pid, pid_t parent)
{
	_cleanup_fd_ int pidfd = pidfd_open(pid, 0);
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	if (pidfd < 0)
		return errno == ESRCH ? NULL : kage_err_sys(errno, "open process %d", pid);
	if (!is_child(pid, parent))
		return NULL;
	if (pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		return kage_err_sys(errno, "end process %d", pid);
	return poll(&p, 1, END_MS) == 1 ? NULL
					: kage_err_new(KAGE_LIMIT, "process %d does not end", pid);
}

/* Those that it does not know end, and it takes note of that. */
static struct kage_err *reset(struct kage_restore *r, struct kage_batch *b)
{
	_cleanup_free_ pid_t *pids = NULL;
	size_t n = 0;

	TRY(kage_children(r->stub, &pids, &n));
	for (size_t i = 0; i < n; i++) {
		if (had_child(r, pids[i]))
			continue;
		TRY(end(pids[i], r->stub->pid));
		BATCH_TRY(b, "take note of the end of a child", SYS_wait4, V(pids[i]), V(0),
			  V(WNOHANG | __WALL), V(0));
	}
	return NULL;
}

static struct kage_err *capture(struct kage_capture *c)
{
	TRY(capture_namespaces(c));
	return check_children(c);
}

const struct kage_kind kage_kind_surroundings = {
	.name = "surroundings",
	.capture = capture,
	.check_back = check_back,
	.reset = reset,
};
