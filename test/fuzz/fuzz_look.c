/* SPDX-License-Identifier: Apache-2.0 */
/* Looking into images that hold anything: the ELF files that they carry, descriptors that are taken out,
 * and in what they differ from another. The first byte says which. */
#include <elf.h>
#include <sys/mman.h>

#include "base/ctx.h"
#include "lib/fuzzing.h"
#include "lib/sample_image.h"

enum { FILE_SPACE = 3, AT = 0x600000 };

/* The sample with a file of DATA that is mapped as code, and in the image. */
static struct kage_image *carrying(const uint8_t *data, size_t size)
{
	struct kage_image *image = sample_image();
	Kage__Memory *memory = image->msg->processes[0]->memory;
	uint64_t pages = (size + KAGE_PAGE_BYTES - 1) / KAGE_PAGE_BYTES;
	Kage__Space *space;
	struct mem_pages *m;
	void *bytes;

	space = msg_append(&image->arena, image->msg, spaces, Kage__Space, kage__space__init);
	space->id = FILE_SPACE;
	space->kind = KAGE__SPACE__KIND__FILE_CONTENT;
	space->size_bytes = size;
	image->msg->files[0]->content_space = FILE_SPACE;
	image->msg->files[0]->size_bytes = size;
	sample_mapping(&image->arena, memory, AT, AT + pages * KAGE_PAGE_BYTES,
		       PROT_READ | PROT_EXEC, KAGE__MAPPING__BACKING__FILE_PRIVATE);
	memory->mappings[memory->n_mappings - 1]->file = 1;
	if (kage_mem_pages_create(&m) || kage_mem_pages_add(m, FILE_SPACE, 0, pages, &bytes))
		abort();
	memset(bytes, 0, pages * KAGE_PAGE_BYTES);
	memcpy(bytes, data, size);
	image->pages = kage_mem_pages_finish(m);
	return image;
}

static void look_for_symbols(const uint8_t *data, size_t size)
{
	struct kage_image *image = carrying(data, size);
	struct kage_symbols *symbols;
	struct kage_symbol symbol;
	char *text;

	if (kage_symbols_open(image, &symbols))
		abort();
	if (!fuzz_refused(kage_symbols_find(symbols, "main", &symbol)))
		holds(strcmp(symbol.name, "main") == 0);
	for (uint64_t at = 0; at < 64; at++) {
		if (fuzz_refused(kage_symbols_describe(symbols, AT + at * 97, &text)))
			continue;
		holds(*text);
		free(text);
	}
	kage_symbols_close(symbols);
	kage_image_close(image);
}

static void told(void *user, const struct kage_difference *d)
{
	(void)user;
	holds(d->object && d->start <= d->end);
	holds(d->part != KAGE_DIFF_BYTES || (d->old_bytes && d->new_bytes && d->end > d->start));
}

/* Each against the sample, and itself. */
static void look_for_differences(const uint8_t *data, size_t size)
{
	struct kage_ctx ctx = { 0 };
	struct kage_image *image, *sample;
	struct mem_pages *m, *none;
	void *bytes;

	if (fuzz_refused(kage_image_decode(data, size, &image)))
		return;
	sample = sample_image();
	if (kage_mem_pages_create(&m) || kage_mem_pages_create(&none) ||
	    kage_mem_pages_add(m, SAMPLE_SPACE, 0x10000, 2, &bytes))
		abort();
	memset(bytes, 1, 2 * KAGE_PAGE_BYTES);
	sample->pages = kage_mem_pages_finish(m);
	image->pages = kage_mem_pages_finish(none);
	fuzz_refused(kage_image_diff(&ctx, sample, image,
				     &(struct kage_diff_options){ .bytes = true }, told, NULL));
	fuzz_refused(kage_image_diff(&ctx, image, sample, NULL, told, NULL));
	for (int fd = 0; fd < 16; fd++)
		kage_image_drop_fd(image, fd);
	holds(!kage_image_drop_fd(image, 0));
	fuzz_refused(kage_image_diff(&ctx, image, image, NULL, told, NULL));
	kage_image_close(sample);
	kage_image_close(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	if (data[0] & 1)
		look_for_symbols(data + 1, size - 1);
	else
		look_for_differences(data + 1, size - 1);
	return 0;
}
