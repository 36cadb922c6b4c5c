/* SPDX-License-Identifier: Apache-2.0 */
/* Where and when an image was taken, and what belongs to no kind. */
#ifndef CAPTURE_SOURCE_H
#define CAPTURE_SOURCE_H

#include "kind/kind.h"

/** The instant, by the clocks, and the numbers of the process. The target is frozen. */
struct kage_err *source_instant(struct kage_capture *c) _must_check_;

/** How long it stood still until now. */
void source_pause(struct kage_capture *c);

/** The rest, which needs no instant: machine, names, command line. */
struct kage_err *source_fill(struct kage_capture *c) _must_check_;

/** Takes the SIZE bytes of /proc/PID/cmdline apart: the words go to P, and *ret_shown, in A, is the
 *  command for people, with blanks between them and cut to 4 KiB. TEXT has a zero behind it, and is
 *  changed. */
struct kage_err *source_parse_command(struct arena *a, char *text, size_t size, Kage__Process *p,
				      char **ret_shown) _must_check_;

/** Model and flags of the first processor in TEXT (/proc/cpuinfo); either may be absent. */
struct kage_err *source_parse_cpu(struct arena *a, const char *text, Kage__CpuFeatures *m)
	_must_check_;

#endif
