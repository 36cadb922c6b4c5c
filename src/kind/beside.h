/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that are made beside others, in their directories:
 *
 *	.NAME.kage-restore	on its way to become NAME; the next restore takes away what a kill left
 *	.NAME.kage-before	all of what stood at NAME while NAME is being changed; then
 *				.NAME.kage-before.2 and so on, should an earlier one still be there
 *
 * A name of the second kind appears only when all that belongs to it is on disk. The names themselves
 * are on disk after kage_beside_sync().
 */
#ifndef KIND_BESIDE_H
#define KIND_BESIDE_H

#include <stdbool.h>

#include "base/err.h"

/** The directory of the absolute PATH, as a fresh string. */
struct kage_err *kage_beside_directory(const char *path, char **ret_dir) _must_check_;

/** A file without a name in DIR, open for reading and writing; -1 with errno where that cannot be. */
int kage_beside_nameless(const char *dir);

/* A new file beside another one. */
struct kage_beside {
	int fd; /* -1: none was made */
	char *dir, *temporary;
	bool named; /* at TEMPORARY; else it has no name */
};

/** Makes a new empty file, mode 0600, beside PATH. */
struct kage_err *kage_beside_make(const char *path, struct kage_beside *ret_file) _must_check_;

/** Gives it the name PATH in place of what had it, in one step; its contents must be durable
 *  already. */
struct kage_err *kage_beside_take_place(struct kage_beside *file, const char *path) _must_check_;

/** Closes it; it vanishes if it still has no name of its own. */
void kage_beside_deinit(struct kage_beside *file);

/** Keeps a copy of what FD, the file at PATH, holds. *ret_name is where (a fresh string), NULL where the
 *  directory cannot be written; *ret_fd is the copy, open for reading, in both cases. */
struct kage_err *kage_beside_keep_copy(const char *path, int fd, char **ret_name, int *ret_fd)
	_must_check_;

/** Keeps what stands at PATH by a second name; *ret_name is NULL where there are no second names. */
struct kage_err *kage_beside_keep(const char *path, char **ret_name) _must_check_;

/** Keeps what stands at PATH by taking it away from there, in one step. */
struct kage_err *kage_beside_move(const char *path, char **ret_name) _must_check_;

/** Removes all that was kept of PATH, also by earlier restores. */
void kage_beside_forget(const char *path);

/** Makes all names in the directory DIR durable; nothing above does. */
struct kage_err *kage_beside_sync(const char *dir) _must_check_;

#endif
