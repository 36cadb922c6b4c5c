/* SPDX-License-Identifier: Apache-2.0 */
/* The image's message: whatever bytes come, they are refused, or what comes out is sound. */
#include <stdlib.h>

#include "image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was accepted can be printed, read from, and stored again. */
static void use(const struct kage_image *image)
{
	const Kage__Memory *memory = image->msg->processes[0]->memory;
	unsigned char buffer[100];
	uint8_t *bytes = NULL;
	char *json = NULL;
	size_t n;

	kage_err_free(kage_image_json(image, &json));
	free(json);
	if (kage_image_encode(image, &bytes, &n))
		abort();
	free(bytes);
	for (size_t i = 0; i < memory->n_mappings && i < 8; i++)
		if (memory->mappings[i]->file == 0) /* fuzzing opens no files */
			kage_err_free(kage_image_read(image, memory->mappings[i]->end - 50, buffer,
						      sizeof(buffer), &n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kage_image *image = NULL;
	struct kage_err *e = kage_image_decode(data, size, &image);

	if (!e)
		use(image);
	kage_err_free(e);
	kage_image_close(image);
	return 0;
}
