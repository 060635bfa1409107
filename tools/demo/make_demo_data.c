/*
 * Makes a data set of rendered scenes for the demo and the tests:
 *
 *     OUT/images/000000.jpg ...   pictures of varied size, quality and subsampling
 *     OUT/train.csv, OUT/val.csv  image,caption,label; two or three lines a picture
 *     OUT/captions.txt            the training captions, one a line (for a vocabulary)
 *
 * The label is the shape of the largest object. Everything follows from the
 * seed: the same command makes the same bytes.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "tools/demo/captions.h"
#include "tools/demo/jpeg_out.h"
#include "tools/demo/scene.h"

enum { PICTURES_MAX = 1000000 };

struct maker {
	const char *folder;
	int64_t train_count, val_count, seed;
	uint8_t *rgb;
	struct buf jpeg, csv, captions, path;
};

static int write_picture(struct maker *maker, uint32_t number, const struct scene *scene, struct draw *draw, struct err *err)
{
	struct jpeg_style style = {
		.quality = 62 + (int)draw_below(draw, 35),
		.sampling = (int)draw_below(draw, 3),
		.progressive = draw_below(draw, 5) == 0,
	};
	int rc;

	scene_render(scene, maker->rgb);
	buf_clear(&maker->jpeg);
	rc = jpeg_encode(maker->rgb, scene->width, scene->height, &style, &maker->jpeg, err);
	if (rc != 0)
		return rc;
	buf_clear(&maker->path);
	rc = buf_printf(&maker->path, err, "%s/images/%06u.jpg", maker->folder, number);
	if (rc != 0)
		return rc;
	/* Not fs_write_atomic(): thousands of fsyncs for files that can be made again. */
	FILE *file = fopen(maker->path.data, "wb");

	if (file == NULL)
		return err_errno(err, errno, "%s: cannot be written", maker->path.data);
	size_t written = fwrite(maker->jpeg.data, 1, maker->jpeg.size, file);

	if (fclose(file) != 0 || written != maker->jpeg.size)
		return err_errno(err, errno, "%s: cannot be written", maker->path.data);
	return 0;
}

static int write_captions(struct maker *maker, uint32_t number, const struct scene *scene, struct draw *draw, bool training,
			  struct err *err)
{
	char caption[CAPTION_BYTES_MAX];
	int count = 2 + (int)draw_below(draw, 2);
	int rc = 0;

	for (int i = 0; i < count && rc == 0; i++) {
		caption_write(scene, draw, caption);
		/* Quoted, since captions have commas; they have no quotes. */
		rc = buf_printf(&maker->csv, err, "%06u.jpg,\"%s\",%s\n", number, caption, SHAPE_NAMES[scene->objects[0].shape]);
		if (rc == 0 && training)
			rc = buf_printf(&maker->captions, err, "%s\n", caption);
	}
	return rc;
}

static int write_text(struct maker *maker, const char *name, const struct buf *text, struct err *err)
{
	int rc;

	buf_clear(&maker->path);
	rc = buf_printf(&maker->path, err, "%s/%s", maker->folder, name);
	return rc != 0 ? rc : fs_write_atomic(maker->path.data, text->data, text->size, err);
}

static int make_split(struct maker *maker, const char *name, uint32_t from, uint32_t count, struct err *err)
{
	bool training = strcmp(name, "train.csv") == 0;
	int rc;

	buf_clear(&maker->csv);
	rc = buf_add_text(&maker->csv, "image,caption,label\n", err);
	for (uint32_t number = from; number < from + count && rc == 0; number++) {
		struct draw draw;
		struct scene scene;

		draw_init(&draw, (uint64_t)maker->seed, number);
		scene_draw(&scene, &draw);
		rc = write_picture(maker, number, &scene, &draw, err);
		if (rc == 0)
			rc = write_captions(maker, number, &scene, &draw, training, err);
	}
	return rc != 0 ? rc : write_text(maker, name, &maker->csv, err);
}

static int make_all(struct maker *maker, struct err *err)
{
	int rc;

	maker->rgb = mem_alloc((size_t)SCENE_SIDE_MAX * SCENE_SIDE_MAX * 3);
	if (maker->rgb == NULL)
		return err_nomem(err, (size_t)SCENE_SIDE_MAX * SCENE_SIDE_MAX * 3);
	rc = buf_printf(&maker->path, err, "%s/images", maker->folder);
	if (rc == 0)
		rc = fs_mkdirs(maker->path.data, 0777, err);
	if (rc == 0)
		rc = make_split(maker, "train.csv", 0, (uint32_t)maker->train_count, err);
	if (rc == 0)
		rc = make_split(maker, "val.csv", (uint32_t)maker->train_count, (uint32_t)maker->val_count, err);
	if (rc == 0)
		rc = write_text(maker, "captions.txt", &maker->captions, err);
	return rc;
}

int main(int argc, char *argv[])
{
	struct maker maker = { .train_count = 1200, .val_count = 300, .seed = 1 };
	const struct args_option options[] = {
		{ .name = "out", .kind = ARGS_TEXT, .value = &maker.folder, .metavar = "DIR", .help = "Folder to write to; made if missing." },
		{ .name = "train", .kind = ARGS_INT, .value = &maker.train_count, .metavar = "N", .min = 1, .max = PICTURES_MAX,
		  .help = "Training pictures (default 1200)." },
		{ .name = "val", .kind = ARGS_INT, .value = &maker.val_count, .metavar = "N", .min = 0, .max = PICTURES_MAX,
		  .help = "Validation pictures (default 300)." },
		{ .name = "seed", .kind = ARGS_INT, .value = &maker.seed, .metavar = "S", .min = 0, .max = INT64_MAX,
		  .help = "Other numbers make other pictures (default 1)." },
	};
	const struct args_spec spec = {
		.usage = "make_demo_data --out DIR [--train N] [--val N] [--seed S]",
		.description = "Renders pictures of colored shapes with captions, as JPEG and CSV files.",
		.options = options,
		.option_count = ARRAY_LEN(options),
	};
	struct args_result result;
	struct err err = { 0 };
	int rc = args_parse(&spec, argc - 1, argv + 1, &result, &err);

	if (rc == 0 && result.help)
		args_print_help(&spec);
	else if (rc == 0 && maker.folder == NULL)
		rc = err_set(&err, ERR_USAGE, "--out is missing: name the folder to write to");
	else if (rc == 0)
		rc = make_all(&maker, &err);
	if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
		rc = err_set(&err, ERR_IO, "cannot write to standard output");
	if (rc != 0)
		fprintf(stderr, "make_demo_data: %s\n", err.message);
	mem_free(maker.rgb);
	buf_free(&maker.jpeg);
	buf_free(&maker.csv);
	buf_free(&maker.captions);
	buf_free(&maker.path);
	return err_exit_code(rc);
}
