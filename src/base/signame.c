/* SPDX-License-Identifier: Apache-2.0 */
#include "base/signame.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

int kage_signal_number(const char *name)
{
	char *end;
	long n;

	if (strncmp(name, "SIG", 3) == 0)
		name += 3;
	for (int i = 1; i < NSIG; i++) {
		const char *abbrev = sigabbrev_np(i);

		if (abbrev && strcmp(abbrev, name) == 0)
			return i;
	}
	if (strncmp(name, "RTMIN+", 6) != 0 || name[6] < '0' || name[6] > '9')
		return 0;
	n = strtol(name + 6, &end, 10);
	return *end || n > SIGRTMAX - SIGRTMIN ? 0 : SIGRTMIN + (int)n;
}
