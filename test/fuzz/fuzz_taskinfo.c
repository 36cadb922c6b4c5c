/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes in place of what the task iterator writes (the corpus is what it wrote of processes of
 * test_taskread and test_tasksleep). What came out is walked to the end of every list. */
#include "arch/x86_64/xsave.h"
#include "lib/fuzzing.h"
#include "sys/taskread.h"

static uint8_t sum; /* so that reading every byte is not optimised away */

static void read_all(const void *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		sum ^= ((const uint8_t *)p)[i];
}

static void check_thread(struct kage_taskinfo *info, struct kage_taskthread *t)
{
	static uint8_t state[16384];
	uint64_t number;
	bool compat;
	size_t n;

	read_all(t->signals, t->n_signals * sizeof(*t->signals));
	kage_taskthread_sigmask(t);
	kage_taskthread_restarting(t);
	kage_taskthread_in_syscall(t, &number, &compat);
	kage_taskthread_slept_on(t, &info->threads[0]);
	holds(kage_taskinfo_thread(info, t->task.tid));
	if (!t->xsave_area)
		return;
	read_all(t->xsave_area, t->xsave.bytes);
	kage_err_free(kage_x86_xsave_standard(&t->xsave, t->xsave_area, state, sizeof(state), &n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kage_taskinfo *info;

	if (fuzz_refused(kage_taskinfo_parse(data, size, 4000000, &info)))
		return 0;
	holds(info->n_threads > 0);
	read_all(info->signals, info->n_signals * sizeof(*info->signals));
	read_all(info->timers, info->n_timers * sizeof(*info->timers));
	for (size_t i = 0; i < info->n_threads; i++)
		check_thread(info, &info->threads[i]);
	kage_taskinfo_free(info);
	return 0;
}
