/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From names to addresses and back, for the first process of an image.
 *
 * A name is looked for in the executable, then in the libraries by address; in each a global symbol
 * comes before a weak one, and that before a local one. FILE:NAME looks only in the modules whose
 * file has that name.
 */
#include <kage/kage.h>

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "image/label.h"
#include "look/modules.h"
#include "store/suggest.h"

enum { NEAR_MAX = 4096 };

struct kage_symbols {
	const struct kage_image *image; /* borrowed */
	struct look_module *modules;
	size_t n;
};

struct kage_err *kage_symbols_open(const struct kage_image *image,
				   struct kage_symbols **ret_symbols)
{
	struct kage_symbols *s = calloc(1, sizeof(*s));
	struct kage_err *e;

	if (!s)
		return kage_err_nomem();
	s->image = image;
	e = look_modules_list(image, &s->modules, &s->n);
	if (e) {
		kage_symbols_close(s);
		return e;
	}
	*ret_symbols = s;
	return NULL;
}

void kage_symbols_close(struct kage_symbols *symbols)
{
	if (!symbols)
		return;
	for (size_t i = 0; i < symbols->n; i++)
		look_module_deinit(&symbols->modules[i]);
	free(symbols->modules);
	free(symbols);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* --- by name ---------------------------------------------------------------------------------- */

static const struct look_symbol *find_in(const struct look_module *m, const char *name)
{
	const struct look_symbol *best = NULL;

	for (size_t i = 0; i < m->n; i++)
		if (strcmp(m->v[i].name, name) == 0 && (!best || m->v[i].rank > best->rank))
			best = &m->v[i];
	return best;
}

static void tell(const struct look_module *m, const struct look_symbol *s, struct kage_symbol *ret)
{
	*ret = (struct kage_symbol){
		.name = s->name,
		.address = s->value + m->bias,
		.size = s->size,
		.module = m->file->path,
		.module_address = m->start,
	};
}

/* "; near are: counter, count" from the executable, or "". Fresh. */
static char *near_names(const struct kage_symbols *s, const char *name)
{
	const char *names[NEAR_MAX];
	_cleanup_free_ char *near = NULL;
	char *text;
	size_t n = 0;

	for (size_t i = 0; s->n && i < s->modules[0].n && n < NEAR_MAX; i++)
		if (s->modules[0].v[i].name[0] == name[0])
			names[n++] = s->modules[0].v[i].name;
	near = n ? kage_suggest(name, names, n) : NULL;
	return asprintf(&text, "%s%s", near ? "; near are: " : "", near ? near : "") < 0 ? NULL
											 : text;
}

static struct kage_err *not_found(const struct kage_symbols *s, const char *spec, const char *name)
{
	_cleanup_free_ char *near = near_names(s, name);

	for (size_t i = 0; i < s->n; i++)
		if (s->modules[i].why)
			return kage_err_new(KAGE_NOTFOUND,
					    "no symbol '%s' in those files of the image that can "
					    "be read: %s",
					    spec, kage_err_message(s->modules[i].why));
	return kage_err_new(KAGE_NOTFOUND, "no symbol '%s' in the %zu files with code%s", spec,
			    s->n, near ? near : "");
}

struct kage_err *kage_symbols_find(struct kage_symbols *symbols, const char *spec,
				   struct kage_symbol *ret_symbol)
{
	const char *colon = strchr(spec, ':'), *name = colon ? colon + 1 : spec;
	size_t file_length = colon ? (size_t)(colon - spec) : 0;

	for (size_t i = 0; i < symbols->n; i++) {
		struct look_module *m = &symbols->modules[i];
		const char *file = base_name(m->file->path);
		const struct look_symbol *found;

		if (colon && (strlen(file) != file_length || strncmp(file, spec, file_length) != 0))
			continue;
		TRY(look_module_load(symbols->image, m));
		found = find_in(m, name);
		if (found && found->thread_local_)
			return kage_err_new(KAGE_UNSUPPORTED,
					    "'%s' of %s is thread-local: each thread has one, and "
					    "where is not known; 'kage gdb' can tell",
					    name, m->file->path);
		if (found) {
			tell(m, found, ret_symbol);
			return NULL;
		}
	}
	return not_found(symbols, spec, name);
}

/* --- by address ------------------------------------------------------------------------------- */

/* The symbol of M in which VALUE lies, or NULL. */
static const struct look_symbol *covering(const struct look_module *m, uint64_t value)
{
	size_t low = 0, high = m->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (m->v[mid].thread_local_ || m->v[mid].value > value)
			high = mid;
		else
			low = mid + 1;
	}
	/* Of those that begin before it the nearest usually is it; some lie within others. */
	for (size_t i = low, tries = 0; i-- > 0 && tries < 8; tries++)
		if (value - m->v[i].value < m->v[i].reach)
			return &m->v[i];
	return NULL;
}

static const Kage__Mapping *mapping_at(const struct kage_symbols *s, uint64_t address)
{
	const Kage__Memory *memory =
		s->image->msg->n_processes ? s->image->msg->processes[0]->memory : NULL;

	for (size_t i = 0; memory && i < memory->n_mappings; i++)
		if (address >= memory->mappings[i]->start && address < memory->mappings[i]->end)
			return memory->mappings[i];
	return NULL;
}

/* The module to which MAP belongs: the file's own pages, or the zeros behind its data. */
static struct look_module *module_of(struct kage_symbols *s, const Kage__Mapping *map)
{
	for (size_t i = 0; i < s->n; i++) {
		struct look_module *m = &s->modules[i];

		if (map->file ? map->file == m->file->id : map->start == m->end)
			return m;
	}
	return NULL;
}

struct kage_err *kage_symbols_at(struct kage_symbols *symbols, uint64_t address,
				 struct kage_symbol *ret_symbol)
{
	const Kage__Mapping *map = mapping_at(symbols, address);
	struct look_module *m = map ? module_of(symbols, map) : NULL;
	const struct look_symbol *s = NULL;
	struct kage_symbol found = { 0 };

	if (m)
		TRY(look_module_load(symbols->image, m));
	if (m)
		s = covering(m, address - m->bias);
	if (s) {
		tell(m, s, &found);
	} else if (map) {
		found.module = m ? m->file->path : kage_image_mapping_label(symbols->image, map);
		found.module_address = found.address = m ? m->start : map->start;
	}
	*ret_symbol = found;
	return NULL;
}

struct kage_err *kage_symbols_describe(struct kage_symbols *symbols, uint64_t address,
				       char **ret_text)
{
	struct kage_symbol s;
	const char *module;
	unsigned long long in_module, in_symbol;
	int r;

	TRY(kage_symbols_at(symbols, address, &s));
	module = s.module ? base_name(s.module) : NULL;
	in_module = address - s.module_address;
	in_symbol = address - s.address;
	if (!module)
		r = asprintf(ret_text, "%#llx", (unsigned long long)address);
	else if (!s.name)
		r = asprintf(ret_text, "%s+%#llx", module, in_module);
	else if (in_symbol)
		r = asprintf(ret_text, "%s+%#llx (%s+%#llx)", module, in_module, s.name, in_symbol);
	else
		r = asprintf(ret_text, "%s+%#llx (%s)", module, in_module, s.name);
	return r < 0 ? kage_err_nomem() : NULL;
}
