/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who a thread is and what it may do. In Linux each thread has credentials of its own; a thread's
 * are kept only where they differ from the leader's.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/kind.h"
#include "kind/parse.h"
#include "sys/taskread.h"
#include "sys/text.h"

extern const struct kage_kind kage_kind_credentials;

/* --- capture ---------------------------------------------------------------------------------- */

/* "Uid:" and "Gid:" of status: real, effective, saved, file system. */
static bool four_ids(const char *status, const char *name, uint32_t *ids[4])
{
	size_t size;
	const char *p = kage_text_field(status, name, &size);

	for (int i = 0; i < 4; i++) {
		uint64_t v;

		if (!p)
			return false;
		p += strspn(p, "\t ");
		if (!kage_text_number(&p, 10, &v) || v > UINT32_MAX)
			return false;
		*ids[i] = (uint32_t)v;
	}
	return true;
}

static bool parse_groups(struct arena *a, const char *status, Kage__Credentials *m)
{
	size_t size;
	const char *p = kage_text_field(status, "Groups", &size);
	uint64_t v;

	while (p && (p += strspn(p, "\t "), kage_text_number(&p, 10, &v))) {
		uint32_t *slot = arena_push(a, &m->groups, &m->n_groups, sizeof(*slot));

		if (!slot || v > UINT32_MAX)
			return false;
		*slot = (uint32_t)v;
	}
	return true;
}

struct kage_err *kage_credentials_parse(struct arena *a, const char *status, Kage__Credentials *m)
{
	uint32_t *uids[4] = { &m->ruid, &m->euid, &m->suid, &m->fsuid };
	uint32_t *gids[4] = { &m->rgid, &m->egid, &m->sgid, &m->fsgid };
	uint64_t nnp = 0;
	bool ok = four_ids(status, "Uid", uids) && four_ids(status, "Gid", gids) &&
		  parse_groups(a, status, m) &&
		  kage_text_u64(status, "CapInh", 16, &m->cap_inheritable) &&
		  kage_text_u64(status, "CapPrm", 16, &m->cap_permitted) &&
		  kage_text_u64(status, "CapEff", 16, &m->cap_effective) &&
		  kage_text_u64(status, "CapBnd", 16, &m->cap_bounding) &&
		  kage_text_u64(status, "CapAmb", 16, &m->cap_ambient);

	kage_text_u64(status, "NoNewPrivs", 10, &nnp);
	m->no_new_privs = nnp != 0;
	return ok ? NULL : kage_err_new(KAGE_CORRUPT, "/proc/PID/status lacks credentials");
}

static struct kage_err *capture_thread(struct kage_capture *c, size_t i, Kage__Credentials **ret_m)
{
	struct arena *a = &c->image->arena;
	Kage__Credentials *m = msg_new(a, Kage__Credentials, kage__credentials__init);
	const struct kage_thread *thread = c->target->threads[i];
	_cleanup_free_ char *text = NULL;
	char path[64];
	size_t size;

	if (!m)
		return kage_err_nomem();
	if (thread->tid != c->target->pid) {
		snprintf(path, sizeof(path), "task/%d/status", thread->tid);
		TRY(kage_file_slurp(c->target->proc_fd, path, 1 << 20, &text, &size));
	}
	TRY(kage_credentials_parse(a, text ? text : c->status, m));
	m->securebits = c->inside.threads[i].securebits;
	*ret_m = m;
	return NULL;
}

static bool same(const Kage__Credentials *x, const Kage__Credentials *y)
{
	return x->ruid == y->ruid && x->euid == y->euid && x->suid == y->suid &&
	       x->fsuid == y->fsuid && x->rgid == y->rgid && x->egid == y->egid &&
	       x->sgid == y->sgid && x->fsgid == y->fsgid && x->n_groups == y->n_groups &&
	       (!x->n_groups ||
		memcmp(x->groups, y->groups, x->n_groups * sizeof(*x->groups)) == 0) &&
	       x->cap_inheritable == y->cap_inheritable && x->cap_permitted == y->cap_permitted &&
	       x->cap_effective == y->cap_effective && x->cap_bounding == y->cap_bounding &&
	       x->cap_ambient == y->cap_ambient && x->securebits == y->securebits &&
	       x->no_new_privs == y->no_new_privs;
}

/* Threads share their rights until one changes its own; so nearly always nothing need be compared. */
static bool shares_rights(const struct kage_thread *x, const struct kage_thread *y)
{
	enum { NO_NEW_PRIVS = 1 };

	return x->seen && y->seen && x->seen->creds.identity == y->seen->creds.identity &&
	       !((x->seen->task.atomic_flags ^ y->seen->task.atomic_flags) & NO_NEW_PRIVS);
}

static struct kage_err *capture(struct kage_capture *c)
{
	Kage__Process *p = c->process;

	TRY(capture_thread(c, 0, &p->credentials));
	for (size_t i = 1; i < p->n_threads; i++) {
		Kage__Credentials *m;

		if (shares_rights(c->target->threads[0], c->target->threads[i]))
			continue;
		TRY(capture_thread(c, i, &m));
		if (!same(m, p->credentials))
			p->threads[i]->credentials = m;
	}
	return NULL;
}

/* --- restore ---------------------------------------------------------------------------------- */

/* What the stub has before anything is changed: ours. */
static struct kage_err *own(struct arena *a, Kage__Credentials *ret_own)
{
	_cleanup_free_ char *text = NULL;
	size_t size;

	kage__credentials__init(ret_own);
	TRY(kage_file_slurp(AT_FDCWD, "/proc/thread-self/status", 1 << 20, &text, &size));
	TRY(kage_credentials_parse(a, text, ret_own));
	ret_own->securebits = (uint32_t)prctl(PR_GET_SECUREBITS);
	return NULL;
}

static void check_one(struct kage_restore *r, const Kage__Credentials *m,
		      const Kage__Credentials *me, const char *object)
{
	bool other = m->ruid != me->ruid || m->euid != me->euid || m->suid != me->suid ||
		     m->rgid != me->rgid || m->egid != me->egid || m->sgid != me->sgid;

	if (other && me->euid != 0)
		kage_obstacle(r->obstacles, true, "restore it as root, or as that user", object,
			      "it ran as user %u, group %u; you are user %u, group %u", m->euid,
			      m->egid, me->euid, me->egid);
	if (m->cap_permitted & ~me->cap_permitted)
		kage_obstacle(r->obstacles, true, "restore it with at least these rights", object,
			      "it had capabilities %#" PRIx64
			      " that you do not have; an image gives "
			      "no more rights than its restorer has",
			      m->cap_permitted & ~me->cap_permitted);
	if (me->no_new_privs && !m->no_new_privs)
		kage_obstacle(r->obstacles, false, "restore it from a shell without no_new_privs",
			      object, "it could gain rights by exec, what you start cannot");
}

static struct kage_err *check(struct kage_restore *r)
{
	Kage__Credentials me;

	if (r->twin) /* it has them */
		return NULL;
	TRY(own(&r->scratch, &me));
	check_one(r, r->process->credentials, &me, "credentials");
	for (size_t i = 1; i < r->process->n_threads; i++)
		if (r->process->threads[i]->credentials)
			check_one(r, r->process->threads[i]->credentials, &me,
				  "credentials of a thread");
	return NULL;
}

static void drop_bounding(uint64_t wanted, uint64_t have, struct kage_batch *b)
{
	for (unsigned cap = 0; cap < 64; cap++)
		if (have & ~wanted & 1ull << cap)
			BATCH(b, "drop a capability from the bounding set", SYS_prctl,
			      V(PR_CAPBSET_DROP), V(cap));
}

static void set_ids(const Kage__Credentials *m, const Kage__Credentials *me, struct kage_batch *b)
{
	size_t groups = kage_batch_data(b, m->groups, m->n_groups * sizeof(*m->groups));
	bool same_groups = m->n_groups == me->n_groups &&
			   (!m->n_groups ||
			    memcmp(m->groups, me->groups, m->n_groups * sizeof(*m->groups)) == 0);

	if (!same_groups)
		BATCH(b, "set the groups", SYS_setgroups, V(m->n_groups), DATA(groups));
	BATCH(b, "set the group", SYS_setresgid, V(m->rgid), V(m->egid), V(m->sgid));
	if (m->fsgid != m->egid)
		BATCH(b, "set the file system group", SYS_setfsgid, V(m->fsgid));
	BATCH(b, "set the user", SYS_setresuid, V(m->ruid), V(m->euid), V(m->suid));
	if (m->fsuid != m->euid)
		BATCH(b, "set the file system user", SYS_setfsuid, V(m->fsuid));
}

static void set_caps(const Kage__Credentials *m, struct kage_batch *b)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = {
		{ (uint32_t)m->cap_effective, (uint32_t)m->cap_permitted,
		  (uint32_t)m->cap_inheritable },
		{ (uint32_t)(m->cap_effective >> 32), (uint32_t)(m->cap_permitted >> 32),
		  (uint32_t)(m->cap_inheritable >> 32) },
	};

	BATCH(b, "set the capabilities", SYS_capset, DATA(kage_batch_data(b, &head, sizeof(head))),
	      DATA(kage_batch_data(b, data, sizeof(data))));
	for (unsigned cap = 0; cap < 64; cap++)
		if (m->cap_ambient & 1ull << cap)
			BATCH(b, "raise an ambient capability", SYS_prctl, V(PR_CAP_AMBIENT),
			      V(PR_CAP_AMBIENT_RAISE), V(cap), V(0), V(0));
}

/* Changing users takes capabilities away unless the thread keeps them for the moment; the final
 * securebits come last, while there is still the right to set them. */
static void change(struct kage_restore *r, const Kage__Thread *msg, const Kage__Credentials *m,
		   const Kage__Credentials *me, struct kage_batch *b)
{
	bool root = me->cap_effective & 1ull << CAP_SETPCAP;

	if (root)
		BATCH(b, "keep capabilities for the moment", SYS_prctl, V(PR_SET_SECUREBITS),
		      V(SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP));
	drop_bounding(m->cap_bounding, me->cap_bounding, b);
	set_ids(m, me, b);
	if (root && m->securebits != (SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP))
		BATCH(b, "set the securebits", SYS_prctl, V(PR_SET_SECUREBITS), V(m->securebits));
	set_caps(m, b);
	if (m->no_new_privs)
		BATCH(b, "set no_new_privs", SYS_prctl, V(PR_SET_NO_NEW_PRIVS), V(1), V(0), V(0),
		      V(0));
	/* The kernel makes a process undumpable when its user changes. */
	if (msg == r->process->threads[0] && r->process->attributes &&
	    r->process->attributes->dumpable <= 1)
		BATCH(b, "set dumpable", SYS_prctl, V(PR_SET_DUMPABLE),
		      V(r->process->attributes->dumpable));
}

static const Kage__Credentials *of_thread(const struct kage_restore *r, const Kage__Thread *msg)
{
	return msg->credentials ? msg->credentials : r->process->credentials;
}

static struct kage_err *build_thread(struct kage_restore *r, const Kage__Thread *msg,
				     struct kage_batch *b)
{
	const Kage__Credentials *m = of_thread(r, msg);
	Kage__Credentials me;

	if (!r->born_as)
		TRY(own(&r->scratch, &me));
	else
		me = *of_thread(r, r->born_as);
	/* In place they are the same, which was looked at first (restore/back.c). */
	if (!r->in_place && (!r->born_as || !same(m, &me)))
		change(r, msg, m, &me, b);
	if (msg->pdeath_signal || r->in_place)
		BATCH(b, "set the parent's death signal", SYS_prctl, V(PR_SET_PDEATHSIG),
		      V(msg->pdeath_signal));
	return NULL;
}

/* A thread that has ended since is made by the leader. */
static struct kage_err *check_thread(struct kage_restore *r, const Kage__Thread *msg)
{
	_cleanup_free_ char *text = NULL;
	Kage__Credentials now;
	char path[64];
	size_t size;

	snprintf(path, sizeof(path), "task/%d/status",
		 kage_target_thread(r->stub, msg->tid) ? msg->tid : r->stub->pid);
	TRY(kage_file_slurp(r->stub->proc_fd, path, 1 << 20, &text, &size));
	kage__credentials__init(&now);
	TRY(kage_credentials_parse(&r->scratch, text, &now));
	now.securebits = of_thread(r, msg)->securebits; /* not shown */
	if (same(of_thread(r, msg), &now))
		return NULL;
	return kage_err_new(
		KAGE_UNSUPPORTED,
		"thread %d has other credentials than it had, and they cannot be given back; wake "
		"the twin instead",
		msg->tid);
}

static struct kage_err *check_back(struct kage_restore *r)
{
	for (size_t i = 0; i < r->process->n_threads; i++)
		TRY(check_thread(r, r->process->threads[i]));
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	const Kage__Credentials *m = p->credentials;

	(void)image;
	if (!m)
		return;
	fprintf(out, "  user %u", m->euid);
	if (m->ruid != m->euid || m->suid != m->euid)
		fprintf(out, " (real %u, saved %u)", m->ruid, m->suid);
	fprintf(out, "  group %u", m->egid);
	for (size_t i = 0; i < m->n_groups; i++)
		fprintf(out, "%s%u", i ? "," : "  groups ", m->groups[i]);
	if (m->cap_effective || full)
		fprintf(out, "  capabilities %#" PRIx64, m->cap_effective);
	if (m->no_new_privs)
		fprintf(out, "  no_new_privs");
	fputc('\n', out);
}

const struct kage_kind kage_kind_credentials = {
	.name = "credentials",
	.capture = capture,
	.check = check,
	.check_back = check_back,
	.build_thread = build_thread,
	.print = print,
};
