/*
 * fuzz_reader.h - runs one format's reader over any bytes, then finishes the listing.
 *
 * The first byte picks the options: every picture "exists", so that what lies behind finding it is reached, or none but those with
 * an absolute name that there is; some are drawn or all are taken.
 */
#ifndef TESTS_FUZZ_FUZZ_READER_H
#define TESTS_FUZZ_FUZZ_READER_H

#include <stdint.h>
#include <string.h>

#include "preprocessd/dataset/reader.h"
#include "shared/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_finish(struct listing *listing, bool fail_some)
{
	struct manifest *manifest = NULL, *again = NULL;
	struct buf bytes = BUF_INIT;
	struct err err = { .code = ERR_FORMAT, .message = "bad" };

	for (uint32_t i = 0; i < listing_picture_count(listing); i++) {
		const char *path = listing_picture_path(listing, i);
		struct hash hash;

		hash_bytes(&hash, path, strlen(path) > 3 ? 3 : strlen(path)); /* some are the same */
		if (fail_some && i % 5 == 1)
			CHECK(listing_set_failure(listing, i, &err) == 0);
		else
			listing_set_hash(listing, i, &hash);
	}
	if (listing_finish(listing, &manifest, &err) == 0) {
		CHECK(manifest_encode(manifest, &bytes, &err) == 0);
		CHECK(manifest_decode(&again, bytes.data, bytes.size, &err) == 0);
	}
	manifest_free(manifest);
	manifest_free(again);
	buf_free(&bytes);
}

static int fuzz_reader(reader_format read, const uint8_t *data, size_t size)
{
	struct folder folder = { .path = (char *)"/pictures", .split = NO_SPLIT };
	struct folders folders = { .items = &folder, .count = 1, .trust = true };
	struct listing *listing;
	struct err err;

	if (size == 0)
		return 0;
	CHECK(listing_open(&listing, &err) == 0);
	CHECK((listing->files = mem_zalloc(sizeof(*listing->files))) != NULL);
	listing->files[0].name = mem_strdup("fuzz");
	listing->file_count = 1;
	listing->skip_bad = (data[0] & 1) != 0;
	struct reader reader = { .listing = listing, .folders = &folders, .name = "fuzz", .file_split = NO_SPLIT,
				 .default_split = NO_SPLIT };
	if (data[0] & 2) {
		reader.by_ratio = true;
		CHECK(ratio_parse(listing, "train=0.7,val=0.3", data[0], &err) == 0);
	} else {
		CHECK(listing_split(listing, "train", 5, &reader.default_split, &err) == 0);
	}
	folders.trust = (data[0] & 4) == 0;
	if (data[0] & 8) {
		reader.columns_given = true;
		reader.columns[COLUMN_IMAGE] = "2";
		reader.columns[COLUMN_CAPTION] = "a";
	}
	int code = read(&reader, (const char *)data + 1, size - 1, &err);

	if (code == 0 && (data[0] & 32) != 0 && listing->caption_count > 0)
		code = listing_draw(listing, 1 + (data[0] >> 6), size, &err);
	if (code == 0 && missing_settle(listing, &folders, (data[0] & 32) != 0, &err) == 0)
		fuzz_finish(listing, (data[0] & 16) != 0);
	reader_close(&reader);
	listing_free(listing);
	return 0;
}

#endif
