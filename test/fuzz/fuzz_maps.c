/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/PID/maps and smaps: what was understood, written again as the kernel writes it, is understood
 * as the same; holes are holes. */
#include "lib/fuzzing.h"
#include "sys/maps.h"

#include <inttypes.h>
#include <sys/mman.h>

enum { BYTES = 1 << 16, MARGIN = 1 << 20 };
static const uint64_t least = 1 << 20, most = UINT64_C(1) << 47;

static void print_path(FILE *out, const char *path)
{
	for (; *path; path++)
		if (*path == '\n')
			fputs("\\012", out);
		else
			fputc(*path, out);
	fputc('\n', out);
}

static void print_vma(FILE *out, const struct kage_vma *v)
{
	fprintf(out, "%08" PRIx64 "-%08" PRIx64 " %c%c%c%c %08" PRIx64 " %02x:%02x %" PRIu64 "  ",
		v->start, v->end, v->prot & PROT_READ ? 'r' : '-', v->prot & PROT_WRITE ? 'w' : '-',
		v->prot & PROT_EXEC ? 'x' : '-', v->shared ? 's' : 'p', v->offset, v->dev_major,
		v->dev_minor, v->ino);
	print_path(out, v->path);
	if (v->huge_bytes)
		fprintf(out, "KernelPageSize: %" PRIu64 " kB\n", v->huge_bytes / 1024);
	fprintf(out, "Swap: %d kB\nProtectionKey: %u\nVmFlags: ", v->swapped, v->pkey);
	for (size_t i = 0; i < v->n_flags; i++)
		fprintf(out, "%c%c ", v->flags[i] >> 8, v->flags[i] & 0xff);
	fputc('\n', out);
}

static bool same_details(const struct kage_vma *a, const struct kage_vma *b)
{
	return a->huge_bytes == b->huge_bytes && a->pkey == b->pkey && a->swapped == b->swapped &&
	       a->n_flags == b->n_flags &&
	       (!a->n_flags || memcmp(a->flags, b->flags, a->n_flags * sizeof(*a->flags)) == 0);
}

static void check_again(const struct kage_maps *maps)
{
	_cleanup_(kage_maps_deinit) struct kage_maps again = { 0 };
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	holds(out);
	for (size_t i = 0; i < maps->n; i++)
		print_vma(out, &maps->vmas[i]);
	fclose(out);
	holds(!fuzz_refused(kage_maps_parse(text, &again)));
	holds(kage_maps_equal(maps, &again));
	for (size_t i = 0; i < maps->n; i++)
		holds(same_details(&maps->vmas[i], &again.vmas[i]));
}

static void check_hole(const struct kage_maps *maps)
{
	uint64_t at = kage_maps_hole(maps, BYTES, MARGIN, least, most), before = least;

	holds(at == 0 || (at >= least + MARGIN && at + BYTES + MARGIN <= most));
	holds(kage_maps_common_hole(maps, maps, BYTES, MARGIN, least, most) == at);
	for (size_t i = 0; i < maps->n; i++) {
		const struct kage_vma *v = &maps->vmas[i];
		uint64_t start = v->start < most ? v->start : most;

		holds(kage_maps_find(maps, v->start) == v && kage_maps_find(maps, v->end - 1) == v);
		holds(at == 0 || v->end <= at - MARGIN || v->start >= at + BYTES + MARGIN);
		holds(at || start < before || start - before < BYTES + 2 * MARGIN);
		before = v->end > before ? v->end : before;
	}
	holds(at || before > most || most - before < BYTES + 2 * MARGIN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = fuzz_text(data, size);
	_cleanup_(kage_maps_deinit) struct kage_maps maps = { 0 };

	if (fuzz_refused(kage_maps_parse(text, &maps)))
		return 0;
	check_again(&maps);
	check_hole(&maps);
	return 0;
}
