/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image, for a person: a head, then every kind in turn.
 */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "kind/fds.h"
#include "kind/kind.h"

struct style {
	const char *bold, *dim, *off;
};

static void print_time(uint64_t realtime_ns, FILE *out)
{
	time_t t = (time_t)(realtime_ns / 1000000000);
	struct tm tm;
	char text[64];

	localtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
	fprintf(out, "%s.%03u", text, (unsigned)(realtime_ns / 1000000 % 1000));
}

/* TEXT comes from the target and may hold anything: it stays on one line and moves no cursor. */
static void print_text(const char *text, FILE *out)
{
	for (const char *at = text; *at; at++) {
		if (*at == '\n')
			fputs("↵", out);
		else if ((unsigned char)*at < ' ' || *at == 127)
			fprintf(out, "\\x%02x", (unsigned char)*at);
		else
			fputc(*at, out);
	}
}

/* How it was known what of the memory had to be copied while the program stood. */
static void print_tracking(Kage__Source__Tracking tracking, FILE *out)
{
	static const char *const words[] = {
		[KAGE__SOURCE__TRACKING__WRITE_PROTECT] = "what it wrote was tracked (userfaultfd)",
		[KAGE__SOURCE__TRACKING__SOFT_DIRTY] =
			"what it wrote was tracked (soft-dirty bits)",
		[KAGE__SOURCE__TRACKING__TWIN] = "its memory was read from a twin",
		[KAGE__SOURCE__TRACKING__COPY] = "all of its memory was copied at that instant",
	};

	if ((unsigned)tracking < ARRAY_SIZE(words) && words[tracking])
		fprintf(out, "  %s\n", words[tracking]);
}

static void print_head(const struct kage_image *image, FILE *out, const struct style *s)
{
	const Kage__Source *src = image->msg->source;
	const Kage__Process *p = image->msg->processes[0];

	fprintf(out, "%s%s%s  ", s->bold, image->label ? image->label : "image", s->off);
	print_text(src && src->command ? src->command : p->comm, out);
	fputc('\n', out);
	if (src) {
		fputs("  taken ", out);
		print_time(src->realtime_ns, out);
		fprintf(out, " on %s, Linux %s", src->hostname, src->kernel_release);
		if (src->pause_ns)
			fprintf(out, "; it stood still for %.3f ms\n", (double)src->pause_ns / 1e6);
		else
			fputs("; it was not stopped\n", out);
		print_tracking(src->tracking, out);
		if (src->git_commit && src->git_commit[0]) {
			fprintf(out, "  its files: commit %s of ", src->git_commit);
			print_text(src->git_dir ? src->git_dir : "", out);
			fputc('\n', out);
		}
		if (src->message && src->message[0]) {
			fputs("  “", out);
			print_text(src->message, out);
			fputs("”\n", out);
		}
	}
	if (image->recipient)
		fprintf(out, "  encrypted for %s\n", image->recipient);
	fprintf(out, "  process %d (%s), parent %d, group %d, session %d\n", p->pid, p->comm,
		p->ppid, p->pgid, p->sid);
}

/* What kind K tells, under its name; nothing where it has nothing to tell. */
static struct kage_err *print_section(const struct kage_image *image, const struct kage_kind *k,
				      bool full, const struct style *s, FILE *out)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	FILE *memory = open_memstream(&text, &size);

	if (!memory)
		return kage_err_nomem();
	k->print(image, image->msg->processes[0], memory, full);
	if (fclose(memory) != 0)
		return kage_err_nomem();
	if (size > 0)
		fprintf(out, "%s%s%s\n%s", s->bold, k->name, s->off, text);
	return NULL;
}

struct kage_err *kage_image_print(const struct kage_image *image, FILE *out, bool full, bool colour)
{
	const struct style s = colour ? (struct style){ "\033[1m", "\033[2m", "\033[0m" }
				      : (struct style){ "", "", "" };
	const Kage__Process *p = image->msg->processes[0];

	print_head(image, out, &s);
	for (const struct kage_kind *const *k = kage_kinds; *k; k++) {
		if (!(*k)->print)
			continue;
		TRY(print_section(image, *k, full, &s, out));
	}
	if (p->n_descriptors)
		fprintf(out, "%sdescriptors%s\n", s.bold, s.off);
	kage_fds_print(image, p, out, full);
	return NULL;
}
