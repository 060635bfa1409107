/* Any bytes as a manifest: found damaged, or safe to use. The version would stop nearly every
 * input, so it is left out. */
#include <stdint.h>
#include <string.h>

#include "preprocessd/dataset/blob.h"
#include "shared/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct manifest *manifest)
{
	struct manifest_part *part;
	struct err err;

	if (manifest_part_open(&part, manifest, "all", &err) != 0)
		return;
	uint32_t *wrong = mem_array((size_t)part->caption_count + 1, sizeof(*wrong));
	CHECK(wrong != NULL && manifest_eval_pairs(manifest, part, "all", wrong, &err) == 0);
	for (uint32_t i = 0; i < part->caption_count; i++)
		CHECK(wrong[i] == UINT32_MAX || wrong[i] < part->picture_count);
	mem_free(wrong);
	manifest_part_free(part);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hash version;
	struct blob *blob;
	struct err err;
	uint8_t *copy = mem_alloc(size); /* of its own, so that reading beyond it is seen */

	memcpy(copy, data, size);
	if (blob_decode(&blob, copy, size, &version, &err) == 0) {
		use(&blob->view);
		manifest_free(&blob->view);
	}
	mem_free(copy);
	return 0;
}
