/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes in place of what the task iterator writes; then the extended state in what came out. */
#include <stddef.h>
#include <stdint.h>

#include "arch/x86_64/xsave.h"
#include "sys/taskread.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t state[16384];
	struct kage_taskinfo *info;
	struct kage_err *e = kage_taskinfo_parse(data, size, 4000000, &info);
	size_t n;

	if (e) {
		kage_err_free(e);
		return 0;
	}
	for (size_t i = 0; i < info->n_threads; i++) {
		struct kage_taskthread *t = &info->threads[i];

		kage_taskthread_sigmask(t);
		kage_taskthread_restarting(t);
		kage_taskthread_slept_on(t, &info->threads[0]);
		if (t->xsave_area)
			kage_err_free(kage_x86_xsave_standard(&t->xsave, t->xsave_area, state,
							      sizeof(state), &n));
	}
	kage_taskinfo_free(info);
	return 0;
}
