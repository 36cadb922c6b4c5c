/* SPDX-License-Identifier: Apache-2.0 */
/* Looking up what is known of system calls. */
#include "calls/tables.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "calls/groups.h"

static const struct calls_subject *const subjects[] = {
	&calls_files,  &calls_memory, &calls_process, &calls_net,
	&calls_events, &calls_system, &calls_ioctl,
};

static int compare_name(const void *name, const void *signature)
{
	return strcmp(name, ((const struct calls_signature *)signature)->name);
}

const struct calls_signature *calls_signature(const char *name)
{
	return bsearch(name, calls_signatures, calls_n_signatures, sizeof(calls_signatures[0]),
		       compare_name);
}

static bool is(const char *known, const char *name, size_t length)
{
	return strncmp(known, name, length) == 0 && known[length] == '\0';
}

const struct calls_group *calls_group_at(size_t i)
{
	for (size_t k = 0; k < ARRAY_SIZE(subjects); i -= subjects[k++]->n)
		if (i < subjects[k]->n)
			return &subjects[k]->v[i];
	return NULL;
}

const struct calls_group *calls_group(const char *name, size_t length)
{
	const struct calls_group *g;

	for (size_t i = 0; (g = calls_group_at(i)); i++)
		if (is(g->name, name, length))
			return g;
	return NULL;
}

bool calls_constant(const char *name, size_t length, uint64_t *ret_value)
{
	const struct calls_group *g;

	for (size_t i = 0; (g = calls_group_at(i)); i++)
		for (size_t k = 0; k < g->n; k++)
			if (is(g->v[k].name, name, length)) {
				*ret_value = g->v[k].value;
				return true;
			}
	return false;
}

const struct calls_struct *calls_struct(const char *name, size_t length)
{
	for (size_t i = 0; i < calls_n_structs; i++)
		if (is(calls_structs[i].name, name, length))
			return &calls_structs[i];
	return NULL;
}
