/* SPDX-License-Identifier: Apache-2.0 */
/* Only the three structures of elf(5) that lead to the note are read, with bounds on each; a library
 * for ELF would map whole files. */
#include "kind/elf.h"

#include <elf.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

enum { PHDRS_MAX = 128, NOTES_MAX_BYTES = 8192 };

static bool read_at(int fd, uint64_t offset, void *to, size_t size)
{
	return offset <= INT64_MAX && pread(fd, to, size, (off_t)offset) == (ssize_t)size;
}

/* A note: header, name, description; the latter two padded to 4 bytes each. */
static size_t find_in_notes(const uint8_t *notes, size_t size, uint8_t id[KAGE_BUILD_ID_MAX])
{
	size_t at = 0;

	while (size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr h;
		uint64_t name, desc, next;

		memcpy(&h, notes + at, sizeof(h));
		name = at + sizeof(h);
		desc = name + ((uint64_t)h.n_namesz + 3) / 4 * 4;
		next = desc + ((uint64_t)h.n_descsz + 3) / 4 * 4;
		if (desc + h.n_descsz > size)
			return 0;
		if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == 4 &&
		    memcmp(notes + name, "GNU", 4) == 0 && h.n_descsz <= KAGE_BUILD_ID_MAX) {
			memcpy(id, notes + desc, h.n_descsz);
			return h.n_descsz;
		}
		if (next > size)
			return 0;
		at = (size_t)next;
	}
	return 0;
}

size_t kage_elf_build_id(int fd, uint8_t id[KAGE_BUILD_ID_MAX])
{
	uint8_t notes[NOTES_MAX_BYTES];
	Elf64_Phdr phdrs[PHDRS_MAX];
	Elf64_Ehdr e;
	size_t n = 0;

	if (!read_at(fd, 0, &e, sizeof(e)) || memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 ||
	    e.e_ident[EI_CLASS] != ELFCLASS64 || e.e_phentsize != sizeof(Elf64_Phdr) ||
	    e.e_phnum == 0 || e.e_phnum > PHDRS_MAX ||
	    !read_at(fd, e.e_phoff, phdrs, e.e_phnum * sizeof(phdrs[0])))
		return 0;
	for (size_t i = 0; i < e.e_phnum && !n; i++)
		if (phdrs[i].p_type == PT_NOTE && phdrs[i].p_filesz <= sizeof(notes) &&
		    read_at(fd, phdrs[i].p_offset, notes, phdrs[i].p_filesz))
			n = find_in_notes(notes, phdrs[i].p_filesz, id);
	return n;
}
