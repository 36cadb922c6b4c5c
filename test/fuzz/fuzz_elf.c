/* SPDX-License-Identifier: Apache-2.0 */
/* The two readers of ELF: the build-id of a file, and where a vDSO ends. */
#include "kind/elf.h"
#include "lib/fuzzing.h"
#include "target/vdso.h"

#include <sys/mman.h>
#include <unistd.h>

static void check_vdso(const uint8_t *data, size_t size)
{
	size_t code_end, end;

	if (kage_vdso_ends(data, size, &code_end, &end))
		holds(code_end > 0 && code_end <= end && end < size);
}

static void check_build_id(const uint8_t *data, size_t size)
{
	static int fd = -1;
	uint8_t id[KAGE_BUILD_ID_MAX];
	size_t n;

	if (fd < 0)
		fd = memfd_create("elf", MFD_CLOEXEC);
	holds(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
	n = kage_elf_build_id(fd, id);
	holds(n <= sizeof(id));
	holds(n == 0 || memmem(data, size, id, n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_vdso(data, size);
	check_build_id(data, size);
	return 0;
}
