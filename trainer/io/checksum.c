#include "trainer/io/checksum.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/hash.h"

const char *const checksum_keys[META_COUNT] = { "format", "step",    "progress", "config",
						"model",  "dataset", "partner",  "train_seconds" };
const char checksum_format[] = "trainer-checkpoint-1";

struct tensor_sum {
	uint64_t name, values;
	int64_t shape[TENSOR_RANK_MAX];
	int64_t dtype, rank;
};

/* XXH3 over the chain of every tensor and every metadata value. */
static uint64_t sum_tensor(uint64_t chain, const struct tensor_view *view)
{
	struct tensor_sum sum = { 0 };
	uint64_t link[2];

	sum.name = hash_checksum(view->name, strlen(view->name));
	sum.values = hash_checksum(view->data, view->bytes);
	sum.dtype = (int64_t)view->dtype;
	sum.rank = view->rank;
	memcpy(sum.shape, view->shape, (size_t)view->rank * sizeof(sum.shape[0]));
	link[0] = chain;
	link[1] = hash_checksum(&sum, sizeof(sum));
	return hash_checksum(link, sizeof(link));
}

static void finish(uint64_t chain, const char *const values[META_COUNT], char out[CHECKSUM_TEXT_BYTES])
{
	for (int i = 0; i < META_COUNT; i++) {
		uint64_t link[2] = { chain, values[i] == NULL ? 0 : hash_checksum(values[i], strlen(values[i])) };

		chain = hash_checksum(link, sizeof(link));
	}
	snprintf(out, CHECKSUM_TEXT_BYTES, "%016" PRIx64, chain);
}

void checksum_compute(const struct tensor_view *views, int count, const char *const values[META_COUNT], char out[CHECKSUM_TEXT_BYTES])
{
	uint64_t chain = 0;

	for (int i = 0; i < count; i++)
		chain = sum_tensor(chain, &views[i]);
	finish(chain, values, out);
}

int checksum_verify(const struct tensorfile *file, bool *ours, struct err *err)
{
	const char *recorded = tensorfile_metadata(file, "checksum");
	const char *values[META_COUNT];
	char actual[CHECKSUM_TEXT_BYTES];
	uint64_t chain = 0;

	for (int i = 0; i < META_COUNT; i++)
		values[i] = tensorfile_metadata(file, checksum_keys[i]);
	/* Either word makes it ours: a bit that turned in the name of the one may not hide the damage. */
	*ours = recorded != NULL || (values[META_FORMAT] != NULL && strcmp(values[META_FORMAT], checksum_format) == 0);
	if (!*ours)
		return 0;
	if (recorded == NULL)
		return err_set(err, ERR_CORRUPT, "%s: damaged (it carries no checksum)", tensorfile_path(file));
	for (int i = 0; i < tensorfile_count(file); i++)
		chain = sum_tensor(chain, tensorfile_at(file, i));
	finish(chain, values, actual);
	if (strcmp(recorded, actual) != 0)
		return err_set(err, ERR_CORRUPT, "%s: damaged (its checksum is %.32s, its content gives %s)", tensorfile_path(file),
			       recorded, actual);
	return 0;
}
