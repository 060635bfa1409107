#include "preprocessd/codec/resize_kernels.h"

#include "shared/base/mem.h"

static int pack_nothing(struct resize_packed *packed, const struct resize_plan *plan, int channels, struct err *err)
{
	(void)packed, (void)plan, (void)channels, (void)err;
	return 0;
}

static void horizontal_row(const struct resize_plan *plan, int channels, const uint8_t *source, uint8_t *out)
{
	const int32_t *weight = plan->weight;

	for (uint32_t i = 0; i < plan->target; i++, weight += plan->taps_max, out += channels) {
		const uint8_t *window = source + (ptrdiff_t)plan->first[i] * channels;

		for (int c = 0; c < channels; c++) {
			uint32_t sum = RESIZE_ROUNDING;

			for (int32_t t = 0; t < plan->count[i]; t++)
				sum += (uint32_t)weight[t] * window[t * channels + c];
			out[c] = resize_round(sum);
		}
	}
}

static void horizontal(const struct resize_plan *plan, const struct resize_packed *packed, int channels,
		       const uint8_t *source, size_t source_stride, int rows, uint8_t *out, size_t out_stride)
{
	(void)packed;
	for (int y = 0; y < rows; y++)
		horizontal_row(plan, channels, source + (size_t)y * source_stride, out + (size_t)y * out_stride);
}

static void vertical(const struct resize_plan *plan, const struct resize_packed *packed, uint32_t at,
		     const uint8_t *const *rows, size_t bytes, uint8_t *out)
{
	const int32_t *weight = plan->weight + (size_t)at * (size_t)plan->taps_max;
	const int32_t count = plan->count[at];

	(void)packed;
	for (size_t x = 0; x < bytes; x++) {
		uint32_t sum = RESIZE_ROUNDING;

		for (int32_t t = 0; t < count; t++)
			sum += (uint32_t)weight[t] * rows[t][x];
		out[x] = resize_round(sum);
	}
}

const struct resize_kernels RESIZE_PORTABLE = {
	.name = "portable", .pack = pack_nothing, .horizontal = horizontal, .vertical = vertical,
};

const struct resize_kernels *resize_kernels_best(void)
{
	const struct resize_kernels *best = resize_kernels_avx512();

	if (best == NULL)
		best = resize_kernels_avx2();
	return best != NULL ? best : &RESIZE_PORTABLE;
}

int resize_packed_reserve(struct resize_packed *packed, size_t bytes, struct err *err)
{
	if (bytes <= packed->capacity)
		return 0;
	mem_free(packed->bytes);
	packed->capacity = 0;
	if ((packed->bytes = mem_aligned(bytes)) == NULL)
		return err_nomem(err, bytes);
	packed->capacity = bytes;
	return 0;
}

void resize_packed_free(struct resize_packed *packed)
{
	mem_free(packed->bytes);
	*packed = (struct resize_packed){ 0 };
}
