/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What storing and restoring cannot do without, each by itself on one core: `parts FILE MIB` prints
 *
 *	copy faults compress write decompress
 *
 * in milliseconds: copying MIB of memory, faulting that much in, compressing and decompressing it (zstd, the
 * level and the group size of the store), writing the result to FILE and to the disk.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

#include "common.h"
#include "store/format.h"

static char *get(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		exit(1);
	madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}

static double since(uint64_t *begin)
{
	uint64_t now = now_ns();
	double ms = (double)(now - *begin) / 1e6;

	*begin = now_ns();
	return ms;
}

int main(int argc, char **argv)
{
	size_t bytes = argc > 2 ? (size_t)atol(argv[2]) << 20 : 64 << 20, room, at = 0;
	char *memory = get(bytes), *copy = get(bytes), *packed;
	size_t n = bytes / GROUP_BYTES, *sizes = calloc(n, sizeof(*sizes));
	double faults, copying, compress, writing, decompress;
	ZSTD_CCtx *c = ZSTD_createCCtx();
	ZSTD_DCtx *d = ZSTD_createDCtx();
	int fd = argc > 1 ? open(argv[1], O_CREAT | O_TRUNC | O_WRONLY, 0600) : -1;
	uint64_t t;

	room = n * ZSTD_compressBound(GROUP_BYTES);
	packed = get(room);
	if (fd < 0 || !sizes || !c || !d)
		return 1;
	fill(memory, bytes);
	madvise(packed, room, MADV_POPULATE_WRITE);
	t = now_ns();
	madvise(copy, bytes, MADV_POPULATE_WRITE);
	faults = since(&t);
	memcpy(copy, memory, bytes);
	copying = since(&t);
	for (size_t i = 0; i < n; i++) {
		sizes[i] = ZSTD_compressCCtx(c, packed + at, room - at, memory + i * GROUP_BYTES,
					     GROUP_BYTES, 1);
		at += sizes[i];
	}
	compress = since(&t);
	for (size_t done = 0; done < at;) {
		ssize_t r = write(fd, packed + done, at - done);

		if (r <= 0)
			return 1;
		done += (size_t)r;
	}
	fdatasync(fd);
	writing = since(&t);
	for (size_t i = 0, from = 0; i < n; from += sizes[i++])
		ZSTD_decompressDCtx(d, copy + i * GROUP_BYTES, GROUP_BYTES, packed + from,
				    sizes[i]);
	decompress = since(&t);
	printf("%.3f %.3f %.3f %.3f %.3f\n", copying, faults, compress, writing, decompress);
	return 0;
}
