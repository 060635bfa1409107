#include "shared/wire/features.h"

#include "shared/base/mem.h"

enum { ALIGN_BYTES = 64 };

uint32_t features_rows_max(uint32_t width)
{
	uint64_t each = 4 * (uint64_t)width + 16, rows = (FEATURES_BYTES_MAX - ALIGN_BYTES) / each;

	return rows < 1 ? 1 : rows > FEATURES_ROWS_MAX ? FEATURES_ROWS_MAX : (uint32_t)rows;
}

int features_layout_init(struct features_layout *out, uint32_t rows, uint32_t width, struct err *err)
{
	if (width == 0 || width > FEATURES_WIDTH_MAX)
		return err_set(err, ERR_LIMIT, "features of %u numbers; it must be 1 to %d", width, FEATURES_WIDTH_MAX);
	if (rows == 0 || rows > features_rows_max(width))
		return err_set(err, ERR_LIMIT, "%u rows of features at a time; it must be 1 to %u", rows, features_rows_max(width));
	out->found_at = 8 * (uint64_t)rows;
	out->values_at = size_round_up(out->found_at + rows, ALIGN_BYTES);
	out->bytes = out->values_at + 4 * (uint64_t)rows * width;
	return 0;
}
