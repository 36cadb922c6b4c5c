/* SPDX-License-Identifier: Apache-2.0 */
/* What a mapping is called, as in /proc/PID/maps, and other words of an image. */
#ifndef IMAGE_LABEL_H
#define IMAGE_LABEL_H

#include "image/image.h"

/** The path of the file, "[heap]", "[stack]", "[vdso]", "[shared]", "[anon]" or the name that the
 *  program gave it: of MAP, which is of the first process of IMAGE. Lives as long as IMAGE. */
const char *kage_image_mapping_label(const struct kage_image *image, const Kage__Mapping *map);

/** The word for TRACKING, a Source.Tracking: "wp", "softdirty", "twin", "copy"; "" for none that is known. */
const char *kage_tracking_name(uint32_t tracking);

#endif
