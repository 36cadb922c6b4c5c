/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rfork: fork(2) of a child that is started again from this instant when it fails.
 *
 *	pid_t pid = rfork(NULL);
 *
 *	if (pid == 0) {
 *		serve();         // a crash in it leads back to here, with all memory as it was
 *		exit(0);         // an end like this is one
 *	}
 *	waitpid(pid, &status, 0);
 *
 * The child is started again when it ends with a status that asks for it (75 unless the options say otherwise), or by a
 * signal that tells of an error. Each start returns from rfork() once more, with 0, with the same memory, arguments,
 * credentials and root. When it ends otherwise, it is gone, and waitpid(2) tells how, as of any child.
 *
 * This implementation needs nothing but POSIX (src/keeper/rfork.c is complete by itself): PID is that of a process that
 * watches, which the child is a child of. What follows from that stands in rfork(3).
 */
#ifndef KAGE_RFORK_H
#define KAGE_RFORK_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <kage/export.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { RFORK_RESTART = 75 }; /* EX_TEMPFAIL of sysexits.h */

struct rfork_options {
	int restart_status; /* an exit status from 1 to 255; 0: RFORK_RESTART */
	const sigset_t *
		errors; /* signals that start it again; NULL: those by which the system ends a program that is wrong
				   (SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP) */
	int signal; /* the caller gets it at each restart, with PID as its value (sigqueue(3)); 0: none */
	unsigned most,
		within_s; /* at most MOST restarts within WITHIN_S seconds, then it ends as it did; MOST 0: any number;
				    WITHIN_S 0: ever */
	unsigned pause_ms; /* before each restart */

	/* Of the child alone, at each start: */
	const char *root,
		*directory; /* its root (chroot(2)) and working directory; NULL: as they are */
	bool set_ids;       /* it has UID, GID and these groups; else the caller's */
	uid_t uid;
	gid_t gid;
	const gid_t *groups;
	size_t n_groups;
	bool set_capabilities; /* Linux: it has CAPABILITIES (a bit each) and no others, now and later */
	uint64_t capabilities;
};

/** Makes the child. Returns 0 in it, at each start; in the caller a PID to wait for and to send signals to, or -1 with
 *  errno: what fork(2), mmap(2) and pipe(2) say, or why the child could not have what the options give it. OPTIONS may be
 *  NULL. */
KAGE_API pid_t rfork(const struct rfork_options *options);

/** In the child: ends it, to be started again. Buffers of stdio are not written. Elsewhere it is abort(3). */
KAGE_API _Noreturn void rfork_restart(void);

struct rfork_state {
	pid_t child;         /* its own number; another one after each restart */
	uint64_t n_restarts; /* so far */
	int last_status; /* of the life before this one, as waitpid(2) gives it; 0 before the first restart */
	bool gave_up; /* it has failed, and was not started again: more than MOST times */
};

/** Tells about PID, which rfork() has returned, until it is forgotten; about oneself in the child if PID is 0. -1 with ESRCH if
 *  there is no such child. */
KAGE_API int rfork_look(pid_t pid, struct rfork_state *ret_state);

/** Gives back what is kept about PID, which was waited for. */
KAGE_API void rfork_forget(pid_t pid);

#ifdef __cplusplus
}
#endif

#endif
