#include "trainer/train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"

/* A line has about 500 bytes: a million steps are half a gigabyte. */
#define METRICS_BYTES_MAX ((size_t)4 << 30)

struct metrics {
	int fd;
	char *path;
	struct buf line;
};

/* ---- cutting ---- */

struct line_place {
	bool whole;     /* a JSON object with a step and a split */
	bool val;
	uint64_t step;
};

static struct line_place place_of(const char *line, size_t size)
{
	struct line_place place = { 0 };
	struct json_reader reader;
	bool has_step = false, has_split = false;
	int64_t step;

	json_reader_init(&reader, "metrics.jsonl", line, size);
	if (json_expect(&reader, JSON_OBJECT_BEGIN, NULL) != 0)
		goto out;
	for (;;) {
		if (json_next(&reader, NULL) != 0)
			goto out;
		if (reader.kind == JSON_OBJECT_END)
			break;
		bool is_step = strcmp(reader.text.data, "step") == 0, is_split = strcmp(reader.text.data, "split") == 0;
		if (is_step) {
			if (json_next(&reader, NULL) != 0 || reader.kind != JSON_NUMBER || json_int(&reader, &step, NULL) != 0 ||
			    step < 0)
				goto out;
			place.step = (uint64_t)step;
			has_step = true;
		} else if (is_split) {
			if (json_next(&reader, NULL) != 0 || reader.kind != JSON_STRING)
				goto out;
			place.val = strcmp(reader.text.data, "train") != 0;
			has_split = true;
		} else if (json_skip(&reader, NULL) != 0) {
			goto out;
		}
	}
	place.whole = has_step && has_split;
out:
	json_reader_free(&reader);
	return place;
}

int metrics_keep(const char *data, size_t size, uint64_t next_step, int keep_last_val, struct buf *kept, struct metrics_kept *report,
		 struct err *err)
{
	size_t at = 0;
	int code = 0;

	*report = (struct metrics_kept){ .prefix = true };
	while (at < size && code == 0) {
		const char *end = memchr(data + at, '\n', size - at);

		if (end == NULL)
			break; /* a SIGKILL or a full disk cut it short */
		size_t length = (size_t)(end - data) + 1 - at;
		struct line_place place = place_of(data + at, length - 1);
		bool later = place.whole && (place.step >= next_step || (place.val && place.step + 1 == next_step && !keep_last_val));

		if (place.whole && !later) {
			report->train_lines += !place.val;
			report->prefix = report->prefix && kept->size == at;
			code = buf_add(kept, data + at, length, err);
		}
		at += length;
	}
	return code;
}

static int cut(const char *path, uint64_t next_step, int keep_last_val, struct err *err)
{
	struct buf content = BUF_INIT, kept = BUF_INIT;
	struct metrics_kept report = { .prefix = true };
	int code;

	if (fs_exists(path) && ((code = fs_read(path, METRICS_BYTES_MAX, &content, err)) != 0 ||
				(code = metrics_keep(content.data, content.size, next_step, keep_last_val, &kept, &report, err)) != 0))
		goto out;
	code = 0;
	if (report.train_lines < next_step)
		log_warn("%s: the lines of %llu of the %llu steps done are missing or damaged; training does not need them", path,
			 (unsigned long long)(next_step - report.train_lines), (unsigned long long)next_step);
	if (!report.prefix)
		code = fs_write_atomic(path, kept.data, kept.size, err);
	else if (kept.size < content.size && truncate(path, (off_t)kept.size) != 0)
		code = err_errno(err, errno, "%s", path);
out:
	buf_free(&content);
	buf_free(&kept);
	return code;
}

int metrics_open(struct metrics **out, const char *path, uint64_t next_step, int keep_last_val, struct err *err)
{
	struct metrics *metrics;
	int code = cut(path, next_step, keep_last_val, err);

	*out = NULL;
	if (code != 0)
		return code;
	metrics = mem_zalloc(sizeof(*metrics));
	if (metrics == NULL)
		return err_nomem(err, sizeof(*metrics));
	metrics->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	metrics->path = mem_strdup(path);
	if (metrics->fd < 0 || metrics->path == NULL) {
		code = err_errno(err, metrics->fd < 0 ? errno : ENOMEM, "%s", path);
		metrics_close(metrics);
		return code;
	}
	*out = metrics;
	return 0;
}

void metrics_close(struct metrics *metrics)
{
	if (metrics == NULL)
		return;
	if (metrics->fd >= 0)
		close(metrics->fd);
	buf_free(&metrics->line);
	mem_free(metrics->path);
	mem_free(metrics);
}

/* ---- lines ---- */

static int add_real(struct buf *line, const char *name, double value, struct err *err)
{
	int code = buf_printf(line, err, ", \"%s\": ", name);

	return code != 0 ? code : json_add_real(line, value, err);
}

static int add_digest(struct buf *line, const struct hash *digest, struct err *err)
{
	char hex[HASH_HEX_BYTES];

	hash_to_hex(digest, hex);
	return buf_printf(line, err, ", \"digest\": \"%s\"}\n", hex);
}

static int write_line(struct metrics *metrics, struct err *err)
{
	size_t done = 0;

	while (done < metrics->line.size) {
		ssize_t put = write(metrics->fd, metrics->line.data + done, metrics->line.size - done);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return err_errno(err, errno, "%s", metrics->path);
		done += (size_t)put;
	}
	return 0;
}

static int add_regularizers(struct buf *line, const struct metrics_train *m, struct err *err)
{
	const struct {
		int on;
		const char *name;
		double value;
	} fields[] = {
		{ m->objective_on, "objective", m->objective },
		{ m->rdrop, "rdrop_kl", m->rdrop_kl },
		{ m->sam, "sam_loss", m->sam_loss },
		{ m->adv, "adv_loss", m->adv_loss },
		{ m->adv_kl_on, "adv_kl", m->adv_kl },
		{ m->adv, "delta_over_embedding", m->ratio[0] },
		{ m->adv, "delta_over_feature", m->ratio[1] },
		{ m->adv && m->targets & 4, "delta_over_fused", m->ratio[2] },
		{ m->adv && m->targets & 8, "delta_over_pixel", m->ratio[3] },
		{ m->adv, "adv_cost", m->adv_cost },
	};
	int code = 0;

	for (size_t i = 0; code == 0 && i < ARRAY_LEN(fields); i++)
		if (fields[i].on)
			code = add_real(line, fields[i].name, fields[i].value, err);
	return code;
}

int metrics_add_train(struct metrics *metrics, const struct metrics_train *m, struct err *err)
{
	struct buf *line = &metrics->line;
	int code;

	buf_clear(line);
	if ((code = buf_printf(line, err, "{\"step\": %llu, \"epoch\": %llu, \"split\": \"train\"", (unsigned long long)m->step,
			       (unsigned long long)m->epoch)) != 0 ||
	    (code = add_real(line, "loss", m->loss, err)) != 0 || (code = add_real(line, "accuracy", m->accuracy, err)) != 0 ||
	    (code = add_real(line, "pairs_per_s", m->pairs_per_s, err)) != 0 ||
	    (code = add_real(line, "data_wait_s", m->data_wait_s, err)) != 0 || (code = add_real(line, "lr", m->lr, err)) != 0 ||
	    (code = add_real(line, "grad_norm", m->grad_norm, err)) != 0 ||
	    (code = buf_printf(line, err, ", \"samples\": %u", m->samples)) != 0)
		return code;
	if ((code = add_regularizers(line, m, err)) != 0)
		return code;
	code = add_digest(line, &m->digest, err);
	return code != 0 ? code : write_line(metrics, err);
}

static int add_recalls(struct buf *line, const struct metrics_val *m, struct err *err)
{
	static const struct {
		const char *to_text, *to_image;
	} names[] = { { "image_to_text_r1", "text_to_image_r1" }, { "image_to_text_r5", "text_to_image_r5" },
		      { "image_to_text_r10", "text_to_image_r10" } };
	int code = 0;

	for (size_t k = 0; k < ARRAY_LEN(names) && code == 0; k++)
		code = add_real(line, names[k].to_text, m->image_to_text[k], err);
	for (size_t k = 0; k < ARRAY_LEN(names) && code == 0; k++)
		code = add_real(line, names[k].to_image, m->text_to_image[k], err);
	return code;
}

int metrics_add_val(struct metrics *metrics, const struct metrics_val *m, struct err *err)
{
	struct buf *line = &metrics->line;
	int code;

	buf_clear(line);
	if ((code = buf_printf(line, err, "{\"step\": %llu, \"epoch\": %llu, \"split\": \"val\"", (unsigned long long)m->step,
			       (unsigned long long)m->epoch)) != 0 ||
	    (code = add_real(line, "loss", m->loss, err)) != 0 || (code = add_real(line, "accuracy", m->accuracy, err)) != 0 ||
	    (code = add_real(line, "pairs_per_s", m->pairs_per_s, err)) != 0 ||
	    (code = add_real(line, "data_wait_s", m->data_wait_s, err)) != 0 ||
	    (code = add_real(line, "seconds", m->seconds, err)) != 0 ||
	    (code = buf_printf(line, err, ", \"pairs\": %llu, \"best\": %s", (unsigned long long)m->pairs,
			       m->best ? "true" : "false")) != 0 ||
	    (m->recalls && (code = add_recalls(line, m, err)) != 0))
		return code;
	code = add_digest(line, &m->digest, err);
	return code != 0 ? code : write_line(metrics, err);
}

int metrics_sync(struct metrics *metrics, struct err *err)
{
	/* A pipe or /dev/stdout cannot be synced, and need not be. */
	if (fsync(metrics->fd) != 0 && errno != EINVAL && errno != EROFS)
		return err_errno(err, errno, "%s", metrics->path);
	return 0;
}
