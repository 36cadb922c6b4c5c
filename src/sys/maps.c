/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/maps.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/text.h"

enum { MAPS_MAX = 256 << 20 }; /* bytes of text; a million mappings with flags */

void kage_maps_deinit(struct kage_maps *maps)
{
	arena_deinit(&maps->arena);
	memset(maps, 0, sizeof(*maps));
}

/* The kernel writes a line feed in a path as \012 and nothing else in octal (show_map_vma() in
 * fs/proc/task_mmu.c), so other escapes are part of a name. */
static char *unescape(struct arena *a, const char *s, size_t n)
{
	char *out = arena_alloc(a, n + 1), *p = out;

	for (size_t i = 0; out && i < n; i++) {
		bool line_feed = n - i > 3 && memcmp(s + i, "\\012", 4) == 0;

		*p++ = line_feed ? '\n' : s[i];
		i += line_feed ? 3 : 0;
	}
	return out;
}

static bool parse_perms(const char **at, struct kage_vma *v)
{
	const char *p = *at;

	if ((p[0] != 'r' && p[0] != '-') || (p[1] != 'w' && p[1] != '-') ||
	    (p[2] != 'x' && p[2] != '-') || (p[3] != 's' && p[3] != 'p'))
		return false;
	v->prot = (p[0] == 'r' ? PROT_READ : 0) | (p[1] == 'w' ? PROT_WRITE : 0) |
		  (p[2] == 'x' ? PROT_EXEC : 0);
	v->shared = p[3] == 's';
	*at = p + 4;
	return true;
}

/* 55d0c8a00000-55d0c8a28000 r--p 00000000 fe:00 1234      /usr/bin/x */
static struct kage_err *parse_head(struct arena *a, const char *line, struct kage_vma *v)
{
	const char *p = line;
	uint64_t major, minor;
	size_t n;
	bool ok = kage_text_number(&p, 16, &v->start) && kage_text_char(&p, '-') &&
		  kage_text_number(&p, 16, &v->end) && kage_text_char(&p, ' ') &&
		  parse_perms(&p, v) && kage_text_char(&p, ' ') &&
		  kage_text_number(&p, 16, &v->offset) && kage_text_char(&p, ' ') &&
		  kage_text_number(&p, 16, &major) && kage_text_char(&p, ':') &&
		  kage_text_number(&p, 16, &minor) && kage_text_char(&p, ' ') &&
		  kage_text_number(&p, 10, &v->ino) && v->start < v->end &&
		  (v->start | v->end | v->offset) % KAGE_PAGE_BYTES == 0 && major <= UINT32_MAX &&
		  minor <= UINT32_MAX;

	if (!ok)
		return kage_err_new(KAGE_CORRUPT, "a line of maps is not understood: %.80s", line);
	v->dev_major = (uint32_t)major;
	v->dev_minor = (uint32_t)minor;
	p += strspn(p, " ");
	n = strcspn(p, "\n");
	v->path = unescape(a, p, n);
	return v->path ? NULL : kage_err_nomem();
}

static struct kage_err *parse_flags(struct arena *a, const char *p, struct kage_vma *v)
{
	uint16_t *flags = NULL;

	v->n_flags = 0; /* of two lines the last counts */
	for (;;) {
		uint16_t *f;

		p += strspn(p, " ");
		if (*p == '\n' || !p[0] || !p[1])
			break;
		f = arena_push(a, &flags, &v->n_flags, sizeof(*f));
		if (!f)
			return kage_err_nomem();
		*f = VMFLAG(p[0], p[1]);
		p += 2;
	}
	v->flags = flags;
	return NULL;
}

/* One of the lines that smaps has below a mapping's. */
static struct kage_err *parse_detail(struct arena *a, const char *line, struct kage_vma *v)
{
	uint64_t n;

	if (strncmp(line, "VmFlags:", 8) == 0)
		return parse_flags(a, line + 8, v);
	if (strncmp(line, "KernelPageSize:", 15) == 0 &&
	    kage_text_u64(line, "KernelPageSize", 10, &n) && n > KAGE_PAGE_BYTES / 1024 &&
	    n <= UINT64_MAX / 1024)
		v->huge_bytes = n * 1024;
	else if (strncmp(line, "ProtectionKey:", 14) == 0 &&
		 kage_text_u64(line, "ProtectionKey", 10, &n) && n <= UINT32_MAX)
		v->pkey = (uint32_t)n;
	else if (strncmp(line, "Swap:", 5) == 0 && kage_text_u64(line, "Swap", 10, &n))
		v->swapped = n > 0;
	return NULL;
}

/* Appends the mapping that begins with LINE. The kernel writes its lines in pieces: mappings of a running
 * process that were merged between two pieces are written again, as the one that they are now. */
static struct kage_err *add_mapping(struct kage_maps *m, const char *line)
{
	struct kage_vma *v, new = { 0 };

	TRY(parse_head(&m->arena, line, &new));
	while (m->n && m->vmas[m->n - 1].end > new.start)
		m->n--;
	v = arena_push(&m->arena, &m->vmas, &m->n, sizeof(*v));
	if (!v)
		return kage_err_nomem();
	*v = new;
	return NULL;
}

struct kage_err *kage_maps_parse(const char *text, struct kage_maps *ret_maps)
{
	_cleanup_(kage_maps_deinit) struct kage_maps m = { 0 };

	for (const char *line = *text ? text : NULL; line; line = kage_text_next_line(line)) {
		bool head = (*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f');

		if (head) {
			TRY(add_mapping(&m, line));
			continue;
		}
		if (!m.n)
			return kage_err_new(KAGE_CORRUPT, "maps begin with: %.80s", line);
		TRY(parse_detail(&m.arena, line, &m.vmas[m.n - 1]));
		m.has_flags = true;
	}
	*ret_maps = m;
	m = (struct kage_maps){ 0 };
	return NULL;
}

struct kage_err *kage_maps_read(int proc_fd, bool with_flags, struct kage_maps *ret_maps)
{
	_cleanup_free_ char *text = NULL;
	size_t size;

	TRY(kage_file_slurp(proc_fd, with_flags ? "smaps" : "maps", MAPS_MAX, &text, &size));
	return kage_maps_parse(text, ret_maps);
}

bool kage_maps_equal(const struct kage_maps *a, const struct kage_maps *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++) {
		const struct kage_vma *x = &a->vmas[i], *y = &b->vmas[i];

		if (x->start != y->start || x->end != y->end || x->prot != y->prot ||
		    x->shared != y->shared || x->offset != y->offset || x->ino != y->ino ||
		    x->dev_major != y->dev_major || x->dev_minor != y->dev_minor ||
		    strcmp(x->path, y->path) != 0)
			return false;
	}
	return true;
}

bool kage_vma_has(const struct kage_vma *vma, uint16_t flag)
{
	for (size_t i = 0; i < vma->n_flags; i++)
		if (vma->flags[i] == flag)
			return true;
	return false;
}

const struct kage_vma *kage_maps_find(const struct kage_maps *maps, uint64_t address)
{
	size_t low = 0, high = maps->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (maps->vmas[mid].end <= address)
			low = mid + 1;
		else
			high = mid;
	}
	return low < maps->n && maps->vmas[low].start <= address ? &maps->vmas[low] : NULL;
}

const struct kage_vma *kage_maps_named(const struct kage_maps *maps, const char *path)
{
	for (size_t i = 0; i < maps->n; i++)
		if (strcmp(maps->vmas[i].path, path) == 0)
			return &maps->vmas[i];
	return NULL;
}

uint64_t kage_maps_hole(const struct kage_maps *maps, uint64_t bytes, uint64_t margin,
			uint64_t floor, uint64_t ceiling)
{
	uint64_t need = bytes + 2 * margin, above = ceiling;

	for (size_t i = maps->n; i-- > 0;) {
		const struct kage_vma *v = &maps->vmas[i];
		uint64_t below = v->end > floor ? v->end : floor;

		if (above > below && above - below >= need)
			return above - margin - bytes;
		if (v->start < above)
			above = v->start;
	}
	return above > floor && above - floor >= need ? above - margin - bytes : 0;
}

uint64_t kage_maps_common_hole(const struct kage_maps *a, const struct kage_maps *b, uint64_t bytes,
			       uint64_t margin, uint64_t floor, uint64_t ceiling)
{
	for (;;) {
		uint64_t in_a = kage_maps_hole(a, bytes, margin, floor, ceiling);
		uint64_t in_b =
			in_a ? kage_maps_hole(b, bytes, margin, floor, in_a + bytes + margin) : 0;

		if (!in_b || in_a == in_b)
			return in_b;
		ceiling = in_b + bytes + margin;
	}
}
