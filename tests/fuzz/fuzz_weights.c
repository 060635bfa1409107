/* Any bytes as a file of weights, of whichever kind they turn out to be (most inputs are safetensors; a torch.save() file has a target of its own):
 * refused, or a state dict of which every value can be read and every name be found. */
#include <string.h>

#include "tests/fuzz/fuzz_file.h"
#include "tests/fuzz/fuzz_tensor.h"
#include "trainer/io/statefile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct statefile *file;
	struct err err = { .code = 0 };

	if (statefile_open(&file, fuzz_write(0, data, size), &err) != 0) {
		CHECK(err.code != 0 && memchr(err.message, '\0', sizeof(err.message)) != NULL);
		return 0;
	}
	for (int i = 0; i < statefile_count(file); i++) {
		fuzz_read_tensor(statefile_at(file, i));
		CHECK(statefile_find(file, statefile_at(file, i)->view.name) != NULL);
	}
	const struct tensorfile *tensors = statefile_safetensors(file);
	const char *format = tensors == NULL ? NULL : tensorfile_metadata(tensors, "format");

	CHECK(format == NULL || strlen(format) <= size);
	statefile_close(file);
	return 0;
}
