#include "trainer/train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "trainer/io/weights.h"

enum { PATH_BYTES = 4096, NAME_BYTES = 64, FOUND_MAX = 1024, COPY_BYTES = 1 << 20 };

/* Metadata keys under the checksum, in this order. */
enum { META_FORMAT, META_STEP, META_PROGRESS, META_CONFIG, META_MODEL, META_DATASET, META_PARTNER, META_SECONDS, META_COUNT };
static const char *const meta_keys[META_COUNT] = { "format", "step",	"progress", "config",
						   "model",  "dataset", "partner",  "train_seconds" };
static const char checkpoint_format[] = "trainer-checkpoint-1";

/* ---- checksums ---- */

struct tensor_sum {
	uint64_t name, values;
	int64_t shape[TENSOR_RANK_MAX];
	int64_t dtype, rank;
};

static void checksum_text(uint64_t value, char out[24])
{
	snprintf(out, 24, "%016" PRIx64, value);
}

/* XXH3 over the chain of every tensor and every metadata value. */
static uint64_t sum_tensor(uint64_t chain, const struct tensor_view *view)
{
	struct tensor_sum sum = { 0 };
	uint64_t link[2];

	sum.name = hash_checksum(view->name, strlen(view->name));
	sum.values = hash_checksum(view->data, view->bytes);
	sum.dtype = (int64_t)view->dtype;
	sum.rank = view->rank;
	memcpy(sum.shape, view->shape, (size_t)view->rank * sizeof(sum.shape[0]));
	link[0] = chain;
	link[1] = hash_checksum(&sum, sizeof(sum));
	return hash_checksum(link, sizeof(link));
}

static uint64_t sum_metadata(uint64_t chain, const char *const values[META_COUNT])
{
	for (int i = 0; i < META_COUNT; i++) {
		uint64_t link[2] = { chain, values[i] == NULL ? 0 : hash_checksum(values[i], strlen(values[i])) };

		chain = hash_checksum(link, sizeof(link));
	}
	return chain;
}

int checkpoint_verify(const struct tensorfile *file, bool *ours, struct err *err)
{
	const char *recorded = tensorfile_metadata(file, "checksum");
	const char *values[META_COUNT];
	char actual[24];
	uint64_t chain = 0;

	*ours = recorded != NULL;
	if (recorded == NULL)
		return 0;
	for (int i = 0; i < tensorfile_count(file); i++)
		chain = sum_tensor(chain, tensorfile_at(file, i));
	for (int i = 0; i < META_COUNT; i++)
		values[i] = tensorfile_metadata(file, meta_keys[i]);
	checksum_text(sum_metadata(chain, values), actual);
	if (strcmp(recorded, actual) != 0)
		return err_set(err, ERR_CORRUPT, "%s: damaged (its checksum is %s, its content gives %s)", tensorfile_path(file),
			       recorded, actual);
	return 0;
}

/* ---- folders ---- */

static int path_join(char out[PATH_BYTES], const char *dir, const char *name, struct err *err)
{
	if (snprintf(out, PATH_BYTES, "%s/%s", dir, name) >= PATH_BYTES)
		return err_set(err, ERR_LIMIT, "%.100s...: the path is too long", dir);
	return 0;
}

static int sync_folder(const char *path, struct err *err)
{
	int code = 0;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
		code = err_errno(err, errno, "%s", path);
	if (fd >= 0)
		close(fd);
	return code;
}

/* Removes a folder and the plain files in it; what it cannot remove stays and does no harm. */
static void remove_folder(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;
	char file[PATH_BYTES];

	while (folder != NULL && (entry = readdir(folder)) != NULL)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    path_join(file, path, entry->d_name, NULL) == 0)
			unlink(file);
	if (folder != NULL)
		closedir(folder);
	rmdir(path);
}

struct found {
	uint64_t steps[FOUND_MAX]; /* newest first */
	int count;
};

static int newest_first(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? 1 : x > y ? -1 : 0;
}

static void step_name(uint64_t step, char out[NAME_BYTES])
{
	snprintf(out, NAME_BYTES, "step-%010" PRIu64, step);
}

/* Lists finished checkpoints; removes what an interrupted write left. */
static void list_checkpoints(const char *folder_path, struct found *found, bool clean)
{
	DIR *folder = opendir(folder_path);
	struct dirent *entry;

	found->count = 0;
	while (folder != NULL && (entry = readdir(folder)) != NULL) {
		char name[NAME_BYTES], path[PATH_BYTES];
		uint64_t step;

		if (strncmp(entry->d_name, ".new-", 5) == 0 && clean && path_join(path, folder_path, entry->d_name, NULL) == 0)
			remove_folder(path);
		if (sscanf(entry->d_name, "step-%" SCNu64, &step) != 1)
			continue;
		step_name(step, name);
		if (strcmp(name, entry->d_name) == 0 && found->count < FOUND_MAX)
			found->steps[found->count++] = step;
	}
	if (folder != NULL)
		closedir(folder);
	qsort(found->steps, (size_t)found->count, sizeof(found->steps[0]), newest_first);
}

bool checkpoint_exists(const char *dir)
{
	char path[PATH_BYTES];
	struct found *found = mem_zalloc(sizeof(*found));
	bool any = false;

	if (found != NULL && path_join(path, dir, "checkpoints", NULL) == 0) {
		list_checkpoints(path, found, false);
		any = found->count > 0;
	}
	mem_free(found);
	return any;
}

/* ---- links ---- */

static int copy_file(const char *from, const char *to, struct err *err)
{
	struct fs_writer *writer = NULL;
	char *block = mem_alloc(COPY_BYTES);
	int fd = open(from, O_RDONLY | O_CLOEXEC);
	int code = 0;

	if (block == NULL || fd < 0) {
		code = block == NULL ? err_nomem(err, COPY_BYTES) : err_errno(err, errno, "%s", from);
		goto out;
	}
	code = fs_writer_open(&writer, to, err);
	while (code == 0) {
		ssize_t got = read(fd, block, COPY_BYTES);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			code = err_errno(err, errno, "%s", from);
		if (got <= 0)
			break;
		code = fs_writer_add(writer, block, (size_t)got, err);
	}
	if (code == 0)
		code = fs_writer_commit(writer, err);
	else
		fs_writer_abort(writer);
out:
	if (fd >= 0)
		close(fd);
	mem_free(block);
	return code;
}

/* DIR/name becomes another name of the checkpoint's model file. */
static int point(const char *dir, const char *name, const char *model_path, struct err *err)
{
	char target[PATH_BYTES], temporary[PATH_BYTES], hidden[NAME_BYTES];
	struct stat a, b;
	int code;

	snprintf(hidden, sizeof(hidden), ".%s.new", name);
	if ((code = path_join(target, dir, name, err)) != 0 || (code = path_join(temporary, dir, hidden, err)) != 0)
		return code;
	if (stat(target, &a) == 0 && stat(model_path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev)
		return 0;
	unlink(temporary);
	if (link(model_path, temporary) != 0)
		return copy_file(model_path, target, err);
	if (rename(temporary, target) != 0) {
		code = err_errno(err, errno, "%s", target);
		unlink(temporary);
		return code;
	}
	return sync_folder(dir, err);
}

static int point_all(const char *dir, const char *checkpoint, const struct checkpoint_progress *progress, struct err *err)
{
	char model_path[PATH_BYTES];
	int code;

	if ((code = path_join(model_path, checkpoint, "model.safetensors", err)) != 0 ||
	    (code = point(dir, "last.safetensors", model_path, err)) != 0)
		return code;
	if (progress->has_best && progress->best_step == progress->step)
		code = point(dir, "best.safetensors", model_path, err);
	return code;
}

/* ---- progress as text ---- */

static int progress_write(const struct checkpoint_progress *p, struct buf *out, struct err *err)
{
	char hex[HASH_HEX_BYTES];
	int code;

	hash_to_hex(&p->chain, hex);
	if ((code = buf_printf(out, err, "{\"step\": %" PRIu64 ", \"epoch\": %" PRIu64 ", \"validated\": %s, \"digest\": \"%s\"",
			       p->step, p->epoch, p->validated ? "true" : "false", hex)) != 0)
		return code;
	if (p->has_best && ((code = buf_printf(out, err, ", \"best_step\": %" PRIu64 ", \"best_accuracy\": ", p->best_step)) != 0 ||
			    (code = json_add_real(out, p->best_accuracy, err)) != 0 ||
			    (code = buf_add_text(out, ", \"best_loss\": ", err)) != 0 ||
			    (code = json_add_real(out, p->best_loss, err)) != 0))
		return code;
	return buf_add_byte(out, '}', err);
}

static int read_count(struct json_reader *reader, uint64_t *out, struct err *err)
{
	int64_t value;
	int code = json_expect(reader, JSON_NUMBER, err);

	if (code != 0 || (code = json_int(reader, &value, err)) != 0)
		return code;
	if (value < 0)
		return json_fail(reader, err, "a negative count");
	*out = (uint64_t)value;
	return 0;
}

static int read_real(struct json_reader *reader, double *out, struct err *err)
{
	int code = json_expect(reader, JSON_NUMBER, err);

	return code != 0 ? code : json_real(reader, out, err);
}

static int read_field(struct json_reader *reader, const char *key, struct checkpoint_progress *p, struct err *err)
{
	int code;

	if (strcmp(key, "step") == 0)
		return read_count(reader, &p->step, err);
	if (strcmp(key, "epoch") == 0)
		return read_count(reader, &p->epoch, err);
	if (strcmp(key, "best_step") == 0) {
		p->has_best = true;
		return read_count(reader, &p->best_step, err);
	}
	if (strcmp(key, "best_accuracy") == 0)
		return read_real(reader, &p->best_accuracy, err);
	if (strcmp(key, "best_loss") == 0)
		return read_real(reader, &p->best_loss, err);
	if (strcmp(key, "digest") == 0) {
		if ((code = json_expect(reader, JSON_STRING, err)) != 0)
			return code;
		return hash_from_hex(&p->chain, reader->text.data, err);
	}
	if (strcmp(key, "validated") == 0) {
		if ((code = json_next(reader, err)) != 0)
			return code;
		if (reader->kind != JSON_TRUE && reader->kind != JSON_FALSE)
			return json_fail(reader, err, "validated is true or false");
		p->validated = reader->kind == JSON_TRUE;
		return 0;
	}
	return json_skip(reader, err);
}

static int progress_read(const char *name, const char *text, struct checkpoint_progress *out, struct err *err)
{
	struct json_reader reader;
	int code;

	*out = (struct checkpoint_progress){ 0 };
	json_reader_init(&reader, name, text, strlen(text));
	code = json_expect(&reader, JSON_OBJECT_BEGIN, err);
	while (code == 0) {
		char key[NAME_BYTES];

		if ((code = json_next(&reader, err)) != 0 || reader.kind == JSON_OBJECT_END)
			break;
		snprintf(key, sizeof(key), "%s", reader.text.data);
		code = read_field(&reader, key, out, err);
	}
	json_reader_free(&reader);
	return code;
}

/* ---- writing ---- */

static int write_file(const char *folder, const char *name, const struct tensor_view *views, int count,
		      const char *values[META_COUNT], char checksum[24], struct err *err)
{
	struct tensor_metadata metadata[META_COUNT + 1];
	char path[PATH_BYTES];
	uint64_t chain = 0;
	int n = 0, code;

	if ((code = path_join(path, folder, name, err)) != 0)
		return code;
	for (int i = 0; i < count; i++)
		chain = sum_tensor(chain, &views[i]);
	checksum_text(sum_metadata(chain, values), checksum);
	for (int i = 0; i < META_COUNT; i++)
		if (values[i] != NULL)
			metadata[n++] = (struct tensor_metadata){ meta_keys[i], values[i] };
	metadata[n++] = (struct tensor_metadata){ "checksum", checksum };
	return tensorfile_write(path, views, count, metadata, n, err);
}

static int write_both(const char *folder, const struct params *params, const struct optimizer *optimizer,
		      const struct checkpoint_progress *progress, const struct checkpoint_about *about, struct err *err)
{
	struct tensor_view *views = mem_array((size_t)params->count + 1, sizeof(*views)), *moments = NULL;
	struct buf text = BUF_INIT;
	char step[24], seconds[32], model_sum[24], moments_sum[24];
	int moment_count, code;

	if (views == NULL)
		return err_nomem(err, (size_t)params->count * sizeof(*views));
	snprintf(step, sizeof(step), "%" PRIu64, progress->step);
	/* Time stands in the other file: equal runs write equal weights, byte for byte. */
	snprintf(seconds, sizeof(seconds), "%.3f", progress->train_seconds);
	if ((code = progress_write(progress, &text, err)) != 0 || (code = optimizer_views(optimizer, &moments, &moment_count, err)) != 0)
		goto out;
	const char *values[META_COUNT] = { checkpoint_format, step, text.data, about->config, about->model, about->dataset, NULL, NULL };
	if ((code = write_file(folder, "model.safetensors", views, weights_views(params, views), values, model_sum, err)) != 0)
		goto out;
	const char *pair[META_COUNT] = { checkpoint_format, step, NULL, NULL, NULL, NULL, model_sum, seconds };
	code = write_file(folder, "optimizer.safetensors", moments, moment_count, pair, moments_sum, err);
out:
	buf_free(&text);
	mem_free(moments);
	mem_free(views);
	return code;
}

/* The older ones go only now that the newest is on disk. */
static void drop_old(const char *folder)
{
	struct found *found = mem_zalloc(sizeof(*found));
	char name[NAME_BYTES], path[PATH_BYTES];

	if (found == NULL)
		return;
	list_checkpoints(folder, found, true);
	for (int i = CHECKPOINT_KEPT; i < found->count; i++) {
		step_name(found->steps[i], name);
		if (path_join(path, folder, name, NULL) == 0)
			remove_folder(path);
	}
	mem_free(found);
}

/* A checkpoint of the same step is there when a resumed run writes it again:
 * then the two change places at once, so that there is never none. */
static int put_in_place(const char *hidden, const char *final, struct err *err)
{
	if (fs_exists(final) && renameat2(AT_FDCWD, hidden, AT_FDCWD, final, RENAME_EXCHANGE) == 0) {
		remove_folder(hidden);
		return 0;
	}
	/* Where a file system cannot exchange, the one before still stands while this happens. */
	if (fs_exists(final))
		remove_folder(final);
	return rename(hidden, final) == 0 ? 0 : err_errno(err, errno, "%s", final);
}

int checkpoint_write(const char *dir, const struct params *params, const struct optimizer *optimizer,
		     const struct checkpoint_progress *progress, const struct checkpoint_about *about, struct err *err)
{
	char folder[PATH_BYTES], hidden[PATH_BYTES], final[PATH_BYTES], name[NAME_BYTES], hidden_name[NAME_BYTES + 8];
	int code;

	step_name(progress->step, name);
	snprintf(hidden_name, sizeof(hidden_name), ".new-%s", name);
	if ((code = path_join(folder, dir, "checkpoints", err)) != 0 || (code = path_join(hidden, folder, hidden_name, err)) != 0 ||
	    (code = path_join(final, folder, name, err)) != 0 || (code = fs_mkdirs(folder, 0777, err)) != 0)
		return code;
	remove_folder(hidden);
	if ((code = fs_mkdirs(hidden, 0777, err)) != 0)
		goto failed;
	if ((code = write_both(hidden, params, optimizer, progress, about, err)) != 0)
		goto failed;
	if ((code = put_in_place(hidden, final, err)) != 0)
		goto failed;
	if ((code = sync_folder(folder, err)) != 0 || (code = point_all(dir, final, progress, err)) != 0)
		goto failed;
	drop_old(folder);
	return 0;
failed:
	remove_folder(hidden);
	err_prefix(err, "checkpoint of step %" PRIu64, progress->step);
	return code;
}

/* ---- reading ---- */

static int open_checked(struct tensorfile **out, const char *folder, const char *name, struct err *err)
{
	char path[PATH_BYTES];
	bool ours;
	int code;

	*out = NULL;
	if ((code = path_join(path, folder, name, err)) != 0 || (code = tensorfile_open(out, path, err)) != 0)
		return code;
	if ((code = checkpoint_verify(*out, &ours, err)) == 0 && !ours)
		code = err_set(err, ERR_CORRUPT, "%s: carries no checksum", path);
	if (code != 0) {
		tensorfile_close(*out);
		*out = NULL;
	}
	return code;
}

struct opened {
	struct tensorfile *model, *moments;
	struct checkpoint_progress progress;
};

static void opened_close(struct opened *o)
{
	tensorfile_close(o->model);
	tensorfile_close(o->moments);
	*o = (struct opened){ 0 };
}

/* Both files whole, and of one another. */
static int open_pair(const char *folder, uint64_t step, struct opened *out, struct err *err)
{
	const char *progress, *sum, *partner;
	int code;

	*out = (struct opened){ 0 };
	if ((code = open_checked(&out->model, folder, "model.safetensors", err)) != 0 ||
	    (code = open_checked(&out->moments, folder, "optimizer.safetensors", err)) != 0)
		goto failed;
	sum = tensorfile_metadata(out->model, "checksum");
	partner = tensorfile_metadata(out->moments, "partner");
	progress = tensorfile_metadata(out->model, "progress");
	if (partner == NULL || strcmp(sum, partner) != 0) {
		code = err_set(err, ERR_CORRUPT, "%s: weights and optimizer state are not of the same step", folder);
		goto failed;
	}
	if (progress == NULL) {
		code = err_set(err, ERR_CORRUPT, "%s: does not say where the run stood", folder);
		goto failed;
	}
	if ((code = progress_read(folder, progress, &out->progress, err)) != 0)
		goto failed;
	const char *seconds = tensorfile_metadata(out->moments, "train_seconds");
	if (seconds != NULL)
		out->progress.train_seconds = strtod(seconds, NULL);
	if (out->progress.step != step) {
		code = err_set(err, ERR_CORRUPT, "%s: is of step %" PRIu64, folder, out->progress.step);
		goto failed;
	}
	return 0;
failed:
	opened_close(out);
	return code;
}

int checkpoint_restore(const char *dir, struct params *params, struct optimizer *optimizer, struct checkpoint_progress *progress,
		       bool *got, struct err *err)
{
	struct found *found = mem_zalloc(sizeof(*found));
	char folder[PATH_BYTES], path[PATH_BYTES], name[NAME_BYTES];
	struct opened opened = { 0 };
	int code = 0;

	*got = false;
	if (found == NULL)
		return err_nomem(err, sizeof(*found));
	if ((code = path_join(folder, dir, "checkpoints", err)) != 0)
		goto out;
	list_checkpoints(folder, found, true);
	for (int i = 0; i < found->count && !*got; i++) {
		step_name(found->steps[i], name);
		if ((code = path_join(path, folder, name, err)) != 0)
			goto out;
		if ((code = open_pair(path, found->steps[i], &opened, err)) == 0)
			*got = true;
		else
			log_warn("%s; %s", err->message, i + 1 < found->count ? "using the checkpoint before it" :
									       "no other checkpoint is left");
	}
	if (!*got) {
		if (found->count > 0)
			code = err_set(err, ERR_CORRUPT, "%s: every checkpoint is damaged; start again with another --out", folder);
		goto out;
	}
	if ((code = weights_load_strict(params, opened.model, "", err)) != 0 ||
	    (code = optimizer_restore(optimizer, opened.moments, opened.progress.step, err)) != 0 ||
	    (code = point_all(dir, path, &opened.progress, err)) != 0)
		goto out;
	*progress = opened.progress;
out:
	opened_close(&opened);
	mem_free(found);
	return code;
}
