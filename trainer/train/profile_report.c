/* --profile: what was measured, as tables and as DIR/profile.json (schemas/run.md). */
#include <inttypes.h>
#include <stdio.h>

#include "shared/base/fs.h"
#include "shared/base/plural.h"
#include "trainer/kernels/peak.h"
#include "trainer/kernels/profile.h"
#include "trainer/train/session.h"

/* A quarter of a second each, after the run, when nothing of it competes. */
static const double peak_seconds = 0.25;

struct limits {
	double flops, bytes; /* a second */
};

/* Of all kinds of one part or all parts of one kind; kind PROFILE_KINDS, part PROFILE_PARTS: all. */
static struct profile_cell total_of(const struct profile *profile, enum profile_part part, enum profile_kind kind)
{
	struct profile_cell sum = { 0 };

	for (int p = 0; p < PROFILE_PARTS; p++)
		for (int k = 0; k < PROFILE_KINDS; k++) {
			const struct profile_cell *cell = &profile->cell[p][k];

			if ((part != PROFILE_PARTS && p != (int)part) || (kind != PROFILE_KINDS && k != (int)kind))
				continue;
			sum.seconds += cell->seconds;
			sum.flops += cell->flops;
			sum.bytes += cell->bytes;
			sum.calls += cell->calls;
		}
	return sum;
}

static void print_line(const char *name, const struct profile_cell *cell, const struct profile *profile, struct limits limits)
{
	double steps = (double)profile->steps;

	printf("%-30s %9.4f %6.1f%% %7.0f", name, cell->seconds / steps, 100 * cell->seconds / profile->seconds,
	       (double)cell->calls / steps);
	if (cell->flops > 0 && cell->seconds > 0)
		printf(" %9.1f %6.1f%%", cell->flops / cell->seconds / 1e9, 100 * cell->flops / cell->seconds / limits.flops);
	else
		printf(" %9s %7s", "", "");
	if (cell->bytes > 0 && cell->seconds > 0)
		printf(" %7.1f", cell->bytes / cell->seconds / 1e9);
	printf("\n");
}

static void print_tables(const struct session *s, const struct profile *profile, struct limits limits)
{
	struct profile_cell all = total_of(profile, PROFILE_PARTS, PROFILE_KINDS);

	printf("%" PRIu64 " step%s of %.4f s on %d thread%s", profile->steps, plural(profile->steps), profile->seconds / (double)profile->steps, s->threads,
	       plural((uint64_t)s->threads));
	if (profile->first_seconds > 0)
		printf(" (the first, %.4f s, left out)", profile->first_seconds);
	printf("; measured limits: %.0f GFLOP/s (FMA peak), %.1f GB/s read from memory\n\n", limits.flops / 1e9, limits.bytes / 1e9);
	printf("%-30s %9s %7s %7s %9s %7s %7s\n", "operation, per step", "seconds", "share", "calls", "GFLOP/s", "of peak", "GB/s");
	for (int k = 0; k < PROFILE_KINDS; k++) {
		struct profile_cell sum = total_of(profile, PROFILE_PARTS, (enum profile_kind)k);

		if (sum.calls > 0 || k == KIND_OTHER)
			print_line(profile_kind_name((enum profile_kind)k), &sum, profile, limits);
	}
	print_line("step", &all, profile, limits);
	printf("\n%-30s %9s %7s %7s %9s %7s %7s\n", "part of the step", "seconds", "share", "calls", "GFLOP/s", "of peak", "GB/s");
	for (int p = 0; p < PROFILE_PARTS; p++) {
		struct profile_cell sum = total_of(profile, (enum profile_part)p, PROFILE_KINDS);

		if (sum.calls > 0 || p == PART_OTHER)
			print_line(profile_part_name((enum profile_part)p), &sum, profile, limits);
	}
}

/* ,"seconds": ... of the steps together */
static int add_cell(struct buf *out, const struct profile_cell *cell, struct err *err)
{
	return buf_printf(out, err, "\"seconds\": %.9g, \"calls\": %" PRIu64 ", \"flops\": %.17g, \"bytes\": %.17g}", cell->seconds,
			  cell->calls, cell->flops, cell->bytes);
}

static int add_cells(struct buf *out, const struct profile *profile, struct err *err)
{
	const char *comma = "";
	int code;

	for (int p = 0; p < PROFILE_PARTS; p++)
		for (int k = 0; k < PROFILE_KINDS; k++) {
			const struct profile_cell *cell = &profile->cell[p][k];

			if (cell->calls == 0 && k != KIND_OTHER)
				continue;
			if ((code = buf_printf(out, err, "%s\n    {\"part\": \"%s\", \"kind\": \"%s\", ", comma,
					       profile_part_name((enum profile_part)p), profile_kind_name((enum profile_kind)k))) != 0 ||
			    (code = add_cell(out, cell, err)) != 0)
				return code;
			comma = ",";
		}
	return 0;
}

static int add_shapes(struct buf *out, const struct profile *profile, struct err *err)
{
	int code;

	for (int i = 0; i < profile->shape_count; i++) {
		const struct profile_shape *shape = &profile->shapes[i];
		const int *n = shape->number;

		code = shape->kind <= KIND_CONV_WEIGHTS
			       ? buf_printf(out, err,
					    "%s\n    {\"kind\": \"%s\", \"pictures\": %d, \"in\": %d, \"out\": %d, \"kernel\": %d, "
					    "\"stride\": %d, \"height\": %d, ",
					    i == 0 ? "" : ",", profile_kind_name(shape->kind), n[0], n[1], n[2], n[3], n[4], n[5])
			       : buf_printf(out, err, "%s\n    {\"kind\": \"%s\", \"rows\": %d, \"in\": %d, \"out\": %d, ",
					    i == 0 ? "" : ",", profile_kind_name(shape->kind), n[0], n[1], n[2]);
		if (code != 0 || (code = add_cell(out, &shape->cell, err)) != 0)
			return code;
	}
	return 0;
}

static int write_json(const struct session *s, const struct profile *profile, struct limits limits, const char *path, struct err *err)
{
	struct buf out = BUF_INIT;
	int code;

	if ((code = buf_printf(&out, err,
			       "{\n  \"program\": \"trainer\", \"format\": 1, \"threads\": %d, \"steps\": %" PRIu64
			       ", \"seconds\": %.9g, \"first_seconds\": %.9g,\n  \"samples_per_step\": %lld, \"peak_flops_per_s\": %.9g, "
			       "\"memory_bytes_per_s\": %.9g,\n  \"cells\": [",
			       s->threads, profile->steps, profile->seconds, profile->first_seconds,
			       (long long)(step_batch_samples(s) * step_batches(s)), limits.flops, limits.bytes)) != 0 ||
	    (code = add_cells(&out, profile, err)) != 0 || (code = buf_add_text(&out, "\n  ],\n  \"shapes\": [", err)) != 0 ||
	    (code = add_shapes(&out, profile, err)) != 0 || (code = buf_add_text(&out, "\n  ]\n}\n", err)) != 0)
		goto out;
	code = fs_write_atomic(path, out.data, out.size, err);
out:
	buf_free(&out);
	return code;
}

int profile_report(const struct session *s, const char *path, struct err *err)
{
	const struct profile *profile = profile_result();
	struct limits limits;

	if (profile->steps == 0)
		return 0;
	limits = (struct limits){ peak_fma_flops(peak_seconds), peak_read_bytes(peak_seconds) };
	if (!s->options->quiet)
		print_tables(s, profile, limits);
	return path == NULL ? 0 : write_json(s, profile, limits, path, err);
}
