/* Any bytes as a caption file of the format coco: an error, or a manifest that decodes. */
#include "tests/fuzz/fuzz_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return fuzz_reader(read_coco, data, size);
}
