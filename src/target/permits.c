/* SPDX-License-Identifier: Apache-2.0 */
#include "target/permits.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/audit.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/cbpf.h"
#include "sys/text.h"
#include "target/batch.h"

static struct kage_err *read_mode(struct kage_target *t, pid_t tid, uint64_t *ret_mode)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	size_t size;

	snprintf(path, sizeof(path), "task/%d/status", tid);
	TRY(kage_file_slurp(t->proc_fd, path, 1 << 20, &text, &size));
	*ret_mode = 0;
	kage_text_u64(text, "Seccomp", 10, ret_mode);
	return NULL;
}

static bool allows(const struct sock_filter *insns, size_t n, const struct kage_call *call,
		   uint64_t ip)
{
	struct seccomp_data data = { .nr = (int)call->number,
				     .arch = KAGE_ARCH_AUDIT,
				     .instruction_pointer = ip };
	unsigned action;

	for (int i = 0; i < 6; i++)
		data.args[i] = call->args[i];
	if (!kage_cbpf_run(insns, n, &data, &action))
		return false;
	action &= SECCOMP_RET_ACTION_FULL;
	return action == SECCOMP_RET_ALLOW || action == SECCOMP_RET_LOG;
}

static struct kage_err *ask_filter(struct kage_target *t, struct kage_thread *thread,
				   const struct sock_filter *insns, size_t n_insns,
				   const struct kage_call *calls, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!allows(insns, n_insns, &calls[i], t->site ? t->site->runner : 0))
			return kage_err_new(
				KAGE_UNSUPPORTED,
				"a seccomp filter of thread %d forbids system call %" PRIu64
				", which would have to be made in it",
				thread->tid, calls[i].number);
	return NULL;
}

struct kage_err *kage_target_permits(struct kage_target *t, struct kage_thread *thread,
				     const struct kage_call *calls, size_t n)
{
	_cleanup_free_ struct sock_filter *insns = calloc(BPF_MAXINSNS, sizeof(*insns));
	uint64_t mode;

	if (!insns)
		return kage_err_nomem();
	TRY(read_mode(t, thread->tid, &mode));
	if (mode == SECCOMP_MODE_DISABLED)
		return NULL;
	if (mode == SECCOMP_MODE_STRICT)
		return kage_err_new(
			KAGE_UNSUPPORTED,
			"thread %d is in strict seccomp mode, in which no system call can be "
			"made in it",
			thread->tid);
	for (unsigned long i = 0;; i++) {
		long got = ptrace(PTRACE_SECCOMP_GET_FILTER, thread->tid, (void *)i, insns);

		if (got < 0 && errno == ENOENT)
			return NULL;
		if (got < 0)
			return kage_err_sys(errno, "read the seccomp filters of thread %d",
					    thread->tid);
		TRY(ask_filter(t, thread, insns, (size_t)got, calls, n));
	}
}
