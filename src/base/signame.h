/* SPDX-License-Identifier: Apache-2.0 */
/* Signals by their names. */
#ifndef BASE_SIGNAME_H
#define BASE_SIGNAME_H

/** "SIGSEGV", "SEGV", "RTMIN+1"; 0: none is called so. */
int kage_signal_number(const char *name);

#endif
