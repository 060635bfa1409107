/*
 * slot.h - the layout of a batch slot in the shared pool.
 *
 * A slot is a header of SLOT_HEADER_BYTES and eight arrays whose places the
 * header names, so that a reader needs nothing but the header. All numbers
 * are little-endian; arrays are aligned to their element, pixels to 64 bytes.
 *
 * Format: schemas/slot.md.
 */
#ifndef SHARED_WIRE_SLOT_H
#define SHARED_WIRE_SLOT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/err.h"
#include "shared/base/hash.h"

#define SLOT_MAGIC "PPDSLOT1"

enum {
	SLOT_HEADER_BYTES = 192,
	SLOT_PIXEL_ALIGN_BYTES = 64,
	SLOT_PAGE_BYTES = 4096,
	SLOT_SAMPLES_MAX = 1 << 16, /* of one rank's batch */
	SLOT_MAX_LEN_MAX = 1 << 16, /* tokens of a caption */
};
static const uint64_t SLOT_BYTES_MAX = (uint64_t)16 << 30;

enum slot_flags { SLOT_EVALUATION = 1 }; /* wrong_pictures_at is there */

struct slot_header {
	char magic[8];
	uint64_t generation;       /* as in ReadBatch */
	uint64_t epoch;
	uint64_t step;
	uint32_t count;            /* B, samples */
	uint32_t image_count;      /* N, distinct pictures */
	uint32_t token_count;      /* T */
	uint32_t flags;            /* enum slot_flags */
	uint64_t first_position;   /* of sample 0 in the global order of the epoch */
	uint8_t digest[HASH_BYTES];
	uint64_t pixels_at;        /* bytes from the start of the slot */
	uint64_t pixels_bytes;
	uint64_t image_index_at;   /* u32 (B) */
	uint64_t token_offsets_at; /* u32 (B+1) */
	uint64_t sample_ids_at;    /* u64 (B) */
	uint64_t pictures_at;      /* u32 (B) */
	uint64_t wrong_pictures_at; /* u32 (B); 0: training */
	uint64_t labels_at;        /* i32 (B) */
	uint64_t ids_at;           /* i32 (T) */
	uint64_t reserved[4];      /* 0 */
};

static_assert(sizeof(struct slot_header) == SLOT_HEADER_BYTES, "slot header");
static_assert(offsetof(struct slot_header, generation) == 8, "slot header");
static_assert(offsetof(struct slot_header, count) == 32, "slot header");
static_assert(offsetof(struct slot_header, first_position) == 48, "slot header");
static_assert(offsetof(struct slot_header, digest) == 56, "slot header");
static_assert(offsetof(struct slot_header, pixels_at) == 88, "slot header");
static_assert(offsetof(struct slot_header, sample_ids_at) == 120, "slot header");
static_assert(offsetof(struct slot_header, ids_at) == 152, "slot header");

/* Where everything goes for batches of at most `samples`; the places do not
 * depend on how full a batch is. */
struct slot_layout {
	uint32_t samples, max_len;
	uint64_t image_bytes; /* of one picture */
	uint64_t sample_ids_at, token_offsets_at, image_index_at, pictures_at, wrong_pictures_at, labels_at, ids_at, pixels_at;
	uint64_t slot_bytes;
};

/* ERR_LIMIT: beyond SLOT_SAMPLES_MAX, SLOT_MAX_LEN_MAX or SLOT_BYTES_MAX. */
MUST_USE int slot_layout_init(struct slot_layout *out, uint32_t samples, uint64_t image_bytes, uint32_t max_len,
			      bool training, struct err *err);

/* For a reader: header and every array inside slot_bytes, the offsets of tokens
 * ascending to token_count, every image index below image_count, pixels of
 * image_count pictures of image_bytes. ERR_PROTOCOL says what is wrong. */
MUST_USE int slot_check(const void *slot, uint64_t slot_bytes, uint64_t image_bytes, struct err *err);

#endif
