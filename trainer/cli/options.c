#include "trainer/cli/options.h"

#include <string.h>

#include "shared/base/args.h"
#include "shared/base/log.h"
#include "trainer/reg/spec.h"

static const char usage[] = "trainer --data NAME [--reg SPEC] [options]";
static const char description[] =
	"Trains an image-text model on a data set that preprocessd serves, with the regularizer of your choice.\n"
	"\n"
	"    trainer --data flowers --preset small --reg none --out runs/plain\n"
	"    trainer --data flowers --preset small --reg adv --out runs/adv\n"
	"    trainer --data flowers --preset small --reg l2+dropout@3 --epochs 14 --seed 1\n"
	"    trainer --resume --out runs/adv\n"
	"    trainer eval runs/adv/best.safetensors --data flowers --split test\n"
	"\n"
	"The folder of a run holds metrics.jsonl (a line for each step), run.json, best.safetensors and last.safetensors (which "
	"PyTorch loads with strict=True), checkpoints/ and tensorboard/. Ctrl-C writes a checkpoint and ends; --resume goes on "
	"as if nothing had happened.\n"
	"\n"
	"Other verbs: trainer study --help (compare regularizers), trainer robust --help (attack them), trainer report --help (what a "
	"study found), trainer eval --help, trainer probe --help.";

/* The order and headings of --help; names are those of run_fields. */
struct entry {
	const char *name; /* NULL: a heading */
	const char *metavar, *help;
	int64_t min, max;
};

static const struct entry entries[] = {
	{ NULL, NULL, "Data", 0, 0 },
	{ "data", "NAME", "The data set to train on; prepctl datasets lists them.", 0, 0 },
	{ "task", "TASK",
	  "match: do picture and caption belong together; classify: the label; contrast: bring the features of pictures "
	  "and captions together (InfoNCE), for encoders that other runs start from with --init. Default: match.", 0, 0 },
	{ "train-split", "SPLIT", "What to train on: a split, several joined as train+val, all, or what a fold leaves of them "
	  "(all~rest=2/5). Default: train.", 0, 0 },
	{ "val-split", "SPLIT", "What to measure on (all~fold=2/5 is the second of five folds), or none. Default: val, and none where the data "
	  "set has no val.", 0, 0 },
	{ "vocab", "NAME", "Vocabulary. Default: the one that the data set was added with.", 0, 0 },
	{ "max-len", "N", "Tokens of a caption, with [CLS] and [SEP]; longer ones are cut. Default: 64.", 2, RUN_LEN_MAX },
	{ "exif", "ignore|apply", "Turn pictures by their EXIF orientation. Default: ignore, as torchvision does.", 0, 0 },
	{ NULL, NULL, "Model", 0, 0 },
	{ "preset", "NAME", "full (ResNet-50, BERT-base, 224 px), small (ResNet-18, 4 layers of 256, 112 px), tiny. Default: full.", 0, 0 },
	{ "image-size", "N", "Pixels a side. Default: the preset's.", 32, RUN_IMAGE_MAX },
	{ "image-encoder", "NAME", "resnet18, resnet34, resnet50, resnet101 or resnet152. Default: the preset's.", 0, 0 },
	{ "text-encoder", "SIZES", "Sizes of the BERT, such as layers=4,width=256,heads=4,inner=1024; also positions, types, vocab (rows of "
	  "the word embeddings), eps, attention-dropout. What is left out stays as it is. Default: the preset's.", 0, 0 },
	{ "text-config", "FILE", "Sizes of the BERT from Hugging Face's config.json. Default: the one beside --text-weights, where there is one.", 0, 0 },
	{ "bert-dropout", "P", "Dropout inside the text tower. Default: 0.1, or what config.json says.", 0, 0 },
	{ "init", "FILE",
	  "Start from another run's weights (best.safetensors) or a state dict. What it lacks starts at random and is listed: "
	  "after --task contrast the fusion layer and the head. A run's weights with another vocabulary or other classes are refused. "
	  "Weights are read from safetensors, .pth, .pt and .bin files (no code in them is run) and indexes of shards.", 0, 0 },
	{ "freeze", "TOWERS",
	  "image, text or image,text: these towers keep the weights they start with and run as in evaluation (running "
	  "statistics, no dropout). Their features are computed once and kept in preprocessd's cache for other runs. Default: none.", 0, 0 },
	{ "feature-cache", "on|off", "off: compute frozen towers' features anew for each batch; the results are the same bits. Default: on.", 0, 0 },
	{ "image-weights", "FILE", "Start the image tower from torchvision's weights.", 0, 0 },
	{ "text-weights", "FILE", "Start the text tower from Hugging Face's BERT weights: a file, or the folder with config.json.", 0, 0 },
	{ NULL, NULL, "Training", 0, 0 },
	{ "reg", "SPEC", reg_spec_help, 0, 0 },
	{ "epochs", "N", "How long: passes over the pictures. Default: 10.", 1, 1000000 },
	{ "steps", "N", "How long: optimizer steps, instead of --epochs.", 1, INT64_MAX },
	{ "batch-size", "N", "Samples of a batch. Default: 32.", 1, RUN_BATCH_MAX },
	{ "accumulate", "K", "Batches of an optimizer step. Default: 1.", 1, RUN_ACCUMULATE_MAX },
	{ "negatives", "K", "Wrong captions scored with each picture, from the same batch, or all. Default: all.", 0, 0 },
	{ "optimizer", "NAME", "adamw or sgd. Default: adamw.", 0, 0 },
	{ "lr", "X", "Learning rate. Default: 3e-4, for sgd 0.01.", 0, 0 },
	{ "momentum", "X", "Of sgd. Default: 0.9.", 0, 0 },
	{ "schedule", "NAME", "constant, linear or cosine after the warm-up. Default: cosine.", 0, 0 },
	{ "warmup", "N", "Steps in which the learning rate rises from 0. Default: 50, at most a tenth of the run.", 0, INT64_MAX },
	{ "clip", "NORM", "Scale gradients down to this norm; 0: never. Default: 1.", 0, 0 },
	{ "seed", "N", "Of the order of samples, initial weights, dropout and negatives. Default: 0.", 0, INT64_MAX },
	{ "precision", "P", "fp32, or bf16: convolutions and the text tower's products in bf16, sums, weights and optimizer in "
	  "fp32; faster, for processors with AVX512_BF16. Default: fp32.", 0, 0 },
	{ NULL, NULL, "Run", 0, 0 },
	{ "eval-every", "N", "Validate after every N steps. Default: after each epoch.", 1, INT64_MAX },
	{ "checkpoint-every", "N", "Write a checkpoint every N steps too. Default: after each epoch and every 5 minutes; with both "
	  "towers frozen every 20 seconds.", 1, INT64_MAX },
	{ "threads", "N", "Default: one for each core.", 1, 1024 },
};

enum { OWN_OPTIONS = 12, TABLE_MAX = ARRAY_LEN(entries) + OWN_OPTIONS };

static int fill_table(struct train_options *o, struct args_option table[TABLE_MAX])
{
	int n = 0;

	for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
		const struct entry *entry = &entries[i];
		struct args_option *option = &table[n++];

		*option = (struct args_option){ .kind = ARGS_SECTION, .help = entry->help };
		if (entry->name == NULL)
			continue;
		int field = run_field_index(entry->name);
		option->name = entry->name;
		option->kind = run_fields[field].kind == RUN_TEXT ? ARGS_TEXT :
			       run_fields[field].kind == RUN_INT  ? ARGS_INT :
								    ARGS_REAL;
		option->value = run_field_value(&o->run.config, field);
		option->metavar = entry->metavar;
		option->min = entry->min;
		option->max = entry->max;
		option->given = &o->run.given[field];
	}
	const struct args_option own[OWN_OPTIONS] = {
		{ .name = "out", .letter = 'o', .kind = ARGS_TEXT, .value = &o->run.out, .metavar = "DIR",
		  .help = "Folder of the run; new or empty. Default: runs/DATA-REG-seedN, with a checksum for the end of a REG too long for a name." },
		{ .name = "resume", .kind = ARGS_FLAG, .value = &o->run.resume,
		  .help = "Go on with the run in --out from its last checkpoint; options that are not given are the run's." },
		{ .name = "predictions", .kind = ARGS_FLAG, .value = &o->predictions,
		  .help = "At the end write predictions.csv, a line for each validation pair, and measure training pairs and calibration "
			  "(run.json). Of contrast, which ranks and decides nothing, training pairs alone." },
		{ .name = "no-weights", .kind = ARGS_FLAG, .value = &o->run.no_weights,
		  .help = "Leave no weights behind: for a run of which only the numbers are wanted. Checkpoints are written on the way, and "
			  "removed at the end." },
		{ .name = "dry-run", .kind = ARGS_FLAG, .value = &o->run.dry_run,
		  .help = "Print what the run would take (parameters, memory, arithmetic) and end." },
		{ .name = "recompute", .kind = ARGS_FLAG, .value = &o->run.recompute,
		  .help = "Keep less of a forward pass in memory and compute it again where it is needed: the same bits, about a quarter "
			  "more time." },
		{ .name = "profile", .kind = ARGS_FLAG, .value = &o->run.profile,
		  .help = "Print where the time of the steps went, for each kind of operation, and write it to DIR/profile.json." },
		{ .name = "socket", .kind = ARGS_TEXT, .value = &o->run.socket, .metavar = "PATH",
		  .help = "Of preprocessd. Default: $PREPROCESSD_SOCKET, else preprocessd/preprocessd.sock in $XDG_RUNTIME_DIR, else "
			  "/tmp/preprocessd-UID/preprocessd.sock." },
		{ .name = "cache", .kind = ARGS_TEXT, .value = &o->cache, .metavar = "DIR",
		  .help = "Accepted by every program; only preprocessd reads and writes the cache." },
		{ .name = "quiet", .letter = 'q', .kind = ARGS_FLAG, .value = &o->run.quiet, .help = "No progress; warnings and errors only." },
		{ .name = "log-level", .kind = ARGS_TEXT, .value = &o->log_level, .metavar = "LEVEL",
		  .help = "error, warn, info or debug. Default: info." },
		{ .name = "version", .kind = ARGS_FLAG, .value = &o->version, .help = "Print the version and end." },
	};
	for (size_t i = 0; i < ARRAY_LEN(own); i++)
		table[n++] = own[i];
	return n;
}

int train_options_texts(struct args_option table[TRAIN_TEXTS_MAX], const char *values[RUN_FIELDS_MAX], const char *const without[])
{
	int n = 0;

	for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
		bool left_out = false;

		for (int k = 0; without[k] != NULL; k++)
			left_out |= entries[i].name != NULL && strcmp(without[k], entries[i].name) == 0;
		if (left_out)
			continue;
		CHECK(n < TRAIN_TEXTS_MAX);
		table[n++] = (struct args_option){
			.name = entries[i].name, .kind = entries[i].name == NULL ? ARGS_SECTION : ARGS_TEXT, .metavar = entries[i].metavar,
			.help = entries[i].help, .value = entries[i].name == NULL ? NULL : &values[run_field_index(entries[i].name)],
		};
	}
	return n;
}

int train_options_check(int argc, char *const argv[], struct err *err)
{
	struct train_options options;
	struct model_config model;
	struct run_plan plan;
	bool help;
	int code = train_options_parse(&options, argc, argv, &help, err);

	if (code == 0 && help)
		code = err_set(err, ERR_USAGE, "--help is no option of a run");
	if (code == 0 && (code = run_config_resolve(&options.run.config, &plan, err)) == 0)
		code = run_config_model(&options.run.config, plan.task, false, &model, err);
	run_config_free(&options.run.config);
	return code;
}

int train_options_parse(struct train_options *out, int argc, char *const argv[], bool *help, struct err *err)
{
	struct args_option table[TABLE_MAX];
	struct args_result result;
	int code;

	*out = (struct train_options){ .cache = NULL };
	run_config_init(&out->run.config);
	const struct args_spec spec = {
		.usage = usage, .description = description, .options = table, .option_count = fill_table(out, table),
	};
	code = args_parse(&spec, argc, argv, &result, err);
	*help = code == 0 && result.help;
	if (*help)
		args_print_help(&spec);
	if (out->predictions) { /* a flag here, and part of what a run is recorded to do */
		out->run.config.predictions = 1;
		out->run.given[run_field_index("predictions")] = true;
	}
	return code;
}

int log_options_apply(const char *level, bool quiet, struct err *err)
{
	static const char *const levels[] = { "error", "warn", "info", "debug" };
	enum log_level chosen = quiet ? LOG_WARN : LOG_INFO;
	bool known = level == NULL;

	for (size_t i = 0; level != NULL && i < ARRAY_LEN(levels); i++)
		if (strcmp(levels[i], level) == 0) {
			chosen = (enum log_level)i;
			known = true;
		}
	if (!known)
		return err_set(err, ERR_USAGE, "--log-level: '%s' is no level; choose error, warn, info or debug", level);
	log_setup("trainer", chosen, 0);
	return 0;
}
