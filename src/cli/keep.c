/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/keep.h"

#include <string.h>

#include "cli/duration.h"
#include "cli/size.h"

static bool add_tier(struct cli_keep *keep, uint64_t span_ns, uint64_t every_ns)
{
	if (keep->rules.n_tiers == CLI_KEEP_TIERS)
		return false;
	keep->tiers[keep->rules.n_tiers++] =
		(struct kage_tier){ .span_ns = span_ns, .every_ns = every_ns };
	if (span_ns && (!keep->shortest_span_ns || span_ns < keep->shortest_span_ns))
		keep->shortest_span_ns = span_ns;
	return true;
}

/* "10min" or "1h=1s". */
static bool parse_tier(struct cli_keep *keep, const char *text, size_t length)
{
	_cleanup_free_ char *span = cli_printf("%.*s", (int)length, text);
	char *every = strchr(span, '=');
	uint64_t span_ns, every_ns = 0;

	if (every)
		*every++ = '\0';
	return cli_duration_parse(span, &span_ns) && span_ns &&
	       (!every || (cli_duration_parse(every, &every_ns) && every_ns)) &&
	       add_tier(keep, span_ns, every_ns);
}

static bool parse_tiers(struct cli_keep *keep, const char *text)
{
	for (;;) {
		size_t n = strcspn(text, ",");

		if (!parse_tier(keep, text, n))
			return false;
		if (!text[n])
			return true;
		text += n + 1;
	}
}

int cli_keep_parse(struct cli *cli, const struct cli_keep_values *values, struct cli_keep *keep)
{
	uint64_t every_ns;

	*keep = (struct cli_keep){ .rules.keep_last = (uint64_t)values->keep_last };
	keep->rules.tiers = keep->tiers;
	if (values->keep && !parse_tiers(keep, values->keep))
		return cli_fail_usage(cli,
				      "--keep %s is not understood; write 10min, or 1min,1h=1s",
				      values->keep);
	if (values->keep_every && (!cli_duration_parse(values->keep_every, &every_ns) ||
				   !every_ns || !add_tier(keep, 0, every_ns)))
		return cli_fail_usage(cli, "'%s' is no duration; write 1s, 5min, 1h",
				      values->keep_every);
	if (values->max_size && !cli_size_parse(values->max_size, &keep->rules.max_bytes))
		return cli_fail_usage(cli, "'%s' is no size; write 512M, 10G", values->max_size);
	return CLI_DONE;
}

bool cli_keep_any(const struct cli_keep *keep)
{
	return keep->rules.keep_last || keep->rules.n_tiers || keep->rules.max_bytes;
}
