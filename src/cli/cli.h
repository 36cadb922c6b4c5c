/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command `kage`: what its commands share.
 *
 * The command line knows libkage by its public headers alone: whatever it does, any program can do.
 * A command is one file with one `struct cli_command`, in which its options, its help and its
 * function stand together; parsing, help and completion all follow from that table.
 *
 * Exit status: 0 done, 1 failed, 2 used wrongly; ended by a signal: that signal.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <kage/kage.h>

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

enum cli_option_kind {
	CLI_FLAG,   /* sets a bool */
	CLI_TEXT,   /* sets a const char *, borrowed from argv */
	CLI_TEXTS,  /* adds to a struct cli_texts, each time that it is given */
	CLI_NUMBER, /* sets an int within [min, max] */
	CLI_CHOICE, /* sets an int: which of the words of `argument`, counted from 1; '|' separates
		       them */
};

/* Values of an option that may be given several times. */
enum { CLI_TEXTS_MAX = 32 };
struct cli_texts {
	const char *v[CLI_TEXTS_MAX]; /* n of them, borrowed from argv */
	size_t n;
};

struct cli_option {
	const char *name;     /* without dashes; NULL ends a table */
	char letter;          /* 0: none */
	const char *argument; /* what help calls its value; NULL for a flag */
	const char *help;     /* one line; NULL: understood, but not shown */
	enum cli_option_kind kind;
	size_t offset; /* of the value in the command's own structure */
	int min, max;  /* of a number */
};

struct cli;

struct cli_command {
	const char *name;
	const char *arguments; /* as in the synopsis: "PID" */
	const char *summary;   /* what it does, in the imperative, for lists */
	const char *details;   /* paragraphs for --help, broken into lines */
	const struct cli_option *options;
	int min_args, max_args;  /* max_args -1: any number */
	bool reads_images;       /* takes --key */
	bool first_ends_options; /* what follows the first argument is not for kage */
	const char *interrupted; /* how things are when a signal ended it early; NULL: no words */
	/* VALUES is the structure that `options` describes: zero but for what was given. Returns
	 * the exit status. */
	int (*run)(struct cli *cli, const void *values, int argc, char **argv);
};

/* The most that a command's own structure of option values may take. */
enum { CLI_VALUES_BYTES = 1024 };

struct cli {
	const struct cli_command *command; /* NULL before it is known */
	struct kage_ctx *ctx;
	const char *store_path; /* of --store, or NULL */
	const char *key_path;   /* of --key, or NULL */
	bool json;
	bool help;
	bool interrupted; /* a signal asked for the end, and a failure says that it was heard */
	bool colour;      /* stdout takes colours */
	int columns;      /* width of stdout; 0: not a terminal, do not cut */
	struct cli_progress *progress;
};

/* All commands in the order of the overview; NULL ends the list. */
extern const struct cli_command *const cli_commands[];
extern const struct cli_command cli_run;
extern const struct cli_command cli_snap;
extern const struct cli_command cli_record;
extern const struct cli_command cli_log;
extern const struct cli_command cli_show;
extern const struct cli_command cli_cat;
extern const struct cli_command cli_when;
extern const struct cli_command cli_diff;
extern const struct cli_command cli_restore;
extern const struct cli_command cli_try;
extern const struct cli_command cli_bisect;
extern const struct cli_command cli_clone;
extern const struct cli_command cli_twins;
extern const struct cli_command cli_wake;
extern const struct cli_command cli_drop;
extern const struct cli_command cli_rollback;
extern const struct cli_command cli_on;
extern const struct cli_command cli_off;
extern const struct cli_command cli_call;
extern const struct cli_command cli_check;
extern const struct cli_command cli_core;
extern const struct cli_command cli_gdb;
extern const struct cli_command cli_tag;
extern const struct cli_command cli_du;
extern const struct cli_command cli_key;
extern const struct cli_command cli_fsck;
extern const struct cli_command cli_rm;
extern const struct cli_command cli_prune;

/** The command called NAME, or NULL. */
const struct cli_command *cli_command_find(const char *name);

/** The name that is so near to NAME that a slip of the fingers explains it, or NULL. */
const char *cli_command_nearest(const char *name);

/* --- failing (fail.c) ------------------------------------------------------------------------ */

/** Tells E, with --json also as an object on stdout, and frees it. Returns CLI_FAILED. */
int cli_fail(struct cli *cli, struct kage_err *e);

/** The same for a failure of the command itself. NUM is an errno value whose text is appended, or
 *  0. */
int cli_fail_own(struct cli *cli, enum kage_code code, int num, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/** Tells how the command is used rightly. Returns CLI_USAGE. */
int cli_fail_usage(struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** One line on stderr about something that is no failure. */
void cli_note(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** Ends with status 1 for want of memory: nothing has been started that would need undoing. */
_Noreturn void cli_out_of_memory(void);

/* --- allocation that cannot fail ------------------------------------------------------------- */

char *cli_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *cli_grow(void *array, size_t n, size_t element_bytes);

/* --- stores and images ----------------------------------------------------------------------- */

/** Opens the store that --store or the environment name; FLAGS as for kage_store_open(). */
struct kage_err *cli_store_open(struct cli *cli, unsigned flags, struct kage_store **ret_store)
	__attribute__((warn_unused_result));

/** The same for looking at history NAME, or at all of them when it is NULL: a store that nobody made
 *  yet is an empty one then, *RET_STORE NULL, unless --store named it. */
struct kage_err *cli_store_open_if_any(struct cli *cli, const char *name,
				       struct kage_store **ret_store)
	__attribute__((warn_unused_result));

/** Opens the store and the image SPEC in it. Close the image first. */
struct kage_err *cli_image_open(struct cli *cli, const char *spec, struct kage_store **ret_store,
				struct kage_image **ret_image) __attribute__((warn_unused_result));

/** The PID that TEXT spells, or 0. */
pid_t cli_pid_parse(const char *text);

/** The name of a history that PID was started with (kage run --name), as a fresh string, or NULL. */
char *cli_pid_own_name(pid_t pid);

/* --- resources that end with their scope ----------------------------------------------------- */

static inline void cli_free_cleanup(void *p)
{
	free(*(void **)p);
}
static inline void cli_store_cleanup(struct kage_store **store)
{
	kage_store_close(*store);
}
static inline void cli_image_cleanup(struct kage_image **image)
{
	kage_image_close(*image);
}

#define _cleanup_free_  __attribute__((cleanup(cli_free_cleanup)))
#define _cleanup_store_ __attribute__((cleanup(cli_store_cleanup)))
#define _cleanup_image_ __attribute__((cleanup(cli_image_cleanup)))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
