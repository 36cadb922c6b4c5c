/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What surrounds a process and is not its own: children, namespaces. In this version they are
 * recorded and, where a restore could not give them back, named.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/kind.h"
#include "sys/taskread.h"
#include "sys/text.h"

extern const struct kage_kind kage_kind_surroundings;

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

static struct kage_err *check_children(struct kage_capture *c)
{
	for (size_t i = 0; i < c->target->n_own; i++) {
		const struct kage_thread *thread = c->target->threads[i];
		_cleanup_free_ char *text = NULL;
		const char *p;
		char path[64], object[48];
		uint64_t child;
		size_t size;

		if (thread->seen && !thread->seen->task.has_children)
			continue;
		snprintf(path, sizeof(path), "task/%d/children", thread->tid);
		TRY(kage_file_slurp(c->target->proc_fd, path, 16 << 20, &text, &size));
		for (p = text; kage_text_number(&p, 10, &child); p += strspn(p, " ")) {
			snprintf(object, sizeof(object), "child process %" PRIu64, child);
			kage_obstacle(c->obstacles, true,
				      "wait until it has ended, or take images of it alone", object,
				      "trees of processes cannot be restored yet");
		}
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
};
