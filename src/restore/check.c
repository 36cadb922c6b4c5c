/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that stands in the way of a restore, found before anything is touched.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/fds.h"
#include "kind/obstacles.h"
#include "kind/terminal.h"
#include "restore/restore.h"
#include "store/store.h"
#include "sys/text.h"

static void check_arch(struct kage_restore *r)
{
	const Kage__Source *s = r->image->msg->source;

	if (s && s->arch && s->arch[0] && strcmp(s->arch, kage_arch_name) != 0)
		kage_obstacle(r->obstacles, true, "restore it on such a machine", "architecture",
			      "the image is of %s, this machine is %s", s->arch, kage_arch_name);
}

/* Who has the number: 0 nobody, else what to say of it. */
static const char *taken_by(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	const char *state;
	size_t size;

	/* The number of a process group is taken, too, as long as it has members. */
	if (kill(pid, 0) < 0 && errno == ESRCH)
		return kill(-pid, 0) < 0 && errno == ESRCH
			       ? NULL
			       : "it is the number of a process group that has other members";
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	err_drop(kage_file_slurp(AT_FDCWD, path, 1 << 20, &text, &size));
	state = text ? kage_text_field(text, "State", &size) : NULL;
	if (state && *state == 'Z')
		return "the process that has it has ended, but its parent has not taken note yet "
		       "(a zombie)";
	return "it is taken by a process that is alive";
}

static bool has_capability(int capability)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return syscall(SYS_capget, &head, data) == 0 &&
	       data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability);
}

/* clone(2): set_tid needs one of the two, a PID namespace the latter. */
static void check_rights(struct kage_restore *r)
{
	if (r->twin || has_capability(CAP_SYS_ADMIN))
		return;
	if (r->options->pid == KAGE_PID_NEW)
		kage_obstacle(r->obstacles, true, "run kage as root", "process number",
			      "a PID namespace for it needs a right that you do not have "
			      "(CAP_SYS_ADMIN)");
	else if (!has_capability(CAP_CHECKPOINT_RESTORE))
		kage_obstacle(r->obstacles, true,
			      "run kage as root, or give it that capability (setcap)",
			      "process number",
			      "choosing it needs a right that you do not have "
			      "(CAP_CHECKPOINT_RESTORE)");
}

static void check_pids(struct kage_restore *r)
{
	const Kage__Process *p = r->process;
	char object[48];

	if (r->options->pid != KAGE_PID_SAME)
		return;
	for (size_t i = 0; i < p->n_threads; i++) {
		pid_t tid = p->threads[i]->tid;

		const char *who = taken_by(tid);

		if (!who)
			continue;
		snprintf(object, sizeof(object), "%s %d", i ? "thread number" : "process number",
			 tid);
		kage_obstacle(r->obstacles, true,
			      strstr(who, "zombie")
				      ? "wait until its parent has, or choose --pid new"
				      : "end the process that has it, or choose --pid new",
			      object, "%s", who);
	}
}

static struct kage_err *check_trust(struct kage_restore *r)
{
	struct kage_err *e;

	if (r->options->trust || !r->image->pack_path || geteuid() != 0)
		return NULL;
	e = kage_store_check_trust(r->image->pack_path);
	if (!e && r->image->doubtful_path)
		e = kage_store_check_trust(r->image->doubtful_path);
	if (e && kage_err_code(e) == KAGE_PERM) {
		kage_obstacle(r->obstacles, true,
			      "make sure of its origin, then restore with --trust", "trust", "%s",
			      kage_err_message(e));
		kage_err_free(e);
		return NULL;
	}
	return e;
}

/* What was known when the image was taken. */
static void check_noted(struct kage_restore *r)
{
	const Kage__Image *m = r->image->msg;

	for (size_t i = 0; i < m->n_obstacles; i++)
		kage_obstacle(r->obstacles, true, m->obstacles[i]->cure, m->obstacles[i]->object,
			      "%s", m->obstacles[i]->why);
}

struct kage_err *restore_look(struct kage_restore *r)
{
	check_noted(r);
	check_arch(r);
	check_rights(r);
	kage_terminal_check_named(r);
	check_pids(r);
	TRY(check_trust(r));
	for (const struct kage_kind *const *k = kage_kinds; *k; k++)
		if ((*k)->check && !restore_has(r, *k))
			TRY_WRAP((*k)->check(r), "check %s", (*k)->name);
	return kage_fds_check(r);
}

struct kage_err *restore_check(struct kage_restore *r)
{
	TRY(restore_look(r));
	return kage_obstacles_refuse(r->obstacles);
}
