/* SPDX-License-Identifier: Apache-2.0 */
/* The memory map, for a person. */
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "image/label.h"
#include "kind/memory.h"

static void print_what(const struct kage_image *image, const Kage__Mapping *map, FILE *out)
{
	const Kage__FileObject *file = map->file ? kage_image_file(image, map->file) : NULL;
	bool named = map->name && map->name[0];
	const char *label = kage_image_mapping_label(image, map);

	if (map->object_space && !file)
		fprintf(out, "shared memory %u", map->object_space);
	else if (strcmp(label, "[anon]") != 0 && !(named && label == map->name))
		fprintf(out, "%s%s", label, file && file->unlinked ? " (deleted)" : "");
	if (named)
		fprintf(out, " “%s”", map->name);
	if (map->locked)
		fputs(" locked", out);
	if (map->hugetlb_bytes)
		fprintf(out, " huge pages of %" PRIu64 " KiB", map->hugetlb_bytes / 1024);
}

static uint64_t pages_in(const struct kage_image *image, uint32_t space, const Kage__Mapping *map)
{
	const struct kage_pages *p = image->pages;
	uint64_t first = map->start >> KAGE_PAGE_SHIFT, last = map->end >> KAGE_PAGE_SHIFT;
	uint64_t n = 0;

	if (!p)
		return 0;
	for (size_t i = kage_pages_find(p, space, first);
	     i < p->n_runs && p->runs[i].space == space && p->runs[i].first < last; i++) {
		uint64_t from = p->runs[i].first > first ? p->runs[i].first : first;
		uint64_t to = p->runs[i].first + p->runs[i].count;

		n += (to < last ? to : last) - from;
	}
	return n;
}

static void print_mapping(const struct kage_image *image, const Kage__Memory *m,
			  const Kage__Mapping *map, FILE *out)
{
	fprintf(out,
		"  %012" PRIx64 "-%012" PRIx64 "  %c%c%c%c %9" PRIu64 " KiB %9" PRIu64 " KiB  ",
		map->start, map->end, map->prot & PROT_READ ? 'r' : '-',
		map->prot & PROT_WRITE ? 'w' : '-', map->prot & PROT_EXEC ? 'x' : '-',
		map->shared ? 's' : 'p', (map->end - map->start) / 1024,
		pages_in(image, m->space, map) * (KAGE_PAGE_BYTES / 1024));
	print_what(image, map, out);
	fputc('\n', out);
}

void kage_memory_print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	const Kage__Memory *m = p->memory;
	uint64_t mapped = 0, own = 0;

	if (!m)
		return;
	for (size_t i = 0; i < m->n_mappings; i++) {
		mapped += m->mappings[i]->end - m->mappings[i]->start;
		own += pages_in(image, m->space, m->mappings[i]);
	}
	fprintf(out, "  %zu mappings of %.1f MiB, %.1f MiB of it in the image\n", m->n_mappings,
		(double)mapped / (1 << 20), (double)own * KAGE_PAGE_BYTES / (1 << 20));
	if (!full)
		return;
	fprintf(out, "  %-25s  %s %13s %13s  %s\n", "address", "prot", "size", "in image", "what");
	for (size_t i = 0; i < m->n_mappings; i++)
		print_mapping(image, m, m->mappings[i], out);
}
