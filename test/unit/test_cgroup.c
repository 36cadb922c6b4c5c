/* SPDX-License-Identifier: Apache-2.0 */
/* Where the memory of a process is counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "sys/cgroup.h"

static const char mounts[] =
	"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
	"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
	"35 31 0:32 /outer /sys/fs/cgroup/mem\\040ory rw,relatime shared:3 - cgroup cgroup rw,memory\n"
	"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

static void found(const char *groups, bool v2, const char *dir, size_t mount)
{
	char got[KAGE_CGROUP_PATH_BYTES] = "";
	size_t n = 0;

	assert_true(kage_cgroup_memory_dir(groups, mounts, v2, got, &n));
	assert_string_equal(got, dir);
	assert_int_equal(n, mount);
}

static void test_found(void **state)
{
	const char *groups = "12:cpu,memory:/outer/a:b\n1:name=systemd:/x\n0::/user/me\n";

	(void)state;
	found(groups, false, "/sys/fs/cgroup/mem ory/a:b", 22);
	found(groups, true, "/sys/fs/cgroup/unified/user/me", 22);
	found("4:memory:/outer\n", false, "/sys/fs/cgroup/mem ory", 22);
	found("0::/\n", true, "/sys/fs/cgroup/unified", 22);
}

static void test_not_found(void **state)
{
	static const char *const texts[] = {
		"",
		"\n",
		":",
		"4:memory",
		"4:memoryless:/outer\n",
		"4:cpu:/outer\n",
		"4:memory:/elsewhere\n",
		"4:memory:/outermost\n",
	};
	char dir[KAGE_CGROUP_PATH_BYTES];
	size_t n;

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_false(kage_cgroup_memory_dir(texts[i], mounts, false, dir, &n));
	assert_false(kage_cgroup_memory_dir("4:memory:/outer\n", "", false, dir, &n));
	assert_false(
		kage_cgroup_memory_dir("4:memory:/outer\n", "1 2 3 - cgroup\nx", false, dir, &n));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_found),
		cmocka_unit_test(test_not_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
