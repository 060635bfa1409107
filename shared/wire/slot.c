#include "shared/wire/slot.h"

#include <string.h>

static uint64_t place(uint64_t *at, uint64_t bytes, uint64_t align)
{
	uint64_t here = (*at + align - 1) / align * align;

	*at = here + bytes;
	return here;
}

int slot_layout_init(struct slot_layout *out, uint32_t samples, uint64_t image_bytes, uint32_t max_len, bool training,
		     struct err *err)
{
	uint64_t at = SLOT_HEADER_BYTES, b = samples;

	if (samples == 0 || samples > SLOT_SAMPLES_MAX)
		return err_set(err, ERR_LIMIT, "a batch of %u samples for one client; it must be 1 to %d", samples,
			       SLOT_SAMPLES_MAX);
	if (max_len < 2 || max_len > SLOT_MAX_LEN_MAX)
		return err_set(err, ERR_LIMIT, "a maximum length of %u tokens; it must be 2 to %d", max_len, SLOT_MAX_LEN_MAX);
	if (image_bytes > SLOT_BYTES_MAX / b || b * image_bytes + 4 * b * max_len + 64 * b + SLOT_PAGE_BYTES > SLOT_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "a batch of %u pictures of %llu bytes is beyond the limit of %llu GiB; "
			       "take a smaller batch or picture size", samples, (unsigned long long)image_bytes,
			       (unsigned long long)(SLOT_BYTES_MAX >> 30));
	*out = (struct slot_layout){ .samples = samples, .max_len = max_len, .image_bytes = image_bytes };
	out->sample_ids_at = place(&at, 8 * b, 8);
	out->token_offsets_at = place(&at, 4 * (b + 1), 4);
	out->image_index_at = place(&at, 4 * b, 4);
	out->pictures_at = place(&at, 4 * b, 4);
	out->labels_at = place(&at, 4 * b, 4);
	out->wrong_pictures_at = training ? 0 : place(&at, 4 * b, 4);
	out->ids_at = place(&at, 4 * b * max_len, 4);
	out->pixels_at = place(&at, b * image_bytes, SLOT_PIXEL_ALIGN_BYTES);
	out->slot_bytes = (at + SLOT_PAGE_BYTES - 1) / SLOT_PAGE_BYTES * SLOT_PAGE_BYTES;
	return 0;
}

static bool inside(uint64_t at, uint64_t count, uint64_t size, uint64_t align, uint64_t slot_bytes)
{
	return at >= SLOT_HEADER_BYTES && at % align == 0 && at <= slot_bytes && (size == 0 || count <= (slot_bytes - at) / size);
}

int slot_check(const void *slot, uint64_t slot_bytes, uint64_t image_bytes, struct err *err)
{
	const struct slot_header *h = slot;

	if (slot_bytes < SLOT_HEADER_BYTES || memcmp(h->magic, SLOT_MAGIC, sizeof(h->magic)) != 0)
		return err_set(err, ERR_PROTOCOL, "a batch slot without its header");
	uint64_t b = h->count;
	if (!inside(h->sample_ids_at, b, 8, 8, slot_bytes) || !inside(h->token_offsets_at, b + 1, 4, 4, slot_bytes) ||
	    !inside(h->image_index_at, b, 4, 4, slot_bytes) || !inside(h->pictures_at, b, 4, 4, slot_bytes) ||
	    !inside(h->labels_at, b, 4, 4, slot_bytes) || !inside(h->ids_at, h->token_count, 4, 4, slot_bytes) ||
	    !inside(h->pixels_at, h->image_count, image_bytes, SLOT_PIXEL_ALIGN_BYTES, slot_bytes) ||
	    ((h->flags & SLOT_EVALUATION) && !inside(h->wrong_pictures_at, b, 4, 4, slot_bytes)) ||
	    h->image_count > b || h->pixels_bytes != h->image_count * image_bytes)
		return err_set(err, ERR_PROTOCOL, "a batch slot whose arrays lie outside it");
	const uint32_t *offsets = (const uint32_t *)((const char *)slot + h->token_offsets_at);
	const uint32_t *image_index = (const uint32_t *)((const char *)slot + h->image_index_at);
	if (offsets[0] != 0 || offsets[b] != h->token_count)
		return err_set(err, ERR_PROTOCOL, "a batch slot whose token offsets do not fit its tokens");
	for (uint64_t i = 0; i < b; i++)
		if (offsets[i] > offsets[i + 1] || image_index[i] >= h->image_count)
			return err_set(err, ERR_PROTOCOL, "a batch slot with a wrong index at sample %llu",
				       (unsigned long long)i);
	return 0;
}
