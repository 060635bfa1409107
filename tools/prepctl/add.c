#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/progress.h"
#include "tools/prepctl/prepctl.h"

enum { NAME_BYTES_MAX = 64, START_MS = 3000 };

struct options {
	struct prepctl_common common;
	const char *name, *format, *vocab, *split, *columns, *on_bad, *exif;
	struct args_list images, captions;
	int64_t limit, limit_seed, split_seed, size;
	bool replace, quiet, skip_bad, exif_apply, limit_seed_given, split_seed_given;
};

/* The request's paths, absolute. */
struct paths {
	ProtobufCBinaryData images[ARGS_LIST_MAX], captions[ARGS_LIST_MAX], vocab;
};

static int parse(int argc, char *const argv[], struct options *o, struct args_result *result, struct err *err)
{
	const struct args_option table[] = {
		{ .name = "format", .kind = ARGS_TEXT, .value = &o->format, .metavar = "FORMAT",
		  .help = "coco, karpathy, csv or jsonl. Needed." },
		{ .name = "images", .kind = ARGS_LIST, .value = &o->images, .metavar = "[SPLIT=]DIR",
		  .help = "A folder with pictures; repeatable. With SPLIT= it is for that split alone. Default: the captions' folder." },
		{ .name = "captions", .kind = ARGS_LIST, .value = &o->captions, .metavar = "[SPLIT=]FILE",
		  .help = "A file with captions; repeatable. With SPLIT= what it lists is in that split. Needed." },
		{ .name = "vocab", .kind = ARGS_TEXT, .value = &o->vocab, .metavar = "FILE",
		  .help = "Tokenize the captions with this vocabulary (one word a line, as BERT's vocab.txt). It is registered under "
			  "the file's name and is the data set's own from then on." },
		{ .name = "limit", .kind = ARGS_INT, .value = &o->limit, .metavar = "N", .min = 1, .max = INT64_MAX,
		  .help = "Take only N of the pictures, drawn at random, with all their captions: 50000 of COCO's 118,287, say. Others "
			  "are not opened. The same caption files give the same ones, and a larger N adds to them. Default: all." },
		{ .name = "limit-seed", .kind = ARGS_INT, .value = &o->limit_seed, .given = &o->limit_seed_given, .metavar = "N",
		  .min = 0, .max = INT64_MAX,
		  .help = "Which ones. Default 0." },
		{ .name = "split", .kind = ARGS_TEXT, .value = &o->split, .metavar = "NAME=SHARE,...",
		  .help = "Split by picture at these shares, such as train=0.8,val=0.2. Default: as the files say, else all in train." },
		{ .name = "split-seed", .kind = ARGS_INT, .value = &o->split_seed, .given = &o->split_seed_given, .metavar = "N",
		  .min = 0, .max = INT64_MAX,
		  .help = "Which split of those shares. Default 0." },
		{ .name = "columns", .kind = ARGS_TEXT, .value = &o->columns, .metavar = "IMAGE,CAPTION,LABEL",
		  .help = "Names (or numbers from 1) of a CSV's columns, or of a JSONL's keys. LABEL may be left out." },
		{ .name = "on-bad", .kind = ARGS_TEXT, .value = &o->on_bad, .metavar = "fail|skip",
		  .help = "What to do when a picture cannot be used: fail and register nothing, or leave it out and list it. "
			  "Default fail." },
		{ .name = "size", .kind = ARGS_INT, .value = &o->size, .metavar = "N", .min = 1, .max = 2048,
		  .help = "Prepare pictures at this size in pixels; others are prepared when they are asked for. Default 224." },
		{ .name = "exif", .kind = ARGS_TEXT, .value = &o->exif, .metavar = "ignore|apply",
		  .help = "Turn pictures by their EXIF orientation. Default ignore, as torchvision does. To train on them so, give trainer the same option." },
		{ .name = "replace", .kind = ARGS_FLAG, .value = &o->replace,
		  .help = "Let a data set of the same name and another content give way." },
		{ .name = "quiet", .letter = 'q', .kind = ARGS_FLAG, .value = &o->quiet, .help = "No progress line." },
		PREPCTL_OPTIONS(&o->common),
	};
	const struct args_spec spec = {
		.usage = "prepctl add NAME --format coco|karpathy|csv|jsonl --images [SPLIT=]DIR --captions [SPLIT=]FILE [options]",
		.description =
			"Registers a data set and prepares all its pictures and captions, so that training finds them ready. What is\n"
			"in the cache already is not prepared again. Returns when everything is on disk.\n"
			"\nExamples:\n"
			"  prepctl add coco --format coco --images train=train2017 --images val=val2017 \\\n"
			"      --captions train=captions_train2017.json --captions val=captions_val2017.json --vocab vocab.txt\n"
			"  prepctl add mine --format csv --images photos --captions captions.csv --split train=0.9,val=0.1",
		.options = table, .option_count = (int)ARRAY_LEN(table), .operands_min = 1, .operands_max = 1,
	};
	int code = prepctl_parse(&spec, argc, argv, result, err);

	if (code != 0 || result->help)
		return code;
	o->name = result->operands[0];
	o->skip_bad = strcmp(o->on_bad, "skip") == 0;
	if (!o->skip_bad && strcmp(o->on_bad, "fail") != 0)
		return err_set(err, ERR_USAGE, "--on-bad: expected fail or skip, got '%s'", o->on_bad);
	if (o->format == NULL)
		return err_set(err, ERR_USAGE, "prepctl add: --format is missing (coco, karpathy, csv or jsonl)");
	if (o->captions.count == 0)
		return err_set(err, ERR_USAGE, "prepctl add: --captions FILE is missing");
	if (o->limit_seed_given && o->limit == 0)
		return err_set(err, ERR_USAGE, "--limit-seed says which pictures are drawn, and without --limit N none are; give that, too");
	if (o->split_seed_given && o->split == NULL)
		return err_set(err, ERR_USAGE, "--split-seed says how --split deals pictures out, and there is none; give --split, too");
	return prepctl_exif(o->exif, &o->exif_apply, err);
}

/* Length of "SPLIT=" in front of a path, or 0: as the daemon's readers see it. */
static size_t split_bytes(const char *text)
{
	size_t bytes = strcspn(text, "=/");

	if (fs_exists(text)) /* a file whose name has an = in it */
		return 0;
	return bytes > 0 && bytes <= NAME_BYTES_MAX && text[bytes] == '=' ? bytes + 1 : 0;
}

/* The daemon does not know where we stand. Symbolic links stay as they are. */
static int absolute(const char *option, const char *folder, const char *text, bool with_split, ProtobufCBinaryData *out, struct err *err)
{
	size_t split = with_split ? split_bytes(text) : 0;
	struct buf whole = BUF_INIT;
	char *path = NULL;
	int code = prepctl_check_path(option, text + split, err);

	if (code == 0)
		code = fs_join(&path, folder, text + split, err);
	if (code == 0)
		code = buf_add(&whole, text, split, err);
	if (code == 0)
		code = buf_add_text(&whole, path, err);
	mem_free(path);
	if (code != 0) {
		buf_free(&whole);
		return code;
	}
	*out = wire_bytes(whole.data, whole.size);
	return 0;
}

static int make_paths(const struct options *o, struct paths *out, struct err *err)
{
	char *folder = getcwd(NULL, 0);
	int code = folder == NULL ? err_errno(err, errno, "the current folder") : 0;

	for (int i = 0; i < o->images.count && code == 0; i++)
		code = absolute("--images", folder, o->images.items[i], true, &out->images[i], err);
	for (int i = 0; i < o->captions.count && code == 0; i++)
		code = absolute("--captions", folder, o->captions.items[i], true, &out->captions[i], err);
	if (o->vocab != NULL && code == 0)
		code = absolute("--vocab", folder, o->vocab, false, &out->vocab, err);
	mem_free(folder);
	return code;
}

static void free_paths(struct paths *paths)
{
	for (int i = 0; i < ARGS_LIST_MAX; i++) {
		mem_free(paths->images[i].data);
		mem_free(paths->captions[i].data);
	}
	mem_free(paths->vocab.data);
}

/* --- progress ---------------------------------------------------------------------------- */

struct display {
	struct progress progress;
	char label[NAME_BYTES_MAX + 32];
	const char *name;
	int phase; /* -1: nothing was drawn yet */
	uint64_t done, failed;
	bool quiet;
};

static void draw(struct display *display, bool end)
{
	char note[64] = "";

	if (display->failed > 0)
		snprintf(note, sizeof(note), "%llu failed", (unsigned long long)display->failed);
	if (end)
		progress_end(&display->progress, display->done, note[0] != '\0' ? note : NULL);
	else
		progress_update(&display->progress, display->done, note[0] != '\0' ? note : NULL);
}

static void on_progress(void *context, const Wire__Progress *progress)
{
	static const char *const what[] = { "reading", "pictures of", "captions of", "saving" };
	struct display *display = context;
	int phase = (int)progress->phase;

	if (phase < 0 || phase >= (int)ARRAY_LEN(what))
		return;
	if (phase != display->phase) {
		if (display->phase >= 0) {
			display->done = display->progress.total; /* the last count was on its way when the phase ended */
			draw(display, true);
		}
		display->phase = phase;
		snprintf(display->label, sizeof(display->label), "%s %s", what[phase], display->name);
		/* Nothing is counted while files are read and saved. */
		progress_begin(&display->progress, display->label, progress->total, display->quiet || progress->total == 0);
	}
	display->done = progress->done;
	display->failed = progress->failed;
	draw(display, false);
}

static void end_progress(struct display *display, bool all)
{
	if (display->phase < 0)
		return;
	if (all && display->progress.total > 0)
		display->done = display->progress.total;
	draw(display, true);
}

/* --- the end ------------------------------------------------------------------------------- */

static void print_added(const struct options *o, const Wire__AddReply *added)
{
	char a[64], b[64], version[13];
	const Wire__Dataset *dataset = added->detail->dataset;

	prepctl_short_hash(version, dataset->version);
	printf("%s %s: %s, %s, version %s\n", added->unchanged ? "already there:" : "added", o->name,
	       prepctl_count(a, dataset->pictures, "picture"), prepctl_count(b, dataset->captions, "caption"), version);
	prepctl_print_detail(added->detail);
	for (size_t i = 0; i < added->n_notes; i++) {
		printf("  note             ");
		prepctl_print_text(added->notes[i]);
		printf("\n");
	}
	if (added->decoded == 0 && added->tokenized == 0)
		printf("  nothing had to be decoded: all was in the cache (%.1f s)\n", added->seconds);
	else
		printf("  %s decoded, %s tokenized in %.1f s\n", prepctl_count(a, added->decoded, "picture"),
		       prepctl_count(b, added->tokenized, "caption"), added->seconds);
}

static void print_failures(const Wire__Error *error)
{
	for (size_t i = 0; i < error->n_failures; i++)
		log_error("%.*s: %s", (int)error->failures[i]->source.len, (const char *)error->failures[i]->source.data,
			  error->failures[i]->reason);
	if (error->failure_count > error->n_failures)
		log_error("... and %llu more", (unsigned long long)(error->failure_count - error->n_failures));
}

static void fill_request(const struct options *o, struct paths *paths, Wire__AddDataset *add)
{
	add->name = (char *)(uintptr_t)o->name;
	add->format = (char *)(uintptr_t)o->format;
	add->n_images = (size_t)o->images.count;
	add->images = paths->images;
	add->n_captions = (size_t)o->captions.count;
	add->captions = paths->captions;
	if (o->columns != NULL)
		add->columns = (char *)(uintptr_t)o->columns;
	if (o->split != NULL)
		add->split_ratio = (char *)(uintptr_t)o->split;
	add->split_seed = (uint64_t)o->split_seed;
	add->limit = (uint64_t)o->limit;
	add->limit_seed = (uint64_t)o->limit_seed;
	add->skip_bad = o->skip_bad;
	add->vocab_path = paths->vocab;
	add->replace = o->replace;
}

static int run(const struct options *o, struct paths *paths, struct err *err)
{
	Wire__AddDataset add = WIRE__ADD_DATASET__INIT;
	Wire__Transform transform = WIRE__TRANSFORM__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	Wire__Reply *reply = NULL;
	struct display display = { .name = o->name, .phase = -1, .quiet = o->quiet };
	struct conn conn;
	struct err broken;
	int code = prepctl_connect(&conn, &o->common, "add", err);

	if (code != 0)
		goto out;
	conn.progress = on_progress;
	conn.progress_context = &display;
	fill_request(o, paths, &add);
	transform.size = (uint32_t)o->size;
	transform.exif_apply = o->exif_apply;
	add.transform = &transform;
	request.id = 1;
	request.verb_case = WIRE__REQUEST__VERB_ADD_DATASET;
	request.add_dataset = &add;
	code = conn_call(&conn, &request, WIRE__REPLY__BODY_ADDED, &reply, err);
	broken = *err;
	end_progress(&display, code == 0);
	if (code == 0)
		print_added(o, reply->added);
	else if (code == ERR_CANCELLED && prepctl_interrupted(NULL))
		err_set(err, code, "stopped; what was prepared stays in the cache, and the same command goes on from there");
	else if (code == ERR_CANCELLED)
		code = err_set(err, ERR_UNAVAILABLE, "preprocessd was stopped, and %s is not registered; what was prepared stays in the cache: start "
			       "it again (preprocessd &) and run the same command", o->name);
	else if (code == ERR_UNAVAILABLE)
		err_set(err, code, "%s; what was prepared stays in the cache: see whether preprocessd runs, and run the same command again",
			broken.message);
	else if (reply != NULL && reply->body_case == WIRE__REPLY__BODY_ERROR)
		print_failures(reply->error);
out:
	conn_free(&conn);
	return code;
}

int prepctl_add(int argc, char *const argv[], struct err *err)
{
	struct options options = { .common.start_ms = START_MS, .on_bad = "fail", .exif = "ignore", .size = 224 };
	struct args_result result;
	struct paths paths = { .vocab = { 0 } };
	int code = parse(argc, argv, &options, &result, err);

	if (code != 0 || result.help)
		return code;
	code = make_paths(&options, &paths, err);
	if (code == 0)
		code = run(&options, &paths, err);
	free_paths(&paths);
	return code;
}
