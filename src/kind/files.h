/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of file systems (FileObject), between the files of this folder. What others use stands in
 * kind/kind.h.
 *
 *	file_note.c	capture: path, identity, contents where they must go along
 *	file_check.c	restore: is it still what it was?
 *	file_open.c	restore: the file itself, or one made of the contents in the image
 *	file_back.c	restore: written files as of the image (--files=restore)
 *	file.c		descriptors to them
 */
#ifndef KIND_FILES_H
#define KIND_FILES_H

#include "kind/kind.h"

/** After the thaw: build-ids, tails, carried contents of the files that were noted. */
struct kage_err *kage_files_finish(struct kage_capture *c) _must_check_;

/** Names every file that is not what the restore needs. */
struct kage_err *kage_files_check(struct kage_restore *r) _must_check_;

/** Puts every written file of the image back as it was then, if that was asked for. Once; called by
 *  whoever opens a file first. On failure nothing has changed. */
struct kage_err *kage_files_put_back(struct kage_restore *r) _must_check_;

/** The end of a restore. What was put back stays so when the program lives (E is NULL), and is undone
 *  when it does not. Returns E, which says more should something be left to do by hand. */
struct kage_err *kage_files_settle(struct kage_restore *r, struct kage_err *e) _must_check_;

/* What became of a file since the image was taken. */
enum kage_file_state {
	KAGE_FILE_SAME,
	KAGE_FILE_TOUCHED,  /* times or inode differ, the contents do not, as far as can be told */
	KAGE_FILE_APPENDED, /* the old contents are its beginning */
	KAGE_FILE_CHANGED,
	KAGE_FILE_OTHER, /* of another type */
	KAGE_FILE_MISSING,
	KAGE_FILE_HIDDEN, /* there, but not to be read by us */
};

/** Notes what somebody might not expect of putting F back, which is in STATE. */
struct kage_err *kage_file_back_look(struct kage_restore *r, const Kage__FileObject *f,
				     enum kage_file_state state) _must_check_;

/** Compares F with what its path leads to now. */
struct kage_err *kage_file_compare(const struct kage_restore *r, const Kage__FileObject *f,
				   enum kage_file_state *ret_state) _must_check_;

/** Whether TIME, as a file system gave it, lies before the image was taken, and by more than file
 *  systems' clocks are wrong. */
bool kage_file_is_before_image(const struct kage_restore *r, int64_t time_ns);

/** Whether F's contents can be put back. */
bool kage_file_has_old_contents(const Kage__FileObject *f);

/** Whether some mapping or the executable of the process refers to F, so that its bytes are part of
 *  the program's memory. */
bool kage_file_is_mapped(const Kage__Process *p, const Kage__FileObject *f);

/** Whether restore makes F from the contents in the image rather than opening its path: unlinked, or
 *  carried and not the same on disk any more. */
struct kage_err *kage_file_is_made(const struct kage_restore *r, const Kage__FileObject *f,
				   bool *ret_made) _must_check_;

/** The space with the contents of F. */
struct kage_err *kage_file_space(const struct kage_restore *r, const Kage__FileObject *f,
				 const Kage__Space **ret_space) _must_check_;

/** Gives the new file FD the contents of F, and what dressing gives it. */
struct kage_err *kage_file_fill(struct kage_restore *r, const Kage__FileObject *f, int fd)
	_must_check_;

/** Gives FD the owner, rights and time of F. Who may not do that leaves them as they are. */
struct kage_err *kage_file_dress(const Kage__FileObject *f, int fd) _must_check_;

/** The name of the file system that FD lies on, "" for one without a name here. */
const char *kage_file_fs_name(int fd);

/** Whether PATH leads to the file with stat ST; for a device node another node of the same device does
 *  as well. */
bool kage_file_leads_to(const char *path, const struct stat *st);

/** Whether the kernel makes up the contents of this file system's files (proc, sysfs …). */
bool kage_file_is_pseudo(const Kage__FileObject *f);

/** Whether F belongs to /proc/PID of the image's own process, so that only the restored process itself
 *  can open it. */
bool kage_file_is_own_proc(const Kage__Process *p, const Kage__FileObject *f,
			   const char **ret_rest);

/** The fd kind of regular files, directories, devices and O_PATH. */
extern const struct kage_fd_kind kage_fd_file;

#endif
