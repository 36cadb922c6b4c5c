/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ELF files that an image has mapped as code: where each was loaded, and its symbols.
 *
 * A file speaks only when it is the one that was mapped: its build-id is the image's, or where there
 * is none, its size and time are. Else, and where it is stripped, the separate debug file of that
 * build-id (/usr/lib/debug/.build-id) speaks for it. What is read may hold anything.
 */
#ifndef LOOK_MODULES_H
#define LOOK_MODULES_H

#include <libelf.h>

#include "image/image.h"

struct look_symbol {
	uint64_t value; /* as in the file: without the bias */
	uint64_t size;
	uint64_t reach;   /* as size, but where that is 0 the rest of the section */
	const char *name; /* lives as long as the module */
	uint8_t rank;     /* 0 local, 1 weak, 2 global: of two at one place the higher one speaks */
	bool thread_local_; /* VALUE is no address, and the symbol is none of v */
};

struct look_module {
	const Kage__FileObject *file;
	uint64_t start, end;   /* from its first mapping to its last */
	uint64_t bias;         /* address in the process = value + bias */
	bool loaded;           /* what follows was tried */
	Elf *elf, *debug;      /* NULL where there is none */
	struct look_symbol *v; /* n of them, ascending by value */
	size_t n;
	struct kage_err *why; /* why there are no symbols, or NULL */
};

/** Lists the modules of the first process of IMAGE, the executable first, then by address; nothing
 *  is read yet. The caller hands each to look_module_deinit(), and frees the array. */
struct kage_err *look_modules_list(const struct kage_image *image, struct look_module **ret_modules,
				   size_t *ret_n) _must_check_;

/** Reads the symbols of M, once; m->why tells why there are none. Fails for want of memory only. */
struct kage_err *look_module_load(const struct kage_image *image, struct look_module *m)
	_must_check_;

void look_module_deinit(struct look_module *m);

#endif
