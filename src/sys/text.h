/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Picking fields out of the text that /proc gives: "Name:<white space>value" lines. Pure functions;
 * the text may be anything.
 */
#ifndef SYS_TEXT_H
#define SYS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** The value behind "NAME:" at the beginning of a line, up to the line's end, blanks before it
 *  skipped; NULL when there is no such line. Not terminated: *ret_size bytes. */
const char *kage_text_field(const char *text, const char *name, size_t *ret_size);

/** The same as a number in BASE (8, 10, 16). False when absent or no number. */
bool kage_text_u64(const char *text, const char *name, int base, uint64_t *ret_value);

/** Parses an unsigned number at *AT in BASE and moves *AT behind it. False when there is none or it
 *  does not fit. */
bool kage_text_number(const char **at, int base, uint64_t *ret_value);

/** The same for a decimal number that may be negative. */
bool kage_text_int(const char **at, int32_t *ret_value);

/** Field NUMBER, from 3 on, of a text of /proc/PID/stat, counted as stat(5) does. The second may contain
 *  anything, so what is counted begins behind the last parenthesis. False when it is absent, no
 *  number, or does not fit. */
bool kage_text_stat_u64(const char *stat, int number, uint64_t *ret_value);
bool kage_text_stat_int(const char *stat, int number, int32_t *ret_value);

/** Moves *AT behind the character C; false when it is not there. */
bool kage_text_char(const char **at, char c);

/** Undoes the octal escapes (\040) with which mountinfo writes blanks, in place. */
void kage_text_unescape(char *s);

/** The beginning of the next line after AT, or NULL at the end. */
const char *kage_text_next_line(const char *at);

#endif
