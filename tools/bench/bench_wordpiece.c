/*
 * bench_wordpiece.c - captions a second of the tokenizer, one thread.
 *
 *     bench_wordpiece VOCAB FILE...
 *
 * FILE has one caption a line; a .json file is read as COCO's annotations (the
 * texts of its "caption" keys). All captions lie in memory; each round goes
 * through all of them, and the median of the rounds counts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preprocessd/codec/wordpiece.h"
#include "shared/base/buf.h"
#include "shared/base/clock.h"
#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "shared/base/mem.h"

enum { ROUNDS = 21, FILE_BYTES_MAX = 1 << 30 };

/* Captions one after the other, each ended by a newline. */
static int add_json_captions(struct buf *captions, const char *path, const struct buf *file, struct err *err)
{
	struct json_reader reader;
	bool is_caption = false;
	int code;

	json_reader_init(&reader, path, file->data, file->size);
	while ((code = json_next(&reader, err)) == 0 && reader.kind != JSON_END) {
		if (reader.kind == JSON_STRING && is_caption) {
			for (size_t i = 0; i < reader.text.size; i++)
				if (reader.text.data[i] == '\n')
					reader.text.data[i] = ' ';
			if ((code = buf_add(captions, reader.text.data, reader.text.size, err)) != 0 ||
			    (code = buf_add_byte(captions, '\n', err)) != 0)
				break;
		}
		is_caption = reader.kind == JSON_KEY && reader.text.size == 7 && memcmp(reader.text.data, "caption", 7) == 0;
	}
	json_reader_free(&reader);
	return code;
}

static int add_captions(struct buf *captions, const char *path, struct err *err)
{
	struct buf file = BUF_INIT;
	size_t length = strlen(path);
	int code = fs_read(path, FILE_BYTES_MAX, &file, err);

	if (code == 0 && length > 5 && strcmp(path + length - 5, ".json") == 0)
		code = add_json_captions(captions, path, &file, err);
	else if (code == 0)
		code = buf_add(captions, file.data, file.size, err);
	if (code == 0 && captions->size > 0 && captions->data[captions->size - 1] != '\n')
		code = buf_add_byte(captions, '\n', err);
	buf_free(&file);
	return code;
}

/* Returns the number of captions, or a negative code. */
static int run_round(struct wordpiece *wordpiece, const struct buf *captions, size_t *tokens, struct err *err)
{
	const char *end = captions->data + captions->size;
	const int32_t *ids;
	size_t count;
	int lines = 0, code;

	*tokens = 0;
	for (const char *line = captions->data; line < end; lines++) {
		const char *stop = memchr(line, '\n', (size_t)(end - line));

		if ((code = wordpiece_encode(wordpiece, line, (size_t)(stop - line), &ids, &count, err)) != 0)
			return code;
		*tokens += count;
		line = stop + 1;
	}
	return lines;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int measure(const struct vocab *vocab, const struct buf *captions, struct err *err)
{
	struct wordpiece *wordpiece;
	double seconds[ROUNDS];
	size_t tokens = 0;
	int lines = 0, code = wordpiece_open(&wordpiece, vocab, err);

	if (code != 0)
		return code;
	for (int i = 0; i < ROUNDS; i++) {
		double start = clock_seconds();

		if ((lines = run_round(wordpiece, captions, &tokens, err)) < 0)
			break;
		seconds[i] = clock_seconds() - start;
	}
	wordpiece_close(wordpiece);
	if (lines < 0)
		return lines;
	qsort(seconds, ROUNDS, sizeof(seconds[0]), by_value);
	double median = seconds[ROUNDS / 2];
	printf("%d captions, %.1f bytes and %.2f tokens each: %.0f captions/s, %.1f MB/s (median of %d rounds, one thread)\n", lines,
	       (double)captions->size / lines - 1, (double)tokens / lines, lines / median, (double)captions->size / median / 1e6,
	       ROUNDS);
	return 0;
}

int main(int argc, char *argv[])
{
	struct buf words = BUF_INIT, captions = BUF_INIT;
	struct vocab *vocab = NULL;
	struct err err;
	int code;

	if (argc < 3) {
		fprintf(stderr, "usage: bench_wordpiece VOCAB FILE...\n");
		return 2;
	}
	code = fs_read(argv[1], VOCAB_FILE_BYTES_MAX, &words, &err);
	double start = clock_seconds();
	if (code == 0 && (code = vocab_parse(&vocab, argv[1], words.data, words.size, &err)) == 0)
		printf("vocabulary of %d words ready in %.1f ms\n", (int)vocab_size(vocab), (clock_seconds() - start) * 1e3);
	for (int i = 2; i < argc && code == 0; i++)
		code = add_captions(&captions, argv[i], &err);
	if (code == 0 && captions.size == 0)
		code = err_set(&err, ERR_FORMAT, "no captions in the files");
	if (code == 0)
		code = measure(vocab, &captions, &err);
	if (code != 0)
		fprintf(stderr, "bench_wordpiece: %s\n", err.message);
	vocab_free(vocab);
	buf_free(&words);
	buf_free(&captions);
	return err_exit_code(code);
}
