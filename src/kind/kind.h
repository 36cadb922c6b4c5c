/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kinds: the kinds of kernel object that a process can hold. One file each in this folder, in which
 * capture, restore, checks, validation and printing of that kind stand side by side. Nothing else in
 * the tree switches on kinds; capture/ and restore/ go through the two tables below.
 *
 * A `struct kage_kind` is something that a process has once (its memory map, its signal actions,
 * its credentials …). A `struct kage_fd_kind` is something behind a descriptor. Every callback may
 * be NULL.
 *
 * How to add one: doc/HOWTO-add-a-kind.md.
 */
#ifndef KIND_KIND_H
#define KIND_KIND_H

#include <sys/stat.h>

#include "base/ctx.h"
#include "image/image.h"
#include "sys/maps.h"
#include "target/batch.h"
#include "target/inside.h"
#include "target/target.h"

/* --- what all callbacks work on -------------------------------------------------------------- */

struct kage_obstacles;

/* A descriptor of the target as capture sees it. */
struct kage_fd_seen {
	int fd;     /* its number in the target */
	int ours;   /* a duplicate of it in this process, close-on-exec; -1 when not to be had */
	char *link; /* what /proc/PID/fd/N points to */
	char *info; /* text of /proc/PID/fdinfo/N */
	struct stat st; /* of `ours` */
	bool close_on_exec;
	Kage__Description *description; /* set once it is known; shared by dup'ed descriptors */
};

/* The numbers of spaces, for captures one after the other: the same object keeps its number. */
struct kage_space_ids {
	struct kage_space_id {
		int kind; /* Kage__Space__Kind */
		uint64_t dev, ino;
	} * v; /* number i + 1 */
	size_t n;
};

/* The state of one capture. The target is frozen while the capture callbacks run. */
struct kage_capture {
	struct kage_ctx *ctx;
	struct kage_target *target;
	struct kage_image *image;     /* being built; all messages are made in its arena */
	Kage__Process *process;       /* the one process of this version */
	struct mem_pages *pages;      /* contents of spaces */
	struct kage_maps maps;        /* the memory map, with flags */
	struct kage_taskread *reader; /* of the kernel's own knowledge; NULL: the target is asked */
	struct kage_sockopt_usual *usual_options; /* kind/sockopt.h */
	struct kage_vmaread *vmas;                /* likewise; NULL: smaps tells flags */
	struct kage_inside inside;                /* what only the target or the kernel knows */
	char *status;                             /* text of /proc/PID/status */
	struct kage_fd_seen *fds;                 /* ascending */
	size_t n_fds;
	struct {
		struct mem_pages *before, *after;
	} verify;              /* plain copies of all memory (capture/verify.h); may be NULL */
	struct follow *follow; /* capture/follow.h; may be NULL */
	struct cloning *clone; /* capture/cloned.h; may be NULL */
	struct kage_space_ids *space_ids; /* borrowed; NULL: numbers count up */
	struct kage_looked *looked;       /* files met before the freeze (kind/looked.h) */
	struct kage_noted *noted;         /* files and shared objects met so far (kind/noted.h) */
	bool carry;                       /* executables and libraries go into the image */
	bool keep_still;                  /* the target is to be left frozen */
	bool lenient;                     /* what cannot be restored is noted, and is no failure */
	bool maps_changed;                /* between the look and the freeze */
	bool stop_all;                    /* no thread may be left asleep */
	Kage__Source__Tracking tracking;  /* how what had to be copied was known */
	uint64_t span_ns;                 /* how long the target will be looked at, about */
	bool checking; /* only a check: obstacles are collected, no contents are copied */
	struct kage_obstacles *obstacles;
};

struct kage_twin;

/* The state of one restore. */
struct kage_restore {
	struct kage_ctx *ctx;
	struct arena scratch; /* for what lasts as long as this */
	struct kage_image *image;
	Kage__Process *process;
	const struct kage_restore_options *options;
	struct kage_obstacles *obstacles;
	struct kage_target *stub; /* NULL until it is made */
	int *fds;                 /* by description (index in msg->descriptions): a descriptor of
	                               * ours to it, inherited by the stub; -1 before it is made */
	int *given;               /* by the options' fds: a duplicate of each, -1 before */
	int *files;               /* by file (index in msg->files): an open descriptor of ours for
	                               * contents and mappings, -1 before it is opened */
	int *spaces;              /* by space (index in msg->spaces): a descriptor of ours to the
	                               * shared object, -1 before it is made */
	struct kage_twin *twin; /* what the process is split off (restore/wake.c); NULL: nothing */
	bool in_place; /* the stub is the program itself, which goes back (restore/back.c) */
	struct {
		const pid_t *had; /* borrowed; processes it had started then, which stay */
		size_t n_had;
		bool end; /* those that it has started since are ended; else they are refused */
	} children;       /* in place */
	struct {
		int signal, fd; /* 0 and -1: none */
		uint32_t value;
	} event;                     /* with a twin: tells the program that it is a copy */
	bool own_numbers;            /* threads get such as are free (restore/numbers.h) */
	const Kage__Thread *born_as; /* with a twin: whose rights the process is born with */
	int kept_fd; /* a number in the stub, above all of the image, that stays open; -1: none */
	struct lazy *lazy; /* what fills memory later; NULL: nothing (restore/lazy.h) */
	int tty_fd;        /* the terminal that the restored program takes, -1 for none */
	int tty_errno;     /* why the one that was named could not be opened */
	bool tty_sought;   /* TTY_FD and TTY_OWN are known */
	bool tty_own;      /* it is the controlling terminal of our own session */
	bool tty_given;    /* the stub's process group is in its foreground */
	bool redraw;       /* it takes keys, and its terminal is another */
	struct kage_terminal_before *tty_before; /* it was set; how it was before */
	struct kage_put_back *put_back; /* written files are as of the image; NULL before */
};

/* --- obstacles ------------------------------------------------------------------------------- */

/** Notes something that stands in the way. Never fails: what cannot be noted makes the check itself
 *  fail in the end. FATAL false: it works, but not as somebody might expect. */
void kage_obstacle(struct kage_obstacles *o, bool fatal, const char *cure, const char *object,
		   const char *why_fmt, ...) _printf_(5, 6);

/* --- children (kind/surroundings.c) ------------------------------------------------------------ */

/** The children of T, all of whose threads are listed: *RET_PIDS is freed by the caller. */
struct kage_err *kage_children(const struct kage_target *t, pid_t **ret_pids, size_t *ret_n)
	_must_check_;

/* --- kinds that a process has once ----------------------------------------------------------- */

struct kage_kind {
	const char *name;
	bool carried; /* what is made of a twin has it already, so nothing is left to do */

	/* Capture. The target is frozen, its threads' registers are read. */
	struct kage_err *(*capture)(struct kage_capture *c);
	/* Restore, in this order. check: names every obstacle, touches nothing. */
	struct kage_err *(*check)(struct kage_restore *r);
	/* prepare: in our own process, before there is a stub. */
	struct kage_err *(*prepare)(struct kage_restore *r);
	/* check_back: in place, the program frozen: refuses what it has changed since and cannot be taken back. */
	struct kage_err *(*check_back)(struct kage_restore *r);
	/* reset: in place: takes away what the program has by now and no later step overwrites; calls for the leader. */
	struct kage_err *(*reset)(struct kage_restore *r, struct kage_batch *b);
	/* build: calls for the stub's only thread, all descriptors in place. */
	struct kage_err *(*build)(struct kage_restore *r, struct kage_batch *b);
	/* build_thread: calls for each thread, all threads made, nothing of finish() done after it. */
	struct kage_err *(*build_thread)(struct kage_restore *r, const Kage__Thread *msg,
					 struct kage_batch *b);
	/* finish: calls for the leader at the very end: rights go away here, timers start. */
	struct kage_err *(*finish)(struct kage_restore *r, struct kage_batch *b);

	/** Prints it for a person. */
	void (*print)(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full);
};

/** All of them, in the order in which they are captured and restored; NULL ends the table. */
extern const struct kage_kind *const kage_kinds[];

/* --- kinds of descriptors -------------------------------------------------------------------- */

struct kage_fd_kind {
	const char *name;                  /* "pipe", for lists and messages */
	Kage__Description__KindCase which; /* the field of Description that it fills */

	/** Whether FD is of this kind. The first kind in the table that says yes gets it. */
	bool (*match)(const struct kage_fd_seen *fd);
	/** Fills D (id, flags and offset stand in it already). Notes obstacles. */
	struct kage_err *(*capture)(struct kage_capture *c, const struct kage_fd_seen *fd,
				    Kage__Description *d);
	/** Once all descriptors are captured: what refers to others. */
	struct kage_err *(*capture_links)(struct kage_capture *c, const struct kage_fd_seen *fd,
					  Kage__Description *d);

	/** Restore: names obstacles, touches nothing. */
	struct kage_err *(*check)(struct kage_restore *r, const Kage__Description *d);
	/** Makes it in our own process, before there is a stub, in the state of the image. */
	struct kage_err *(*make)(struct kage_restore *r, const Kage__Description *d, int *ret_fd);
	/** Calls for the stub, all descriptors at their numbers; FD is one of D's. */
	struct kage_err *(*place)(struct kage_restore *r, const Kage__Description *d, int fd,
				  struct kage_batch *b);
	/** The very last, in our process, through our own descriptor: what runs with time. */
	struct kage_err *(*start)(struct kage_restore *r, const Kage__Description *d, int ours);

	/** One line for a person, without a newline. */
	void (*print)(const struct kage_image *image, const Kage__Description *d, FILE *out);
};

extern const struct kage_fd_kind *const kage_fd_kinds[];

/** The kind of D, NULL when this version knows none. */
const struct kage_fd_kind *kage_fd_kind_of(const Kage__Description *d);

/* --- files of file systems: shared by descriptors, mappings, cwd, executable (kind/file.c) ---- */

/** Notes the file behind our descriptor OURS (with its stat ST) and the path LINK that /proc shows,
 *  and gives the number of its FileObject; the same file gets the same number. WRITTEN: a
 *  description has it open for writing, so its contents go into the image. */
struct kage_err *kage_file_note(struct kage_capture *c, int ours, const struct stat *st,
				const char *link, bool written, uint32_t *ret_id) _must_check_;

/** Gives an open descriptor of ours (borrowed) for the contents of file ID with at least the rights
 *  of FLAGS (O_RDONLY or O_RDWR): the file itself, or one made of the contents in the image. Checks
 *  that it is still what it was (KAGE_CHANGED). */
struct kage_err *kage_file_open(struct kage_restore *r, uint32_t id, int flags, int *ret_fd)
	_must_check_;

/* --- shared memory objects: memfds and shared anonymous memory (kind/memfd.c) ------------------ */

/** Notes the object behind OURS (a descriptor of ours to a memfd or to a map_files entry) and copies
 *  its contents; the same object gets the same Space. */
struct kage_err *kage_shm_note(struct kage_capture *c, int ours, const struct stat *st,
			       uint32_t *ret_space) _must_check_;

/** Gives a descriptor of ours (borrowed) to the object of SPACE, made and filled on first use. */
struct kage_err *kage_shm_open(struct kage_restore *r, uint32_t space, int *ret_fd) _must_check_;

#endif
