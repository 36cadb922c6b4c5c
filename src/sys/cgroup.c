/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/cgroup.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/text.h"

enum { TEXT_MAX = 16 << 20, WORD_BYTES = 256 };

/* Whether WORD is one of those in LIST of SIZE bytes, with commas between them. */
static bool lists(const char *list, size_t size, const char *word)
{
	size_t n = strlen(word);

	for (size_t i = 0; i + n <= size; i++)
		if ((i == 0 || list[i - 1] == ',') && memcmp(list + i, word, n) == 0 &&
		    (i + n == size || list[i + n] == ','))
			return true;
	return false;
}

/* The group in the lines "ID:CONTROLLERS:PATH"; version 2 is the one without controllers. */
static bool find_group(const char *text, bool v2, char *to)
{
	for (const char *line = text; line && *line; line = kage_text_next_line(line)) {
		const char *words = strchr(line, ':');
		const char *path = words ? strchr(words + 1, ':') : NULL;
		size_t n;

		if (!path || path > line + strcspn(line, "\n"))
			continue;
		n = (size_t)(path - words - 1);
		if (v2 ? n != 0 : !lists(words + 1, n, "memory"))
			continue;
		snprintf(to, KAGE_CGROUP_PATH_BYTES, "%.*s", (int)strcspn(path + 1, "\n"),
			 path + 1);
		return true;
	}
	return false;
}

/* Fields 4 and 5 of a line of mountinfo(5), and whether it is the mount that is sought. */
static bool parse_mount(const char *line, size_t size, bool v2, char *root, char *at)
{
	_cleanup_free_ char *copy = strndup(line, size);
	char type[WORD_BYTES], options[WORD_BYTES];
	const char *rest = copy ? strstr(copy, " - ") : NULL;

	if (!rest || sscanf(copy, "%*s %*s %*s %4095s %4095s", root, at) != 2 ||
	    sscanf(rest, " - %255s %*s %255s", type, options) != 2)
		return false;
	kage_text_unescape(root);
	kage_text_unescape(at);
	if (v2)
		return strcmp(type, "cgroup2") == 0;
	return strcmp(type, "cgroup") == 0 && lists(options, strlen(options), "memory");
}

/* What of GROUP is below ROOT, the group that is mounted; NULL: it is elsewhere. */
static const char *below(const char *group, const char *root)
{
	size_t n = strcmp(root, "/") == 0 ? 0 : strlen(root);

	if (strncmp(group, root, n) != 0 || (group[n] != '/' && group[n] != '\0'))
		return NULL;
	return strcmp(group + n, "/") == 0 ? "" : group + n;
}

bool kage_cgroup_memory_dir(const char *cgroup, const char *mountinfo, bool v2,
			    char ret_dir[KAGE_CGROUP_PATH_BYTES], size_t *ret_mount)
{
	char group[KAGE_CGROUP_PATH_BYTES], root[KAGE_CGROUP_PATH_BYTES];
	char at[KAGE_CGROUP_PATH_BYTES];

	if (!find_group(cgroup, v2, group))
		return false;
	for (const char *line = mountinfo; line && *line; line = kage_text_next_line(line)) {
		const char *rest;

		if (!parse_mount(line, strcspn(line, "\n"), v2, root, at))
			continue;
		rest = below(group, root);
		if (!rest || strlen(at) + strlen(rest) >= KAGE_CGROUP_PATH_BYTES)
			continue;
		*ret_mount = strlen(at);
		memcpy(ret_dir, at, *ret_mount);
		memcpy(ret_dir + *ret_mount, rest, strlen(rest) + 1);
		return true;
	}
	return false;
}

/* A number in file NAME of DIR; false when there is none ("max"). */
static bool read_number(const char *dir, const char *name, uint64_t *ret_value)
{
	char path[KAGE_CGROUP_PATH_BYTES + 64];
	_cleanup_free_ char *text = NULL;
	const char *p;
	struct kage_err *e;
	size_t size;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	e = kage_file_slurp(AT_FDCWD, path, 4096, &text, &size);
	if (e) {
		err_drop(e);
		return false;
	}
	p = text;
	return kage_text_number(&p, 10, ret_value);
}

/* The least that DIR and the groups above it, up to the MOUNT first bytes, leave. */
static uint64_t least(char *dir, size_t mount, const char *limit, const char *usage)
{
	uint64_t left = UINT64_MAX, max, used;

	for (;;) {
		char *slash;

		if (read_number(dir, limit, &max) && read_number(dir, usage, &used)) {
			uint64_t here = max > used ? max - used : 0;

			left = here < left ? here : left;
		}
		slash = strrchr(dir, '/');
		if (strlen(dir) <= mount || !slash)
			return left;
		*slash = '\0';
	}
}

uint64_t kage_cgroup_memory_left(int proc_fd)
{
	_cleanup_free_ char *groups = NULL, *mounts = NULL;
	char dir[KAGE_CGROUP_PATH_BYTES];
	uint64_t v1 = UINT64_MAX, v2 = UINT64_MAX;
	size_t size, mount;
	struct kage_err *e = kage_file_slurp(proc_fd, "cgroup", TEXT_MAX, &groups, &size);

	if (!e)
		e = kage_file_slurp(AT_FDCWD, "/proc/self/mountinfo", TEXT_MAX, &mounts, &size);
	if (e) {
		err_drop(e);
		return UINT64_MAX;
	}
	if (kage_cgroup_memory_dir(groups, mounts, false, dir, &mount))
		v1 = least(dir, mount, "memory.limit_in_bytes", "memory.usage_in_bytes");
	if (kage_cgroup_memory_dir(groups, mounts, true, dir, &mount))
		v2 = least(dir, mount, "memory.max", "memory.current");
	return v1 < v2 ? v1 : v2;
}
