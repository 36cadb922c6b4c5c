/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits of control groups (cgroups(7)), of both versions.
 */
#ifndef SYS_CGROUP_H
#define SYS_CGROUP_H

#include "base/err.h"
#include "base/types.h"

/** How many bytes more the process behind PROC_FD (/proc/PID) may be charged for before a limit of its groups is
 *  reached. UINT64_MAX: there is no limit, or none that can be seen from here. */
uint64_t kage_cgroup_memory_left(int proc_fd);

enum { KAGE_CGROUP_PATH_BYTES = 4096 };

/** Where the memory of the process with this TEXT of /proc/PID/cgroup is counted, by the mounts of TEXT of
 *  /proc/self/mountinfo: the directory of the group, and how much of its beginning is the mount. V2 chooses the version. False: nowhere. */
bool kage_cgroup_memory_dir(const char *cgroup, const char *mountinfo, bool v2,
			    char ret_dir[KAGE_CGROUP_PATH_BYTES], size_t *ret_mount);

#endif
