/* SPDX-License-Identifier: Apache-2.0 */
#include "image/label.h"

static const char *kernel_name(Kage__Mapping__Backing b)
{
	switch (b) {
	case KAGE__MAPPING__BACKING__VDSO:
		return "[vdso]";
	case KAGE__MAPPING__BACKING__VVAR:
		return "[vvar]";
	case KAGE__MAPPING__BACKING__VVAR_VCLOCK:
		return "[vvar_vclock]";
	case KAGE__MAPPING__BACKING__VSYSCALL:
		return "[vsyscall]";
	case KAGE__MAPPING__BACKING__UPROBES:
		return "[uprobes]";
	default:
		return NULL;
	}
}

const char *kage_image_mapping_label(const struct kage_image *image, const Kage__Mapping *map)
{
	const Kage__Memory *m = image->msg->n_processes ? image->msg->processes[0]->memory : NULL;
	const Kage__FileObject *file = map->file ? kage_image_file(image, map->file) : NULL;
	const char *kernel = kernel_name(map->backing);

	if (file)
		return file->path;
	if (kernel)
		return kernel;
	if (map->object_space)
		return "[shared]";
	if (m && map->start <= m->start_stack && m->start_stack < map->end)
		return "[stack]";
	if (m && map->start < m->brk && m->start_brk < map->end)
		return "[heap]";
	return map->name && map->name[0] ? map->name : "[anon]";
}

const char *kage_tracking_name(uint32_t tracking)
{
	switch (tracking) {
	case KAGE__SOURCE__TRACKING__WRITE_PROTECT:
		return "wp";
	case KAGE__SOURCE__TRACKING__SOFT_DIRTY:
		return "softdirty";
	case KAGE__SOURCE__TRACKING__TWIN:
		return "twin";
	case KAGE__SOURCE__TRACKING__COPY:
		return "copy";
	default:
		return "";
	}
}
