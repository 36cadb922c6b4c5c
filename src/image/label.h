/* SPDX-License-Identifier: Apache-2.0 */
/* What a mapping is called, as in /proc/PID/maps. */
#ifndef IMAGE_LABEL_H
#define IMAGE_LABEL_H

#include "image/image.h"

/** The path of the file, "[heap]", "[stack]", "[vdso]", "[shared]", "[anon]" or the name that the
 *  program gave it: of MAP, which is of the first process of IMAGE. Lives as long as IMAGE. */
const char *kage_image_mapping_label(const struct kage_image *image, const Kage__Mapping *map);

#endif
