/* SPDX-License-Identifier: Apache-2.0 */
#include "look/modules.h"

#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/elf.h"

/* More than any real file has; so that one that lies does not take all memory. */
enum { SYMBOLS_MAX = 1 << 24 };

static const Kage__Memory *memory_of(const struct kage_image *image)
{
	return image->msg->n_processes ? image->msg->processes[0]->memory : NULL;
}

/* --- which there are -------------------------------------------------------------------------- */

static bool maps_file(const Kage__Mapping *map)
{
	return map->file && (map->backing == KAGE__MAPPING__BACKING__FILE_PRIVATE ||
			     map->backing == KAGE__MAPPING__BACKING__FILE_SHARED);
}

/* Adds the file of MAP, or extends the module that it has already. */
static void add(const struct kage_image *image, const Kage__Mapping *map,
		struct look_module *modules, size_t *n)
{
	const Kage__FileObject *file = kage_image_file(image, map->file);
	size_t i = 0;

	while (i < *n && modules[i].file != file)
		i++;
	if (!file)
		return;
	if (i == *n)
		modules[(*n)++] = (struct look_module){ .file = file, .start = map->start };
	modules[i].end = map->end;
}

static bool has_code(const Kage__Memory *memory, const Kage__FileObject *file)
{
	for (size_t i = 0; i < memory->n_mappings; i++)
		if (maps_file(memory->mappings[i]) && memory->mappings[i]->file == file->id &&
		    (memory->mappings[i]->prot & PROT_EXEC))
			return true;
	return false;
}

/* The executable is where one looks for a name first. */
static void exe_first(const Kage__Memory *memory, struct look_module *modules, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		struct look_module exe = modules[i];

		if (exe.file->id != memory->exe_file)
			continue;
		memmove(modules + 1, modules, i * sizeof(*modules));
		modules[0] = exe;
		return;
	}
}

struct kage_err *look_modules_list(const struct kage_image *image, struct look_module **ret_modules,
				   size_t *ret_n)
{
	const Kage__Memory *memory = memory_of(image);
	struct look_module *modules = calloc(image->msg->n_files + 1, sizeof(*modules));
	size_t n = 0, kept = 0;

	if (!modules)
		return kage_err_nomem();
	for (size_t i = 0; memory && i < memory->n_mappings; i++)
		if (maps_file(memory->mappings[i]))
			add(image, memory->mappings[i], modules, &n);
	for (size_t i = 0; i < n; i++)
		if (has_code(memory, modules[i].file))
			modules[kept++] = modules[i];
	if (memory)
		exe_first(memory, modules, kept);
	*ret_modules = modules;
	*ret_n = kept;
	return NULL;
}

/* --- files ------------------------------------------------------------------------------------ */

struct copying {
	int fd;
	uint64_t size;
};

static struct kage_err *copy_pages(void *user, uint32_t space, uint64_t first, uint64_t count,
				   const void *bytes)
{
	const struct copying *c = user;
	uint64_t at = first * KAGE_PAGE_BYTES, n = count * KAGE_PAGE_BYTES;

	(void)space;
	if (!bytes || at >= c->size)
		return NULL;
	n = n < c->size - at ? n : c->size - at;
	return kage_file_write(c->fd, bytes, n, (off_t)at, "a copy of a file of the image");
}

/* The file as the image holds it, without a name. */
static struct kage_err *open_carried(const struct kage_image *image, const Kage__FileObject *file,
				     int *ret_fd)
{
	_cleanup_fd_ int fd = memfd_create("kage-elf", MFD_CLOEXEC);
	struct copying c = { fd, file->size_bytes };

	if (fd < 0 || ftruncate(fd, (off_t)file->size_bytes) < 0)
		return kage_err_sys(errno, "make room for %s", file->path);
	TRY(kage_pages_each(image->pages, file->content_space, copy_pages, &c));
	*ret_fd = take_fd(&fd);
	return NULL;
}

/* Whether what is open as FD is what the image has mapped. */
static bool is_same(int fd, const Kage__FileObject *file)
{
	uint8_t id[KAGE_BUILD_ID_MAX];
	struct stat st;

	if (file->build_id.len)
		return kage_elf_build_id(fd, id) == file->build_id.len &&
		       memcmp(id, file->build_id.data, file->build_id.len) == 0;
	return fstat(fd, &st) == 0 && (uint64_t)st.st_size == file->size_bytes &&
	       (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec == file->mtime_ns;
}

static struct kage_err *open_same(const char *path, const Kage__FileObject *file, int *ret_fd)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0)
		return kage_err_sys(errno, "open %s", path);
	if (!is_same(fd, file))
		return kage_err_new(KAGE_CHANGED,
				    "%s is not the file any more that the image has "
				    "mapped",
				    path);
	*ret_fd = take_fd(&fd);
	return NULL;
}

static struct kage_err *open_debug(const Kage__FileObject *file, int *ret_fd)
{
	char path[64 + 2 * KAGE_BUILD_ID_MAX] = "/usr/lib/debug/.build-id/";
	size_t n = strlen(path);

	if (file->build_id.len < 2 || file->build_id.len > KAGE_BUILD_ID_MAX)
		return kage_err_new(KAGE_NOTFOUND, "%s has no build-id", file->path);
	for (size_t i = 0; i < file->build_id.len; i++)
		n += (size_t)snprintf(path + n, sizeof(path) - n, i == 1 ? "/%02x" : "%02x",
				      file->build_id.data[i]);
	snprintf(path + n, sizeof(path) - n, ".debug");
	return open_same(path, file, ret_fd);
}

/* All of it in our memory, so that nobody changes it under our hands. FD is closed. */
static struct kage_err *read_elf_take(int fd, const char *name, Elf **ret_elf)
{
	bool good;
	Elf *elf;

	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	good = elf && elf_cntl(elf, ELF_C_FDREAD) == 0 && elf_kind(elf) == ELF_K_ELF &&
	       gelf_getclass(elf) == ELFCLASS64;
	close_fd(fd);
	if (good) {
		*ret_elf = elf;
		return NULL;
	}
	elf_end(elf);
	return kage_err_new(KAGE_CORRUPT, "%s is no ELF file that can be read", name);
}

/* --- symbols ---------------------------------------------------------------------------------- */

/* The section of symbols of TYPE, or NULL. */
static Elf_Scn *table_of(Elf *elf, Elf64_Word type, GElf_Shdr *ret_header)
{
	Elf_Scn *section = NULL;

	while (elf && (section = elf_nextscn(elf, section)))
		if (gelf_getshdr(section, ret_header) && ret_header->sh_type == type)
			return section;
	return NULL;
}

static bool is_wanted(const GElf_Sym *s)
{
	int type = GELF_ST_TYPE(s->st_info);

	return s->st_shndx != SHN_UNDEF && s->st_shndx != SHN_ABS && s->st_name &&
	       (type == STT_FUNC || type == STT_OBJECT || type == STT_GNU_IFUNC ||
		type == STT_COMMON || type == STT_TLS || type == STT_NOTYPE);
}

static int compare(const void *a, const void *b)
{
	const struct look_symbol *x = a, *y = b;

	if (x->thread_local_ != y->thread_local_)
		return x->thread_local_ - y->thread_local_;
	if (x->value != y->value)
		return x->value < y->value ? -1 : 1;
	if ((x->size == 0) != (y->size == 0))
		return x->size == 0 ? -1 : 1;
	return x->rank - y->rank;
}

/* How far behind its beginning S may reach: its size, else the rest of its section. */
static uint64_t reach_of(Elf *elf, const GElf_Sym *s)
{
	Elf_Scn *section = s->st_size ? NULL : elf_getscn(elf, s->st_shndx);
	GElf_Shdr header;

	if (!section || !gelf_getshdr(section, &header) || s->st_value < header.sh_addr ||
	    s->st_value - header.sh_addr > header.sh_size)
		return s->st_size;
	return header.sh_size - (s->st_value - header.sh_addr);
}

static struct kage_err *read_table(Elf *elf, Elf_Scn *section, const GElf_Shdr *header,
				   struct look_module *m)
{
	Elf_Data *data = elf_getdata(section, NULL);
	size_t n = data && header->sh_entsize ? data->d_size / header->sh_entsize : 0;
	GElf_Sym s;

	n = n < SYMBOLS_MAX ? n : SYMBOLS_MAX;
	m->v = calloc(n + 1, sizeof(*m->v));
	if (!m->v)
		return kage_err_nomem();
	for (size_t i = 0; i < n; i++) {
		const char *name;

		if (!gelf_getsym(data, (int)i, &s) || !is_wanted(&s))
			continue;
		name = elf_strptr(elf, header->sh_link, s.st_name);
		if (!name || !*name)
			continue;
		m->v[m->n++] = (struct look_symbol){
			.value = s.st_value,
			.size = s.st_size,
			.reach = reach_of(elf, &s),
			.name = name,
			.rank = GELF_ST_BIND(s.st_info) == STB_LOCAL  ? 0
				: GELF_ST_BIND(s.st_info) == STB_WEAK ? 1
								      : 2,
			.thread_local_ = GELF_ST_TYPE(s.st_info) == STT_TLS,
		};
	}
	qsort(m->v, m->n, sizeof(*m->v), compare);
	return NULL;
}

static struct kage_err *read_symbols(struct look_module *m)
{
	GElf_Shdr header;
	Elf *from = m->elf;
	Elf_Scn *section = table_of(from, SHT_SYMTAB, &header);

	if (!section)
		section = table_of(from = m->debug, SHT_SYMTAB, &header);
	if (!section)
		section = table_of(from = m->elf, SHT_DYNSYM, &header);
	return section ? read_table(from, section, &header, m) : NULL;
}

/* --- where it was loaded ---------------------------------------------------------------------- */

/* The loadable segment of ELF that begins with the page at OFFSET of the file. */
static bool segment_at(Elf *elf, uint64_t offset, GElf_Phdr *ret_header)
{
	size_t n;

	if (!elf || elf_getphdrnum(elf, &n) < 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (gelf_getphdr(elf, (int)i, ret_header) && ret_header->p_type == PT_LOAD &&
		    page_floor(ret_header->p_offset) == offset)
			return true;
	return false;
}

/* The first mapping and the first segment that show the same page of the file tell the bias. */
static bool find_bias(const Kage__Memory *memory, struct look_module *m)
{
	Elf *elf = m->elf ? m->elf : m->debug;
	GElf_Phdr header;

	for (size_t i = 0; i < memory->n_mappings; i++) {
		const Kage__Mapping *map = memory->mappings[i];

		if (!maps_file(map) || map->file != m->file->id ||
		    !segment_at(elf, map->offset_bytes, &header))
			continue;
		m->bias = map->start - page_floor(header.p_vaddr);
		return true;
	}
	return false;
}

/* --- a module --------------------------------------------------------------------------------- */

/* Opens the file and what speaks for it. */
static struct kage_err *open_files(const struct kage_image *image, struct look_module *m)
{
	struct kage_err *e, *second;
	int fd = -1;

	e = m->file->content_space ? open_carried(image, m->file, &fd)
				   : open_same(m->file->path, m->file, &fd);
	if (!e)
		e = read_elf_take(fd, m->file->path, &m->elf);
	fd = -1;
	second = open_debug(m->file, &fd);
	if (!second)
		second = read_elf_take(fd, "its debug file", &m->debug);
	if (e && !second) { /* the debug file is enough */
		err_drop(e);
		return NULL;
	}
	err_drop(second);
	return e;
}

struct kage_err *look_module_load(const struct kage_image *image, struct look_module *m)
{
	struct kage_err *e = NULL;

	if (m->loaded)
		return NULL;
	m->loaded = true;
	e = open_files(image, m);
	if (!e && find_bias(memory_of(image), m))
		e = read_symbols(m);
	if (e && kage_err_code(e) == KAGE_NOMEM)
		return e;
	m->why = e;
	return NULL;
}

void look_module_deinit(struct look_module *m)
{
	elf_end(m->elf);
	elf_end(m->debug);
	free(m->v);
	kage_err_free(m->why);
}
