/* Any bytes as a file of torch.save(): refused, or a state dict of which every value can be read. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/mem.h"
#include "tests/fuzz/fuzz_tensor.h"
#include "trainer/io/pickle.h"
#include "trainer/io/torchfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_file(const uint8_t *data, size_t size)
{
	struct torchfile *file;
	struct err err = { .code = 0 };

	if (torchfile_parse(&file, "fuzz", data, size, &err) != 0) {
		CHECK(err.code != 0 && memchr(err.message, '\0', sizeof(err.message)) != NULL);
		return;
	}
	for (int i = 0; i < torchfile_count(file); i++)
		fuzz_read_tensor(torchfile_at(file, i));
	torchfile_close(file);
}

/* The machine alone: the archive around a program hides most of it from mutation. */
static void run_program(const uint8_t *data, size_t size)
{
	struct pickle *pickle;
	struct err err;
	uint32_t result;
	size_t at = 0;

	CHECK(pickle_open(&pickle, "fuzz", &err) == 0);
	while (at < size && pickle_run(pickle, data, size, &at, &result, &err) == 0)
		CHECK(pickle_kind_name(pickle_value(pickle, result)->kind) != NULL);
	pickle_close(pickle);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* a copy of its own, so that reading beyond the end is seen */
	uint8_t *copy = size == 0 ? NULL : malloc(size);

	if (copy == NULL)
		return 0;
	memcpy(copy, data, size);
	read_file(copy, size);
	run_program(copy, size);
	free(copy);
	return 0;
}
