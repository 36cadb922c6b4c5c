/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A terminal of its own for a program: a pty, and the bytes carried between it and the terminal (or
 * pipe) that kage has. Its life is that of the relay: when kage goes, the program's terminal hangs
 * up.
 *
 * Neither direction can block the other: what the program does not take yet is kept, and no more is
 * read from our side until it is gone.
 */
#ifndef CLI_RELAY_H
#define CLI_RELAY_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <termios.h>

enum { CLI_RELAY_FDS = 2 };

struct cli_relay {
	int master;
	int slave;     /* held open until the program has it; -1 then */
	char path[64]; /* of the slave */
	bool raw;      /* our own terminal is in raw mode, SAVED is how it was */
	bool input;    /* our standard input may still give something */
	struct termios saved;
	char pending[4096]; /* for the program, not taken by it yet */
	size_t n_pending;
};

/** Makes the pty, of the size and the modes of our own terminal where we have one; else it has no size.
 *  Returns 0 or an errno value. */
int cli_relay_open(struct cli_relay *relay);

/** Gives the pty a usual size if it has none. */
void cli_relay_default_size(struct cli_relay *relay);

/** The program has the slave: lets go of it, and begins to carry keys one by one. */
void cli_relay_begin(struct cli_relay *relay);

/** Gives our terminal back its modes, and takes them away again: around a stop of kage itself. */
void cli_relay_pause(struct cli_relay *relay);
void cli_relay_resume(struct cli_relay *relay);

/** Passes the size of our terminal on. */
void cli_relay_resize(struct cli_relay *relay);

/** Fills FDS with what to wait for, and after poll() carries what came. The first returns for how
 *  many milliseconds to wait, -1 for ever. */
int cli_relay_prepare(struct cli_relay *relay, struct pollfd fds[static CLI_RELAY_FDS]);
void cli_relay_serve(struct cli_relay *relay, const struct pollfd fds[static CLI_RELAY_FDS]);

/** Carries what the program said last, and closes everything. Also for a relay that was never
 *  begun. */
void cli_relay_close(struct cli_relay *relay);

#endif
