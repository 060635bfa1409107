/* Any bytes: the parser ends, and an accepted document has balanced events. */
#include <stdint.h>
#include <stdlib.h>

#include "shared/base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct json_reader reader;
	struct buf out = BUF_INIT;
	struct err err;
	int64_t i;
	double d;
	int depth = 0;

	json_reader_init(&reader, "fuzz", data, size);
	reader.lenient_utf8 = size > 0 && (data[size - 1] & 1) != 0;
	while (json_next(&reader, &err) == 0 && reader.kind != JSON_END) {
		depth += reader.kind == JSON_OBJECT_BEGIN || reader.kind == JSON_ARRAY_BEGIN;
		depth -= reader.kind == JSON_OBJECT_END || reader.kind == JSON_ARRAY_END;
		CHECK(depth == reader.depth && reader.at <= size);
		if (reader.kind == JSON_NUMBER && json_int(&reader, &i, &err) != 0 && json_real(&reader, &d, &err) == 0)
			CHECK(json_add_real(&out, d, &err) == 0);
		if (reader.kind == JSON_STRING)
			CHECK(json_add_string(&out, reader.text.data, reader.text.size, &err) == 0);
	}
	buf_free(&out);
	json_reader_free(&reader);
	return 0;
}
