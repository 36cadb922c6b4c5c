/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/content.h"
#include "kind/elf.h"
#include "kind/fds.h"
#include "kind/files.h"
#include "kind/looked.h"
#include "kind/noted.h"

/* A written file with more data than this is not copied while the target stands still. */
static const uint64_t content_max_bytes = (uint64_t)1 << 30;

static const char deleted[] = " (deleted)"; /* d_path() in the kernel appends it */

/* Of <linux/magic.h> and of file systems that keep theirs to themselves. */
static const struct {
	uint64_t magic;
	const char *name;
	bool pseudo; /* the kernel makes up the contents */
} fs_types[] = {
	{ TMPFS_MAGIC, "tmpfs", false },
	{ EXT4_SUPER_MAGIC, "ext4", false },
	{ XFS_SUPER_MAGIC, "xfs", false },
	{ BTRFS_SUPER_MAGIC, "btrfs", false },
	{ OVERLAYFS_SUPER_MAGIC, "overlay", false },
	{ NFS_SUPER_MAGIC, "nfs", false },
	{ FUSE_SUPER_MAGIC, "fuse", false },
	{ F2FS_SUPER_MAGIC, "f2fs", false },
	{ SQUASHFS_MAGIC, "squashfs", false },
	{ EROFS_SUPER_MAGIC_V1, "erofs", false },
	{ RAMFS_MAGIC, "ramfs", false },
	{ HUGETLBFS_MAGIC, "hugetlbfs", false },
	{ 0xca451a4e, "bcachefs", false },
	{ 0x2fc12fc1, "zfs", false },
	{ PROC_SUPER_MAGIC, "proc", true },
	{ SYSFS_MAGIC, "sysfs", true },
	{ CGROUP_SUPER_MAGIC, "cgroup", true },
	{ CGROUP2_SUPER_MAGIC, "cgroup2", true },
	{ DEVPTS_SUPER_MAGIC, "devpts", true },
	{ DEBUGFS_MAGIC, "debugfs", true },
	{ TRACEFS_MAGIC, "tracefs", true },
	{ SECURITYFS_MAGIC, "securityfs", true },
	{ BPF_FS_MAGIC, "bpf", true },
	{ NSFS_MAGIC, "nsfs", true },
};

const char *kage_file_fs_name(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return "";
	for (size_t i = 0; i < ARRAY_SIZE(fs_types); i++)
		if ((uint64_t)(uint32_t)fs.f_type == fs_types[i].magic)
			return fs_types[i].name;
	return "";
}

bool kage_file_is_pseudo(const Kage__FileObject *f)
{
	for (size_t i = 0; i < ARRAY_SIZE(fs_types); i++)
		if (fs_types[i].pseudo && strcmp(f->fs_type, fs_types[i].name) == 0)
			return true;
	return false;
}

static int64_t time_ns(const struct timespec *ts)
{
	return (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
}

static void copy_stat(const struct stat *st, Kage__FileObject *f)
{
	f->mode = st->st_mode;
	f->uid = st->st_uid;
	f->gid = st->st_gid;
	f->size_bytes = (uint64_t)st->st_size;
	f->mtime_ns = time_ns(&st->st_mtim);
	f->ctime_ns = time_ns(&st->st_ctim);
	f->dev_major = major(st->st_dev);
	f->dev_minor = minor(st->st_dev);
	f->ino = st->st_ino;
	f->nlink = (uint32_t)st->st_nlink;
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
		f->rdev_major = major(st->st_rdev);
		f->rdev_minor = minor(st->st_rdev);
	}
}

bool kage_file_leads_to(const char *path, const struct stat *st)
{
	struct stat now;
	int r = S_ISLNK(st->st_mode) ? lstat(path, &now) : stat(path, &now);

	if (r < 0)
		return false;
	if (S_ISCHR(st->st_mode) && S_ISCHR(now.st_mode) && st->st_rdev == now.st_rdev)
		return true;
	return now.st_dev == st->st_dev && now.st_ino == st->st_ino;
}

/* A name may end in " (deleted)" by itself, so what counts is where it leads. */
static struct kage_err *find_path(struct kage_capture *c, const struct stat *st, const char *link,
				  const struct kage_looked_file *looked, Kage__FileObject *f)
{
	size_t n = strlen(link), tail = sizeof(deleted) - 1;

	f->path = arena_strdup(&c->image->arena, link);
	if (!f->path)
		return kage_err_nomem();
	if (looked ? looked->leads : kage_file_leads_to(f->path, st))
		return NULL;
	if (n > tail && strcmp(link + n - tail, deleted) == 0) {
		f->path[n - tail] = '\0';
		f->unlinked = !kage_file_leads_to(f->path, st);
		if (f->unlinked && st->st_nlink > 0 && S_ISREG(st->st_mode))
			kage_obstacle(c->obstacles, false, "none is needed if nobody shares it",
				      f->path,
				      "this name was removed but the file has others; a restored "
				      "program gets a copy of its own");
		return NULL;
	}
	/* Own /proc entries of the target and what lies in another mount namespace. */
	if (kage_file_is_pseudo(f))
		return NULL;
	kage_obstacle(c->obstacles, true, "take the image where the program sees its files",
		      f->path, "this path leads to another file here, or to none");
	return NULL;
}

/* --- contents ----------------------------------------------------------------------------------- */

/* Opening a file under a lease would break it: its holder gets a signal (fcntl(2), F_SETLEASE). */
static bool has_lease(const struct kage_capture *c, const struct stat *st)
{
	for (size_t i = 0; i < c->n_fds; i++)
		if (c->fds[i].info && c->fds[i].st.st_ino == st->st_ino &&
		    c->fds[i].st.st_dev == st->st_dev && strstr(c->fds[i].info, ": LEASE "))
			return true;
	return false;
}

static struct kage_err *copy_content(struct kage_capture *c, int fd, Kage__FileObject *f)
{
	const struct stat st = { .st_dev = makedev((unsigned)f->dev_major, (unsigned)f->dev_minor),
				 .st_ino = f->ino,
				 .st_size = (off_t)f->size_bytes };
	bool hashed = f->size_bytes <= KAGE_HASH_MAX_BYTES;
	uint8_t hash[KAGE_HASH_BYTES];
	Kage__Space *s;

	TRY(kage_content_space(c, KAGE__SPACE__KIND__FILE_CONTENT, &st, &s));
	TRY(kage_content_copy(c, s, fd, f->size_bytes, hashed ? hash : NULL));
	f->content_space = s->id;
	if (!hashed)
		return NULL;
	return kage_content_set_hash(&c->image->arena, hash, &f->hash);
}

static struct kage_err *read_tail(struct kage_capture *c, int fd, Kage__FileObject *f)
{
	uint8_t hash[KAGE_HASH_BYTES];

	TRY(kage_content_tail(fd, f->size_bytes, hash));
	return kage_content_set_hash(&c->image->arena, hash, &f->tail_hash);
}

static bool too_large(struct kage_capture *c, const struct stat *st, const Kage__FileObject *f)
{
	uint64_t data = (uint64_t)st->st_blocks * 512;

	if (f->unlinked || data <= content_max_bytes)
		return false;
	kage_obstacle(
		c->obstacles, false,
		"keep a copy of it beside the image if it may change otherwise than by growing",
		f->path, "it is written and has %llu MiB: its contents are not in the image",
		(unsigned long long)data >> 20);
	return true;
}

/* What cannot be found on disk later goes along now, while the target stands still. */
static struct kage_err *take_along(struct kage_capture *c, int ours, const struct stat *st,
				   Kage__FileObject *f)
{
	_cleanup_fd_ int fd = -1;
	bool large;

	if (!S_ISREG(f->mode) || kage_file_is_pseudo(f))
		return NULL;
	large = too_large(c, st, f);
	if (has_lease(c, st)) {
		kage_obstacle(c->obstacles, true, "let the program give up its lease", f->path,
			      "reading it would break the lease that the program holds on it");
		return NULL;
	}
	if (c->checking)
		return NULL;
	fd = kage_fds_reopen(ours, O_RDONLY | O_NOCTTY | O_NONBLOCK);
	if (fd < 0) {
		kage_obstacle(c->obstacles, f->unlinked, "run kage with the right to read the file",
			      f->path, "its contents cannot be read (%s)", strerror(errno));
		return NULL;
	}
	TRY_WRAP(read_tail(c, fd, f), "read %s", f->path);
	if (!large)
		TRY_WRAP(copy_content(c, fd, f), "read %s", f->path);
	return NULL;
}

static struct kage_err *note_again(struct kage_capture *c, uint32_t id, int ours,
				   const struct stat *st, bool written)
{
	Kage__FileObject *f = kage_image_file(c->image, id);

	if (!written || f->written)
		return NULL;
	f->written = true;
	copy_stat(st, f);
	return f->content_space ? NULL : take_along(c, ours, st, f);
}

struct kage_err *kage_file_note(struct kage_capture *c, int ours, const struct stat *st,
				const char *link, bool written, uint32_t *ret_id)
{
	struct kage_noted_entry *known = kage_noted_find(c, st, false);
	const struct kage_looked_file *looked;
	Kage__FileObject *f;
	bool later;

	if (known) {
		*ret_id = known->id;
		return note_again(c, known->id, ours, st, written);
	}
	f = msg_append(&c->image->arena, c->image->msg, files, Kage__FileObject,
		       kage__file_object__init);
	if (!f)
		return kage_err_nomem();
	f->id = (uint32_t)c->image->msg->n_files;
	looked = kage_looked_same(c, st, link);
	f->fs_type = (char *)(looked ? looked->fs_type : kage_file_fs_name(ours));
	f->written = written && S_ISREG(st->st_mode);
	copy_stat(st, f);
	TRY(find_path(c, st, link, looked, f));
	if (f->unlinked && !S_ISREG(f->mode) && !S_ISDIR(f->mode) && !S_ISFIFO(f->mode))
		kage_obstacle(c->obstacles, true, "keep the name while the program uses it",
			      f->path,
			      "its name is gone, and it is neither a file nor a directory");
	later = S_ISREG(f->mode) && !f->written && !f->unlinked && !kage_file_is_pseudo(f);
	TRY(kage_noted_add(c, st, false, f->id, later && !looked ? ours : -1));
	if (later && looked)
		c->noted->entries[c->noted->n - 1].looked_fd = looked->fd;
	*ret_id = f->id;
	return f->written || f->unlinked ? take_along(c, ours, st, f) : NULL;
}

/* --- after the thaw ----------------------------------------------------------------------------- */

bool kage_file_is_mapped(const Kage__Process *p, const Kage__FileObject *f)
{
	const Kage__Memory *m = p->memory;

	if (!m)
		return false;
	for (size_t i = 0; i < m->n_mappings; i++)
		if (m->mappings[i]->file == f->id)
			return true;
	return m->exe_file == f->id;
}

static struct kage_err *finish_file(struct kage_capture *c, int kept, Kage__FileObject *f)
{
	_cleanup_fd_ int fd = kage_fds_reopen(kept, O_RDONLY | O_NOCTTY | O_NONBLOCK);
	bool mapped = kage_file_is_mapped(c->process, f);
	uint8_t id[KAGE_BUILD_ID_MAX];

	if (fd < 0)
		return NULL; /* not readable for us: size and time will have to do */
	if (mapped) {
		f->build_id.len = kage_elf_build_id(fd, id);
		f->build_id.data = arena_dup(&c->image->arena, id, f->build_id.len);
		if (!f->build_id.data)
			return kage_err_nomem();
	}
	TRY(read_tail(c, fd, f));
	if (!c->carry || !mapped)
		return NULL;
	f->carried = true;
	return copy_content(c, fd, f);
}

struct kage_err *kage_files_finish(struct kage_capture *c)
{
	if (c->checking || !c->noted)
		return NULL;
	for (size_t i = 0; i < c->noted->n; i++) {
		const struct kage_noted_entry *n = &c->noted->entries[i];
		Kage__FileObject *f;

		int fd = n->fd >= 0 ? n->fd : n->looked_fd;

		if (n->is_space || fd < 0)
			continue;
		f = kage_image_file(c->image, n->id);
		if (!f->written &&
		    !has_lease(c, &(struct stat){ .st_dev = n->dev, .st_ino = n->ino }))
			TRY_WRAP(finish_file(c, fd, f), "read %s", f->path);
	}
	return NULL;
}
