/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Notes of a core file. The layouts are those of the kernel's structures for 64-bit programs
 * (include/linux/elfcore.h, fs/binfmt_elf.c), stored byte by byte.
 *
 * There is no NT_SIGINFO, and no signal in NT_PRSTATUS: no signal ended this process, and a debugger
 * would say that one did. There is no note for the names of threads that a debugger would read.
 */
#include "core/notes.h"

#include <elf.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "base/cleanup.h"

/* struct elf_prstatus, up to the registers. */
enum {
	PRSTATUS_PENDING = 16,
	PRSTATUS_BLOCKED = 24,
	PRSTATUS_PID = 32,
	PRSTATUS_PPID = 36,
	PRSTATUS_PGID = 40,
	PRSTATUS_SID = 44,
	PRSTATUS_REGISTERS =
		112, /* then a number: whether there are NT_FPREGSET, and padding to 8 */
};

/* struct elf_prpsinfo. */
enum {
	PRPSINFO_STATE = 0,
	PRPSINFO_STATE_NAME = 1,
	PRPSINFO_NICE = 3,
	PRPSINFO_UID = 16,
	PRPSINFO_GID = 20,
	PRPSINFO_PID = 24,
	PRPSINFO_PPID = 28,
	PRPSINFO_PGID = 32,
	PRPSINFO_SID = 36,
	PRPSINFO_COMM = 40,
	PRPSINFO_COMM_BYTES = 16,
	PRPSINFO_ARGS = 56,
	PRPSINFO_ARGS_BYTES = 80,
	PRPSINFO_BYTES = 136,
};

static void put32(uint8_t *p, uint32_t v)
{
	le_store_(p, 4, v);
}

static void put64(uint8_t *p, uint64_t v)
{
	le_store_(p, 8, v);
}

/* --- growing ---------------------------------------------------------------------------------- */

/* SIZE more zero bytes at the end, or NULL. */
static uint8_t *grow(struct core_notes *n, size_t size)
{
	uint8_t *p;

	if (size > n->capacity - n->size) {
		size_t capacity = (n->size + size) * 2;

		p = realloc(n->data, capacity);
		if (!p)
			return NULL;
		n->data = p;
		n->capacity = capacity;
	}
	p = n->data + n->size;
	memset(p, 0, size);
	n->size += size;
	return p;
}

/* A note of SIZE zero bytes, or NULL. Names and contents are padded to four bytes (elf(5)). */
static uint8_t *add_note(struct core_notes *n, const char *owner, uint32_t type, size_t size)
{
	size_t owner_bytes = strlen(owner) + 1;
	size_t padded = (owner_bytes + 3) & ~(size_t)3;
	uint8_t *p = grow(n, 12 + padded + ((size + 3) & ~(size_t)3));

	if (!p)
		return NULL;
	put32(p, (uint32_t)owner_bytes);
	put32(p + 4, (uint32_t)size);
	put32(p + 8, type);
	memcpy(p + 12, owner, owner_bytes);
	return p + 12 + padded;
}

static struct kage_err *add_bytes(struct core_notes *n, const char *owner, uint32_t type,
				  const void *bytes, size_t size)
{
	uint8_t *p;

	if (!size)
		return NULL;
	p = add_note(n, owner, type, size);
	if (!p)
		return kage_err_nomem();
	memcpy(p, bytes, size);
	return NULL;
}

/* --- threads ---------------------------------------------------------------------------------- */

static void put_ids(uint8_t *p, const Kage__Process *process, int32_t tid, int at)
{
	put32(p + at, (uint32_t)tid);
	put32(p + at + 4, (uint32_t)process->ppid);
	put32(p + at + 8, (uint32_t)process->pgid);
	put32(p + at + 12, (uint32_t)process->sid);
}

static uint64_t pending_mask(const Kage__Thread *t)
{
	uint64_t mask = 0;

	for (size_t i = 0; i < t->n_pending; i++)
		if (t->pending[i]->signal >= 1 && t->pending[i]->signal <= 64)
			mask |= (uint64_t)1 << (t->pending[i]->signal - 1);
	return mask;
}

static struct kage_err *add_status(struct core_notes *n, const Kage__Process *process,
				   const Kage__Thread *t, const struct kage_core_regs *regs)
{
	uint8_t *p = add_note(n, "CORE", NT_PRSTATUS, PRSTATUS_REGISTERS + regs->general_bytes + 8);

	if (!p)
		return kage_err_nomem();
	put64(p + PRSTATUS_PENDING, pending_mask(t));
	put64(p + PRSTATUS_BLOCKED, t->blocked);
	put_ids(p, process, t->tid, PRSTATUS_PID);
	memcpy(p + PRSTATUS_REGISTERS, regs->general, regs->general_bytes);
	put32(p + PRSTATUS_REGISTERS + regs->general_bytes, regs->fp_bytes != 0);
	return NULL;
}

static struct kage_err *add_thread(struct core_notes *n, const struct kage_image *image, size_t i,
				   struct kage_core_regs *regs)
{
	const Kage__Process *process = image->msg->processes[0];
	const Kage__Source *source = image->msg->source;
	uint64_t xcr0 = source && source->cpu ? source->cpu->xcr0 : 0;

	TRY(kage_arch_core_regs(process->threads[i], xcr0, regs));
	if (n->machine && n->machine != regs->machine)
		return kage_err_new(KAGE_CORRUPT, "the threads are of different processors");
	n->machine = regs->machine;
	return add_status(n, process, process->threads[i], regs);
}

static struct kage_err *add_more_registers(struct core_notes *n, const struct kage_core_regs *regs)
{
	TRY(add_bytes(n, "CORE", NT_FPREGSET, regs->fp, regs->fp_bytes));
	return add_bytes(n, "LINUX", regs->xstate_note, regs->xstate, regs->xstate_bytes);
}

/* --- the process ------------------------------------------------------------------------------ */

/* The command line in one line, as much of it as there is room for. */
static void put_args(uint8_t *p, const Kage__Process *process)
{
	size_t used = 0;

	for (size_t i = 0; i < process->n_argv && used < PRPSINFO_ARGS_BYTES - 1; i++) {
		int n = snprintf((char *)p + used, PRPSINFO_ARGS_BYTES - used, "%s%s", i ? " " : "",
				 process->argv[i]);

		used += n > 0 ? (size_t)n : 0;
	}
}

/* As ps shows it, and its place in the kernel's list of states. */
static void put_state(uint8_t *p, const Kage__Process *process)
{
	const Kage__SyscallState *call = process->threads[0]->syscall;

	if (process->stopped) {
		p[PRPSINFO_STATE] = 3;
		p[PRPSINFO_STATE_NAME] = 'T';
	} else {
		p[PRPSINFO_STATE] = call && call->in_progress;
		p[PRPSINFO_STATE_NAME] = p[PRPSINFO_STATE] ? 'S' : 'R';
	}
}

static struct kage_err *add_process(struct core_notes *n, const Kage__Process *process)
{
	const Kage__Scheduling *scheduling = process->threads[0]->scheduling;
	const Kage__Credentials *credentials = process->credentials;
	const char *comm = process->comm ? process->comm : "";
	uint8_t *p = add_note(n, "CORE", NT_PRPSINFO, PRPSINFO_BYTES);

	if (!p)
		return kage_err_nomem();
	put_state(p, process);
	p[PRPSINFO_NICE] = scheduling ? (uint8_t)scheduling->nice : 0;
	put32(p + PRPSINFO_UID, credentials ? credentials->ruid : 0);
	put32(p + PRPSINFO_GID, credentials ? credentials->rgid : 0);
	put_ids(p, process, process->pid, PRPSINFO_PID);
	memcpy(p + PRPSINFO_COMM, comm, strnlen(comm, PRPSINFO_COMM_BYTES - 1));
	put_args(p + PRPSINFO_ARGS, process);
	return NULL;
}

/* --- mapped files ----------------------------------------------------------------------------- */

/* Shared objects stand in the core whole and have no file that could be opened; of devices nothing is
 * to be read. */
static const Kage__FileObject *named_file(const struct kage_image *image, const Kage__Mapping *m)
{
	if (m->backing != KAGE__MAPPING__BACKING__FILE_PRIVATE &&
	    m->backing != KAGE__MAPPING__BACKING__FILE_SHARED)
		return NULL;
	return kage_image_file(image, m->file);
}

/* The path, and as the kernel has it, a word about files without one. */
static const char *unlinked_mark(const Kage__FileObject *f)
{
	return f->unlinked ? " (deleted)" : "";
}

static void measure_files(const struct kage_image *image, const Kage__Memory *memory, size_t *ret_n,
			  size_t *ret_bytes)
{
	*ret_n = 0;
	*ret_bytes = 16;
	for (size_t i = 0; i < memory->n_mappings; i++) {
		const Kage__FileObject *f = named_file(image, memory->mappings[i]);

		if (!f)
			continue;
		*ret_n += 1;
		*ret_bytes += 24 + strlen(f->path) + strlen(unlinked_mark(f)) + 1;
	}
}

/* NT_FILE: how many, the unit of offsets, (start, end, offset) of each, then all names. */
static struct kage_err *add_files(struct core_notes *notes, const struct kage_image *image)
{
	const Kage__Memory *memory = image->msg->processes[0]->memory;
	size_t n, bytes;
	uint8_t *p;
	char *name;

	measure_files(image, memory, &n, &bytes);
	if (bytes > UINT32_MAX - 3)
		return kage_err_new(KAGE_LIMIT, "the names of mapped files take %zu bytes", bytes);
	p = n ? add_note(notes, "CORE", NT_FILE, bytes) : NULL;
	if (!p)
		return n ? kage_err_nomem() : NULL;
	put64(p, n);
	put64(p + 8, KAGE_PAGE_BYTES);
	name = (char *)p + 16 + n * 24;
	p += 16;
	for (size_t i = 0; i < memory->n_mappings; i++) {
		const Kage__Mapping *m = memory->mappings[i];
		const Kage__FileObject *f = named_file(image, m);

		if (!f)
			continue;
		put64(p, m->start);
		put64(p + 8, m->end);
		put64(p + 16, m->offset_bytes / KAGE_PAGE_BYTES);
		p += 24;
		name = stpcpy(stpcpy(name, f->path), unlinked_mark(f)) + 1;
	}
	return NULL;
}

/* --- all -------------------------------------------------------------------------------------- */

struct kage_err *core_notes_init(struct core_notes *notes, const struct kage_image *image)
{
	const Kage__Process *process = image->msg->processes[0];
	const ProtobufCBinaryData *auxv = &process->memory->auxv;
	_cleanup_free_ struct kage_core_regs *regs = malloc(sizeof(*regs));

	*notes = (struct core_notes){ 0 };
	if (!regs)
		return kage_err_nomem();
	for (size_t i = 0; i < process->n_threads; i++) {
		TRY(add_thread(notes, image, i, regs));
		if (i == 0) {
			TRY(add_process(notes, process));
			TRY(add_bytes(notes, "CORE", NT_AUXV, auxv->data, auxv->len));
			TRY(add_files(notes, image));
		}
		TRY(add_more_registers(notes, regs));
	}
	if (notes->size > UINT32_MAX)
		return kage_err_new(KAGE_LIMIT, "the notes take %zu bytes", notes->size);
	return NULL;
}

void core_notes_deinit(struct core_notes *notes)
{
	free(notes->data);
}
