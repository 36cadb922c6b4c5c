/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text for people: widths, sizes, durations.
 *
 * Output is UTF-8 always. What comes from targets (command lines, paths) may hold anything,
 * terminal control sequences included, and passes cli_text_clean() before it is shown.
 */
#ifndef CLI_TEXT_H
#define CLI_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Room for any result of the functions below that fill a buffer. */
enum { CLI_TEXT_BYTES = 32 };

/** "512 B", "4.1 MiB", "232 MiB". Returns BUFFER. */
const char *cli_text_size(char buffer[static CLI_TEXT_BYTES], uint64_t bytes);

/** "850 ns", "12 µs", "4.1 ms", "85 s", "12 min", "3.5 h", "4 d". Returns BUFFER. */
const char *cli_text_duration(char buffer[static CLI_TEXT_BYTES], uint64_t ns);

/** "2026-10-20 14:03:11" in the local time zone. Returns BUFFER. */
const char *cli_text_time(char buffer[static CLI_TEXT_BYTES], uint64_t realtime_ns);

/** "2026-10-20T14:03:11Z" for other programs. Returns BUFFER. */
const char *cli_text_time_utc(char buffer[static CLI_TEXT_BYTES], uint64_t realtime_ns);

/** A fresh copy of S in which control characters and bytes that are not UTF-8 stand as "\x1b". */
char *cli_text_clean(const char *s);

/** The same on one line as a person reads it: line feeds stand as "↵", tabs as blanks. */
char *cli_text_line(const char *s);

/** How many columns of a terminal the clean string S takes. */
int cli_text_columns(const char *s);

/** Shortens the clean string S in place to at most COLUMNS columns (at least 1), the last of which
 *  is then an ellipsis. S has room for two bytes more than its length. */
void cli_text_cut(char *s, int columns);

/** CLOCK_MONOTONIC and CLOCK_REALTIME in nanoseconds. */
uint64_t cli_clock_mono_ns(void);
uint64_t cli_clock_real_ns(void);

#endif
