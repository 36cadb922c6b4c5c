/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <kage/kage.h>

#include "cli/cli.h"
#include "cli/text.h"

enum { FIRST_NS = 1000000000, EVERY_NS = 100000000, BAR_COLUMNS = 24 };

static void draw(const char *what, uint64_t done, uint64_t total)
{
	char done_text[CLI_TEXT_BYTES], total_text[CLI_TEXT_BYTES];
	int filled;

	fprintf(stderr, "\r\033[K%s", what);
	if (total > 0) {
		filled = done >= total ? BAR_COLUMNS : (int)(done * BAR_COLUMNS / total);
		fputs("  ", stderr);
		for (int i = 0; i < BAR_COLUMNS; i++)
			fputs(i < filled ? "━" : "┄", stderr);
		fprintf(stderr, "  %s of %s", cli_text_size(done_text, done),
			cli_text_size(total_text, total));
	} else if (done > 0) {
		fprintf(stderr, "  %s", cli_text_size(done_text, done));
	}
	fflush(stderr);
}

static void told(void *user, const char *what, uint64_t done, uint64_t total)
{
	struct cli_progress *progress = user;
	uint64_t now = cli_clock_mono_ns();

	if (now - progress->started_ns < FIRST_NS || now - progress->drawn_ns < EVERY_NS)
		return;
	progress->drawn_ns = now;
	progress->visible = true;
	draw(what, done, total);
}

void cli_progress_start(struct cli_progress *progress, struct kage_ctx *ctx)
{
	const char *term = getenv("TERM");

	if (!isatty(STDERR_FILENO) || !term || !*term)
		return;
	progress->started_ns = cli_clock_mono_ns();
	kage_ctx_set_progress(ctx, told, progress);
}

void cli_progress_clear(struct cli_progress *progress)
{
	if (!progress->visible)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	progress->visible = false;
}
