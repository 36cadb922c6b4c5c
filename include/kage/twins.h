/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Twins: frozen copies of running programs, made from outside, kept in memory by a *keeper*, and woken any number of
 * times.
 *
 *	struct kage_clone_result twin;
 *	struct kage_life life;
 *
 *	e = kage_clone(ctx, pid, NULL, &twin);
 *	if (!e)
 *		e = kage_twin_wake(ctx, twin.name, NULL, &life);
 *
 * A twin costs the pages that differ since. It does not run, is no child of the program, and survives its end. The
 * keeper is a process of its own, one for the twins of one program; when it ends, at whatever instant, so do its
 * twins, and nobody else. It ends by itself with its last twin. See kage-clone(1).
 */
#ifndef KAGE_TWINS_H
#define KAGE_TWINS_H

#include <kage/kage.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { KAGE_TWINS_NAME_BYTES = 64 };

struct kage_clone_options {
	const char *name; /* of the program's twins; NULL: that of its command */
	uint64_t
		max_memory; /* bytes that all twins of it may have of their own: then the oldest go; 0: as it was, at first any */
	unsigned keep;      /* so many twins at most, the oldest go; 0: as it was, at first any */
	const char *program; /* path of kage(1), which is the keeper; NULL: "kage" in PATH */
};

struct kage_clone_result {
	char name[KAGE_TWINS_NAME_BYTES];
	uint64_t number; /* NAME@NUMBER; counts up */
	pid_t twin_pid, keeper_pid;
	uint64_t pause_ns; /* that the program stood */
	uint64_t total_ns;
	uint64_t n_dropped; /* older ones, to keep within the limits */
};

/** Makes a twin of process PID, and a keeper if it has none. */
KAGE_API struct kage_err *kage_clone(struct kage_ctx *ctx, pid_t pid,
				     const struct kage_clone_options *options,
				     struct kage_clone_result *ret_result);

struct kage_twin_entry {
	char name[KAGE_TWINS_NAME_BYTES];
	uint64_t number;
	pid_t pid;     /* of the program that it is of */
	bool alive;    /* that program is */
	char comm[17]; /* of that program */
	pid_t twin_pid, keeper_pid;
	uint64_t realtime_ns; /* when it was made */
	uint64_t pause_ns;
	uint64_t own_bytes; /* of memory that it alone has by now: what dropping it gives back */
	unsigned n_threads;
	unsigned n_lives; /* woken so far */
};

struct kage_twin_list {
	struct kage_twin_entry *entries; /* by name and number */
	size_t n;
};

/** Lists the twins of the calling user; of NAME alone unless it is NULL. A name that nobody has gives KAGE_NOTFOUND. */
KAGE_API struct kage_err *kage_twins(struct kage_ctx *ctx, const char *name,
				     struct kage_twin_list *ret_list);
KAGE_API void kage_twins_free(struct kage_twin_list *list);

enum kage_wake_pid {
	KAGE_WAKE_PID_FITTING, /* one thread: OWN; several, which may hold locks by their numbers: NEW if that may be */
	KAGE_WAKE_PID_OWN,  /* numbers of its own, as a child of fork(2) has */
	KAGE_WAKE_PID_SAME, /* those of the program; an obstacle when they are taken */
	KAGE_WAKE_PID_NEW,  /* those of the program inside of a PID namespace, others outside */
};

struct kage_wake_options {
	enum kage_wake_pid pid;
	enum kage_files_mode files;
	enum kage_connections_mode connections;
	bool stopped;                        /* leave it stopped (SIGSTOP) */
	const char *tty;                     /* path of the terminal to take; NULL: none */
	const struct kage_fd_given *instead; /* the program has these instead of those it had */
	size_t n_instead;
	const char *
		event; /* tells it that it is a copy: "SIGUSR1", "fd:7" (an eventfd of its own), "none";
			    * NULL: as KAGE_TWIN in its environment says, if it does */
};

/** Gives the twin SPEC ("NAME", "NAME@2", "NAME@-1") one more life, from the instant at which it was made: a process with all
 *  threads, in a session of its own, whose parent is the reaper of orphans. The twin stays. */
KAGE_API struct kage_err *kage_twin_wake(struct kage_ctx *ctx, const char *spec,
					 const struct kage_wake_options *options,
					 struct kage_life *ret_life);

struct kage_rollback_options {
	enum kage_files_mode files;
	enum kage_connections_mode connections; /* of those that it has no longer */
	bool end_children; /* processes that it has started since are ended; else they are an obstacle */
};

struct kage_rollback_result {
	pid_t pid;
	uint64_t number;   /* of the twin */
	uint64_t pause_ns; /* that the program stood */
	uint64_t total_ns;
	uint64_t pages;         /* that were written back */
	uint64_t n_descriptors; /* that were made anew */
};

/** Takes the program that the twin SPEC is of back to it, in place: its process, parent and number stay, and so do connections,
 *  terminals and pipes to others. What it did since is gone, but for what others have seen of it. SPEC may also be a PID, for
 *  the latest twin of that process. A refusal leaves the program as it was; should it fail in the middle, or the keeper end,
 *  the program ends. */
KAGE_API struct kage_err *kage_rollback(struct kage_ctx *ctx, const char *spec,
					const struct kage_rollback_options *options,
					struct kage_rollback_result *ret_result);

/** Ends the twin SPEC; with only a name, all twins of it. Lives go on. */
KAGE_API struct kage_err *kage_twin_drop(struct kage_ctx *ctx, const char *spec);

/** Stores an image of the twin SPEC, at leisure: the program is not touched. Without a name the history is called as the
 *  twin is. */
KAGE_API struct kage_err *kage_twin_snap(struct kage_ctx *ctx, struct kage_store *store,
					 const char *spec, const struct kage_snap_options *options,
					 struct kage_snap_result *ret_result);

/** Is a keeper, until its last twin is gone: what kage(1) becomes for kage_clone(). FIRST_FD: a connection to serve
 *  from the beginning. */
KAGE_API struct kage_err *kage_twins_keep(struct kage_ctx *ctx, const char *name, int first_fd);

#ifdef __cplusplus
}
#endif

#endif
