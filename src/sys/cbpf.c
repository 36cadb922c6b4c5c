/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/cbpf.h"

#include <stdint.h>
#include <string.h>

struct machine {
	uint32_t a, x, mem[BPF_MEMWORDS];
	const struct seccomp_data *data;
};

/* Only the codes that seccomp takes (seccomp_check_filter() in kernel/seccomp.c). */
static bool load(const struct machine *m, const struct sock_filter *f, uint32_t *to)
{
	switch (f->code) {
	case BPF_LD | BPF_IMM:
	case BPF_LDX | BPF_IMM:
		*to = f->k;
		return true;
	case BPF_LD | BPF_W | BPF_LEN:
	case BPF_LDX | BPF_W | BPF_LEN:
		*to = sizeof(*m->data);
		return true;
	case BPF_LD | BPF_MEM:
	case BPF_LDX | BPF_MEM:
		if (f->k >= BPF_MEMWORDS)
			return false;
		*to = m->mem[f->k];
		return true;
	case BPF_LD | BPF_W | BPF_ABS:
		if (f->k % 4 || f->k > sizeof(*m->data) - 4)
			return false;
		memcpy(to, (const char *)m->data + f->k, 4);
		return true;
	default:
		return false;
	}
}

/* A constant of 32 or more is refused by the kernel, of a variable the low five bits count. */
static bool shift(struct machine *m, const struct sock_filter *f, uint32_t v)
{
	if (v >= 32 && BPF_SRC(f->code) == BPF_K)
		return false;
	m->a = BPF_OP(f->code) == BPF_LSH ? m->a << (v & 31) : m->a >> (v & 31);
	return true;
}

static bool compute(struct machine *m, const struct sock_filter *f)
{
	uint32_t v = BPF_SRC(f->code) == BPF_X ? m->x : f->k;

	switch (BPF_OP(f->code)) {
	case BPF_ADD:
		m->a += v;
		return true;
	case BPF_SUB:
		m->a -= v;
		return true;
	case BPF_MUL:
		m->a *= v;
		return true;
	case BPF_DIV:
		m->a = v ? m->a / v : 0;
		return v != 0;
	case BPF_OR:
		m->a |= v;
		return true;
	case BPF_AND:
		m->a &= v;
		return true;
	case BPF_XOR:
		m->a ^= v;
		return true;
	case BPF_LSH:
	case BPF_RSH:
		return shift(m, f, v);
	case BPF_NEG:
		m->a = -m->a;
		return BPF_SRC(f->code) == BPF_K;
	default:
		return false;
	}
}

/* How many instructions to skip; UINT32_MAX: no valid jump. */
static uint32_t jump(const struct machine *m, const struct sock_filter *f)
{
	uint32_t v = BPF_SRC(f->code) == BPF_X ? m->x : f->k;

	switch (BPF_OP(f->code)) {
	case BPF_JA:
		return BPF_SRC(f->code) == BPF_K ? f->k : UINT32_MAX;
	case BPF_JEQ:
		return m->a == v ? f->jt : f->jf;
	case BPF_JGT:
		return m->a > v ? f->jt : f->jf;
	case BPF_JGE:
		return m->a >= v ? f->jt : f->jf;
	case BPF_JSET:
		return m->a & v ? f->jt : f->jf;
	default:
		return UINT32_MAX;
	}
}

/* Everything but jumps and returns. */
static bool step(struct machine *m, const struct sock_filter *f)
{
	switch (BPF_CLASS(f->code)) {
	case BPF_LD:
		return load(m, f, &m->a);
	case BPF_LDX:
		return load(m, f, &m->x);
	case BPF_ST:
	case BPF_STX:
		if (f->k >= BPF_MEMWORDS || f->code != BPF_CLASS(f->code))
			return false;
		m->mem[f->k] = BPF_CLASS(f->code) == BPF_ST ? m->a : m->x;
		return true;
	case BPF_ALU:
		return compute(m, f);
	case BPF_MISC:
		if (BPF_MISCOP(f->code) == BPF_TAX)
			m->x = m->a;
		else
			m->a = m->x;
		return BPF_MISCOP(f->code) == BPF_TAX || BPF_MISCOP(f->code) == BPF_TXA;
	default:
		return false;
	}
}

bool kage_cbpf_run(const struct sock_filter *insns, size_t n, const struct seccomp_data *data,
		   unsigned *ret_action)
{
	struct machine m = { .data = data };

	for (size_t pc = 0; pc < n; pc++) {
		const struct sock_filter *f = &insns[pc];
		uint32_t skip;

		if (f->code > UINT8_MAX)
			return false;
		switch (BPF_CLASS(f->code)) {
		case BPF_RET:
			*ret_action = f->code == (BPF_RET | BPF_A) ? m.a : f->k;
			return f->code == (BPF_RET | BPF_A) || f->code == (BPF_RET | BPF_K);
		case BPF_JMP:
			skip = jump(&m, f);
			if (skip >= n - pc)
				return false;
			pc += skip;
			break;
		default:
			if (!step(&m, f))
				return false;
		}
	}
	return false;
}
