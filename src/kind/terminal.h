/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the descriptors of terminals (kind/terminal.c) and the session (kind/session.c) know of each
 * other: which terminal a restored program takes, and what becomes of it.
 *
 *	find	 R->tty_fd; R->tty_own says that it is the controlling terminal of our own session
 *	start	 (terminal.c) it gets the settings that the program had made; how it was is noted
 *	begin	 (session.c) the program comes to the foreground and is told that its screen is another
 *	undo	 where the restore failed after all: as it was
 */
#ifndef KIND_TERMINAL_H
#define KIND_TERMINAL_H

#include "kind/kind.h"

/** Names the terminal that the user asked for, should it be none. */
void kage_terminal_check_named(struct kage_restore *r);

/** Finds the terminal for the restored program, once: the one that the caller named, else the first
 *  of our own standard descriptors that is one. */
void kage_terminal_find(struct kage_restore *r);

/** Whether the program of the image had its controlling terminal to itself: its process group was in
 *  the foreground. Else the settings of that terminal were somebody else's. */
bool kage_terminal_was_foreground(const Kage__Process *p);

/** Whether it had set its terminal so that keys come one by one or unseen, as editors, pagers and
 *  prompts for passwords do: it can do nothing without one. */
bool kage_terminal_takes_keys(const struct kage_restore *r);

/** Whether we may set the terminal: our process group is in its foreground, or it is none of our
 *  session's. */
bool kage_terminal_may_set(const struct kage_restore *r);

/** Gives the terminal the settings it had before R. Nothing to do is fine. */
void kage_terminal_undo(struct kage_restore *r);

/** The restored process, all else done, comes to the foreground of its terminal. */
struct kage_err *kage_session_begin(struct kage_restore *r) _must_check_;

/** Undoes kage_session_begin() and what was set on the terminal. */
void kage_session_undo(struct kage_restore *r);

extern const struct kage_kind kage_kind_session;

#endif
