/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seccomp filters: 64 bytes of struct seccomp_data, then instructions. The kernel is asked as well: as the
 * filter of a socket the program decides how much of a packet comes through. Packets are read as
 * big-endian numbers, and of the result no more can be seen than the packet is long.
 */
#include "lib/fuzzing.h"
#include "sys/cbpf.h"

#include <arpa/inet.h>
#include <sys/socket.h>

enum { DATA_BYTES = sizeof(struct seccomp_data), INSNS_MAX = 64 };

/* How many of DATA_BYTES bytes the kernel lets through; -1 when it takes no such program. */
static int ask_kernel(const struct sock_filter *insns, size_t n, const struct seccomp_data *data)
{
	static int pair[2] = { -1, -1 };
	struct sock_fprog program = { (unsigned short)n, (struct sock_filter *)insns };
	uint32_t words[DATA_BYTES / 4];
	ssize_t got;

	if (pair[0] < 0)
		holds(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
	if (setsockopt(pair[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
		return -1;
	memcpy(words, data, sizeof(words));
	for (size_t i = 0; i < DATA_BYTES / 4; i++)
		words[i] = htonl(words[i]);
	holds(send(pair[0], words, sizeof(words), 0) == sizeof(words));
	got = recv(pair[1], words, sizeof(words), MSG_DONTWAIT);
	return got < 0 ? 0 : (int)got;
}

static bool may_return(const struct sock_filter *insns, size_t n, unsigned action)
{
	for (size_t i = 0; i < n; i++)
		if (insns[i].code == (BPF_RET | BPF_A) ||
		    (insns[i].code == (BPF_RET | BPF_K) && insns[i].k == action))
			return true;
	return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ struct sock_filter *insns = NULL;
	struct seccomp_data call;
	unsigned action, again;
	int kernel;
	size_t n;

	if (size < sizeof(call))
		return 0;
	memcpy(&call, data, sizeof(call));
	n = (size - sizeof(call)) / sizeof(*insns);
	n = n < INSNS_MAX ? n : INSNS_MAX;
	insns = fuzz_bytes(data + sizeof(call), n * sizeof(*insns));
	if (!kage_cbpf_run(insns, n, &call, &action))
		return 0;
	holds(kage_cbpf_run(insns, n, &call, &again) && again == action);
	holds(may_return(insns, n, action));
	kernel = ask_kernel(insns, n, &call);
	holds(kernel < 0 || (unsigned)kernel == (action < DATA_BYTES ? action : DATA_BYTES));
	return 0;
}
