/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Working directory, root directory, umask. The directories are opened in our own process; the new
 * process goes there through the descriptors that it inherits, before they make room for its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/kind.h"
#include "sys/text.h"

static struct kage_err *note(struct kage_capture *c, const char *name, bool unless_ours,
			     uint32_t *ret_id)
{
	_cleanup_fd_ int fd = openat(c->target->proc_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ char *link = NULL;
	struct stat st, ours;

	if (fd < 0)
		return kage_err_sys(errno, "open /proc/%d/%s", c->target->pid, name);
	TRY(kage_file_readlink(c->target->proc_fd, name, &link));
	if (fstat(fd, &st) < 0 || stat("/", &ours) < 0)
		return kage_err_sys(errno, "stat %s", link);
	if (unless_ours && st.st_dev == ours.st_dev && st.st_ino == ours.st_ino)
		return NULL;
	return kage_file_note(c, fd, &st, link, false, ret_id);
}

/* Threads made by clone(2) without CLONE_FS have a working directory of their own. */
static void check_threads(struct kage_capture *c)
{
	char object[48];

	for (size_t i = 0; i < c->target->n_own; i++) {
		pid_t tid = c->target->threads[i]->tid;

		if (tid == c->target->pid ||
		    syscall(SYS_kcmp, c->target->pid, tid, KCMP_FS, 0, 0) <= 0)
			continue;
		snprintf(object, sizeof(object), "thread %d", tid);
		kage_obstacle(c->obstacles, true, "none yet", object,
			      "it has a working directory of its own");
	}
}

static struct kage_err *capture(struct kage_capture *c)
{
	Kage__Filesystem *m = msg_new(&c->image->arena, Kage__Filesystem, kage__filesystem__init);
	uint64_t mask;

	if (!m)
		return kage_err_nomem();
	c->process->filesystem = m;
	check_threads(c);
	TRY(note(c, "cwd", false, &m->cwd_file));
	TRY(note(c, "root", true, &m->root_file));
	if (!kage_text_u64(c->status, "Umask", 8, &mask))
		return kage_err_new(KAGE_UNSUPPORTED, "this kernel does not show the umask");
	m->umask = (uint32_t)mask;
	return NULL;
}

/* --- in place --------------------------------------------------------------------------------- */

static bool same_directory(const struct kage_restore *r, const char *link, const char *path)
{
	struct stat now, then;

	return fstatat(r->stub->proc_fd, link, &now, 0) == 0 && stat(path, &then) == 0 &&
	       now.st_dev == then.st_dev && now.st_ino == then.st_ino;
}

/* Whether its working directory is CWD, wherever that is by now. */
static bool is_in(const struct kage_restore *r, const Kage__FileObject *cwd)
{
	struct stat now;

	return fstatat(r->stub->proc_fd, "cwd", &now, 0) == 0 && now.st_ino == cwd->ino &&
	       major(now.st_dev) == cwd->dev_major && minor(now.st_dev) == cwd->dev_minor;
}

static struct kage_err *check_back(struct kage_restore *r)
{
	const Kage__Filesystem *m = r->process->filesystem;
	const Kage__FileObject *root = m ? kage_image_file(r->image, m->root_file) : NULL;
	const Kage__FileObject *cwd = m ? kage_image_file(r->image, m->cwd_file) : NULL;
	struct stat st;

	if (cwd && !is_in(r, cwd) && (stat(cwd->path, &st) < 0 || st.st_ino != cwd->ino))
		return kage_err_new(
			KAGE_CHANGED,
			"its working directory %s is not there any more, or another one",
			cwd->path);
	if (!m || same_directory(r, "root", root ? root->path : "/"))
		return NULL;
	return kage_err_new(KAGE_UNSUPPORTED, "it has taken another root directory since (chroot)");
}

/* It goes there by itself, by name. */
static struct kage_err *reset(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Filesystem *m = r->process->filesystem;
	const Kage__FileObject *cwd = m ? kage_image_file(r->image, m->cwd_file) : NULL;

	if (!m)
		return NULL;
	if (cwd && !is_in(r, cwd))
		BATCH(b, "go to its working directory", SYS_chdir,
		      DATA(kage_batch_string(b, cwd->path)));
	BATCH(b, "set its umask", SYS_umask, V(m->umask));
	return NULL;
}

/* --- restore ---------------------------------------------------------------------------------- */

static struct kage_err *prepare(struct kage_restore *r)
{
	const Kage__Filesystem *m = r->process->filesystem;
	int fd;

	if (!m)
		return NULL;
	if (m->root_file)
		TRY_WRAP(kage_file_open(r, m->root_file, O_RDONLY, &fd), "root directory");
	return kage_err_wrap(kage_file_open(r, m->cwd_file, O_RDONLY, &fd), "working directory");
}

static struct kage_err *build(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Filesystem *m = r->process->filesystem;
	int fd;

	if (!m || r->in_place)
		return NULL;
	if (m->root_file) {
		TRY(kage_file_open(r, m->root_file, O_RDONLY, &fd));
		BATCH(b, "go to its root directory", SYS_fchdir, V(fd));
		BATCH(b, "take its root directory", SYS_chroot, DATA(kage_batch_string(b, ".")));
	}
	TRY(kage_file_open(r, m->cwd_file, O_RDONLY, &fd));
	BATCH(b, "go to its working directory", SYS_fchdir, V(fd));
	BATCH(b, "set its umask", SYS_umask, V(m->umask));
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	const Kage__Filesystem *m = p->filesystem;
	const Kage__FileObject *cwd = m ? kage_image_file(image, m->cwd_file) : NULL;
	const Kage__FileObject *root = m ? kage_image_file(image, m->root_file) : NULL;

	(void)full;
	if (!m)
		return;
	fprintf(out, "  in %s", cwd ? cwd->path : "?");
	if (root)
		fprintf(out, ", root %s", root->path);
	fprintf(out, ", umask %04o\n", m->umask);
}

const struct kage_kind kage_kind_filesystem = {
	.name = "filesystem",
	.carried = true,
	.capture = capture,
	.check_back = check_back,
	.reset = reset,
	.prepare = prepare,
	.build = build,
	.print = print,
};
