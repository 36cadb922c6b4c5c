/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The directories of a store: names, numbers and the lock. See store.h for the layout.
 */
#ifndef STORE_DIR_H
#define STORE_DIR_H

#include "store/keys.h"
#include "store/store.h"

enum { PACK_NAME_BYTES = 32 };

struct kage_store {
	struct kage_ctx *ctx;
	char *path;
	int fd;
	struct kage_keys *keys;
	char *absolute; /* the path of fd, links resolved */
	size_t made; /* the directories of path that we made: those whose names end here or later; 0: none */
};

struct history {
	const struct kage_store *store;
	char name[64];
	int fd;      /* the directory */
	int lock_fd; /* -1 while not locked */
};

void kage_dir_history_close(struct history *h);
#define _cleanup_history_ _cleanup_(kage_dir_history_close)
#define HISTORY_INIT      ((struct history){ .fd = -1, .lock_fd = -1 })

/** Opens the history NAME. KAGE_NOTFOUND tells which histories there are. */
struct kage_err *kage_dir_history_open(const struct kage_store *store, const char *name,
				       struct history *ret_history) _must_check_;

/** The same with its lock held; makes the history when CREATE. Waits for the lock, until the
 *  context's interrupt flag is raised. Finishes a removal whose process ended early. */
struct kage_err *kage_dir_history_lock(const struct kage_store *store, const char *name,
				       bool create, struct history *ret_history) _must_check_;

/** The same with its lock shared with other readers: no pack of it goes away until it is closed. A store to
 *  which we cannot write, and a history that nobody ever locked, are opened without. */
struct kage_err *kage_dir_history_share(const struct kage_store *store, const char *name,
					struct history *ret_history) _must_check_;

/** Removes the locked history H if there is no image in it. Those who wait for its lock see that. */
void kage_dir_history_drop_empty(const struct history *h);

/** KAGE_NOTFOUND when the path of STORE leads elsewhere than when it was opened: what is stored would not be found
 *  there. */
struct kage_err *kage_dir_still_there(const struct kage_store *store) _must_check_;

/** The numbers of all packs of H, ascending, as a fresh array; of packs that are being removed, too. */
struct kage_err *kage_dir_all_numbers(const struct history *h, uint64_t **ret_numbers,
				      size_t *ret_n) _must_check_;

/** The numbers of all images of H, ascending, as a fresh array. */
struct kage_err *kage_dir_numbers(const struct history *h, uint64_t **ret_numbers, size_t *ret_n)
	_must_check_;

/** The names of all histories, sorted, as a fresh array of strings; release by free_names. */
struct kage_err *kage_dir_names(const struct kage_store *store, char ***ret_names, size_t *ret_n)
	_must_check_;
void kage_dir_free_names(char **names, size_t n);

/** The file name of image NUMBER within its history. */
void kage_dir_pack_name(uint64_t number, char name[PACK_NAME_BYTES]);

/** The number in a pack's file name, 0 for any other name. */
uint64_t kage_dir_pack_number(const char *name);

/** Where the pack of image NUMBER of H stands. Borrows from H. */
static inline struct pack_place kage_dir_place(const struct history *h, uint64_t number)
{
	return (struct pack_place){ h->store->keys, h->name, number, h };
}

/** The path of image NUMBER for messages, fresh; NULL without memory. */
char *kage_dir_pack_path(const struct history *h, uint64_t number);

/** MESSAGE without "pack PATH: " at its beginning, for where the pack is named already. */
const char *kage_dir_without_path(const char *message, const char *path);

/** A failure to open NAME in DIRFD, by errno value NUM; where a right was lacking, with who has it. The
 *  message begins with WHAT and PATH. */
struct kage_err *kage_dir_cannot_open(int num, int dirfd, const char *name, const char *what,
				      const char *path) _must_check_;

/** KAGE_NOTFOUND, telling which numbers there are. */
struct kage_err *kage_dir_no_image(const struct history *h, uint64_t number) _must_check_;

/** Opens the pack of image NUMBER. KAGE_NOTFOUND names the numbers that there are. */
struct kage_err *kage_dir_pack_open(const struct history *h, uint64_t number, int *ret_fd)
	_must_check_;

#endif
