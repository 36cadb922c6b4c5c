/* SPDX-License-Identifier: Apache-2.0 */
#include "base/secret.h"

#include <sodium.h>
#include <string.h>

struct kage_err *kage_secret_init(void)
{
	if (sodium_init() < 0)
		return kage_err_new(KAGE_SYS, "libsodium finds no source of random bytes");
	return NULL;
}

struct kage_err *kage_secret_alloc(size_t size, void *ret_memory)
{
	void *p;

	TRY(kage_secret_init());
	p = sodium_malloc(size);
	if (!p)
		return kage_err_nomem();
	memset(p, 0, size);
	*(void **)ret_memory = p;
	return NULL;
}

void kage_secret_free(void *memory)
{
	sodium_free(memory);
}

void kage_secret_wipe(void *p, size_t size)
{
	sodium_memzero(p, size);
}
