/* trainer eval CHECKPOINT --data NAME --split S: accuracy and loss of a model over a whole split. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/args.h"
#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "shared/base/plural.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/options.h"
#include "trainer/cli/signals.h"
#include "trainer/io/weights.h"
#include "trainer/kernels/kernels.h"
#include "trainer/model/hf_config.h"
#include "trainer/train/origin.h"
#include "trainer/train/validate.h"

struct eval_options {
	const char *data, *split, *socket, *cache, *log_level;
	const char *preset, *task, *vocab, *predictions, *precision, *image_encoder, *text_encoder, *text_config, *exif;
	int64_t image_size, max_len, batch_size, threads;
	bool json, quiet;
};

static const char usage[] = "trainer eval CHECKPOINT|RUN --data NAME [--split SPLIT] [--json]";
static const char description[] =
	"Measures a trained model on every picture and caption of a split. For matching, each distinct caption is scored "
	"with its own picture and with a wrong one; the pairs are fixed by the data set, so results of different models "
	"can be compared. For classification the data set has the labels that the model was trained on. The folder of a run stands for its "
	"best.safetensors.\n"
	"\n"
	"    trainer eval runs/adv --data flowers --split test\n"
	"    trainer eval runs/adv/last.safetensors --data flowers --split test\n"
	"\n"
	"A checkpoint of this program says itself what model it is. For another file with the same names (safetensors, .pth, "
	".bin), --preset, --vocab and where they differ from the default --image-encoder, --text-encoder and --task say it.";

static int parse(struct eval_options *o, int argc, char *const argv[], struct args_result *result, struct err *err)
{
	const struct args_option options[] = {
		{ .name = "data", .kind = ARGS_TEXT, .value = &o->data, .metavar = "NAME", .help = "Data set." },
		{ .name = "split", .kind = ARGS_TEXT, .value = &o->split, .metavar = "SPLIT",
		  .help = "Part of it; several joined by +, or all, or a fold of them (all~fold=2/5). Default: val." },
		{ .name = "json", .kind = ARGS_FLAG, .value = &o->json, .help = "Print one JSON object." },
		{ .name = "predictions", .kind = ARGS_TEXT, .value = &o->predictions, .metavar = "FILE.csv",
		  .help = "Write a line for each pair: pair,picture,caption,label,p,correct (schemas/study.md)." },
		{ .name = "batch-size", .kind = ARGS_INT, .value = &o->batch_size, .metavar = "N", .min = 1, .max = RUN_BATCH_MAX,
		  .help = "Captions encoded at a time. Default: as in training, else 32." },
		{ .name = "threads", .kind = ARGS_INT, .value = &o->threads, .metavar = "N", .min = 1, .max = 1024,
		  .help = "Default: one for each core." },
		{ .name = "precision", .kind = ARGS_TEXT, .value = &o->precision, .metavar = "P",
		  .help = "fp32 or bf16. Default: as in training, else fp32." },
		{ .name = "preset", .kind = ARGS_TEXT, .value = &o->preset, .metavar = "NAME",
		  .help = "full, small or tiny; for files of other programs." },
		{ .name = "image-encoder", .kind = ARGS_TEXT, .value = &o->image_encoder, .metavar = "NAME",
		  .help = "As in training; for files of other programs. Default: the preset's." },
		{ .name = "text-encoder", .kind = ARGS_TEXT, .value = &o->text_encoder, .metavar = "SIZES",
		  .help = "As in training; for files of other programs. Default: the preset's." },
		{ .name = "text-config", .kind = ARGS_TEXT, .value = &o->text_config, .metavar = "FILE",
		  .help = "Hugging Face's config.json with the sizes of the BERT; for files of other programs." },
		{ .name = "task", .kind = ARGS_TEXT, .value = &o->task, .metavar = "TASK",
		  .help = "match, classify or contrast; for files of other programs. Default: match." },
		{ .name = "image-size", .kind = ARGS_INT, .value = &o->image_size, .metavar = "N", .min = 32, .max = RUN_IMAGE_MAX,
		  .help = "Pixels a side; for files of other programs. Default: the preset's." },
		{ .name = "exif", .kind = ARGS_TEXT, .value = &o->exif, .metavar = "ignore|apply",
		  .help = "Turn pictures by their EXIF orientation. Default: as in training, else ignore." },
		{ .name = "vocab", .kind = ARGS_TEXT, .value = &o->vocab, .metavar = "NAME",
		  .help = "Vocabulary. Default: the one of training, else the data set's." },
		{ .name = "max-len", .kind = ARGS_INT, .value = &o->max_len, .metavar = "N", .min = 2, .max = RUN_LEN_MAX,
		  .help = "Tokens of a caption. Default: as in training, else 64." },
		VERB_OPTIONS(o, "Warnings and errors only."),
	};
	const struct args_spec spec = {
		.usage = usage, .description = description, .options = options, .option_count = (int)ARRAY_LEN(options),
		.operands_min = 1, .operands_max = 1,
	};
	int code = args_parse(&spec, argc, argv, result, err);

	if (code == 0 && result->help)
		args_print_help(&spec);
	return code;
}

/* Sizes that only the shapes tell, for a file without metadata. */
static int sizes_from_shapes(const struct statefile *file, enum model_task task, struct about_model *model, struct err *err)
{
	const struct state_tensor *words = statefile_find(file, "text_encoder.embeddings.word_embeddings.weight");
	const char *last = task == TASK_CONTRAST ? "logit_scale" : "head.weight";
	const struct state_tensor *head = statefile_find(file, last);

	if (words == NULL || head == NULL || words->view.rank != 2 || (task != TASK_CONTRAST && head->view.rank != 2))
		return err_set(err, ERR_MISMATCH, "%s: not a model of this program (no %s)", statefile_path(file),
			       words == NULL ? "text_encoder.embeddings.word_embeddings.weight" : last);
	if (words->view.shape[0] > INT32_MAX || (task != TASK_CONTRAST && head->view.shape[0] > INT32_MAX))
		return err_set(err, ERR_LIMIT, "%s: impossibly large", statefile_path(file));
	model->vocab_size = words->view.shape[0];
	model->classes = task == TASK_CONTRAST ? 1 : head->view.shape[0];
	return 0;
}

static int settle_number(const char *name, int64_t *given, int64_t recorded, struct err *err)
{
	if (*given >= 0 && recorded >= 0 && *given != recorded)
		return err_set(err, ERR_MISMATCH, "--%s %" PRId64 ": the checkpoint was trained with %" PRId64, name, *given, recorded);
	if (*given < 0)
		*given = recorded;
	return 0;
}

static int settle_text(const char *name, const char **given, const char *recorded, struct err *err)
{
	if (*given != NULL && recorded != NULL && strcmp(*given, recorded) != 0)
		return err_set(err, ERR_MISMATCH, "--%s %s: the checkpoint was trained with %s", name, *given, recorded);
	if (*given == NULL)
		*given = recorded;
	return 0;
}

static int settle_text_encoder(const char **given, const char *recorded, struct err *err)
{
	if (*given != NULL && recorded != NULL && run_config_same_text_encoder(*given, recorded))
		*given = recorded;
	return settle_text("text-encoder", given, recorded, err);
}

/* Options and the file's own words together; what neither says gets a default. */
static int settle(struct eval_options *o, const struct statefile *file, struct origin *origin, struct model_config *config,
		  struct err *err)
{
	const struct run_config *run = &origin->config;
	enum model_task task;
	int code;

	if ((code = settle_text("preset", &o->preset, run->preset, err)) != 0 ||
	    (code = settle_text("image-encoder", &o->image_encoder, run->image_encoder, err)) != 0 ||
	    (code = settle_text_encoder(&o->text_encoder, run->text_encoder, err)) != 0 ||
	    (code = settle_text("task", &o->task, run->task, err)) != 0 ||
	    (code = settle_number("image-size", &o->image_size, run->image_size, err)) != 0)
		return code;
	if (o->preset == NULL)
		return err_set(err, ERR_USAGE, "%s does not say what model it is; add --preset full, small or tiny", statefile_path(file));
	if (o->task == NULL)
		o->task = "match";
	if ((code = model_task_parse(&config->task, o->task, err)) != 0)
		return code;
	task = config->task;
	if (o->max_len < 0)
		o->max_len = run->max_len > 0 ? run->max_len : 64;
	if (o->exif == NULL)
		o->exif = run->exif != NULL ? run->exif : "ignore";
	if (o->batch_size < 0)
		o->batch_size = run->batch_size > 0 ? run->batch_size : 32;
	if (o->vocab == NULL && origin->ours)
		o->vocab = origin->data.vocab;
	if (!origin->ours && (code = sizes_from_shapes(file, task, &origin->model, err)) != 0)
		return code;
	if ((code = model_preset(config, o->preset, o->image_size < 0 ? 0 : (int)o->image_size, err)) != 0 ||
	    (code = encoders_apply(config, o->image_encoder, origin->ours ? NULL : o->text_config, o->text_encoder, err)) != 0)
		return code;
	o->image_size = config->image.image_size;
	config->task = task;
	config->text.vocab_size = (int)origin->model.vocab_size;
	config->classes = (int)origin->model.classes;
	if (origin->ours)
		config->text.pad_id = (int)origin->model.pad_id;
	if (origin->ours && o->text_config != NULL)
		log_warn("--text-config %s is not read: the checkpoint says itself what its text tower is", o->text_config);
	return 0;
}

/* Classes are ranks of names, so that of a data set with other labels each may mean something else. */
static int check_classes(const struct eval_options *o, const struct origin *origin, const struct model_config *config,
			 const struct stream_info *info, struct err *err)
{
	struct about_classes here;
	char difference[ABOUT_DIFFERENCE_BYTES];
	int code;

	if (config->task != TASK_CLASSIFY)
		return 0;
	if (info->label_count != (uint32_t)config->classes)
		return err_set(err, ERR_MISMATCH, "data set %s has %u labels, the checkpoint's model %d classes", o->data,
			       info->label_count, config->classes);
	if ((code = about_classes_set(&here, info->label_names, info->label_count, err)) != 0)
		return code;
	if (about_classes_differ(&origin->classes, &here, difference))
		code = err_set(err, ERR_MISMATCH, "data set %s has other labels than the one that the checkpoint was trained on (%s), so its classes "
			       "mean something else: %s; measure on data with the same labels", o->data, origin->data.name, difference);
	about_classes_free(&here);
	return code;
}

static int check_data(const struct eval_options *o, const struct origin *origin, const struct model_config *config,
		      const struct stream_info *info, struct err *err)
{
	if (origin->ours && !hash_equal(&origin->data.vocab_hash, &info->vocab))
		return err_set(err, ERR_MISMATCH, "the vocabulary %s is not the one that the checkpoint was trained with (%s)",
			       info->vocab_name, origin->data.vocab);
	/* a model may have embeddings for more words than its vocabulary has, but of another file that is no proof */
	if (origin->ours ? info->vocab_size > (uint32_t)config->text.vocab_size : info->vocab_size != (uint32_t)config->text.vocab_size)
		return err_set(err, ERR_MISMATCH, "the vocabulary %s has %u words, the checkpoint's model %d; name another with --vocab",
			       info->vocab_name, info->vocab_size, config->text.vocab_size);
	if (info->caption_count == 0)
		return err_set(err, ERR_NOTFOUND, "the split %s of %s is empty", o->split, o->data);
	return check_classes(o, origin, config, info, err);
}

static int add_recalls(struct buf *out, const struct validation *val, struct err *err)
{
	int code = 0;

	for (int k = 0; k < 2 * RECALLS && code == 0; k++) {
		bool to_text = k < RECALLS;

		code = buf_printf(out, err, ", \"%s_r%u\": ", to_text ? "image_to_text" : "text_to_image", retrieval_recall_at[k % RECALLS]);
		if (code == 0)
			code = json_add_real(out, (to_text ? val->image_to_text : val->text_to_image)[k % RECALLS], err);
	}
	return code;
}

/* Ranks have no probability that could be calibrated. */
static int add_calibration(struct buf *out, const struct validation *val, struct err *err)
{
	int code = buf_add_text(out, ", \"ece\": ", err);

	return code != 0 ? code : json_add_real(out, val->ece, err);
}

static void print_text(const struct eval_options *o, const struct stream_info *info, const struct validation *val)
{
	char calibration[48] = "";

	if (!val->has_recalls)
		snprintf(calibration, sizeof(calibration), ", calibration error %.4f", val->ece);
	printf("%s %s: accuracy %.4f, loss %.4f%s over %" PRIu64 " pair%s (%u picture%s, %" PRIu64 " caption%s, %.1f s)\n", o->data, o->split,
	       val->accuracy, val->loss, calibration, val->pairs, plural(val->pairs), info->picture_count, plural(info->picture_count),
	       val->samples, plural(val->samples), val->seconds);
	if (!val->has_recalls)
		return;
	printf("recall at 1, 5, 10: image to text %.4f %.4f %.4f, text to image %.4f %.4f %.4f\n", val->image_to_text[0],
	       val->image_to_text[1], val->image_to_text[2], val->text_to_image[0], val->text_to_image[1], val->text_to_image[2]);
}

static int print_json(const struct eval_options *o, const char *path, const struct stream_info *info,
		      const struct validation *val, struct err *err)
{
	struct buf out = BUF_INIT;
	char digest[HASH_HEX_BYTES], version[HASH_HEX_BYTES];
	int code;

	hash_to_hex(&val->chain, digest);
	hash_to_hex(&info->version, version);
	if ((code = buf_add_text(&out, "{\"checkpoint\": ", err)) != 0 || (code = json_add_string(&out, path, strlen(path), err)) != 0 ||
	    (code = buf_add_text(&out, ", \"data\": ", err)) != 0 ||
	    (code = json_add_string(&out, o->data, strlen(o->data), err)) != 0 ||
	    (code = buf_printf(&out, err, ", \"version\": \"%s\", \"split\": ", version)) != 0 ||
	    (code = json_add_string(&out, o->split, strlen(o->split), err)) != 0 ||
	    (code = buf_add_text(&out, ", \"accuracy\": ", err)) != 0 || (code = json_add_real(&out, val->accuracy, err)) != 0 ||
	    (code = buf_add_text(&out, ", \"loss\": ", err)) != 0 || (code = json_add_real(&out, val->loss, err)) != 0 ||
	    (code = val->has_recalls ? add_recalls(&out, val, err) : add_calibration(&out, val, err)) != 0 ||
	    (code = buf_printf(&out, err, ", \"precision\": \"%s\", \"pairs\": %" PRIu64 ", \"pictures\": %u, \"captions\": %u, \"seconds\": %.3f, "
			       "\"digest\": \"%s\"}",
			       o->precision, val->pairs, info->picture_count, info->caption_count, val->seconds, digest)) != 0)
		goto out;
	printf("%s\n", out.data);
out:
	buf_free(&out);
	return code;
}

struct evaluation {
	struct statefile *file;
	struct origin origin;
	struct feed *feed;
	struct model *model;
	struct validator *validator;
	struct predictions predictions;
	char *socket;
	char *best; /* of the run whose folder was named */
};

static int open_evaluation(struct evaluation *e, struct eval_options *o, const char *path, struct err *err)
{
	struct feed_options feed = { .client_name = "trainer eval", .dataset = o->data, .cancelled = signals_stop_asked };
	struct model_config config;
	struct model_limits limits = { .training = false };
	const struct stream_info *info;
	int code;

	if (fs_is_dir(path)) {
		if ((code = fs_join(&e->best, path, "best.safetensors", err)) != 0)
			return code;
		if (access(e->best, F_OK) != 0)
			return err_set(err, ERR_NOTFOUND,
				       "%s: no best.safetensors in this folder; name the folder of a run that was validated, or a checkpoint", path);
		path = e->best;
	}
	if ((code = statefile_open(&e->file, path, err)) != 0 || (code = origin_read(&e->origin, e->file, err)) != 0 ||
	    (code = settle(o, e->file, &e->origin, &config, err)) != 0 ||
	    (code = paths_socket(&e->socket, o->socket, false, err)) != 0)
		return code;
	if (config.task == TASK_CONTRAST && o->predictions != NULL)
		return err_set(err, ERR_USAGE, "--predictions: a contrast model ranks and decides nothing; leave the option out");
	feed.socket = e->socket;
	feed.split = o->split;
	feed.vocab = o->vocab;
	feed.batch_size = (uint32_t)o->batch_size;
	feed.image_size = (uint32_t)o->image_size;
	feed.max_len = (uint32_t)o->max_len;
	if ((code = run_exif_parse(o->exif, &feed.exif_apply, err)) != 0)
		return code;
	if (o->precision == NULL)
		o->precision = e->origin.ours && e->origin.config.precision != NULL ? e->origin.config.precision : "fp32";
	if ((code = kernels_check_precision(o->precision, err)) != 0)
		return code;
	kernels_set_precision(o->precision);
	kernels_set_threads(o->threads > 0 ? (int)o->threads : 0);
	if ((code = feed_open(&e->feed, &feed, err)) != 0)
		return code;
	info = feed_info(e->feed);
	if ((code = check_data(o, &e->origin, &config, info, err)) != 0)
		return code;
	validator_limits(&limits, feed.batch_size, info->picture_count, info->caption_count, feed.max_len);
	if ((code = model_open(&e->model, &config, &limits, err)) != 0 ||
	    (code = weights_load_strict(model_params(e->model), e->file, "", err)) != 0)
		return code;
	code = validator_open(&e->validator, e->model, &limits, kernels_fast()->vector, info->picture_count, info->caption_count,
			      feed.batch_size, err);
	if (code != 0 || o->predictions == NULL)
		return code;
	code = predictions_open(&e->predictions, 2 * (size_t)info->caption_count, err);
	validator_keep(e->validator, &e->predictions);
	return code;
}

static int measure(struct evaluation *e, const struct eval_options *o, struct validation *val, struct err *err)
{
	int code = validator_run(e->validator, e->feed, signals_stop_asked, NULL, val, err);

	if (code == ERR_FORMAT)
		return err_prefix(err, "split %s of %s", o->split, o->data);
	/* Outputs that are no numbers make every pair a "no", and an accuracy of just 0.5. */
	if (code == 0 && !isfinite(val->loss))
		return err_set(err, ERR_LIMIT, "split %s of %s: the loss is not finite, so the model's outputs overflow and no accuracy means anything; "
			       "its weights, or batch norm's running statistics, are not those of a sound run", o->split, o->data);
	return code;
}

/* Found out before everything is measured, not behind it. Whoever reads a pipe would take the try for all there is. */
static int check_writable(const char *path, struct err *err)
{
	struct fs_writer *writer;
	struct stat info;
	int code;

	if (path == NULL || (stat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)))
		return 0;
	if ((code = fs_writer_open(&writer, path, err)) != 0)
		return err_prefix(err, "--predictions");
	fs_writer_abort(writer);
	return 0;
}

int eval_command(int argc, char *const argv[], struct err *err)
{
	struct eval_options o = { .split = "val", .image_size = -1, .max_len = -1, .batch_size = -1, .threads = -1 };
	struct args_result result;
	struct evaluation e = { .file = NULL };
	struct validation val;
	int code = parse(&o, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	if (o.data == NULL)
		return err_set(err, ERR_USAGE, "--data NAME says what to measure on; prepctl datasets lists what there is");
	if ((code = log_options_apply(o.log_level, o.quiet, err)) != 0 || (code = check_writable(o.predictions, err)) != 0)
		return code;
	signals_install();
	if ((code = open_evaluation(&e, &o, result.operands[0], err)) != 0 ||
	    (code = measure(&e, &o, &val, err)) != 0 ||
	    (o.predictions != NULL && (code = predictions_write(&e.predictions, o.predictions, err)) != 0))
		goto out;
	if (o.json)
		code = print_json(&o, e.best != NULL ? e.best : result.operands[0], feed_info(e.feed), &val, err);
	else
		print_text(&o, feed_info(e.feed), &val);
out:
	validator_close(e.validator);
	predictions_close(&e.predictions);
	model_close(e.model);
	feed_close(e.feed);
	origin_free(&e.origin);
	statefile_close(e.file);
	mem_free(e.socket);
	mem_free(e.best);
	return code;
}
