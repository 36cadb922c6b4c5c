/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a process has ended that is not our child. Until its parent has taken note it is a zombie, and /proc tells; from
 * then on its pidfd does (PIDFD_GET_INFO).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>

#include "base/cleanup.h"
#include "base/ctx.h"
#include "base/file.h"
#include "sys/kernel.h"
#include "sys/text.h"

enum { EXIT_CODE_FIELD = 52 }; /* of stat(5) */

static bool pidfd_tells(int pidfd, int *ret_status)
{
	struct kpidfd_info info = { .mask = KPIDFD_INFO_EXIT };

	if (ioctl(pidfd, KPIDFD_GET_INFO, &info) < 0 || !(info.mask & KPIDFD_INFO_EXIT))
		return false;
	*ret_status = info.exit_code;
	return true;
}

static bool proc_tells(const struct kage_life *life, int *ret_status)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	size_t size;
	struct kage_err *e;
	bool told;

	snprintf(path, sizeof(path), "/proc/%d/stat", life->pid);
	e = kage_file_slurp(AT_FDCWD, path, 1 << 16, &text, &size);
	told = !e && kage_text_stat_int(text, EXIT_CODE_FIELD, ret_status);
	err_drop(e);
	/* If there is that process still, what was read was of it and not of one that has its number since. */
	return told && pidfd_send_signal(life->pidfd, 0, NULL, 0) == 0;
}

struct kage_err *kage_life_status(const struct kage_life *life, int *ret_status)
{
	if (pidfd_tells(life->pidfd, ret_status) || proc_tells(life, ret_status) ||
	    pidfd_tells(life->pidfd, ret_status))
		return NULL;
	return kage_err_new(KAGE_UNSUPPORTED, "this kernel does not tell how process %d has ended",
			    life->pid);
}
