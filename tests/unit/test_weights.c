/* State dicts: round trip, names of torchvision and Hugging Face, what is reported, and what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/fs.h"
#include "tests/support/scratch.h"
#include "trainer/io/weights.h"
#include "trainer/kernels/kernels.h"
#include "trainer/model/bert.h"
#include "trainer/model/fusion.h"
#include "trainer/model/hf_config.h"
#include "trainer/model/resnet.h"

static struct scratch scratch;

static struct params *open_params(void)
{
	static const struct {
		const char *name;
		enum param_kind kind;
		int rank;
		int64_t shape[2];
	} all[] = {
		{ "image_encoder.conv1.weight", PARAM_WEIGHT, 2, { 4, 3 } },
		{ "image_encoder.bn1.running_mean", PARAM_BUFFER, 1, { 4 } },
		{ "image_encoder.bn1.num_batches_tracked", PARAM_COUNTER, 0, { 0 } },
		{ "image_encoder.fc.weight", PARAM_WEIGHT, 2, { 5, 4 } },
		{ "image_encoder.fc.bias", PARAM_BIAS, 1, { 5 } },
		{ "text_encoder.embeddings.LayerNorm.weight", PARAM_NORM, 1, { 4 } },
		{ "text_encoder.embeddings.LayerNorm.bias", PARAM_NORM, 1, { 4 } },
		{ "text_encoder.pooler.dense.bias", PARAM_UNUSED, 1, { 4 } },
		{ "head.weight", PARAM_WEIGHT, 2, { 2, 5 } },
	};
	struct params *params;
	struct err err;
	int index;

	assert_int_equal(params_open(&params, &err), 0);
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		assert_int_equal(params_add(params, &index, all[i].name, all[i].kind, INIT_NORMAL, 1, all[i].rank, all[i].shape, &err), 0);
	assert_int_equal(params_allocate(params, &err), 0);
	params_init(params, 1);
	return params;
}

/* A file to be written tensor by tensor. */
struct draft {
	struct tensor_view views[16];
	int count;
};

static float ramp[64];

static void add(struct draft *draft, const char *name, enum tensor_dtype dtype, const void *data, int rank, int64_t rows, int64_t columns)
{
	struct tensor_view *view = &draft->views[draft->count++];

	*view = (struct tensor_view){ .name = name, .dtype = dtype, .rank = rank, .shape = { rows, columns }, .data = data };
	view->bytes = (size_t)tensor_view_elements(view) * tensor_dtype_bytes(dtype);
}

static void add_f32(struct draft *draft, const char *name, int rank, int64_t rows, int64_t columns)
{
	add(draft, name, TENSOR_F32, ramp, rank, rows, columns);
}

static const char *write_draft(const struct draft *draft)
{
	struct err err;
	const char *path = scratch_path(&scratch, "w.safetensors");

	assert_int_equal(tensorfile_write(path, draft->views, draft->count, NULL, 0, &err), 0);
	return path;
}

static void test_round_trip(void **state)
{
	struct params *a = open_params(), *b = open_params();
	struct weights_report report;
	struct draft draft;
	struct err err;

	(void)state;
	params_find(a, "image_encoder.bn1.num_batches_tracked")->counter = 123456789012;
	params_init(b, 2);
	draft.count = weights_views(a, draft.views);
	assert_int_equal(weights_load(b, write_draft(&draft), WEIGHTS_STATE, &report, &err), 0);
	assert_memory_equal(a->values, b->values, a->value_elements * sizeof(float));
	assert_true(params_find(b, "image_encoder.bn1.num_batches_tracked")->counter == 123456789012);
	assert_int_equal(report.loaded, 9);
	assert_int_equal(report.missing + report.unexpected + report.skipped, 0);
	weights_report_free(&report);
	params_close(a);
	params_close(b);
}

static void test_image_names(void **state)
{
	struct params *params = open_params();
	struct weights_report report;
	struct draft draft = { .count = 0 };
	struct err err;
	int64_t seven = 7;
	float kept = params_find(params, "image_encoder.fc.weight")->value[3];

	(void)state;
	add_f32(&draft, "conv1.weight", 2, 4, 3);
	add(&draft, "bn1.num_batches_tracked", TENSOR_I64, &seven, 0, 0, 0);
	add_f32(&draft, "fc.weight", 2, 10, 4); /* ImageNet's classes: replaced by the script */
	add_f32(&draft, "fc.bias", 1, 5, 0);    /* of the script's size: taken */
	add_f32(&draft, "layer9.strange", 1, 3, 0);
	add_f32(&draft, "head.weight", 2, 2, 5); /* not of the image tower */
	assert_int_equal(weights_load(params, write_draft(&draft), WEIGHTS_IMAGE, &report, &err), 0);
	assert_memory_equal(params_find(params, "image_encoder.conv1.weight")->value, ramp, 12 * sizeof(float));
	assert_memory_equal(params_find(params, "image_encoder.fc.bias")->value, ramp, 5 * sizeof(float));
	assert_true(params_find(params, "image_encoder.fc.weight")->value[3] == kept);
	assert_int_equal(params_find(params, "image_encoder.bn1.num_batches_tracked")->counter, 7);
	assert_int_equal(report.loaded, 3);
	assert_string_equal(report.skipped_names.data, "fc.weight\n");
	assert_string_equal(report.unexpected_names.data, "layer9.strange\nhead.weight\n");
	assert_string_equal(report.missing_names.data, "image_encoder.bn1.running_mean\n");
	weights_report_free(&report);
	params_close(params);
}

static void test_text_names(void **state)
{
	struct params *params = open_params();
	struct weights_report report;
	struct draft draft = { .count = 0 };
	struct err err;

	(void)state;
	add_f32(&draft, "bert.embeddings.LayerNorm.gamma", 1, 4, 0);
	add_f32(&draft, "bert.embeddings.LayerNorm.beta", 1, 4, 0);
	add_f32(&draft, "bert.embeddings.position_ids", 2, 1, 8);
	add_f32(&draft, "cls.predictions.bias", 1, 9, 0);
	assert_int_equal(weights_load(params, write_draft(&draft), WEIGHTS_TEXT, &report, &err), 0);
	assert_memory_equal(params_find(params, "text_encoder.embeddings.LayerNorm.weight")->value, ramp, 16);
	assert_memory_equal(params_find(params, "text_encoder.embeddings.LayerNorm.bias")->value, ramp, 16);
	assert_int_equal(report.loaded, 2);
	assert_int_equal(report.skipped, 2);
	assert_int_equal(report.missing + report.unexpected, 0); /* the pooler is no loss */
	weights_report_free(&report);
	/* and the names of BertModel alone */
	draft.views[0].name = "embeddings.LayerNorm.weight";
	draft.views[1].name = "pooler.dense.bias";
	assert_int_equal(weights_load(params, write_draft(&draft), WEIGHTS_TEXT, &report, &err), 0);
	assert_string_equal(report.missing_names.data, "text_encoder.embeddings.LayerNorm.bias\n");
	assert_memory_equal(params_find(params, "text_encoder.pooler.dense.bias")->value, ramp, 16);
	weights_report_free(&report);
	params_close(params);
}

static void test_kinds_of_numbers(void **state)
{
	static const uint16_t half[4] = { 0x3C00, 0xC100, 0x0001, 0x7BFF }, brain[4] = { 0x3F80, 0xC020, 0x0080, 0x7F00 };
	static const double wide[4] = { 1.0, -2.5, 1e-300, 3e38 };
	const struct {
		enum tensor_dtype dtype;
		const void *data;
		float expected[4];
	} cases[] = {
		{ TENSOR_F16, half, { 1.0f, -2.5f, 5.9604644775390625e-8f, 65504.0f } },
		{ TENSOR_BF16, brain, { 1.0f, -2.5f, 1.17549435082e-38f, 1.7014118346e38f } },
		{ TENSOR_F64, wide, { 1.0f, -2.5f, 0.0f, 3e38f } },
	};
	struct params *params = open_params();
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct draft draft = { .count = 0 };

		add(&draft, "text_encoder.pooler.dense.bias", cases[i].dtype, cases[i].data, 1, 4, 0);
		assert_int_equal(weights_load(params, write_draft(&draft), WEIGHTS_STATE, NULL, &err), 0);
		for (int k = 0; k < 4; k++)
			assert_true(params_find(params, "text_encoder.pooler.dense.bias")->value[k] == cases[i].expected[k]);
	}
	params_close(params);
}

/* PyTorch's copy into an int64 leaves out what is behind the point. */
static void test_kinds_of_counters(void **state)
{
	static const uint16_t half = 0x64E5, brain = 0x4641;
	static const double wide = 7.75;
	static const float single = 0;
	static const int8_t small = 100;
	const struct {
		enum tensor_dtype dtype;
		const void *data;
		int64_t expected;
	} cases[] = { { TENSOR_F16, &half, 1253 }, { TENSOR_BF16, &brain, 12352 }, { TENSOR_F64, &wide, 7 }, { TENSOR_F32, &single, 0 },
		      { TENSOR_I8, &small, 100 } };
	struct params *params = open_params();
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct draft draft = { .count = 0 };

		add(&draft, "image_encoder.bn1.num_batches_tracked", cases[i].dtype, cases[i].data, 0, 0, 0);
		assert_int_equal(weights_load(params, write_draft(&draft), WEIGHTS_STATE, NULL, &err), 0);
		assert_true(params_find(params, "image_encoder.bn1.num_batches_tracked")->counter == cases[i].expected);
	}
	params_close(params);
}

/* The load fails with the code and words, and no value of the model has changed. */
static void refuse(const struct draft *draft, enum weights_kind kind, int code, const char *words, const char *more)
{
	struct params *params = open_params(), *untouched = open_params();
	struct err err = { 0 };

	assert_int_equal(weights_load(params, write_draft(draft), kind, NULL, &err), code);
	assert_non_null(strstr(err.message, words));
	assert_non_null(strstr(err.message, more));
	assert_memory_equal(params->values, untouched->values, params->value_elements * sizeof(float));
	params_close(params);
	params_close(untouched);
}

static void test_refused(void **state)
{
	static const float odd[4] = { 1, 2, NAN, 4 }, far[4] = { 1, 2, 3, -INFINITY };
	static const double beyond[4] = { 1, 1e300, 1, 1 };
	static const int64_t negative = -1;
	static const uint16_t half_negative = 0xBC00, half_infinite = 0x7C00;
	const struct {
		enum tensor_dtype dtype;
		const void *data;
		enum weights_kind kind;
		const char *name;
		int rank;
		int64_t rows, columns;
		int code;
		const char *words, *more;
	} cases[] = {
		{ TENSOR_F32, ramp, WEIGHTS_STATE, "head.weight", 2, 3, 5, ERR_MISMATCH, "head.weight has shape (3, 5)", "(2, 5)" },
		{ TENSOR_F32, ramp, WEIGHTS_STATE, "head.weight", 1, 10, 0, ERR_MISMATCH, "head.weight", "(2, 5)" },
		{ TENSOR_F32, odd, WEIGHTS_STATE, "text_encoder.pooler.dense.bias", 1, 4, 0, ERR_FORMAT, "pooler.dense.bias", "not finite" },
		{ TENSOR_F32, far, WEIGHTS_STATE, "text_encoder.pooler.dense.bias", 1, 4, 0, ERR_FORMAT, "pooler.dense.bias", "not finite" },
		{ TENSOR_F64, beyond, WEIGHTS_STATE, "text_encoder.pooler.dense.bias", 1, 4, 0, ERR_FORMAT, "pooler.dense.bias", "not finite" },
		{ TENSOR_I32, ramp, WEIGHTS_STATE, "text_encoder.pooler.dense.bias", 1, 4, 0, ERR_MISMATCH, "pooler.dense.bias", "I32" },
		{ TENSOR_I64, &negative, WEIGHTS_STATE, "image_encoder.bn1.num_batches_tracked", 0, 0, 0, ERR_FORMAT, "num_batches_tracked", "-1" },
		{ TENSOR_F16, &half_negative, WEIGHTS_STATE, "image_encoder.bn1.num_batches_tracked", 0, 0, 0, ERR_FORMAT, "num_batches_tracked", "-1" },
		{ TENSOR_F16, &half_infinite, WEIGHTS_STATE, "image_encoder.bn1.num_batches_tracked", 0, 0, 0, ERR_FORMAT, "num_batches_tracked", "inf" },
		{ TENSOR_F32, ramp, WEIGHTS_TEXT, "embeddings.LayerNorm.beta", 1, 4, 0, ERR_FORMAT, "LayerNorm.bias", "same parameter" },
		{ TENSOR_F32, ramp, WEIGHTS_IMAGE, "fc.other", 1, 4, 0, ERR_MISMATCH, "none of its", "torchvision" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct draft draft = { .count = 0 };

		if (cases[i].kind != WEIGHTS_IMAGE)
			add_f32(&draft, "text_encoder.embeddings.LayerNorm.bias", 1, 4, 0);
		add(&draft, cases[i].name, cases[i].dtype, cases[i].data, cases[i].rank, cases[i].rows, cases[i].columns);
		refuse(&draft, cases[i].kind, cases[i].code, cases[i].words, cases[i].more);
	}
}

static void test_missing_file(void **state)
{
	struct params *params = open_params();
	struct err err;

	(void)state;
	assert_int_equal(weights_load(params, scratch_path(&scratch, "absent.safetensors"), WEIGHTS_STATE, NULL, &err), ERR_NOTFOUND);
	assert_non_null(strstr(err.message, "absent.safetensors"));
	params_close(params);
}

static void test_strict(void **state)
{
	static const char *const needed[] = { "p.image_encoder.conv1.weight", "p.image_encoder.fc.weight", "p.image_encoder.fc.bias",
					      "p.text_encoder.embeddings.LayerNorm.weight",
					      "p.text_encoder.embeddings.LayerNorm.bias", "p.head.weight" };
	static const int64_t shapes[][2] = { { 4, 3 }, { 5, 4 }, { 5, 0 }, { 4, 0 }, { 4, 0 }, { 2, 5 } };
	struct params *params = open_params();
	struct statefile *file;
	struct draft draft = { .count = 0 };
	struct err err;

	(void)state;
	add_f32(&draft, "m.something.else", 1, 3, 0);
	for (size_t i = 0; i < ARRAY_LEN(needed); i++)
		add_f32(&draft, needed[i], shapes[i][1] == 0 ? 1 : 2, shapes[i][0], shapes[i][1]);
	assert_int_equal(statefile_open(&file, write_draft(&draft), &err), 0);
	assert_int_equal(weights_load_strict(params, file, "p.", &err), 0);
	assert_memory_equal(params_find(params, "head.weight")->value, ramp, 40);
	assert_int_equal(weights_load_strict(params, file, "", &err), ERR_MISMATCH);
	assert_non_null(strstr(err.message, "image_encoder.conv1.weight"));
	assert_non_null(strstr(err.message, "and 3 more"));
	statefile_close(file);
	draft.count--;
	assert_int_equal(statefile_open(&file, write_draft(&draft), &err), 0);
	assert_int_equal(weights_load_strict(params, file, "p.", &err), ERR_MISMATCH);
	assert_non_null(strstr(err.message, "lacks head.weight"));
	statefile_close(file);
	params_close(params);
}

/* The whole state dict of a preset, name by name, against the list that tests/parity/test_state_dict.py holds against PyTorch. */
/* encoders: over the preset's; NULL: as they are. */
static void check_state_dict(const char *name, const char *preset, const char *image_encoder, const char *text_encoder)
{
	struct model_config config;
	struct params *params;
	struct resnet *resnet;
	struct bert *bert;
	struct fusion *fusion;
	struct err err;
	struct buf golden = BUF_INIT;
	char path[64], line[256], shape[128];
	static struct tensor_view views[PARAMS_MAX];
	int count, lines = 0;

	snprintf(path, sizeof(path), "tests/golden/state_%s.txt", name);
	assert_int_equal(fs_read(path, 1 << 20, &golden, &err), 0);
	assert_int_equal(model_preset(&config, preset, 0, &err), 0);
	assert_int_equal(encoders_apply(&config, image_encoder, NULL, text_encoder, &err), 0);
	assert_int_equal(params_open(&params, &err), 0);
	assert_int_equal(resnet_open(&resnet, &config.image, kernels_fast(), params, &err), 0);
	assert_int_equal(bert_open(&bert, &config.text, config.features, kernels_fast(), params, &err), 0);
	assert_int_equal(fusion_open(&fusion, config.features, config.classes, kernels_fast(), params, &err), 0);
	count = weights_views(params, views);
	for (int i = 0; i < count; i++) {
		snprintf(line, sizeof(line), "%s %s %s\n", views[i].name, tensor_dtype_name(views[i].dtype),
			 tensor_shape_text(views[i].rank, views[i].shape, shape, sizeof(shape)));
		const char *found = strstr(golden.data, line);
		if (found == NULL || (found != golden.data && found[-1] != '\n'))
			fail_msg("%s: not in PyTorch's state dict: %s", name, line);
	}
	for (size_t i = 0; i < golden.size; i++)
		lines += golden.data[i] == '\n';
	assert_int_equal(count, lines);
	buf_free(&golden);
	resnet_close(resnet);
	bert_close(bert);
	fusion_close(fusion);
	params_close(params);
}

static void test_state_dict(void **state)
{
	(void)state;
	static const char text[] = "layers=3,width=96,heads=3,inner=200,positions=40,types=1";

	check_state_dict("tiny", "tiny", NULL, NULL);
	check_state_dict("small", "small", NULL, NULL);
	check_state_dict("full", "full", NULL, NULL);
	check_state_dict("resnet34", "tiny", "resnet34", text);
	check_state_dict("resnet101", "tiny", "resnet101", text);
	check_state_dict("resnet152", "tiny", "resnet152", text);
}

static int setup(void **state)
{
	(void)state;
	for (int i = 0; i < 64; i++)
		ramp[i] = (float)i + 0.5f;
	scratch_open(&scratch);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	scratch_close(&scratch);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_image_names), cmocka_unit_test(test_text_names),
		cmocka_unit_test(test_kinds_of_numbers), cmocka_unit_test(test_kinds_of_counters), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_missing_file),
		cmocka_unit_test(test_strict), cmocka_unit_test(test_state_dict),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
