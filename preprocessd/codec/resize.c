#include "preprocessd/codec/resize.h"

#include <string.h>

#include "shared/base/mem.h"

enum {
	PLANS_KEPT = 32, /* pictures of one data set have few different sizes */
	/* The ring has whole groups of rows and one to spare, so that a caller who
	 * hands in such groups has each go through the horizontal pass at once. */
	ROW_GROUP = 8,
};

struct kept_plan {
	struct resize_plan plan;
	struct resize_packed packed;
	int channels; /* what it is packed for: 1 or 3 for the horizontal pass, 0 for the vertical one */
	uint64_t last_used;
};

struct resize {
	const struct resize_kernels *kernels;
	struct kept_plan kept[PLANS_KEPT];
	uint64_t uses;

	/* The picture under way. */
	struct resize_spec spec;
	uint8_t *out;
	const struct kept_plan *columns; /* along a source row */
	const struct kept_plan *rows;    /* down the source rows */
	uint32_t rows_in, rows_out;      /* source rows taken, entries of the row plan done */

	/* The last `ring_rows` rows: source rows if transposed, else rows that
	 * went through the horizontal pass. Source row y lies in slot y % ring_rows. */
	uint8_t *ring;
	size_t ring_capacity, ring_stride, row_bytes;
	uint32_t ring_rows;
	const uint8_t **window; /* the rows of one output row, in order */
	size_t window_capacity;
	uint8_t *line; /* one row between the passes, or in front of the gray copy */
	size_t line_capacity;
};

int resize_open(struct resize **out, const struct resize_kernels *kernels, struct err *err)
{
	struct resize *resize = mem_zalloc(sizeof(*resize));

	*out = NULL;
	if (resize == NULL)
		return err_nomem(err, sizeof(*resize));
	resize->kernels = kernels != NULL ? kernels : resize_kernels_best();
	*out = resize;
	return 0;
}

void resize_close(struct resize *resize)
{
	if (resize == NULL)
		return;
	for (int i = 0; i < PLANS_KEPT; i++) {
		resize_plan_free(&resize->kept[i].plan);
		resize_packed_free(&resize->kept[i].packed);
	}
	mem_free(resize->ring);
	mem_free(resize->window);
	mem_free(resize->line);
	mem_free(resize);
}

static int reserve(uint8_t **bytes, size_t *capacity, size_t wanted, struct err *err)
{
	if (wanted <= *capacity)
		return 0;
	mem_free(*bytes);
	*capacity = 0;
	if ((*bytes = mem_aligned(wanted)) == NULL)
		return err_nomem(err, wanted);
	*capacity = wanted;
	return 0;
}

/* The plan of an axis, from the kept ones or built in place of the one that
 * was not used for longest. channels: as in struct kept_plan.
 * `other` is in use by this picture and stays. */
static int plan_for(struct resize *resize, uint32_t source, bool flip, int channels, const struct kept_plan *other,
		    const struct kept_plan **out, struct err *err)
{
	struct kept_plan *oldest = NULL;
	int code;

	for (int i = 0; i < PLANS_KEPT; i++) {
		struct kept_plan *kept = &resize->kept[i];

		if (kept->plan.source == source && kept->plan.target == resize->spec.size && kept->plan.flip == flip &&
		    kept->channels == channels) {
			kept->last_used = ++resize->uses;
			*out = kept;
			return 0;
		}
		if (kept != other && (oldest == NULL || kept->last_used < oldest->last_used))
			oldest = kept;
	}
	if ((code = resize_plan_build(&oldest->plan, source, resize->spec.size, flip, err)) != 0)
		return code;
	oldest->channels = channels;
	if ((code = resize->kernels->pack(&oldest->packed, &oldest->plan, channels, err)) != 0) {
		oldest->plan.source = 0; /* matches no picture */
		return code;
	}
	oldest->last_used = ++resize->uses;
	*out = oldest;
	return 0;
}

int resize_begin(struct resize *resize, const struct resize_spec *spec, uint8_t *out, struct err *err)
{
	const size_t channels = (size_t)spec->channels;
	size_t ring_bytes, line_bytes;
	int code;

	CHECK(spec->channels == 1 || spec->channels == 3);
	resize->spec = *spec;
	resize->out = out;
	resize->rows_in = resize->rows_out = 0;
	if ((code = plan_for(resize, spec->height, spec->flip_y, 0, NULL, &resize->rows, err)) != 0 ||
	    (code = plan_for(resize, spec->width, spec->flip_x, spec->channels, resize->rows, &resize->columns, err)) != 0)
		return code;
	resize->row_bytes = (spec->transpose ? spec->width : spec->size) * channels;
	resize->ring_rows = (uint32_t)size_round_up((size_t)resize->rows->plan.taps_max, ROW_GROUP) + ROW_GROUP;
	resize->ring_stride = size_round_up(resize->row_bytes + RESIZE_SLACK_BYTES, MEM_ALIGN_BYTES);
	CHECK(size_mul(resize->ring_rows, resize->ring_stride, &ring_bytes));
	line_bytes = (spec->width > spec->size ? spec->width : spec->size) * channels + RESIZE_SLACK_BYTES;
	/* The line between the passes and, behind it, the line that leaves the last pass. */
	line_bytes = 2 * size_round_up(line_bytes, MEM_ALIGN_BYTES);
	if ((code = reserve(&resize->ring, &resize->ring_capacity, ring_bytes, err)) != 0 ||
	    (code = reserve(&resize->line, &resize->line_capacity, line_bytes, err)) != 0)
		return code;
	if (resize->ring_rows > resize->window_capacity) {
		void *window = mem_realloc_array(resize->window, resize->ring_rows, sizeof(*resize->window));

		if (window == NULL)
			return err_nomem(err, resize->ring_rows * sizeof(*resize->window));
		resize->window = window;
		resize->window_capacity = resize->ring_rows;
	}
	return 0;
}

static void pass_horizontal(const struct resize *resize, const uint8_t *source, size_t stride, int rows, uint8_t *out,
			    size_t out_stride)
{
	const struct kept_plan *columns = resize->columns;

	resize->kernels->horizontal(&columns->plan, &columns->packed, resize->spec.channels, source, stride, rows, out,
				    out_stride);
}

/* Finished samples of output row (or, transposed, column) `at`. */
static void deliver(const struct resize *resize, const uint8_t *samples, uint32_t at)
{
	const size_t size = resize->spec.size;
	const size_t step = resize->spec.transpose ? size * 3 : 3;
	uint8_t *out = resize->out + at * (resize->spec.transpose ? 3 : size * 3);

	if (resize->spec.channels == 1) {
		for (size_t i = 0; i < size; i++)
			out[i * step] = out[i * step + 1] = out[i * step + 2] = samples[i];
		return;
	}
	for (size_t i = 0; i < size; i++) {
		out[i * step] = samples[3 * i];
		out[i * step + 1] = samples[3 * i + 1];
		out[i * step + 2] = samples[3 * i + 2];
	}
}

/* The row that entry `at` of the row plan makes from the ring. */
static void emit(struct resize *resize, uint32_t at)
{
	const struct resize_plan *plan = &resize->rows->plan;
	const bool in_place = !resize->spec.transpose && resize->spec.channels == 3;
	uint8_t *target = in_place ? resize->out + (size_t)at * resize->spec.size * 3 : resize->line;
	uint32_t slot = (uint32_t)plan->first[at] % resize->ring_rows;

	for (int32_t t = 0; t < plan->count[at]; t++) {
		resize->window[t] = resize->ring + slot * resize->ring_stride;
		if (++slot == resize->ring_rows)
			slot = 0;
	}
	if (plan->identity)
		memcpy(target, resize->window[0], resize->row_bytes);
	else
		resize->kernels->vertical(plan, &resize->rows->packed, at, resize->window, resize->row_bytes, target);
	if (resize->spec.transpose) {
		uint8_t *last = resize->line + resize->line_capacity / 2;

		pass_horizontal(resize, target, 0, 1, last, 0);
		target = last;
	}
	if (!in_place)
		deliver(resize, target, at);
}

/* Every output row whose last source row is in. */
static void emit_ready(struct resize *resize)
{
	const struct resize_plan *plan = &resize->rows->plan;

	while (resize->rows_out < plan->target) {
		/* A mirrored plan is finished from its end. */
		uint32_t at = plan->flip ? plan->target - 1 - resize->rows_out : resize->rows_out;

		if ((uint32_t)(plan->first[at] + plan->count[at]) > resize->rows_in)
			break;
		emit(resize, at);
		resize->rows_out++;
	}
}

/* Rows that may enter the ring without covering one that is still needed, at
 * most until its end and at most `count`. */
static int ring_room(const struct resize *resize, int count)
{
	const struct resize_plan *plan = &resize->rows->plan;
	uint32_t slot = resize->rows_in % resize->ring_rows;
	uint32_t room = resize->ring_rows - slot;
	uint32_t oldest = resize->rows_in;

	if (resize->rows_out < plan->target) {
		uint32_t at = plan->flip ? plan->target - 1 - resize->rows_out : resize->rows_out;

		if ((uint32_t)plan->first[at] < oldest)
			oldest = (uint32_t)plan->first[at];
	}
	if (room > oldest + resize->ring_rows - resize->rows_in)
		room = oldest + resize->ring_rows - resize->rows_in;
	return (uint32_t)count < room ? count : (int)room;
}

void resize_rows(struct resize *resize, const uint8_t *rows, size_t stride, int count)
{
	CHECK(resize->rows_in + (uint32_t)count <= resize->spec.height);
	while (count > 0) {
		int taken = ring_room(resize, count);
		uint8_t *slot = resize->ring + resize->rows_in % resize->ring_rows * resize->ring_stride;

		CHECK(taken > 0);
		if (resize->spec.transpose || resize->columns->plan.identity) {
			for (int y = 0; y < taken; y++)
				memcpy(slot + (size_t)y * resize->ring_stride, rows + (size_t)y * stride, resize->row_bytes);
		} else {
			pass_horizontal(resize, rows, stride, taken, slot, resize->ring_stride);
		}
		resize->rows_in += (uint32_t)taken;
		rows += (size_t)taken * stride;
		count -= taken;
		emit_ready(resize);
	}
}
