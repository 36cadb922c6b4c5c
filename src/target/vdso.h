/* SPDX-License-Identifier: Apache-2.0 */
/* How far the contents of a vDSO reach, whose last page has room behind them. */
#ifndef TARGET_VDSO_H
#define TARGET_VDSO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** For the SIZE bytes of a vDSO as a process has it mapped: *RET_CODE_END is behind what is loaded,
 *  *RET_END behind section headers as well, which may stand further on. False when there is no room behind
 *  them, or when these bytes are no such thing: the process can write there. */
bool kage_vdso_ends(const uint8_t *bytes, size_t size, size_t *ret_code_end, size_t *ret_end);

#endif
