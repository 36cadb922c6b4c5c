/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The notes of a core file: what a debugger learns about threads, their registers, and mapped files.
 */
#ifndef CORE_NOTES_H
#define CORE_NOTES_H

#include "image/image.h"

struct core_notes {
	uint8_t *data; /* owned */
	size_t size, capacity;
	uint16_t machine; /* of all registers: EM_* */
};

/** All notes of the first process of IMAGE, in the kernel's order: what follows an NT_PRSTATUS is
 *  about that thread. KAGE_UNSUPPORTED when registers are not known. Release with
 *  core_notes_deinit(), also after a failure. */
struct kage_err *core_notes_init(struct core_notes *notes, const struct kage_image *image)
	_must_check_;
void core_notes_deinit(struct core_notes *notes);

#endif
