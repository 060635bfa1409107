#include "tools/prepctl/inspect_text.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "preprocessd/codec/wordpiece.h"
#include "shared/base/buf.h"
#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "tools/prepctl/prepctl.h"

enum {
	READ_BYTES = 1 << 16,
	WRITE_BYTES = 1 << 16, /* written out when there is more */
	ID_BYTES_MAX = 11,     /* digits of an int32_t and a separator */
};

struct session {
	struct wordpiece *wordpiece;
	struct buf line;   /* the begun line */
	struct buf output;
	long long lines;
};

static int write_out(struct session *session, struct err *err)
{
	const char *next = session->output.data;
	size_t left = session->output.size;

	while (left > 0) {
		ssize_t put = write(STDOUT_FILENO, next, left);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return err_errno(err, errno, "standard output");
		next += put;
		left -= (size_t)put;
	}
	buf_clear(&session->output);
	return 0;
}

static char *put_id(char *out, int32_t id)
{
	char digits[ID_BYTES_MAX];
	int count = 0;

	do
		digits[count++] = (char)('0' + id % 10);
	while ((id /= 10) > 0);
	while (count > 0)
		*out++ = digits[--count];
	return out;
}

static int encode_line(struct session *session, const char *text, size_t bytes, struct err *err)
{
	const int32_t *ids;
	size_t count;
	int code;

	session->lines++;
	if ((code = wordpiece_encode(session->wordpiece, text, bytes, &ids, &count, err)) != 0)
		return err_prefix(err, "line %lld", session->lines);
	if ((code = buf_reserve(&session->output, count * ID_BYTES_MAX, err)) != 0)
		return code;
	char *out = session->output.data + session->output.size;
	for (size_t i = 0; i < count; i++) {
		out = put_id(out, ids[i]);
		*out++ = i + 1 < count ? ' ' : '\n';
	}
	session->output.size = (size_t)(out - session->output.data);
	return session->output.size > WRITE_BYTES ? write_out(session, err) : 0;
}

static int keep_rest(struct session *session, const char *bytes, size_t count, struct err *err)
{
	/* Without this a line without end would fill the memory. */
	if (session->line.size + count > WORDPIECE_TEXT_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "line %lld: longer than %d bytes; split it into shorter lines", session->lines + 1,
			       WORDPIECE_TEXT_BYTES_MAX);
	return buf_add(&session->line, bytes, count, err);
}

static int take_bytes(struct session *session, const char *bytes, size_t count, struct err *err)
{
	const char *end = bytes + count;
	int code = 0;

	while (bytes < end && code == 0) {
		const char *newline = memchr(bytes, '\n', (size_t)(end - bytes));

		if (newline == NULL)
			return keep_rest(session, bytes, (size_t)(end - bytes), err);
		if (session->line.size == 0) {
			code = encode_line(session, bytes, (size_t)(newline - bytes), err);
		} else if ((code = keep_rest(session, bytes, (size_t)(newline - bytes), err)) == 0) {
			code = encode_line(session, session->line.data, session->line.size, err);
			buf_clear(&session->line);
		}
		bytes = newline + 1;
	}
	return code;
}

static int encode_input(struct session *session, struct err *err)
{
	char *bytes = mem_alloc(READ_BYTES);
	int code = 0;

	if (bytes == NULL)
		return err_nomem(err, READ_BYTES);
	while (code == 0) {
		ssize_t got = read(STDIN_FILENO, bytes, READ_BYTES);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			code = err_errno(err, errno, "standard input");
		if (got <= 0)
			break;
		code = take_bytes(session, bytes, (size_t)got, err);
		/* Whoever writes line by line and waits for each answer gets it. */
		if (code == 0 && got < READ_BYTES)
			code = write_out(session, err);
	}
	if (code == 0 && session->line.size > 0)
		code = encode_line(session, session->line.data, session->line.size, err);
	mem_free(bytes);
	return code;
}

static int run(const char *vocab_path, struct err *err)
{
	struct session session = { .line = BUF_INIT, .output = BUF_INIT };
	struct buf file = BUF_INIT;
	struct vocab *vocab = NULL;
	struct err write_err;
	char warning[ERR_MESSAGE_BYTES];
	int code;

	if ((code = fs_read(vocab_path, VOCAB_FILE_BYTES_MAX, &file, err)) != 0) {
		err_prefix(err, "--vocab");
		goto out;
	}
	if ((code = vocab_parse(&vocab, vocab_path, file.data, file.size, err)) != 0 ||
	    (code = wordpiece_open(&session.wordpiece, vocab, err)) != 0)
		goto out;
	if (vocab_warning(vocab, vocab_path, warning, sizeof(warning)))
		fprintf(stderr, "warning: %s\n", warning);
	code = encode_input(&session, err);
	/* What was done before an error is not thrown away. */
	if (write_out(&session, code == 0 ? err : &write_err) != 0 && code == 0)
		code = err->code;
out:
	wordpiece_close(session.wordpiece);
	vocab_free(vocab);
	buf_free(&session.line);
	buf_free(&session.output);
	buf_free(&file);
	return code;
}

int prepctl_inspect_text(int argc, char *const argv[], struct err *err)
{
	struct prepctl_common common = { 0 };
	const char *vocab = NULL;
	const struct args_option options[] = {
		{ .name = "vocab", .kind = ARGS_TEXT, .value = &vocab, .metavar = "FILE",
		  .help = "The vocabulary: a text file with one word a line, as BERT's vocab.txt. Required." },
		PREPCTL_OPTIONS_UNUSED(&common),
	};
	const struct args_spec spec = {
		.usage = "prepctl inspect text --vocab FILE < LINES > IDS",
		.description = "Prints the token ids of each line of standard input, from [CLS] to [SEP] and untruncated, on a line of "
			       "its own. Lines end at a newline; bytes that are not UTF-8 count as U+FFFD. Needs no daemon.\n"
			       "\n"
			       "  echo 'A man rides a horse.' | prepctl inspect text --vocab vocab.txt",
		.options = options,
		.option_count = ARRAY_LEN(options),
	};
	struct args_result args;
	int code = args_parse(&spec, argc, argv, &args, err);

	if (code != 0)
		return code;
	if (args.help) {
		args_print_help(&spec);
		return 0;
	}
	if (vocab == NULL)
		return err_set(err, ERR_USAGE, "--vocab is missing: name the vocabulary's file; usage: %s", spec.usage);
	/* A reader that has seen enough (`| head`) ends us without a message. */
	signal(SIGPIPE, SIG_DFL);
	return run(vocab, err);
}
