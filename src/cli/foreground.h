/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Standing in for a program: kage stays as the parent of a program that it started or restored, and
 * whoever deals with kage (a shell, a supervisor) deals with the program in effect. Signals go on
 * to it, its stops become ours, and its end is ours.
 *
 * A restored program may lead a process group of its own, and is in the foreground then. Keys that
 * interrupt or stop hit that group alone, and we see to it that ours, in which a script or the rest
 * of a pipeline may be, is hit as it would be without us.
 *
 * An editor that was restored believes its terminal to be set up and drawn on. Stopped and continued
 * once, as by the keys of a shell, it leaves its terminal and sets it up from the beginning: screen,
 * keypad, colours. SIGWINCH alone has most programs draw, and no more; it is for those that do not
 * stop, because they are alone in their session or do not want to. Both only reach it while it sleeps:
 * not all handlers expect to interrupt anything else.
 *
 *	starting	from cli_foreground_open() on, signals wait
 *	redrawing	a restored editor is stopped and continued, so that it sets up its terminal
 *	running		serve(): signals and terminal bytes are passed on
 *	stopped		mirror_stop(): the program was stopped, and so do we, until SIGCONT
 *	ended		cli_foreground_wait() returns its status
 */
#ifndef CLI_FOREGROUND_H
#define CLI_FOREGROUND_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <termios.h>

struct cli_relay;

/* Settings of our controlling terminal. */
struct cli_modes {
	bool known;
	struct termios modes;
};

struct cli_foreground {
	sigset_t mask_before;
	struct sigaction child_before; /* of SIGCHLD */
	int signals;                   /* signalfd */
	int tty;                       /* our controlling terminal, or -1 */
	bool gave_tty;                 /* the program's process group is in its foreground */
	bool left_stopped;             /* a first stop is what the user asked for */
	bool redraw; /* its terminal does not show what it believes: make it set up all anew */
	bool redraw_asked;        /* it was told to stop */
	uint64_t redraw_winch_ns; /* when to send SIGWINCH instead, UINT64_MAX once it is sent */
	const struct cli_modes *before; /* borrowed: to put back in the end; or NULL */
	struct cli_relay *relay;        /* borrowed, or NULL */
	pid_t *pids;                    /* borrowed; those that ended are 0 */
	size_t n_pids;
	int status;  /* of the first that failed, else 0; as waitid() has it: */
	bool killed; /* STATUS is a signal, not an exit status */
};

/** Holds back the signals that concern the program, before it exists. Returns 0 or an errno value.
 */
int cli_foreground_open(struct cli_foreground *fg);

/** Reads the settings of our controlling terminal, where we are in its foreground. */
void cli_modes_read(struct cli_modes *ret_modes);

/** In a forked child before exec: the signal mask, and what SIGCHLD does, as kage found them. */
void cli_foreground_release(const struct cli_foreground *fg);

/** Stays with the N children PIDS until all have ended. Returns the exit status to end with: of the
 *  first that did not end with 0. Ends kage itself by a signal where that ended the program. */
int cli_foreground_wait(struct cli_foreground *fg, pid_t *pids, size_t n);

/** Lets the signals through again, for when there is no program to wait for. */
void cli_foreground_close(struct cli_foreground *fg);

#endif
