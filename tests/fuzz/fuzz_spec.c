/*
 * What says what is to be done: the first byte picks --reg's text, the file of a study, the configuration in run.json, or the
 * config.json of a BERT. Each is refused, or what is written of it is read again as the same.
 */
#include <string.h>

#include "shared/base/mem.h"
#include "tests/fuzz/fuzz_file.h"
#include "trainer/model/hf_config.h"
#include "trainer/reg/spec.h"
#include "trainer/study/spec.h"
#include "trainer/train/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void regularizer(const char *text)
{
	char said[REG_TEXT_BYTES], again[REG_TEXT_BYTES];
	struct reg_spec spec;
	struct err err;

	if (reg_spec_parse(&spec, text, &err) != 0)
		return;
	reg_spec_text(&spec, said);
	CHECK(reg_spec_parse(&spec, said, &err) == 0);
	reg_spec_text(&spec, again);
	CHECK(strcmp(said, again) == 0);
}

static void study(const uint8_t *data, size_t size)
{
	static struct study_spec first, second;
	struct buf text = BUF_INIT;
	struct err err;

	study_spec_init(&first);
	if (study_spec_read(&first, fuzz_write(0, data, size), &err) == 0 && study_spec_resolve(&first, &err) == 0) {
		first.threads = first.threads < 0 ? 1 : first.threads; /* decided before a study is written */
		CHECK(study_spec_write(&first, &text, &err) == 0 && buf_add_text(&text, "\n}\n", &err) == 0);
		study_spec_init(&second);
		CHECK(study_spec_read(&second, fuzz_write(1, text.data, text.size), &err) == 0);
		CHECK(study_spec_resolve(&second, &err) == 0 && study_spec_same(&first, &second, "fuzz", &err) == 0);
	}
	buf_free(&text);
}

static int read_run(struct run_config *config, const void *data, size_t size, struct err *err)
{
	struct json_reader reader;

	run_config_init(config);
	json_reader_init(&reader, "fuzz", data, size);
	int code = run_config_read(config, &reader, err);
	json_reader_free(&reader);
	return code;
}

static void run(const uint8_t *data, size_t size)
{
	struct run_config config, again;
	struct buf text = BUF_INIT, second = BUF_INIT;
	struct run_plan plan;
	struct err err;

	if (read_run(&config, data, size, &err) == 0) {
		CHECK(run_config_write(&config, &text, &err) == 0);
		CHECK(read_run(&again, text.data, text.size, &err) == 0);
		CHECK(run_config_write(&again, &second, &err) == 0);
		CHECK(text.size == second.size && memcmp(text.data, second.data, text.size) == 0);
		run_config_free(&again);
		(void)!run_config_resolve(&config, &plan, &err);
	}
	run_config_free(&config);
	buf_free(&text);
	buf_free(&second);
}

static void bert(const uint8_t *data, size_t size)
{
	struct bert_config config = { .pad_id = 0 };
	struct err err;

	if (hf_config_read(&config, fuzz_write(0, data, size), &err) == 0)
		CHECK(config.layers > 0 && config.width > 0 && config.heads > 0 && config.inner > 0 && config.max_positions > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0] % 4) {
	case 0: {
		char *text = malloc(size); /* ends where it ends, so that reading beyond is seen */

		if (text == NULL)
			break;
		memcpy(text, data + 1, size - 1);
		text[size - 1] = '\0';
		regularizer(text);
		free(text);
		break;
	}
	case 1:
		study(data + 1, size - 1);
		break;
	case 2:
		run(data + 1, size - 1);
		break;
	default:
		bert(data + 1, size - 1);
		break;
	}
	return 0;
}
