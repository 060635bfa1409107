#include "tools/prepctl/inspect.h"

#include <string.h>

#include "preprocessd/codec/normalize.h"
#include "preprocessd/codec/picture.h"
#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "shared/io/tensorfile.h"
#include "tools/prepctl/prepctl.h"

struct options {
	int64_t size;
	const char *dtype, *exif, *out;
	struct prepctl_common common;
	bool floats;
	struct transform transform;
};

static int parse(int argc, char *const argv[], struct options *options, struct args_result *result, struct err *err)
{
	const struct args_option table[] = {
		{ "size", 0, ARGS_INT, &options->size, "N", "Side of the square output in pixels. Default 224.", 1,
		  PICTURE_SIZE_MAX, NULL },
		{ "dtype", 0, ARGS_TEXT, &options->dtype, "TYPE",
		  "u8: the pixels, (N, N, 3). f32: normalized with ImageNet's mean and std, (3, N, N). Default f32.", 0, 0,
		  NULL },
		{ "exif", 0, ARGS_TEXT, &options->exif, "POLICY",
		  "ignore or apply the EXIF orientation. Default ignore, as torchvision does.", 0, 0, NULL },
		{ "out", 'o', ARGS_TEXT, &options->out, "FILE", "The safetensors file to write; its tensor is `image`.", 0, 0,
		  NULL },
		PREPCTL_OPTIONS_UNUSED(&options->common),
	};
	const struct args_spec spec = {
		.usage = "prepctl inspect image PICTURE --out FILE.safetensors [options]",
		.description = "Prepares one JPEG picture as the daemon would and writes the tensor, without a daemon.\n"
			       "\n    prepctl inspect image cat.jpg --size 112 --dtype u8 --out cat.safetensors",
		.options = table,
		.option_count = (int)ARRAY_LEN(table),
		.operands_min = 1,
		.operands_max = 1,
	};
	int code = args_parse(&spec, argc, argv, result, err);

	if (code != 0)
		return code;
	if (result->help) {
		args_print_help(&spec);
		return 0;
	}
	if (options->out == NULL)
		return err_set(err, ERR_USAGE, "prepctl inspect image: --out FILE is needed");
	if (strcmp(options->out, "-") == 0)
		return err_set(err, ERR_USAGE, "--out -: name a file, or /dev/stdout where standard output is a pipe");
	if (strcmp(options->dtype, "u8") != 0 && strcmp(options->dtype, "f32") != 0)
		return err_set(err, ERR_USAGE, "--dtype %s: u8 or f32 was expected", options->dtype);
	if (strcmp(options->exif, "ignore") != 0 && strcmp(options->exif, "apply") != 0)
		return err_set(err, ERR_USAGE, "--exif %s: ignore or apply was expected", options->exif);
	options->floats = strcmp(options->dtype, "f32") == 0;
	options->transform.size = (uint32_t)options->size;
	options->transform.exif = strcmp(options->exif, "apply") == 0 ? EXIF_APPLY : EXIF_IGNORE;
	return 0;
}

static int prepare(const char *path, const struct transform *transform, uint8_t *pixels, struct err *err)
{
	struct picture_codec *codec = NULL;
	struct buf file = BUF_INIT;
	int code;

	if ((code = fs_read(path, PICTURE_FILE_BYTES_MAX, &file, err)) != 0 ||
	    (code = picture_codec_open(&codec, err)) != 0)
		goto out;
	if ((code = picture_prepare(codec, file.data, file.size, transform, pixels, err)) != 0)
		err_prefix(err, "%s", path);
out:
	picture_codec_close(codec);
	buf_free(&file);
	return code;
}

static int write_tensor(const struct options *options, const uint8_t *pixels, struct err *err)
{
	const int64_t side = options->size;
	const size_t count = (size_t)side * (size_t)side;
	struct tensor_view view = {
		.name = "image", .dtype = TENSOR_U8, .rank = 3, .shape = { side, side, 3 }, .data = pixels, .bytes = 3 * count,
	};
	struct normalize_table table;
	float *floats = NULL;
	int code;

	if (options->floats) {
		if ((floats = mem_aligned(3 * count * sizeof(*floats))) == NULL)
			return err_nomem(err, 3 * count * sizeof(*floats));
		normalize_table_init(&table, NORMALIZE_IMAGENET_MEAN, NORMALIZE_IMAGENET_STD);
		normalize_f32_chw(&table, pixels, 0, count, count, floats);
		view = (struct tensor_view){
			.name = "image", .dtype = TENSOR_F32, .rank = 3, .shape = { 3, side, side }, .data = floats,
			.bytes = 3 * count * sizeof(*floats),
		};
	}
	code = tensorfile_write(options->out, &view, 1, NULL, 0, err);
	mem_free(floats);
	return code;
}

int prepctl_inspect_image(int argc, char *const argv[], struct err *err)
{
	struct options options = { .size = 224, .dtype = "f32", .exif = "ignore" };
	struct args_result result;
	uint8_t *pixels = NULL;
	size_t bytes;
	int code = parse(argc, argv, &options, &result, err);

	if (code != 0 || result.help)
		return code;
	bytes = (size_t)options.size * (size_t)options.size * 3;
	if ((pixels = mem_aligned(bytes)) == NULL)
		return err_nomem(err, bytes);
	code = prepare(result.operands[0], &options.transform, pixels, err);
	if (code == 0)
		code = write_tensor(&options, pixels, err);
	mem_free(pixels);
	return code;
}
