/* SPDX-License-Identifier: Apache-2.0 */
#include "store/retention.h"

/* Keeps the oldest image of each period of TIER, as far back as it reaches. */
static void keep_tier(const struct kage_tier *tier, const struct kage_entry *entries, size_t n,
		      uint64_t now_ns, bool *keep)
{
	uint64_t last = UINT64_MAX;

	for (size_t i = 0; i < n; i++) {
		uint64_t at = entries[i].realtime_ns;
		uint64_t period = tier->every_ns ? at / tier->every_ns : 0;

		if (tier->span_ns && at < now_ns && now_ns - at > tier->span_ns)
			continue;
		if (!tier->every_ns || period != last)
			keep[i] = true;
		last = period;
	}
}

/* Of the images that are kept so far, the oldest go until the rest is small enough. */
static void fit(uint64_t max_bytes, const struct kage_entry *entries, size_t n, bool *keep)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < n; i++)
		bytes += keep[i] ? entries[i].stored_bytes : 0;
	for (size_t i = 0; i + 1 < n && bytes > max_bytes; i++) {
		if (!keep[i] || *entries[i].tags)
			continue;
		keep[i] = false;
		bytes -= entries[i].stored_bytes;
	}
}

void kage_retention_choose(const struct kage_retention *rules, const struct kage_entry *entries,
			   size_t n, uint64_t now_ns, bool *keep)
{
	/* A size alone thins nothing. */
	bool all = !rules->keep_last && !rules->n_tiers;

	for (size_t i = 0; i < n; i++)
		keep[i] = all || i + 1 == n || n - i <= rules->keep_last || *entries[i].tags;
	for (size_t i = 0; i < rules->n_tiers; i++)
		keep_tier(&rules->tiers[i], entries, n, now_ns, keep);
	if (rules->max_bytes)
		fit(rules->max_bytes, entries, n, keep);
}
