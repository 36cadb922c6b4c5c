/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extended state as the kernel keeps it (src/sys/taskread.h), in the form in which ptrace gives it.
 *
 * The kernel's area is what XSAVES wrote: components packed one behind the other, those in their
 * initial state left out, supervisor state among them. What ptrace gives and takes as NT_X86_XSTATE
 * has each component at the offset that CPUID leaf 0xD tells, initial state written out, and no
 * supervisor state (Intel SDM volume 1, chapter 13; Documentation/arch/x86/xstate.rst).
 */
#ifndef ARCH_X86_64_XSAVE_H
#define ARCH_X86_64_XSAVE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "sys/bpf/task_record.h"

/** Writes to BUF, of CAPACITY bytes, the state AREA, of X->bytes, of a thread of this machine. The result
 *  has *ret_size bytes. Trusts neither X nor AREA. Fails with KAGE_LIMIT when the area was cut or BUF
 *  is too small, KAGE_CORRUPT when it is none, KAGE_UNSUPPORTED on a processor without XSAVE. */
struct kage_err *kage_x86_xsave_standard(const struct kage_task_xsave *x, const uint8_t *area,
					 uint8_t *buf, size_t capacity, size_t *ret_size)
	_must_check_;

#endif
