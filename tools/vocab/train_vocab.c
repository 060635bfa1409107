/* Makes a WordPiece vocabulary (vocab.txt) from text. See merges.h for how. */
#include <stdio.h>

#include "shared/base/args.h"
#include "shared/base/fs.h"
#include "tools/vocab/merges.h"

enum { TEXT_BYTES_MAX = 1 << 30, SIZE_MAX_LINES = 1 << 20, LETTERS_MAX = 1000 };

static int train(const struct args_result *texts, const struct merges_options *options, const char *out_path, struct err *err)
{
	struct words words;
	struct buf text = BUF_INIT, vocab = BUF_INIT;
	size_t lines = 0;
	int rc = words_open(&words, err);

	for (int i = 0; i < texts->operand_count && rc == 0; i++) {
		buf_clear(&text);
		rc = fs_read(texts->operands[i], TEXT_BYTES_MAX, &text, err);
		if (rc == 0)
			rc = words_add_text(&words, text.data, text.size, err);
	}
	if (rc == 0 && words.count == 0)
		rc = err_set(err, ERR_FORMAT, "%s: no words in it", texts->operands[0]);
	if (rc == 0)
		rc = merges_train(&words, options, &vocab, &lines, err);
	if (rc == 0)
		rc = fs_write_atomic(out_path, vocab.data, vocab.size, err);
	if (rc == 0)
		printf("%s: %zu pieces from %zu distinct words\n", out_path, lines, words.count);
	words_close(&words);
	buf_free(&text);
	buf_free(&vocab);
	return rc;
}

int main(int argc, char *argv[])
{
	const char *out_path = NULL;
	int64_t size = 30522, min_count = 2, letters = LETTERS_MAX;
	const struct args_option options[] = {
		{ .name = "out", .kind = ARGS_TEXT, .value = &out_path, .metavar = "FILE", .help = "The vocabulary to write." },
		{ .name = "size", .kind = ARGS_INT, .value = &size, .metavar = "N", .min = 6, .max = SIZE_MAX_LINES,
		  .help = "Lines at most, special ones included (default 30522)." },
		{ .name = "min-count", .kind = ARGS_INT, .value = &min_count, .metavar = "N", .min = 1, .max = INT32_MAX,
		  .help = "Pieces that occur less often are not made (default 2)." },
		{ .name = "letters", .kind = ARGS_INT, .value = &letters, .metavar = "N", .min = 1, .max = SIZE_MAX_LINES,
		  .help = "Distinct letters to keep, the most frequent (default 1000)." },
	};
	const struct args_spec spec = {
		.usage = "train_vocab --out FILE [--size N] TEXT...",
		.description = "Makes a WordPiece vocabulary from text files, in the form of BERT's vocab.txt, with the tokenizer's own\n"
			       "rules for lower case, accents and punctuation.\n"
			       "\n"
			       "    train_vocab --size 8000 --out captions-vocab.txt captions.txt",
		.options = options,
		.option_count = ARRAY_LEN(options),
		.operands_min = 1,
		.operands_max = ARGS_OPERANDS_MAX,
	};
	struct args_result result;
	struct err err = { 0 };
	int rc = args_parse(&spec, argc - 1, argv + 1, &result, &err);

	if (rc == 0 && result.help) {
		args_print_help(&spec);
	} else if (rc == 0 && out_path == NULL) {
		rc = err_set(&err, ERR_USAGE, "--out is missing: name the vocabulary to write");
	} else if (rc == 0) {
		struct merges_options merges = { (size_t)size, (uint64_t)min_count, (size_t)letters };

		rc = train(&result, &merges, out_path, &err);
	}
	if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
		rc = err_set(&err, ERR_IO, "cannot write to standard output");
	if (rc != 0)
		fprintf(stderr, "train_vocab: %s\n", err.message);
	return err_exit_code(rc);
}
