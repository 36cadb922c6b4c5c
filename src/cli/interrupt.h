/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals that ask a command to end: they raise a flag at which libkage looks, everything is
 * undone, and the command then ends by that very signal, so that a shell sees what happened.
 */
#ifndef CLI_INTERRUPT_H
#define CLI_INTERRUPT_H

#include <signal.h>

/** Catches SIGINT, SIGTERM and SIGHUP, except those that the caller of kage had ignored. Returns
 * the flag for kage_ctx_set_interrupt(). */
const volatile sig_atomic_t *cli_interrupt_catch(void);

/** The signal that came, or 0. */
int cli_interrupt_signal(void);

/** Ends this process by SIGNAL_NUMBER without a core file of its own; where that signal does not
 *  end it, by the status that a shell would show. */
_Noreturn void cli_interrupt_die(int signal_number);

#endif
