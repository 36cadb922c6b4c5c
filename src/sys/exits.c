/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/exits.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "exits.lskel.h"

/* --- what the kernel can be asked ---------------------------------------------------------------- */

static int bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
	return skel_sys_bpf(cmd, attr, sizeof(*attr));
}

static int by_id(enum bpf_cmd cmd, uint32_t id)
{
	union bpf_attr attr = { 0 };

	attr.prog_id = id; /* a union: the same place for all kinds */
	return bpf(cmd, &attr);
}

static bool get_info(int fd, void *info, size_t size)
{
	union bpf_attr attr = { 0 };

	attr.info.bpf_fd = (uint32_t)fd;
	attr.info.info_len = (uint32_t)size;
	attr.info.info = (uint64_t)(uintptr_t)info;
	return bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) == 0;
}

static int element(enum bpf_cmd cmd, int map, const void *key, void *value, uint64_t flags)
{
	union bpf_attr attr = { 0 };

	attr.map_fd = (uint32_t)map;
	attr.key = (uint64_t)(uintptr_t)key;
	attr.value = (uint64_t)(uintptr_t)value; /* of BPF_MAP_GET_NEXT_KEY the next key */
	attr.flags = flags;
	return bpf(cmd, &attr);
}

/* --- a table that is there ----------------------------------------------------------------------- */

static const char program_name[] = "kage_exit";

/* Who shares it must be of the same version, which stands where no process has a rule. */
static const struct kage_exit_key version_key = { 0, 0 };

static bool is_of_our_version(int rules)
{
	struct kage_exit_rule r;

	return element(BPF_MAP_LOOKUP_ELEM, rules, &version_key, &r, 0) == 0 &&
	       memcmp(r.prefix, EXITS_BPF_HASH, sizeof(EXITS_BPF_HASH)) == 0;
}

/* The maps of program PROG by their names. */
static bool find_maps(int prog, struct kage_exits *ret)
{
	uint32_t ids[8];
	struct bpf_prog_info info = { .nr_map_ids = ARRAY_SIZE(ids),
				      .map_ids = (uint64_t)(uintptr_t)ids };
	if (!get_info(prog, &info, sizeof(info)) || strcmp(info.name, program_name) != 0)
		return false;
	for (uint32_t i = 0; i < info.nr_map_ids && i < ARRAY_SIZE(ids); i++) {
		_cleanup_fd_ int fd = by_id(BPF_MAP_GET_FD_BY_ID, ids[i]);
		struct bpf_map_info map = { 0 };

		if (fd < 0 || !get_info(fd, &map, sizeof(map)))
			return false;
		if (strcmp(map.name, "rules") == 0 && ret->rules < 0)
			ret->rules = take_fd(&fd);
		else if (strcmp(map.name, "hits") == 0 && ret->hits < 0)
			ret->hits = take_fd(&fd);
		else if (strcmp(map.name, "numbers") == 0 && ret->numbers < 0)
			ret->numbers = take_fd(&fd);
	}
	return ret->rules >= 0 && ret->hits >= 0 && ret->numbers >= 0 &&
	       is_of_our_version(ret->rules);
}

/* What is behind LINK, which *RET takes over if it is ours. */
static bool look_at_link(int link, struct kage_exits *ret)
{
	struct bpf_link_info info = { 0 };
	_cleanup_fd_ int prog = -1;

	if (!get_info(link, &info, sizeof(info)) || info.type != BPF_LINK_TYPE_RAW_TRACEPOINT)
		return false;
	prog = by_id(BPF_PROG_GET_FD_BY_ID, info.prog_id);
	if (prog >= 0 && find_maps(prog, ret)) {
		ret->link = link;
		return true;
	}
	kage_exits_close(ret);
	return false;
}

static bool find(struct kage_exits *ret)
{
	union bpf_attr attr = { 0 };

	while (bpf(BPF_LINK_GET_NEXT_ID, &attr) == 0) {
		int link = by_id(BPF_LINK_GET_FD_BY_ID, attr.next_id);

		if (link >= 0 && look_at_link(link, ret))
			return true;
		close_fd(link);
		attr.start_id = attr.next_id;
	}
	return false;
}

/* Rules of a keeper that was killed. */
static void purge(const struct kage_exits *x)
{
	struct kage_exit_key key, next;
	const void *at = NULL;

	while (element(BPF_MAP_GET_NEXT_KEY, x->rules, at, &next, 0) == 0) {
		key = next;
		at = &key;
		if (key.tgid && kill((pid_t)key.tgid, 0) < 0 && errno == ESRCH) {
			kage_exits_unset(x, (pid_t)key.tgid, key.number);
			at = NULL;
		}
	}
}

/* --- a new one ----------------------------------------------------------------------------------- */

static struct kage_err *cannot(int num, const char *what)
{
	return kage_err_new(num == EPERM || num == EACCES ? KAGE_PERM : KAGE_UNSUPPORTED,
			    "the BPF program for triggers cannot be %s: %s", what, strerror(num));
}

static struct kage_err *start(struct exits_bpf *b, struct kage_exits *ret)
{
	struct kage_exit_rule version = { .prefix = EXITS_BPF_HASH };

	if (element(BPF_MAP_UPDATE_ELEM, b->maps.rules.map_fd, &version_key, &version, 0) < 0)
		return cannot(errno, "told its version");
	if (exits_bpf__kage_exit__attach(b) <= 0)
		return cannot(errno, "attached");
	ret->link = take_fd(&b->links.kage_exit_fd);
	ret->rules = take_fd(&b->maps.rules.map_fd);
	ret->hits = take_fd(&b->maps.hits.map_fd);
	ret->numbers = take_fd(&b->maps.numbers.map_fd);
	return NULL;
}

static struct kage_err *make(struct kage_exits *ret)
{
	struct exits_bpf *b;
	struct kage_err *e;

	errno = 0;
	b = exits_bpf__open_and_load();
	if (!b)
		return cannot(errno, "loaded");
	e = start(b, ret);
	exits_bpf__destroy(b);
	return e;
}

/* The first PID namespace has this number in every kernel (PROC_PID_INIT_INO in include/linux/proc_ns.h). */
static bool has_kernels_numbers(void)
{
	enum { INIT_PID_NS = 0xEFFFFFFCu };
	struct stat st;

	return stat("/proc/self/ns/pid", &st) == 0 && st.st_ino == INIT_PID_NS;
}

struct kage_err *kage_exits_open(struct kage_exits *ret_exits)
{
	*ret_exits = KAGE_EXITS_NONE;
	if (!has_kernels_numbers())
		return kage_err_new(KAGE_UNSUPPORTED, "numbers of processes are those of a PID "
						      "namespace, not the kernel's");
	if (!find(ret_exits))
		TRY(make(ret_exits));
	ret_exits->n_rules = mmap(NULL, EXIT_NUMBERS * sizeof(uint64_t), PROT_READ | PROT_WRITE,
				  MAP_SHARED, ret_exits->numbers, 0);
	if (ret_exits->n_rules == MAP_FAILED) {
		int num = errno;

		ret_exits->n_rules = NULL;
		kage_exits_close(ret_exits);
		return cannot(num, "shared with");
	}
	purge(ret_exits);
	return NULL;
}

void kage_exits_close(struct kage_exits *x)
{
	close_fd(x->link);
	close_fd(x->rules);
	close_fd(x->hits);
	close_fd(x->numbers);
	if (x->n_rules)
		munmap(x->n_rules, EXIT_NUMBERS * sizeof(uint64_t));
	*x = KAGE_EXITS_NONE;
}

/* --- its entries --------------------------------------------------------------------------------- */

struct kage_err *kage_exits_set(const struct kage_exits *x, pid_t tgid, unsigned number,
				const struct kage_exit_rule *rule)
{
	const struct kage_exit_key key = { (uint32_t)tgid, number };

	/* A new one is counted, and only then looked for. */
	if (element(BPF_MAP_UPDATE_ELEM, x->rules, &key, (void *)rule, BPF_NOEXIST) == 0)
		__atomic_fetch_add(&x->n_rules[number], 1, __ATOMIC_SEQ_CST);
	else if (errno != EEXIST ||
		 element(BPF_MAP_UPDATE_ELEM, x->rules, &key, (void *)rule, BPF_EXIST) < 0)
		return kage_err_sys(errno, "add to the table of triggers");
	return NULL;
}

void kage_exits_unset(const struct kage_exits *x, pid_t tgid, unsigned number)
{
	const struct kage_exit_key key = { (uint32_t)tgid, number };

	if (element(BPF_MAP_DELETE_ELEM, x->rules, &key, NULL, 0) == 0)
		__atomic_fetch_sub(&x->n_rules[number], 1, __ATOMIC_SEQ_CST);
}

bool kage_exits_take(const struct kage_exits *x, pid_t tid, int signal,
		     struct kage_exit_hit *ret_hit)
{
	const uint32_t key = (uint32_t)tid;

	if (x->hits < 0 || element(BPF_MAP_LOOKUP_ELEM, x->hits, &key, ret_hit, 0) < 0 ||
	    ret_hit->state != HIT_SENT || ret_hit->signal != (uint32_t)signal)
		return false;
	(void)element(BPF_MAP_DELETE_ELEM, x->hits, &key, NULL, 0);
	return true;
}
