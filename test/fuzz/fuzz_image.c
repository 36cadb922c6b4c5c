/* SPDX-License-Identifier: Apache-2.0 */
/* The image's message: whatever bytes come, they are refused, or what comes out is sound: it can be
 * shown, read from, made a core's notes of, and stored again as the same. */
#include "core/notes.h"
#include "image/image.h"
#include "lib/fuzzing.h"

static void show(const struct kage_image *image)
{
	static FILE *nowhere;
	char *json = NULL;

	if (!nowhere)
		nowhere = fopen("/dev/null", "w");
	holds(nowhere);
	kage_err_free(kage_image_print(image, nowhere, true, false));
	kage_err_free(kage_image_json(image, &json));
	free(json);
}

static void read_memory(const struct kage_image *image)
{
	const Kage__Memory *memory = image->msg->processes[0]->memory;
	unsigned char buffer[100];
	size_t n;

	for (size_t i = 0; i < memory->n_mappings && i < 8; i++)
		if (memory->mappings[i]->file == 0) /* fuzzing opens no files */
			kage_err_free(kage_image_read(image, memory->mappings[i]->end - 50, buffer,
						      sizeof(buffer), &n));
}

static void make_notes(const struct kage_image *image)
{
	_cleanup_(core_notes_deinit) struct core_notes notes = { 0 };

	kage_err_free(core_notes_init(&notes, image));
}

static void store_again(const struct kage_image *image)
{
	_cleanup_free_ uint8_t *bytes = NULL, *bytes_again = NULL;
	struct kage_image *again = NULL;
	size_t n, n_again;

	holds(!kage_image_encode(image, &bytes, &n));
	holds(!fuzz_refused(kage_image_decode(bytes, n, &again)));
	holds(!kage_image_encode(again, &bytes_again, &n_again));
	holds(n == n_again && memcmp(bytes, bytes_again, n) == 0);
	kage_image_close(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kage_image *image = NULL;

	if (fuzz_refused(kage_image_decode(data, size, &image)))
		return 0;
	show(image);
	read_memory(image);
	make_notes(image);
	store_again(image);
	kage_image_close(image);
	return 0;
}
