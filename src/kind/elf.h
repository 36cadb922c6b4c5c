/* SPDX-License-Identifier: Apache-2.0 */
/* The build-id of an ELF file: what tells a library from its successor under the same name. */
#ifndef KIND_ELF_H
#define KIND_ELF_H

#include <stddef.h>
#include <stdint.h>

enum { KAGE_BUILD_ID_MAX = 64 };

/** Reads the build-id of the 64-bit ELF file behind FD by pread and gives its length, 0 when it has
 *  none, is no such file, or cannot be read. The file may hold anything. */
size_t kage_elf_build_id(int fd, uint8_t id[KAGE_BUILD_ID_MAX]);

#endif
