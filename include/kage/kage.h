/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libkage: the image of a running program, and its life back from it.
 *
 *	struct kage_ctx *ctx;
 *	struct kage_store *store;
 *	struct kage_snap_result result;
 *	struct kage_err *e;
 *
 *	e = kage_ctx_create(&ctx);
 *	if (!e)
 *		e = kage_store_open(ctx, NULL, KAGE_STORE_CREATE, &store);
 *	if (!e)
 *		e = kage_snap(ctx, store, pid, &(struct kage_snap_options){ .name = "redis" }, &result);
 *
 * Conventions: functions that can fail return an error or NULL (kage/error.h). Results come last,
 * are named ret_… and are written only on success. A `const` pointer is borrowed. Strings are UTF-8
 * or the bytes that the kernel gave. Times are nanoseconds, sizes bytes. Options may be NULL or all
 * zero for the defaults. A context and what was made from it belong to one thread at a time. The
 * library never prints, never exits and installs no signal handler.
 */
#ifndef KAGE_KAGE_H
#define KAGE_KAGE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <kage/error.h>
#include <kage/export.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- context --------------------------------------------------------------------------------- */

struct kage_ctx;

/** Makes a context. */
KAGE_API struct kage_err *kage_ctx_create(struct kage_ctx **ret_ctx);
KAGE_API void kage_ctx_destroy(struct kage_ctx *ctx);

/** Long operations look at *FLAG between steps and end with KAGE_INTERRUPTED, all undone, once it
 *  is not zero. Set it from a signal handler. NULL takes it away. */
KAGE_API void kage_ctx_set_interrupt(struct kage_ctx *ctx, const volatile sig_atomic_t *flag);

/** Called now and then with what is being done, how far it is, and of how much (bytes, or 0 when not
 *  known). Never called while a target stands still. */
typedef void kage_progress_fn(void *user, const char *what, uint64_t done, uint64_t total);
KAGE_API void kage_ctx_set_progress(struct kage_ctx *ctx, kage_progress_fn *fn, void *user);

/** Called with one line for a person about something that is not an error but should be known. */
typedef void kage_notice_fn(void *user, const char *line);
KAGE_API void kage_ctx_set_notice(struct kage_ctx *ctx, kage_notice_fn *fn, void *user);

/** "0.1.0" */
KAGE_API const char *kage_version(void);

/* --- obstacles ------------------------------------------------------------------------------- */

/* Something that stands in the way of capturing or restoring. */
struct kage_obstacle {
	const char *object; /* what: "fd 7: TCP connection 127.0.0.1:6379 → 127.0.0.1:41234" */
	const char *why;    /* "connected TCP sockets cannot be restored yet" */
	const char *cure;   /* "let the client disconnect before the image is taken" */
	bool fatal;         /* false: it will work, but not as somebody might expect */
};

struct kage_report {
	const struct kage_obstacle *obstacles;
	size_t n_obstacles;
	size_t n_fatal;
};

KAGE_API void kage_report_free(struct kage_report *report);

/* --- stores, histories, images --------------------------------------------------------------- */

struct kage_store;
struct kage_image;

enum kage_store_flags {
	KAGE_STORE_CREATE = 1, /* make the directory (mode 0700) if there is none */
};

/** Opens the store at PATH; NULL means $KAGE_STORE, else /var/lib/kage for root and
 *  $XDG_DATA_HOME/kage (~/.local/share/kage) for others. */
KAGE_API struct kage_err *kage_store_open(struct kage_ctx *ctx, const char *path, unsigned flags,
					  struct kage_store **ret_store);
KAGE_API void kage_store_close(struct kage_store *store);

/** Makes a pair of keys: the secret one in the new file PATH, readable by its owner only; NULL means $KAGE_KEY,
 *  else /etc/kage/key for root and $XDG_CONFIG_HOME/kage/key (~/.config/kage/key) for others. KAGE_BUSY when the file
 *  is there: it is never overwritten. RET_PATH, which may be NULL, and RET_PUBLIC, the public key as one short line of
 *  text, are the caller's to free. */
KAGE_API struct kage_err *kage_key_new(const char *path, char **ret_path, char **ret_public);

/** The public key that belongs to the secret one in the file PATH; as for kage_key_new(). */
KAGE_API struct kage_err *kage_key_show(const char *path, char **ret_path, char **ret_public);

/** The public key that TEXT is, or that stands in the file TEXT, for the caller to free. KAGE_INVALID says what is
 *  wrong with it. */
KAGE_API struct kage_err *kage_key_recipient(const char *text, char **ret_public);

/** Reads encrypted images of STORE with the secret key in the file PATH. Without this, the one that
 *  kage_key_show(NULL) would show is used, once an image needs it. */
KAGE_API struct kage_err *kage_store_set_key(struct kage_store *store, const char *path);

/** Has STORE use the keys that FROM has, now and later: also those that a recording into FROM still holds of
 *  its own packs. The two may be used by different threads afterwards. */
KAGE_API void kage_store_share_keys(struct kage_store *store, const struct kage_store *from);
KAGE_API const char *kage_store_path(const struct kage_store *store);

/* One line of `kage log`; strings live as long as the list. */
struct kage_entry {
	const char *name; /* of the history */
	uint64_t number;  /* NAME@number */
	uint64_t realtime_ns;
	uint64_t pause_ns;
	uint64_t memory_bytes; /* contents in the image before compression */
	uint64_t stored_bytes; /* size of the pack */
	int32_t pid;
	uint32_t n_threads;
	const char *tracking;  /* how what had to be copied was known: "wp", "softdirty", "twin",
			       * "copy" as in kage(1), KAGE_TRACK; "": not known */
	const char *recipient; /* NULL, or the public key for which it is encrypted; then the next
				* three are "", being in the image only */
	const char *comm;
	const char *command; /* command line */
	const char *message; /* of -m, or "" */
	const char *reason;
	const char *tags;       /* of kage_store_tag(), ", " between them, or "" */
	const char *damage;     /* NULL, or what in the pack is not as it was written */
	const char *unreadable; /* NULL, or why the pack could not be read, sound or not */
	bool keyframe;          /* its pack has all pages; else the difference from another image */
	uint64_t base_number;   /* that one, 0 if there is none */
	uint64_t changed_bytes; /* size of the pages in the difference */
};

struct kage_list {
	const struct kage_entry *entries;
	size_t n;
};

/** All images of the history NAME, or the newest of each history when NAME is NULL; ascending. */
KAGE_API struct kage_err *kage_store_list(struct kage_store *store, const char *name,
					  struct kage_list *ret_list);
KAGE_API void kage_list_free(struct kage_list *list);

/** Finds what SPEC means: NAME@N, NAME@latest, NAME@first, NAME@-1 (one before the latest),
 *  NAME@5min (the newest that is at least as old), NAME@TAG, NAME alone (the latest). */
KAGE_API struct kage_err *kage_store_resolve(struct kage_store *store, const char *spec,
					     char **ret_name, uint64_t *ret_number);

/** Opens the image that SPEC means. */
KAGE_API struct kage_err *kage_image_open(struct kage_store *store, const char *spec,
					  struct kage_image **ret_image);
KAGE_API void kage_image_close(struct kage_image *image);

/** NAME@N of an image that came from a store. */
KAGE_API const char *kage_image_label(const struct kage_image *image);

/** Writes it for a person to OUT; with FULL every field of every mapping and descriptor. COLOUR
 *  allows terminal colours. */
KAGE_API struct kage_err *kage_image_print(const struct kage_image *image, FILE *out, bool full,
					   bool colour);

/** All of the image but the contents of memory, as one JSON object; the caller frees the string. */
KAGE_API struct kage_err *kage_image_json(const struct kage_image *image, char **ret_json);

/** Reads SIZE bytes of memory at ADDRESS as of the image. *ret_n is short when a hole follows. Bytes
 *  that come from a mapped file are read from that file. */
KAGE_API struct kage_err *kage_image_read(const struct kage_image *image, uint64_t address,
					  void *buffer, size_t size, size_t *ret_n);

/* A named place in the memory of an image. Strings live as long as the symbols that gave it. */
struct kage_symbol {
	const char *name;   /* NULL: no symbol covers the address */
	uint64_t address;   /* where the symbol begins; without one, as module_address */
	uint64_t size;      /* bytes; 0: not known */
	const char *module; /* path of the file, or "[heap]" and the like; NULL: nothing there */
	uint64_t module_address; /* where that begins */
};

struct kage_symbols;

/** Prepares to look for symbols in IMAGE, which must outlive it. Files are read when they are needed:
 *  those that the image has mapped, if they are still the same, and debug files of their build-ids. */
KAGE_API struct kage_err *kage_symbols_open(const struct kage_image *image,
					    struct kage_symbols **ret_symbols);
KAGE_API void kage_symbols_close(struct kage_symbols *symbols);

/** The symbol that SPEC names: NAME, or FILE:NAME for one of a file of that name. KAGE_NOTFOUND tells
 *  what is near, or which file could not be read; KAGE_UNSUPPORTED that it is thread-local. */
KAGE_API struct kage_err *kage_symbols_find(struct kage_symbols *symbols, const char *spec,
					    struct kage_symbol *ret_symbol);

/** The symbol in which ADDRESS lies; without one, the file or mapping. */
KAGE_API struct kage_err *kage_symbols_at(struct kage_symbols *symbols, uint64_t address,
					  struct kage_symbol *ret_symbol);

/** The same in words, for the caller to free: "libc.so.6+0x2718 (malloc+0x18)". */
KAGE_API struct kage_err *kage_symbols_describe(struct kage_symbols *symbols, uint64_t address,
						char **ret_text);

/* What two images can differ in. */
enum kage_diff_part {
	KAGE_DIFF_MAPPING,    /* a mapping came, went, grew, or is protected otherwise */
	KAGE_DIFF_BYTES,      /* a run of bytes of a mapping that both have; only if asked for */
	KAGE_DIFF_SYMBOL,     /* bytes of a symbol */
	KAGE_DIFF_MEMORY,     /* a mapping: the sum, behind its runs and symbols */
	KAGE_DIFF_DESCRIPTOR, /* */
	KAGE_DIFF_THREAD,     /* registers, masks, waiting signals … */
	KAGE_DIFF_SIGNAL,     /* what is done on it */
	KAGE_DIFF_PROCESS, /* what a process has once: credentials, limits, folders, timers … */
};

enum kage_diff_how { KAGE_DIFF_CHANGED, KAGE_DIFF_NEW, KAGE_DIFF_GONE };

/* One difference. Strings and bytes live until the function that is given it returns. */
struct kage_difference {
	enum kage_diff_part part;
	enum kage_diff_how how;
	const char *object;         /* "fd 3", "SIGUSR1", a symbol, a file, "[heap]" */
	const char *field;          /* of the object; NULL: the whole of it */
	const char *before, *after; /* in words; NULL: there was or is none */
	const char *warning;        /* what to think of it, as of writable code; mostly NULL */
	uint64_t start, end;        /* addresses, of the first four parts */
	uint64_t bytes;             /* how many changed */
	uint64_t pages;      /* with changed bytes; of mappings that came or went: with contents */
	uint64_t lost_pages; /* could not be compared: the file changed, and is in neither image */
	const unsigned char *old_bytes, *new_bytes; /* of KAGE_DIFF_BYTES: end - start of each */
};

typedef void kage_diff_fn(void *user, const struct kage_difference *difference);

struct kage_diff_options {
	bool bytes; /* tell KAGE_DIFF_BYTES */
};

/** Calls FN for each difference between two images of one program, part by part. Pages that come from
 *  the same file in both are taken as equal. Needs little memory, whatever the size of the images. */
KAGE_API struct kage_err *kage_image_diff(struct kage_ctx *ctx, const struct kage_image *before,
					  const struct kage_image *after,
					  const struct kage_diff_options *options, kage_diff_fn *fn,
					  void *user);

/** Gives image NUMBER of history NAME the tag TAG, durably: letters, digits and . _ + -, beginning with
 *  a letter. KAGE_BUSY: another image has it, and MOVE is not set. */
KAGE_API struct kage_err *kage_store_tag(struct kage_store *store, const char *name,
					 uint64_t number, const char *tag, bool move);

/** Takes the tag TAG away; the image stays. */
KAGE_API struct kage_err *kage_store_untag(struct kage_store *store, const char *name,
					   const char *tag);

struct kage_tag {
	const char *name;
	uint64_t number;
};

struct kage_tags {
	const struct kage_tag *tags;
	size_t n;
};

/** All tags of history NAME, by number. */
KAGE_API struct kage_err *kage_store_tags(struct kage_store *store, const char *name,
					  struct kage_tags *ret_tags);
KAGE_API void kage_tags_free(struct kage_tags *tags);

/* Pages of 4,096 bytes that differ: N_PAGES from FIRST_PAGE of SPACE, a number of image.proto's Space. In
 * an address space a page's number is its address / 4,096. */
struct kage_change {
	uint32_t space;
	uint64_t first_page, n_pages;
};

struct kage_change_list {
	uint64_t base_number; /* of the image before it in the same recording; 0 if it has none */
	const struct kage_change *runs; /* ascending by space and page, without overlap */
	size_t n;
};

/** In which pages the image that SPEC means differs from the one before it in the same recording, as its
 *  pack tells without any contents being read. Pages that only one of them has are named if they
 *  are not all zero. That image may have been removed since. */
KAGE_API struct kage_err *kage_store_changes(struct kage_store *store, const char *spec,
					     struct kage_change_list *ret_list);
KAGE_API void kage_change_list_free(struct kage_change_list *list);

/** Takes descriptor FD out of IMAGE, and what only that refers to, for restoring it without: in memory
 *  only, the store stays as it is. False when there is none. */
KAGE_API bool kage_image_drop_fd(struct kage_image *image, int fd);

/** Removes the images from FIRST to LAST of history NAME, or the whole history when LAST is 0. Images that
 *  stay can be restored as before: packs that need removed ones are written anew. KAGE_BUSY when one of them has
 *  a tag: take it away first. */
KAGE_API struct kage_err *kage_store_remove(struct kage_store *store, const char *name,
					    uint64_t first, uint64_t last, size_t *ret_removed);

/* "One image each EVERY_NS, as far back as SPAN_NS." */
struct kage_tier {
	uint64_t every_ns; /* 0: all */
	uint64_t span_ns;  /* 0: for ever */
};

/* What of a history is to be kept: whatever one of the rules keeps. The newest image and those with tags are
 * always. */
struct kage_retention {
	uint64_t keep_last; /* so many, the newest */
	const struct kage_tier *tiers;
	size_t n_tiers;
	uint64_t
		max_bytes; /* of those that are kept, the oldest go until all packs take no more; 0: any
			     * size */
	bool dry_run;      /* only count */
};

struct kage_prune_result {
	size_t n_removed, n_kept;
	size_t n_spared; /* of those that are kept: for want of a secret key, others cannot do without them */
	uint64_t bytes_before, bytes_after;
};

/** Removes all images of history NAME that RULES do not keep, as kage_store_remove() does. KAGE_INVALID without
 *  any rule. */
KAGE_API struct kage_err *kage_store_prune(struct kage_store *store, const char *name,
					   const struct kage_retention *rules,
					   struct kage_prune_result *ret_result);

/* One finding of fsck. */
struct kage_finding {
	const char *pack;    /* path */
	const char *problem; /* what and at which offset */
	bool unreadable;     /* no damage was seen: it could not be read */
};
struct kage_fsck_result {
	size_t n_packs; /* looked at */
	size_t n_bad;   /* damaged */
	size_t n_unreadable;
	size_t n_lost;     /* images that cannot be restored: their pack, or one that they need */
	size_t n_repaired; /* packs that were written anew */
	size_t n_moved;    /* packs of lost images that were moved away */
	size_t n_encrypted;
	size_t n_locked; /* of those, that no key opened: only what is stored was checked, not what is in it */
	const char *encrypted; /* histories with encrypted images, ", " between them, or "" */
	uint64_t bytes;
	const struct kage_finding *findings;
	size_t n_findings;
};

/** Reads every byte of the history NAME, or of all when NULL, checks it, and whether every image can be
 *  restored from packs that are whole. */
KAGE_API struct kage_err *kage_store_fsck(struct kage_store *store, const char *name,
					  struct kage_fsck_result *ret_result);

/** The same, and makes whole what is left: images whose pack is damaged, but which can be read by way of
 *  others, are written anew; packs of lost ones are moved to .damaged in their history. A history of
 *  which something could not be read, or needs a newer kage, is only checked. */
KAGE_API struct kage_err *kage_store_repair(struct kage_store *store, const char *name,
					    struct kage_fsck_result *ret_result);
KAGE_API void kage_fsck_result_free(struct kage_fsck_result *result);

/* --- taking ---------------------------------------------------------------------------------- */

struct kage_snap_options {
	const char *name;    /* of the history; NULL: the target's comm */
	const char *message; /* kept with the image */
	const char *reason;  /* NULL: "snap" */
	bool kill;           /* end the target with SIGKILL once the image is safe on disk; it stays
	                      * stopped until then */
	bool carry;          /* put executables and libraries into the image */
	int compression;     /* zstd level; 0: the default */
	/* A git repository, made where there is none, to which the files that the program has open for
	 * writing, and those without a name, are committed. NULL: none. A commit that fails is a notice. */
	const char *git;
	const char *recipient; /* encrypt for it, as for kage_key_recipient(); NULL: do not */
};

struct kage_snap_result {
	char name[64];
	uint64_t number;
	uint64_t pause_ns;     /* the target stood still */
	uint64_t total_ns;     /* of the whole operation */
	uint64_t memory_bytes; /* contents in the image */
	uint64_t stored_bytes; /* size of the pack */
	unsigned rung;         /* see Source in image.proto */
	const char *tracking;  /* as in struct kage_entry */
	uint32_t n_threads;
	pid_t pid;           /* of the program */
	char git_commit[48]; /* "" without one */
};

/** Takes one image of the process PID and stores it durably. The process goes on. */
KAGE_API struct kage_err *kage_snap(struct kage_ctx *ctx, struct kage_store *store, pid_t pid,
				    const struct kage_snap_options *options,
				    struct kage_snap_result *ret_result);

/** Everything that stands in the way of taking an image of PID that can be restored. */
KAGE_API struct kage_err *kage_check_process(struct kage_ctx *ctx, pid_t pid,
					     struct kage_report *ret_report);

/* --- recording ------------------------------------------------------------------------------- */

struct kage_recorder;

struct kage_record_options {
	const char *name;           /* of the history; NULL: the target's comm */
	const char *message;        /* kept with each image */
	int compression;            /* zstd level; 0: the default */
	uint64_t keyframe_every_ns; /* an image with all pages at least so often, 0: as the sizes of
				     * differences ask for it. Removing old images costs little as long as such
				     * a one stays */
	uint64_t
		keyframe_bytes; /* and when differences since the last one take so much; 0: likewise */
	uint64_t keyframe_images; /* one with all pages after so many others; 0: likewise */
	uint64_t
		keyframe_period_ns; /* the first image of each such period of CLOCK_REALTIME, 0: likewise.
				      * An encrypted history can be thinned to those without reading it */
	const char *recipient; /* encrypt for it, as for kage_key_recipient(); NULL: do not */
	bool verify; /* compare each image with a plain copy of all memory, taken in the same stop; for
	              * tests, since it makes the pause long */
	const char *git; /* as in struct kage_snap_options */
};

struct kage_record_result {
	uint64_t number;
	uint64_t pause_ns;      /* the target stood still */
	uint64_t total_ns;      /* from the beginning until the image was durable */
	uint64_t memory_bytes;  /* contents in the image */
	uint64_t changed_bytes; /* pages that differ from the image before; of the first all */
	uint64_t stored_bytes;  /* size of the pack */
	bool keyframe;
	unsigned rung;
	const char *tracking; /* as in struct kage_entry */
	uint32_t n_threads;
	char git_commit[48]; /* "" without one */
};

/** Prepares to record the process PID. Nothing is done to it before the first image. */
KAGE_API struct kage_err *kage_recorder_create(struct kage_ctx *ctx, struct kage_store *store,
					       pid_t pid, const struct kage_record_options *options,
					       struct kage_recorder **ret_recorder);

/** Takes the next image and stores it durably, as its difference from the one before where that is
 *  possible. KAGE_GONE when the process has ended. After another failure the next call
 *  misses nothing. */
KAGE_API struct kage_err *kage_recorder_take(struct kage_recorder *recorder,
					     struct kage_record_result *ret_result);

/** The history; known from the first image on, else "". */
KAGE_API const char *kage_recorder_name(const struct kage_recorder *recorder);

/** Ends the tracking of the target; NULL is fine. */
KAGE_API void kage_recorder_destroy(struct kage_recorder *recorder);

/* --- restoring ------------------------------------------------------------------------------- */

enum kage_pid_mode {
	KAGE_PID_SAME, /* the PID of the image; an obstacle when it is taken */
	KAGE_PID_NEW,  /* a new PID outside, the old ones inside a PID namespace of its own */
	/* Only when a twin is woken: */
	KAGE_PID_OWN, /* numbers of its own, as a child of fork(2) has */
	KAGE_PID_FITTING, /* one thread: as OWN; several, which may hold locks by their numbers: as NEW if that may be */
};

enum kage_files_mode {
	KAGE_FILES_KEEP, /* leave written files as they are; refuse when one changed otherwise than
	                     * by appending */
	KAGE_FILES_RESTORE, /* put files that were open for writing back as of the image */
};

enum kage_connections_mode {
	KAGE_CONNECTIONS_REFUSE, /* an obstacle */
	KAGE_CONNECTIONS_RESET,  /* as if their peers had reset them */
};

/* A descriptor of the restored program that is the caller's. */
struct kage_fd_given {
	int fd; /* its number in the program, at which the image has none (kage_image_drop_fd()) */
	int from; /* the caller's, borrowed */
};

/* Memory of the restored program that is not as in the image. */
struct kage_patch {
	uint64_t address;
	const void *bytes;
	size_t size;
};

struct kage_restore_options {
	enum kage_pid_mode pid;
	enum kage_files_mode files;
	enum kage_connections_mode connections;
	bool stopped;    /* leave it stopped (SIGSTOP) for a debugger */
	bool trust;      /* restore even what another user could have written */
	bool detached;   /* in a session of its own, without the caller's terminal */
	const char *tty; /* path of the terminal to take; NULL: the one the caller has */
	const struct kage_fd_given *fds;
	size_t n_fds;
	const struct kage_patch *patches; /* written before its first step */
	size_t n_patches;
	/* The repository in which the image's commit must be, with the image's files; these are put back
	 * then (KAGE_FILES_RESTORE). NULL: as FILES says. */
	const char *git;
	/* It runs before its memory is there: a process that goes on after the call brings each page when it is
	 * needed, and all others meanwhile. Should a page turn out to be damaged, the program is killed and, in that process,
	 * LAZY_LOST called, if it is not NULL, which says why. */
	bool lazy;
	void (*lazy_lost)(void *user, pid_t pid, const char *why);
	void *lazy_user;
};

struct kage_life {
	pid_t pid;         /* as the caller sees it */
	int pidfd;         /* the caller's to close */
	uint64_t total_ns; /* from the call to the first step */
	bool redraw; /* it takes keys, and its terminal does not show what it believes: SIGWINCH has it
			* draw, SIGTSTP and SIGCONT have it set up all of it. Not when detached */
};

/** Everything that stands in the way of restoring IMAGE here. */
KAGE_API struct kage_err *kage_check_image(struct kage_ctx *ctx, struct kage_image *image,
					   const struct kage_restore_options *options,
					   struct kage_report *ret_report);

/** Gives IMAGE one more life, as a child of the caller. Whole or not at all. On the terminal of the
 *  caller's session it is a job of that session, and in the foreground if the caller is; a
 *  caller in the background is stopped (SIGTTOU) before, when the image is of a program that takes
 *  keys. On another terminal, or detached, it leads a session of its own. */
KAGE_API struct kage_err *kage_restore(struct kage_ctx *ctx, struct kage_image *image,
				       const struct kage_restore_options *options,
				       struct kage_life *ret_life);

/** How LIFE, which has ended (its pidfd is readable), has ended: as of waitpid(2). Also for who is not its parent, and
 *  after that has taken note. KAGE_UNSUPPORTED where the kernel does not tell (before Linux 6.15). */
KAGE_API struct kage_err *kage_life_status(const struct kage_life *life, int *ret_status);

/* --- for debuggers --------------------------------------------------------------------------- */

/** Writes an ELF core file of IMAGE to FD, sparse. */
KAGE_API struct kage_err *kage_core_write(struct kage_ctx *ctx, struct kage_image *image, int fd);

/* --- system calls in other programs ------------------------------------------------------------ */

/* A system call with its arguments, and when it was made its result. */
struct kage_syscall;

/** Reads WORDS: the name of a call (or its number) and its arguments, as kage-call(1) tells. KAGE_INVALID when that is not
 *  what the call takes; KAGE_UNSUPPORTED for those that nobody can make from outside. */
KAGE_API struct kage_err *kage_syscall_parse(const char *const *words, size_t n,
					     struct kage_syscall **ret_call);
KAGE_API void kage_syscall_free(struct kage_syscall *call);

struct kage_syscall_options {
	pid_t tid;           /* the thread that makes it; 0: any */
	uint64_t timeout_ns; /* then it is given up: EINTR; 0: when the context is interrupted */
};

struct kage_syscall_result {
	int64_t value;     /* -1 when it failed */
	int error;         /* then, errno */
	pid_t tid;         /* who made it */
	bool gave_up;      /* it was interrupted by us */
	bool ended;        /* the process or thread, by this call */
	uint64_t pause_ns; /* that the whole program stood */
};

/** Makes CALL, once, in process PID, which goes on as if nothing had happened but the call. Threads of it stand for some
 *  milliseconds at most, but for the one that makes a call that takes longer. That the call itself fails is a result, no
 *  error. */
KAGE_API struct kage_err *kage_syscall_make(struct kage_ctx *ctx, pid_t pid,
					    const struct kage_syscall_options *options,
					    struct kage_syscall *call);

KAGE_API const char *kage_syscall_name(const struct kage_syscall *call);

/** NULL as long as CALL was not made. */
KAGE_API const struct kage_syscall_result *kage_syscall_result(const struct kage_syscall *call);

/** "openat(AT_FDCWD, "notes.txt", O_RDONLY, 0) = 3", to be freed by the caller. */
KAGE_API struct kage_err *kage_syscall_describe(const struct kage_syscall *call, char **ret_text);

struct kage_syscall_argument {
	char *name; /* NULL: not known */
	char *text; /* as in kage_syscall_describe() */
	const uint8_t *
		bytes; /* that it points to, with what the call has left there; borrowed; NULL: none */
	size_t size;
};

KAGE_API size_t kage_syscall_arguments(const struct kage_syscall *call);
KAGE_API struct kage_err *kage_syscall_argument(const struct kage_syscall *call, size_t i,
						struct kage_syscall_argument *ret_argument);
KAGE_API void kage_syscall_argument_deinit(struct kage_syscall_argument *argument);

#ifdef __cplusplus
}
#endif

#endif
