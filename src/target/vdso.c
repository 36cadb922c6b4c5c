/* SPDX-License-Identifier: Apache-2.0 */
#include "target/vdso.h"

#include <elf.h>
#include <string.h>

/* Moves *END behind COUNT bytes at OFFSET; false when they are not within SIZE bytes. */
static bool extend(uint64_t offset, uint64_t count, size_t size, size_t *end)
{
	if (offset > size || count > size - offset)
		return false;
	if (offset + count > *end)
		*end = (size_t)(offset + count);
	return true;
}

static bool read_header(const uint8_t *bytes, size_t size, Elf64_Ehdr *h)
{
	if (size < sizeof(*h))
		return false;
	memcpy(h, bytes, sizeof(*h));
	return memcmp(h->e_ident, ELFMAG, SELFMAG) == 0 && h->e_ident[EI_CLASS] == ELFCLASS64 &&
	       h->e_phentsize == sizeof(Elf64_Phdr);
}

bool kage_vdso_ends(const uint8_t *bytes, size_t size, size_t *ret_code_end, size_t *ret_end)
{
	size_t headers_end = 0, code_end = 0, end;
	Elf64_Ehdr h;

	if (!read_header(bytes, size, &h) ||
	    !extend(h.e_phoff, (uint64_t)h.e_phnum * sizeof(Elf64_Phdr), size, &headers_end))
		return false;
	for (size_t i = 0; i < h.e_phnum; i++) {
		Elf64_Phdr p;

		memcpy(&p, bytes + h.e_phoff + i * sizeof(p), sizeof(p));
		if (p.p_type == PT_LOAD && !extend(p.p_offset, p.p_memsz, size, &code_end))
			return false;
	}
	end = code_end;
	if (!code_end || !extend(h.e_shoff, (uint64_t)h.e_shnum * h.e_shentsize, size, &end) ||
	    end == size)
		return false;
	*ret_code_end = code_end;
	*ret_end = end;
	return true;
}
