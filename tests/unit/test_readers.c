/* The readers of caption files: what each format means, and what every fault says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "preprocessd/dataset/csv.h"
#include "preprocessd/dataset/manifest.h"
#include "preprocessd/dataset/rights.h"
#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "tests/support/scratch.h"

/* A picture is any file: reading does not decode. Content is the name unless said otherwise. */
static void pictures(const struct scratch *dir, const char *names)
{
	char copy[2000], *rest = copy, *name;

	snprintf(copy, sizeof(copy), "%s", names);
	while ((name = strsep(&rest, " ")) != NULL)
		scratch_text(dir, name, name);
}

struct request {
	const char *format;
	const char *captions[4], *images[4]; /* relative to the scratch folder, also behind SPLIT= */
	const char *columns, *ratio;
	uint64_t seed, limit, limit_seed;
	bool skip;
	const struct rights *rights;
	const char *fails[4]; /* base names of pictures that do not decode */
};

static struct scratch scratch;
static struct listing *last_listing; /* of the last run() that worked */

static const char *in_scratch(const char *text)
{
	static char paths[8][1200];
	static int next;
	char *out = paths[next++ % 8];
	const char *equals = strchr(text, '=');
	int prefix = equals == NULL ? 0 : (int)(equals + 1 - text);

	snprintf(out, sizeof(paths[0]), "%.*s%s/%s", prefix, text, scratch.path, text + prefix);
	return out;
}

static bool should_fail(const struct request *request, const char *path)
{
	for (int i = 0; i < 4 && request->fails[i] != NULL; i++)
		if (strcmp(strrchr(path, '/') + 1, request->fails[i]) == 0)
			return true;
	return false;
}

static void open_pictures(struct listing *listing, const struct request *request)
{
	struct err err = { .code = ERR_FORMAT, .message = "not a JPEG" };

	for (uint32_t i = 0; i < listing_picture_count(listing); i++) {
		struct buf bytes = BUF_INIT;
		struct hash hash;
		const char *path = listing_picture_path(listing, i);

		if (should_fail(request, path)) {
			assert_int_equal(listing_set_failure(listing, i, &err), 0);
			continue;
		}
		assert_int_equal(fs_read(path, 1 << 20, &bytes, NULL), 0);
		hash_bytes(&hash, bytes.data == NULL ? "" : bytes.data, bytes.size);
		listing_set_hash(listing, i, &hash);
		buf_free(&bytes);
	}
}

static int try_run(const struct request *request, struct manifest **out, struct err *err)
{
	struct reader_options options = { .format = request->format, .columns = request->columns, .split_ratio = request->ratio,
					  .split_seed = request->seed, .skip_bad = request->skip, .rights = request->rights, .limit = request->limit,
					  .limit_seed = request->limit_seed };
	const char *captions[4], *images[4];

	*out = NULL;
	for (; options.caption_count < 4 && request->captions[options.caption_count] != NULL; options.caption_count++)
		captions[options.caption_count] = in_scratch(request->captions[options.caption_count]);
	for (; options.image_count < 4 && request->images[options.image_count] != NULL; options.image_count++)
		images[options.image_count] = in_scratch(request->images[options.image_count]);
	options.captions = captions;
	options.images = images;
	listing_free(last_listing);
	assert_int_equal(listing_open(&last_listing, err), 0);
	int code = listing_read(last_listing, &options, err);
	if (code != 0)
		return code;
	open_pictures(last_listing, request);
	return listing_finish(last_listing, out, err);
}

static struct manifest *run(const struct request *request)
{
	struct manifest *manifest;
	struct err err = { 0 };

	if (try_run(request, &manifest, &err) != 0)
		fail_msg("%s", err.message);
	return manifest;
}

static void refuses(const struct request *request, int want_code, const char *want)
{
	struct manifest *manifest;
	struct err err = { 0 };
	int code = try_run(request, &manifest, &err);

	if (code == 0)
		fail_msg("accepted, but should say: %s", want);
	if (code != want_code || strstr(err.message, want) == NULL)
		fail_msg("got %s \"%s\", want %s \"%s\"", err_name(code), err.message, err_name(want_code), want);
	if (strlen(err.message) >= ERR_MESSAGE_BYTES - 1)
		fail_msg("message too long: %s", err.message);
}

/* "a.jpg/train: one | two; b.jpg/val#label: three" */
static void describe(const struct manifest *m, char *out, size_t size)
{
	size_t used = 0;

	out[0] = '\0';
	for (uint32_t p = 0; p < m->picture_count; p++) {
		const char *path = m->source_text + m->source_at[p];

		used += (size_t)snprintf(out + used, size - used, "%s%s/%s", p > 0 ? "; " : "", strrchr(path, '/') + 1,
					 m->split_name[m->picture_split[p]]);
		if (m->picture_label[p] >= 0)
			used += (size_t)snprintf(out + used, size - used, "#%d=%s", m->picture_label[p],
						 m->label_name[m->picture_label[p]]);
		for (uint32_t k = m->captions_of_at[p]; k < m->captions_of_at[p + 1]; k++) {
			uint32_t c = m->captions_of[k];

			used += (size_t)snprintf(out + used, size - used, "%s%.*s", k == m->captions_of_at[p] ? ": " : " | ",
						 (int)(m->caption_at[c + 1] - m->caption_at[c]), m->caption_text + m->caption_at[c]);
		}
	}
}

static void gives(const struct request *request, const char *want)
{
	struct manifest *manifest = run(request);
	char got[4000];

	describe(manifest, got, sizeof(got));
	assert_string_equal(got, want);
	manifest_free(manifest);
}

static int setup(void **state)
{
	(void)state;
	scratch_open(&scratch);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	listing_free(last_listing);
	last_listing = NULL;
	scratch_close(&scratch);
	return 0;
}

/* --- CSV ------------------------------------------------------------------------------ */

static bool note_says(const char *text)
{
	for (uint32_t i = 0; i < listing_note_count(last_listing); i++)
		if (strstr(listing_note_at(last_listing, i), text) != NULL)
			return true;
	return false;
}

static void csv_gives(const char *text, const char *want)
{
	scratch_text(&scratch, "c.csv", text);
	gives(&(struct request){ .format = "csv", .captions = { "c.csv" }, .images = { "i" } }, want);
}

static void csv_refuses(const char *text, const char *want)
{
	scratch_text(&scratch, "c.csv", text);
	refuses(&(struct request){ .format = "csv", .captions = { "c.csv" }, .images = { "i" } }, ERR_FORMAT, want);
}

static void test_csv_plain(void **state)
{
	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg i/sub/c.jpg");
	csv_gives("a.jpg,one\nb.jpg,two\n", "a.jpg/train: one; b.jpg/train: two");
	csv_gives("a.jpg,one\nb.jpg,two\na.jpg,three", "a.jpg/train: one | three; b.jpg/train: two");
	csv_gives("\xEF\xBB\xBF" "a.jpg,one\r\nb.jpg,two\r\n", "a.jpg/train: one; b.jpg/train: two");
	csv_gives("a.jpg,one\rb.jpg,two\r", "a.jpg/train: one; b.jpg/train: two");
	csv_gives("a.jpg,\n", "a.jpg/train: ");
	csv_gives("\n\na.jpg,one\n\n\nb.jpg,two\n\n", "a.jpg/train: one; b.jpg/train: two");
	csv_gives("sub/c.jpg,x\n./sub//c.jpg,y\n", "c.jpg/train: x | y");
	csv_gives("a.jpg,\"one, two\"\nb.jpg,\"say \"\"hi\"\"\"\n", "a.jpg/train: one, two; b.jpg/train: say \"hi\"");
	csv_gives("a.jpg,\"one\r\ntwo\n\nthree\"\nb.jpg,x\n", "a.jpg/train: one\r\ntwo\n\nthree; b.jpg/train: x");
	csv_gives("\"a.jpg\",\"\"\n", "a.jpg/train: ");
	csv_gives("a.jpg,he said \"no\"\n", "a.jpg/train: he said \"no\"");
	csv_gives("a.jpg, spaces stay \n", "a.jpg/train:  spaces stay ");
	/* the picture may stand in any column: its caption is the next one, or the only other */
	csv_gives("one,a.jpg\ntwo,b.jpg\n", "a.jpg/train: one; b.jpg/train: two");
	assert_false(note_says("captions are taken"));
	csv_gives("0,a.jpg,one\n1,b.jpg,two\n", "a.jpg/train: one; b.jpg/train: two");
	/* which may be a caption's number */
	assert_true(note_says("c.csv: there is no header; captions are taken from column 3, behind the pictures' names"));
	csv_refuses("17,one,a.jpg\n", "c.csv:1: the picture is named in column 3, and no column behind it can have the captions");
}

/* Nothing else is taken for a caption where a header names the pictures' column. */
static void test_csv_header_without_captions(void **state)
{
	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	csv_refuses("image,width,height,title\na.jpg,640,480,A dog\n", "no column has a name that captions have");
	csv_refuses("image,width,height,title\na.jpg,640,480,A dog\n", "--columns IMAGE,CAPTION; there are: image, width, height, title");
	csv_refuses("image,label\na.jpg,dog\n", "no column has a name that captions have");
	csv_gives("image,title\na.jpg,A dog\n", "a.jpg/train: A dog");
	assert_true(note_says("captions are taken from column 2"));
}

/* Text, as csv modules read it, but hardly meant as one. */
static void test_csv_captions_that_are_lists(void **state)
{
	static const char says[] = "every caption is a list in brackets and taken as one text";

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	csv_gives("raw,filename\n\"[\"\"A dog.\"\", \"\"A brown dog.\"\"]\",a.jpg\n['A cat.'],b.jpg\n",
		  "a.jpg/train: [\"A dog.\", \"A brown dog.\"]; b.jpg/train: ['A cat.']");
	assert_true(note_says(says));
	csv_gives("caption,image\n['A dog.'],a.jpg\nA cat.,b.jpg\n", "a.jpg/train: ['A dog.']; b.jpg/train: A cat.");
	assert_false(note_says(says));
	csv_gives("a.jpg,[]\nb.jpg,[red]\n", "a.jpg/train: []; b.jpg/train: [red]");
	assert_false(note_says(says));
}

/* pandas and spreadsheets quote fields between tabs too, where others write quotes as they are: nobody can tell. */
static void test_tsv_captions_in_quotes(void **state)
{
	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg i/c.jpg");
	csv_gives("a.jpg\t\"say \"\"hi\"\".\"\nb.jpg\t\"\"\nc.jpg\tx\n", "a.jpg/train: \"say \"\"hi\"\".\"; b.jpg/train: \"\"; c.jpg/train: x");
	assert_true(note_says("2 captions stand in quotes, which stay"));
	csv_gives("a.jpg\t\"hi\" and \"ho\"\nb.jpg\t\"\nc.jpg\tsay \"hi\"\n", "a.jpg/train: \"hi\" and \"ho\"; b.jpg/train: \"; c.jpg/train: say \"hi\"");
	assert_false(note_says("in quotes"));
	csv_gives("a.jpg\t\"\"\"\nb.jpg\t\"a\"\"\n", "a.jpg/train: \"\"\"; b.jpg/train: \"a\"\"");
	assert_false(note_says("in quotes"));
	csv_gives("a.jpg,\"\"\"x\"\"\"\n", "a.jpg/train: \"x\"");
	assert_false(note_says("in quotes"));
}

static void test_csv_columns_of_one_name(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .columns = "image,words" };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	csv_refuses("image,caption,Caption\na.jpg,one,two\n", "columns 2 and 3 are both named \"caption\"; which one is meant?");
	csv_gives("image,caption,x,x\na.jpg,one,1,2\n", "a.jpg/train: one");
	scratch_text(&scratch, "c.csv", "image,words,words\na.jpg,one,two\n");
	refuses(&request, ERR_FORMAT, "columns 2 and 3 are both named \"words\"");
	request.columns = "1,3";
	gives(&request, "a.jpg/train: two");
}

/* What other programs write around and behind a label. */
static void test_csv_labels(void **state)
{
	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	scratch_text(&scratch, "i/c.jpg", "another");
	csv_gives("image,caption,label\na.jpg,x, 9\nb.jpg,y,10 \nc.jpg,z, 9 \n",
		  "a.jpg/train#0=9: x; b.jpg/train#1=10: y; c.jpg/train#0=9: z");
	csv_gives("image,caption,label\na.jpg,x,2.0\nb.jpg,y,10.00\nc.jpg,z,-1.0\n",
		  "a.jpg/train#1=2: x; b.jpg/train#2=10: y; c.jpg/train#0=-1: z");
	csv_gives("image,caption,label\na.jpg,x,2.50\nb.jpg,y,.0\nc.jpg,z,2.\n",
		  "a.jpg/train#2=2.50: x; b.jpg/train#0=.0: y; c.jpg/train#1=2.: z");
}

static void test_csv_header(void **state)
{
	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	csv_gives("file,caption\na.jpg,one\n", "a.jpg/train: one");
	csv_gives("\"file\",\"caption\"\r\na.jpg,one\r\n", "a.jpg/train: one");
	csv_gives("Caption,FILENAME\none,a.jpg\n", "a.jpg/train: one");
	csv_gives("id,caption,x,image\n7,one,y,a.jpg\n", "a.jpg/train: one");
	csv_gives("pic,words\na.jpg,one\n", "a.jpg/train: one");
	assert_int_equal(listing_note_count(last_listing), 1);
	csv_gives("split,image,caption,label\nval,a.jpg,one,cat\ntrain,b.jpg,two,dog\nval,a.jpg,three,cat\n",
		  "a.jpg/val#0=cat: one | three; b.jpg/train#1=dog: two");
	csv_gives("image,caption,label\na.jpg,one,10\nb.jpg,two,9\n", "a.jpg/train#1=10: one; b.jpg/train#0=9: two");
	csv_gives("image,caption,label\na.jpg,one,10\nb.jpg,two,\n", "a.jpg/train#0=10: one; b.jpg/train: two");
	/* of two usual names the more usual one */
	csv_gives("path,image,caption\nx,a.jpg,one\n", "a.jpg/train: one");
}

static void test_csv_separators(void **state)
{
	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	csv_gives("a.jpg;one, two\nb.jpg;three\n", "a.jpg/train: one, two; b.jpg/train: three");
	csv_gives("a.jpg\tone, \"two\nb.jpg\t\"three\n", "a.jpg/train: one, \"two; b.jpg/train: \"three");
	csv_gives("image_name| comment_number| comment\na.jpg| 0| Two men .\na.jpg| 1| One, man .\n",
		  "a.jpg/train: Two men . | One, man .");
	csv_gives("a.jpg#0\tone\na.jpg#1\ttwo\n", "a.jpg/train: one | two");
	/* a fault of the comma's reading is none of a file with tabs, but one of a file with semicolons that of the file */
	csv_gives("pic\tx, \"y\tz,\"\na.jpg\tone\t\n", "a.jpg/train: one");
	csv_refuses("image;\"caption\na.jpg;one\n", "c.csv:1: a quote that begins in line 1 never ends");
}

/* Columns beside those that are read, as many as tables of features have. */
static void test_csv_many_columns(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };
	static const char separators[] = ",;";
	static char text[200000];

	(void)state;
	pictures(&scratch, "i/a.jpg");
	for (int extra = 5000; extra <= 70000; extra += 65000) {
		for (const char *separator = separators; *separator != '\0'; separator++) {
			size_t used = (size_t)snprintf(text, sizeof(text), "image%ccaption", *separator);

			memset(text + used, *separator, (size_t)extra);
			used += (size_t)extra;
			used += (size_t)snprintf(text + used, sizeof(text) - used, "\na.jpg%cone", *separator);
			memset(text + used, *separator, (size_t)extra);
			text[used + (size_t)extra] = '\0';
			scratch_text(&scratch, "c.csv", text);
			if (extra == 5000)
				gives(&request, "a.jpg/train: one");
			else
				refuses(&request, ERR_FORMAT, "c.csv:1: more than 65536 columns");
		}
	}
}

static void test_csv_columns(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	scratch_text(&scratch, "c.csv", "one,a.jpg,cat\ntwo,b.jpg,dog\n");
	request.columns = "2,1";
	gives(&request, "a.jpg/train: one; b.jpg/train: two");
	request.columns = "2,1,3";
	gives(&request, "a.jpg/train#0=cat: one; b.jpg/train#1=dog: two");
	assert_false(note_says("captions are taken"));
	request.columns = "3,1"; /* the third of the first row is no picture: a header */
	refuses(&request, ERR_NOTFOUND, "1 of 1 picture is missing: dog");
	request.columns = "4,1";
	refuses(&request, ERR_FORMAT, "c.csv:1: there are 3 columns, --columns asks for number 4");
	request.columns = "1";
	refuses(&request, ERR_USAGE, "--columns 1: IMAGE,CAPTION");
	request.columns = "1,2,3,4";
	refuses(&request, ERR_USAGE, "--columns");
	request.columns = "1,,2";
	refuses(&request, ERR_USAGE, "--columns");
	scratch_text(&scratch, "c.csv", "w,z,label\none,a.jpg,cat\n");
	request.columns = "z,w";
	gives(&request, "a.jpg/train: one");
	request.columns = "z,w,label";
	gives(&request, "a.jpg/train#0=cat: one");
	request.columns = "z,q";
	refuses(&request, ERR_FORMAT, "c.csv:1: no column is named \"q\"");
	scratch_text(&scratch, "c.csv", "a.jpg,one\n");
	request.columns = "z,w";
	refuses(&request, ERR_FORMAT, "there is no header; give --columns as numbers");
}

/* Captions that are the pictures' names would be accepted without a word. */
static void test_csv_columns_that_coincide(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	/* as pandas writes columns without names: 1 is the second one's name and the first one's number */
	scratch_text(&scratch, "c.csv", "0,1\na.jpg,one\n");
	request.columns = "0,1";
	refuses(&request, ERR_FORMAT, "c.csv:1: --columns 1: column 2 has that name and column 1 that number; which one is meant?");
	scratch_text(&scratch, "c.csv", "7,2\na.jpg,one\n");
	request.columns = "7,2";
	gives(&request, "a.jpg/train: one");
	scratch_text(&scratch, "c.csv", "image,says,kind\na.jpg,one,cat\n");
	request.columns = "image,1";
	refuses(&request, ERR_FORMAT, "c.csv:1: --columns: column 1 has the pictures' names, so it cannot have the captions too");
	request.columns = "1,says,image";
	refuses(&request, ERR_FORMAT, "so it cannot have the labels too");
	request.columns = "image,kind,kind";
	gives(&request, "a.jpg/train#0=cat: cat");
	request.columns = "1,1";
	refuses(&request, ERR_USAGE, "--columns 1,1: what has the pictures' names cannot have the captions too");
	request.columns = "1,2,1";
	refuses(&request, ERR_USAGE, "cannot have the labels too");
	request.format = "jsonl";
	request.columns = "pic,pic";
	refuses(&request, ERR_USAGE, "--columns pic,pic: what has the pictures' names");
}

/* All labels must fit into one answer about the data set. */
static void test_csv_labels_without_end(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };
	enum { ROWS = 8500, ROW_BYTES = 1100 };
	char *text = malloc((size_t)ROWS * ROW_BYTES);
	size_t used = 0;

	(void)state;
	assert_non_null(text);
	pictures(&scratch, "i/a.jpg");
	for (int i = 0; i < ROWS; i++) {
		char name[32];

		snprintf(name, sizeof(name), "i/%d.jpg", i);
		scratch_text(&scratch, name, name);
		used += (size_t)snprintf(text + used, ROW_BYTES, "%d.jpg,one,%01000d\n", i, i);
	}
	scratch_text(&scratch, "c.csv", text);
	request.columns = "1,2,3";
	refuses(&request, ERR_FORMAT, "c.csv:8381: the 8381 different labels up to here have more than 8 MiB of text in all");
	request.columns = "1,2";
	manifest_free(run(&request));
	free(text);
}

static void test_csv_faults(void **state)
{
	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	csv_refuses("", "c.csv: the file is empty");
	csv_refuses("a.jpg\n", "at least two columns");
	csv_refuses("a.jpg,one\nb.jpg,two, three\n", "c.csv:2: 3 columns where the first row has 2");
	csv_refuses("a.jpg,one\nb.jpg\n", "c.csv:2: 1 column where the first row has 2");
	csv_refuses("a.jpg,\"one\nb.jpg,two\n", "c.csv:1: a quote that begins in line 1 never ends");
	csv_refuses("a.jpg,x\nb.jpg,\"one\"two\n", "c.csv:2: text behind a closing quote");
	csv_refuses("a.jpg,one\n\nb.jpg,ca\xFF\xFE\n", "c.csv:3: the caption is no valid UTF-8 at its byte 3 (0xff); re-encode");
	csv_refuses("a.jpg,\"one\n\r\n\rtwo\"\r\nb.jpg,\xFF\n", "c.csv:5: the caption is no valid UTF-8");
	csv_refuses("image,caption,split\na.jpg,x,train\nb.jpg,y,\n", "c.csv:3: no split");
	csv_refuses("image,caption,split\na.jpg,x,tr ain\n", "c.csv:2: \"tr ain\" cannot be a split's name");
	csv_refuses("image,caption,split\na.jpg,x,all\n", "cannot be named \"all\"");
	csv_refuses("image,caption,split\na.jpg,x,train\na.jpg,y,val\n",
		    "c.csv:3: picture a.jpg has the split \"val\" here and \"train\" at");
	csv_refuses("image,caption,label\na.jpg,x,cat\na.jpg,y,dog\n",
		    "c.csv:3: picture a.jpg has the label \"dog\" here and \"cat\" at");
	csv_refuses("image,caption,group\na.jpg,x,1\na.jpg,y,2\n", "the group \"2\" here and \"1\" at");
	scratch_text(&scratch, "c.csv", "gone,hello\n");
	refuses(&(struct request){ .format = "csv", .captions = { "c.csv" }, .images = { "i" } }, ERR_MISMATCH,
		"names no picture that exists, so it is taken as a header");
}

/* Numbered pictures have the same captions in every split's folder. */
static void test_one_file_for_two_splits(void **state)
{
	struct request request = { .format = "csv", .captions = { "train=c.csv", "val=c.csv" }, .images = { "train=i", "val=k" } };

	(void)state;
	pictures(&scratch, "i/a.jpg k/a.jpg");
	scratch_text(&scratch, "c.csv", "a.jpg,one\n");
	gives(&request, "a.jpg/train: one; a.jpg/val: one");
}

/* Without a header, a first picture that is missing must not turn its row into one. */
static void test_csv_first_picture_missing(void **state)
{
	static const char *const rows[] = { "gone.jpg,hello", "7,hello,gone.JPEG", "gone.mpo#0\thello", "gone.jpe ; hello" };
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		scratch_text(&scratch, "c.csv", rows[i]);
		refuses(&request, ERR_NOTFOUND, "c.csv:1: gone.");
		refuses(&request, ERR_NOTFOUND, "put the picture there, or, if this row is a header, name its columns with --columns");
	}
	scratch_text(&scratch, "c.csv", "gone.jpg,hello\na.jpg,one\n");
	refuses(&request, ERR_NOTFOUND, "c.csv:1: gone.jpg is not there (looked in ");
	request.skip = true;
	gives(&request, "a.jpg/train: one");
	assert_true(note_says("its first row names gone.jpg, which does not exist, so it is taken as a header"));
	/* a header is one by its names, or by --columns */
	request.skip = false;
	scratch_text(&scratch, "c.csv", "x.jpg,caption\na.jpg,one\n");
	gives(&request, "a.jpg/train: one");
	scratch_text(&scratch, "c.csv", "x.jpg,words\na.jpg,one\n");
	request.columns = "x.jpg,words";
	gives(&request, "a.jpg/train: one");
	request.columns = "1,2";
	refuses(&request, ERR_NOTFOUND, "x.jpg is not there");
}

static void test_csv_skip(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .skip = true };
	struct listing_failure failure;

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	scratch_text(&scratch, "c.csv", "a.jpg,one\nb.jpg,\xC3(\nx.jpg,three\nb.jpg\na.jpg,four\nx.jpg,five\n");
	gives(&request, "a.jpg/train: one | four");
	assert_true(note_says("1 picture has no usable caption and is left out"));
	assert_int_equal(listing_failure_count(last_listing), 3);
	failure = listing_failure_at(last_listing, 0);
	assert_non_null(strstr(failure.source, "c.csv:2"));
	assert_non_null(strstr(failure.reason, "UTF-8 at its byte 1 (0xc3)"));
	failure = listing_failure_at(last_listing, 1);
	assert_non_null(strstr(failure.source, "c.csv:4"));
	failure = listing_failure_at(last_listing, 2);
	assert_string_equal(failure.source, "x.jpg");
	assert_int_equal(listing_note_count(last_listing), 1); /* b.jpg lost all its captions */
	request.fails[0] = "a.jpg";
	refuses(&request, ERR_MISMATCH, "nothing is left");
}

/* --- pictures -------------------------------------------------------------------------------- */

static void test_missing_pictures(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i", "j" } };

	(void)state;
	pictures(&scratch, "i/a.jpg j/b.jpg");
	scratch_text(&scratch, "c.csv", "a.jpg,1\nb.jpg,2\nc.jpg,3\nc.jpg,4\nd.jpg,5\ne.jpg,6\nf.jpg,7\n");
	refuses(&request, ERR_NOTFOUND, "c.csv:3: 4 of 6 pictures are missing: c.jpg, d.jpg, e.jpg, ...; looked in ");
	request.skip = true;
	gives(&request, "a.jpg/train: 1; b.jpg/train: 2");
	assert_int_equal(listing_failure_count(last_listing), 4);
	request.images[0] = "nowhere";
	refuses(&request, ERR_NOTFOUND, "the picture folder");
	request.images[0] = "c.csv";
	refuses(&request, ERR_NOTFOUND, "is no folder");
	request.images[0] = "i";
	request.captions[0] = "nowhere.csv";
	refuses(&request, ERR_NOTFOUND, "nowhere.csv: No such file");
	/* every one is missing: the folder is wrong, and skipping all is no answer */
	scratch_text(&scratch, "c.csv", "file,caption\nx.jpg,1\ny.jpg,2\n");
	request.captions[0] = "c.csv";
	refuses(&request, ERR_NOTFOUND, "2 of 2 pictures are missing");
	request.captions[1] = "c.csv";
	refuses(&request, ERR_USAGE, "c.csv is given twice");
	request.captions[0] = "train=c.csv";
	refuses(&request, ERR_USAGE, "c.csv is given twice");
	request.captions[1] = "./c.csv";
	refuses(&request, ERR_USAGE, "/c.csv are the same file");
	request.captions[0] = request.captions[1] = NULL;
	refuses(&request, ERR_USAGE, "--captions is missing");
	request.format = "xml";
	refuses(&request, ERR_USAGE, "--format xml is not known");
}

static void test_names_of_pictures(void **state)
{
	char text[2000];
	struct request request = { .format = "csv", .captions = { "i/c.csv" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/sub/b.jpg k=v/c.jpg");
	scratch_text(&scratch, "i/c.csv", "a.jpg,1\nsub/b.jpg,2\nsub/../a.jpg,3\n");
	/* without --images: beside the captions; the same content by two paths is one picture */
	gives(&request, "a.jpg/train: 1 | 3; b.jpg/train: 2");
	/* an absolute name stands for itself; a folder is no picture */
	snprintf(text, sizeof(text), "%s/i/a.jpg,1\n", scratch.path);
	scratch_text(&scratch, "i/c.csv", text);
	gives(&request, "a.jpg/train: 1");
	scratch_text(&scratch, "i/c.csv", "a.jpg,1\nsub,2\nx.jpg,3\n");
	refuses(&request, ERR_NOTFOUND, "2 of 3 pictures are missing or no files: sub (a folder), x.jpg; looked in ");
	/* a folder whose name has '=' in it is no prefix when it exists */
	scratch_text(&scratch, "c.csv", "c.jpg,1\n");
	char *before = getcwd(NULL, 0);
	assert_int_equal(chdir(scratch.path), 0);
	struct reader_options options = { .format = "csv", .captions = (const char *[]){ "c.csv" }, .caption_count = 1,
					  .images = (const char *[]){ "k=v" }, .image_count = 1 };
	struct listing *listing;
	struct err err;
	assert_int_equal(listing_open(&listing, &err), 0);
	assert_int_equal(listing_read(listing, &options, &err), 0);
	assert_true(listing_picture_path(listing, 0)[0] == '/');
	assert_int_equal(chdir(before), 0);
	free(before);
	listing_free(listing);
}

/* What is there in a picture's place, and is no file. */
static void test_no_files(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/d.jpg/x");
	assert_int_equal(mkfifo(in_scratch("i/p.jpg"), 0600), 0);
	assert_int_equal(symlink("l.jpg", in_scratch("i/l.jpg")), 0);
	assert_int_equal(symlink("nowhere", in_scratch("i/n.jpg")), 0);
	scratch_text(&scratch, "c.csv", "a.jpg,1\nd.jpg,2\np.jpg,3\nl.jpg,4\nn.jpg,5\na.jpg/x,6\n");
	refuses(&request, ERR_NOTFOUND, "c.csv:2: 5 of 6 pictures are missing or no files: d.jpg (a folder), p.jpg (no regular file), "
		"l.jpg (a link that leads in a circle), ...; looked in ");
	request.skip = true;
	gives(&request, "a.jpg/train: 1");
	assert_int_equal(listing_failure_count(last_listing), 5);
	assert_non_null(strstr(listing_failure_at(last_listing, 0).reason, "something else: a folder"));
	assert_non_null(strstr(listing_failure_at(last_listing, 2).reason, "leads in a circle"));
	assert_non_null(strstr(listing_failure_at(last_listing, 3).reason, "there is no such file"));
}

static void test_names_that_are_none(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/x.jpg");
	scratch_text(&scratch, "c.csv", "a.jpg,1\n,2\n");
	refuses(&request, ERR_FORMAT, "c.csv:2: the picture's name is empty");
	request.skip = true;
	gives(&request, "a.jpg/train: 1");
	assert_non_null(strstr(listing_failure_at(last_listing, 0).source, "c.csv:2"));
	request = (struct request){ .format = "jsonl", .captions = { "c.jsonl" }, .images = { "i" } };
	scratch_text(&scratch, "c.jsonl", "{\"image\":\"a.jpg\",\"caption\":\"1\"}\n{\"image\":\"x.jpg\\u0000y\",\"caption\":\"2\"}\n");
	refuses(&request, ERR_FORMAT, "c.jsonl:2: the picture's name x.jpg... has a zero byte in it");
	request = (struct request){ .format = "karpathy", .captions = { "c.json" }, .images = { "i" } };
	scratch_text(&scratch, "c.json", "{\"images\":[{\"filename\":\"a.jpg\",\"filepath\":\"x.jpg\\u0000\",\"sentences\":[{\"raw\":\"x\"}]}]}");
	refuses(&request, ERR_FORMAT, "c.json: image 1: the picture's name a.jpg... has a zero byte in it");
}

/* As somebody who is not root, to whom every folder is open. */
static void test_folders_that_may_not_be_searched(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };
	uid_t before = geteuid();

	(void)state;
	pictures(&scratch, "i/a.jpg i/sub/b.jpg j/a.jpg");
	assert_int_equal(chmod(scratch.path, 0755), 0);
	assert_int_equal(chmod(in_scratch("i/sub"), 0600), 0);
	if (before == 0)
		assert_int_equal(seteuid(65534), 0);
	for (int skip = 0; skip < 2; skip++) {
		request.skip = skip != 0;
		assert_int_equal(seteuid(before), 0);
		scratch_text(&scratch, "c.csv", "a.jpg,1\nsub/b.jpg,2\n");
		assert_int_equal(chmod(in_scratch("i"), 0755), 0);
		assert_true(before != 0 || seteuid(65534) == 0);
		refuses(&request, ERR_IO, "c.csv:2: the folder ");
		refuses(&request, ERR_IO, "/i/sub: Permission denied");
		/* a first row that cannot be looked for is no header */
		assert_int_equal(seteuid(before), 0);
		scratch_text(&scratch, "c.csv", "sub/b.jpg,2\na.jpg,1\n");
		assert_true(before != 0 || seteuid(65534) == 0);
		refuses(&request, ERR_IO, "/i/sub: Permission denied");
		assert_int_equal(seteuid(before), 0);
		assert_int_equal(chmod(in_scratch("i"), 0600), 0);
		assert_true(before != 0 || seteuid(65534) == 0);
		refuses(&request, ERR_IO, "/i: Permission denied");
	}
	assert_int_equal(seteuid(before), 0);
	assert_int_equal(chmod(in_scratch("i"), 0700), 0);
	assert_int_equal(chmod(in_scratch("i/sub"), 0700), 0);
}

/* On another user's behalf: refusals are told from missing files where that user could tell them apart, and only there. */
static void test_files_of_others(void **state)
{
	static const struct rights nobody = { .uid = 65534 };
	static const struct {
		const char *name, *want;
		int code;
	} cases[] = {
		{ "private.jpg", "/i/private.jpg: is no file that user 65534 may read: Permission denied", ERR_IO },
		{ "secret/b.jpg", "/i/secret/b.jpg: is no file that user 65534 may read: Permission denied", ERR_IO },
		{ "secret/none.jpg", "/i/secret/none.jpg: is no file that user 65534 may read: Permission denied", ERR_IO },
		{ "to_b.jpg", "are missing: to_b.jpg", ERR_NOTFOUND },
		{ "to_none.jpg", "are missing: to_none.jpg", ERR_NOTFOUND },
		{ "none.jpg", "are missing: none.jpg", ERR_NOTFOUND },
		{ "a.jpg/x", "are missing: a.jpg/x", ERR_NOTFOUND },
		{ "open", "are missing or no files: open (a folder)", ERR_NOTFOUND },
		{ "p.jpg", "are missing or no files: p.jpg (no regular file)", ERR_NOTFOUND },
	};
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .rights = &nobody };

	(void)state;
	pictures(&scratch, "i/a.jpg i/private.jpg i/secret/b.jpg i/open/c.jpg");
	assert_int_equal(mkfifo(in_scratch("i/p.jpg"), 0644), 0);
	assert_int_equal(symlink("secret/b.jpg", in_scratch("i/to_b.jpg")), 0);
	assert_int_equal(symlink("secret/none.jpg", in_scratch("i/to_none.jpg")), 0);
	assert_int_equal(chmod(scratch.path, 0755), 0);
	assert_int_equal(chmod(in_scratch("i"), 0755), 0);
	assert_int_equal(chmod(in_scratch("i/open"), 0755), 0);
	assert_int_equal(chmod(in_scratch("i/a.jpg"), 0644), 0);
	assert_int_equal(chmod(in_scratch("i/private.jpg"), 0600), 0);
	assert_int_equal(chmod(in_scratch("i/secret"), 0700), 0);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char text[100];

		snprintf(text, sizeof(text), "a.jpg,1\n%s,2\nnone.mpo,3\n", cases[i].name);
		scratch_text(&scratch, "c.csv", text);
		assert_int_equal(chmod(in_scratch("c.csv"), 0644), 0);
		refuses(&request, cases[i].code, cases[i].want);
	}
	/* a refusal is an error under --on-bad skip, too: the picture may be a good one */
	request.skip = true;
	scratch_text(&scratch, "c.csv", "a.jpg,1\nsecret/b.jpg,2\n");
	assert_int_equal(chmod(in_scratch("c.csv"), 0644), 0);
	refuses(&request, ERR_IO, "c.csv:2: ");
}

/* A folder of another split is not looked into, and the message says so. */
static void test_pictures_in_folders_of_other_splits(void **state)
{
	struct request request = { .format = "csv", .captions = { "val.csv" }, .images = { "val=sub" } };

	(void)state;
	pictures(&scratch, "sub/b.jpg i/a.jpg");
	scratch_text(&scratch, "val.csv", "b.jpg,1\n");
	refuses(&request, ERR_NOTFOUND, "val.csv:1: 1 of 1 picture is missing: b.jpg; the folder ");
	refuses(&request, ERR_NOTFOUND, "/sub is for split val alone, and this picture is in split train; give --captions val=");
	refuses(&request, ERR_NOTFOUND, "/val.csv, or --images ");
	request.ratio = "train=0.5,val=0.5";
	refuses(&request, ERR_NOTFOUND, "/sub is for split val alone, and this picture is in no split yet; give --images ");
	request.ratio = NULL;
	scratch_text(&scratch, "val.csv", "image,caption,split\nb.jpg,1,test\n");
	refuses(&request, ERR_NOTFOUND, "this picture is in split test; give --images ");
	/* where it is nowhere, only what was searched is named as such */
	request.images[1] = "i";
	scratch_text(&scratch, "val.csv", "image,caption\nx.jpg,1\n");
	refuses(&request, ERR_NOTFOUND, "/i (not in ");
	refuses(&request, ERR_NOTFOUND, "/sub, which is for split val alone)");
	scratch_text(&scratch, "val.csv", "image,caption\na.jpg,1\nb.jpg,2\n");
	request.skip = true;
	gives(&request, "a.jpg/train: 1");
	assert_non_null(strstr(listing_failure_at(last_listing, 0).reason, "/sub, which is for split val alone"));
}

static void test_prefixes(void **state)
{
	struct request request = { .format = "csv", .captions = { "train=c.csv", "val=d.csv" }, .images = { "train=i", "val=j" } };

	(void)state;
	pictures(&scratch, "i/a.jpg k/b.jpg");
	scratch_text(&scratch, "j/a.jpg", "another a");
	scratch_text(&scratch, "c.csv", "a.jpg,1\n");
	scratch_text(&scratch, "d.csv", "a.jpg,2\n");
	gives(&request, "a.jpg/train: 1; a.jpg/val: 2");
	/* folders of the split first, then those of every split */
	request.images[1] = "k";
	scratch_text(&scratch, "d.csv", "b.jpg,2\n");
	gives(&request, "a.jpg/train: 1; b.jpg/val: 2");
	request.images[0] = "val=i";
	refuses(&request, ERR_NOTFOUND, "c.csv:1");
	/* the same with splits from one file's column */
	scratch_text(&scratch, "d.csv", "image,caption,split\na.jpg,1,train\na.jpg,2,val\n");
	gives(&(struct request){ .format = "csv", .captions = { "d.csv" }, .images = { "train=i", "val=j" } },
	      "a.jpg/train: 1; a.jpg/val: 2");
	/* one picture in two splits */
	request = (struct request){ .format = "csv", .captions = { "train=c.csv", "val=c.csv" }, .images = { "i" } };
	refuses(&request, ERR_FORMAT, "picture a.jpg has the split \"val\" here and \"train\" at");
	request.ratio = "train=0.5,val=0.5";
	refuses(&request, ERR_USAGE, "so --split cannot be given too");
	/* a file without prefix beside one with */
	scratch_text(&scratch, "d.csv", "b.jpg,2\n");
	gives(&(struct request){ .format = "csv", .captions = { "c.csv", "val=d.csv" }, .images = { "i", "k" } },
	      "a.jpg/train: 1; b.jpg/val: 2");
}

static void test_other_encodings(void **state)
{
	static const char *const formats[] = { "csv", "jsonl", "coco", "karpathy" };
	static const struct {
		const char *bytes, *want;
		size_t size;
	} cases[] = {
		{ "\xFF\xFE{\0\n\0", "this is UTF-16; re-encode it as UTF-8 (iconv -f UTF-16 -t UTF-8)", 6 },
		{ "\xFE\xFF\0{\0\n", "this is UTF-16; ", 6 },
		{ "{\0\n\0", "this is UTF-16LE; re-encode it as UTF-8 (iconv -f UTF-16LE -t UTF-8)", 4 },
		{ "\0{\0\n", "this is UTF-16BE; ", 4 },
		{ "\xFF\xFE\0\0{\0\0\0", "this is UTF-32; ", 8 },
		{ "\x1F\x8B\x08\0\0", "this is compressed with gzip; gunzip it", 5 },
		{ "PK\3\4\0\0", "this is a ZIP archive", 6 },
	};

	(void)state;
	pictures(&scratch, "i/a.jpg");
	for (size_t i = 0; i < ARRAY_LEN(cases) * ARRAY_LEN(formats); i++) {
		scratch_write(&scratch, "c.txt", cases[i / 4].bytes, cases[i / 4].size);
		refuses(&(struct request){ .format = formats[i % 4], .captions = { "c.txt" }, .images = { "i" } }, ERR_FORMAT, cases[i / 4].want);
	}
}

/* A file of another format than --format says: by far the likeliest reason for what a reader cannot make sense of. */
static void test_files_of_other_formats(void **state)
{
	static const struct {
		const char *seems, *bytes;
	} files[] = {
		{ "is this a COCO file? Then use --format coco", "{\n\"images\": [{\"id\": 1, \"file_name\": \"a.jpg\"}], \"annotations\": []}" },
		{ "is this a Karpathy file? Then use --format karpathy",
		  "\n{\n\"images\": [{\"filename\": \"a.jpg\", \"sentences\": [{\"raw\": \"x\"}]}]}" },
		{ "is this a CSV file? Then use --format csv", "\xEF\xBB\xBFimage,caption\na.jpg,x\n" },
		{ "is this a JSONL file? Then use --format jsonl", "{\"image\": \"a.jpg\", \"caption\": \"x\"}\n{\"image\": \"a.jpg\"}\n" },
	};
	static const char *const formats[] = { "coco", "karpathy", "csv", "jsonl" };
	struct manifest *manifest;
	struct err err = { 0 };

	(void)state;
	pictures(&scratch, "i/a.jpg");
	for (size_t file = 0; file < ARRAY_LEN(files); file++) {
		scratch_text(&scratch, "c.txt", files[file].bytes);
		for (size_t format = 0; format < ARRAY_LEN(formats); format++)
			if (format != file)
				refuses(&(struct request){ .format = formats[format], .captions = { "c.txt" }, .images = { "i" } }, ERR_FORMAT,
					files[file].seems);
	}
	/* What only seems damaged is no other format. */
	scratch_text(&scratch, "c.txt", "{\"images\": [{\"id\": 1, \"file_na");
	assert_int_equal(try_run(&(struct request){ .format = "coco", .captions = { "c.txt" }, .images = { "i" } }, &manifest, &err), ERR_FORMAT);
	assert_non_null(strstr(err.message, "a string that never ends"));
	assert_null(strstr(err.message, "--format"));
}

/* Classes are ranked by value, however long the numbers are. */
static void test_long_numbers_as_labels(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg i/c.jpg i/d.jpg i/e.jpg i/f.jpg");
	scratch_text(&scratch, "c.csv", "image,caption,label\na.jpg,,10000000000000000000\nb.jpg,,9999999999999999999\n"
		     "c.jpg,,-10000000000000000000\nd.jpg,,-9999999999999999999\ne.jpg,,00000000000000000000000007\nf.jpg,,-00\n");
	gives(&request, "a.jpg/train#5=10000000000000000000: ; b.jpg/train#4=9999999999999999999: ; c.jpg/train#0=-10000000000000000000: ; "
	      "d.jpg/train#1=-9999999999999999999: ; e.jpg/train#3=00000000000000000000000007: ; f.jpg/train#2=-00: ");
	scratch_text(&scratch, "c.csv", "image,caption,label\na.jpg,,10\nb.jpg,,9x\nc.jpg,,-\n");
	gives(&request, "a.jpg/train#1=10: ; b.jpg/train#2=9x: ; c.jpg/train#0=-: ");
}

static void test_same_content(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	scratch_text(&scratch, "i/c.jpg", "i/a.jpg"); /* as a.jpg */
	scratch_text(&scratch, "c.csv", "file,caption,label\na.jpg,1,\nb.jpg,2,x\nc.jpg,3,y\n");
	gives(&request, "a.jpg/train#1=y: 1 | 3; b.jpg/train#0=x: 2");
	assert_true(listing_note_count(last_listing) == 1 && note_says("1 picture has the same content as another one"));
	scratch_text(&scratch, "c.csv", "file,caption,label\na.jpg,1,x\nb.jpg,2,x\nc.jpg,3,y\n");
	refuses(&request, ERR_MISMATCH, "have the same content, but the labels \"x\" (");
	refuses(&request, ERR_MISMATCH, "c.csv:2) and \"y\" (");
	refuses(&request, ERR_MISMATCH, "c.csv:4); give both the same, or take one of them out (--columns ");
	scratch_text(&scratch, "c.csv", "file,caption,split\na.jpg,1,train\nb.jpg,2,val\nc.jpg,3,test\n");
	refuses(&request, ERR_MISMATCH, "c.jpg (split test) has the same content as ");
	request.skip = true;
	gives(&request, "a.jpg/train: 1; b.jpg/val: 2");
	assert_int_equal(listing_failure_count(last_listing), 1);
	/* one that has no caption is in no split */
	scratch_text(&scratch, "c.csv", "file,caption,split\na.jpg,\xFF,train\nb.jpg,2,val\nc.jpg,3,test\n");
	gives(&request, "b.jpg/val: 2; c.jpg/test: 3");
	assert_int_equal(listing_failure_count(last_listing), 1);
	assert_true(note_says("1 picture has no usable caption"));
}

static void test_failing_pictures(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .fails = { "b.jpg", "a.jpg" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg i/c.jpg");
	scratch_text(&scratch, "c.csv", "c.jpg,1\nb.jpg,2\na.jpg,3\nc.jpg,4\n");
	refuses(&request, ERR_FORMAT, "b.jpg: not a JPEG (and 1 more picture fails); mend");
	request.skip = true;
	gives(&request, "c.jpg/train: 1 | 4");
	assert_int_equal(listing_failure_count(last_listing), 2);
	assert_non_null(strstr(listing_failure_at(last_listing, 0).source, "i/b.jpg"));
	assert_string_equal(listing_failure_at(last_listing, 1).reason, "not a JPEG");
}


static void many_pictures(int count)
{
	struct buf csv = BUF_INIT;
	struct err err;

	for (int i = 0; i < count; i++) {
		char name[32];

		snprintf(name, sizeof(name), "i/%d.jpg", i);
		scratch_text(&scratch, name, name);
		assert_int_equal(buf_printf(&csv, &err, "%d.jpg,a\n%d.jpg,b\n", i, i), 0);
	}
	scratch_write(&scratch, "c.csv", csv.data, csv.size);
	buf_free(&csv);
}

static uint32_t count_split(const struct manifest *m, const char *name)
{
	uint32_t count = 0;

	for (uint32_t p = 0; p < m->picture_count; p++)
		count += strcmp(m->split_name[m->picture_split[p]], name) == 0;
	return count;
}

/* --- a limit ------------------------------------------------------------------------------------- */

enum { DRAWN_FROM = 200 };

/* Which pictures are there, by the numbers in their names; each with its own captions and no others, in the files' order. */
static uint32_t drawn(const struct manifest *m, bool there[DRAWN_FROM])
{
	long before = -1;

	memset(there, 0, DRAWN_FROM * sizeof(*there));
	assert_int_equal(m->caption_count, 2 * m->picture_count);
	for (uint32_t p = 0; p < m->picture_count; p++) {
		long number = strtol(strrchr(m->source_text + m->source_at[p], '/') + 1, NULL, 10);

		assert_in_range(number, before + 1, DRAWN_FROM - 1);
		before = number;
		there[number] = true;
		for (uint32_t k = m->captions_of_at[p]; k < m->captions_of_at[p + 1]; k++) {
			uint32_t c = m->captions_of[k];
			char want[32];

			snprintf(want, sizeof(want), "%s %ld", k == m->captions_of_at[p] ? "first" : "and the second", number);
			assert_int_equal(m->caption_at[c + 1] - m->caption_at[c], strlen(want));
			assert_memory_equal(m->caption_text + m->caption_at[c], want, strlen(want));
		}
	}
	return m->picture_count;
}

static void captions_apart(const char *folder)
{
	struct buf csv = BUF_INIT;
	struct err err;

	for (int k = 0; k < 2; k++)
		for (int i = 0; i < DRAWN_FROM; i++)
			assert_int_equal(buf_printf(&csv, &err, "%s%d.jpg,%s %d\n", folder, i, k == 0 ? "first" : "and the second", i), 0);
	scratch_write(&scratch, "c.csv", csv.data, csv.size);
	buf_free(&csv);
}

static void test_limit(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .limit = 50 };
	bool few[DRAWN_FROM], many[DRAWN_FROM], other[DRAWN_FROM];
	int halves[2] = { 0 }, same = 0;

	(void)state;
	many_pictures(DRAWN_FROM);
	captions_apart("");
	struct manifest *m = run(&request);
	assert_int_equal(drawn(m, few), 50);
	assert_true(note_says("50 of 200 pictures"));
	assert_int_equal(listing_picture_count(last_listing), 50); /* no other one is opened */
	manifest_free(m);

	/* from other folders and with a split: the same ones */
	captions_apart("../i/./");
	request.ratio = "train=0.8,val=0.2";
	m = run(&request);
	assert_int_equal(drawn(m, many), 50);
	assert_memory_equal(few, many, sizeof(few));
	assert_int_equal(count_split(m, "val"), 10);
	manifest_free(m);

	request.limit = 120;
	m = run(&request);
	assert_int_equal(drawn(m, many), 120);
	manifest_free(m);
	request.limit = 50;
	request.limit_seed = 1;
	m = run(&request);
	assert_int_equal(drawn(m, other), 50);
	manifest_free(m);
	for (int i = 0; i < DRAWN_FROM; i++) {
		assert_true(!few[i] || many[i]);
		halves[i / (DRAWN_FROM / 2)] += many[i];
		same += few[i] && other[i];
	}
	assert_in_range(halves[0], 40, 80);
	assert_in_range(same, 1, 30);
}

static int next_drawn(const bool there[DRAWN_FROM], int i, bool wanted)
{
	while (there[i] != wanted)
		i++;
	return i;
}

static void remove_picture(int number)
{
	char name[40];

	snprintf(name, sizeof(name), "i/%d.jpg", number);
	assert_int_equal(remove(in_scratch(name)), 0);
}

/* A picture that is not there has its place in the draw, and matters only where it is drawn. */
static void test_limit_where_pictures_are_missing(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .limit = 50 };
	bool all[DRAWN_FROM], left[DRAWN_FROM];
	char says[80];
	int gone;

	(void)state;
	many_pictures(DRAWN_FROM);
	captions_apart("");
	struct manifest *m = run(&request);
	assert_int_equal(drawn(m, all), 50);
	manifest_free(m);

	remove_picture(next_drawn(all, 1, false)); /* 0.jpg would be taken for a header */
	remove_picture(next_drawn(all, 100, false));
	m = run(&request);
	assert_int_equal(drawn(m, left), 50);
	assert_memory_equal(left, all, sizeof(all));
	assert_int_equal(listing_failure_count(last_listing), 0);
	manifest_free(m);

	gone = next_drawn(all, 1, true);
	remove_picture(gone);
	snprintf(says, sizeof(says), "1 of 50 pictures drawn is missing: %d.jpg; looked in ", gone);
	refuses(&request, ERR_NOTFOUND, says);
	request.skip = true;
	m = run(&request);
	assert_int_equal(drawn(m, left), 49);
	assert_int_equal(listing_failure_count(last_listing), 1);
	left[gone] = true;
	assert_memory_equal(left, all, sizeof(all));
	manifest_free(m);
}

/* Names with a number behind them are one picture, missing or not; without --images each file is searched for beside itself. */
static void test_missing_beside_the_captions(void **state)
{
	struct request request = { .format = "csv", .captions = { "i/c.csv", "j/c.csv" } };

	(void)state;
	pictures(&scratch, "i/a.jpg j/b.jpg");
	scratch_text(&scratch, "i/c.csv", "a.jpg#0,1\nx.jpg#0,2\nx.jpg#1,3\n");
	scratch_text(&scratch, "j/c.csv", "b.jpg#0,4\n");
	refuses(&request, ERR_NOTFOUND, "i/c.csv:2: 1 of 3 pictures is missing: x.jpg#0; looked in ");
	refuses(&request, ERR_NOTFOUND, "/i (names are taken from column 1");
	request.skip = true;
	gives(&request, "a.jpg/train: 1; b.jpg/train: 4");
	assert_int_equal(listing_failure_count(last_listing), 1);
}

static void test_limit_beyond_all(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .limit = DRAWN_FROM };
	bool there[DRAWN_FROM];

	(void)state;
	many_pictures(DRAWN_FROM);
	captions_apart("");
	struct manifest *m = run(&request);
	assert_int_equal(drawn(m, there), DRAWN_FROM);
	assert_true(note_says("leaves out none"));
	manifest_free(m);
	request.limit = UINT64_MAX;
	m = run(&request);
	assert_int_equal(drawn(m, there), DRAWN_FROM);
	manifest_free(m);
}

/* --- splits by ratio ----------------------------------------------------------------------------- */

static void test_ratio(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .ratio = "train=0.7,val=0.2,test=0.1" };

	(void)state;
	many_pictures(101);
	struct manifest *a = run(&request), *b = run(&request);
	assert_true(hash_equal(&a->version, &b->version));
	/* 70.7, 20.2, 10.1: the largest remainder gets the one that is left */
	assert_int_equal(count_split(a, "train"), 71);
	assert_int_equal(count_split(a, "val"), 20);
	assert_int_equal(count_split(a, "test"), 10);
	manifest_free(b);
	request.seed = 1;
	b = run(&request);
	assert_false(hash_equal(&a->version, &b->version));
	assert_int_equal(count_split(b, "train"), 71);
	manifest_free(a);
	manifest_free(b);
	/* the order of the file does not matter to which picture goes where */
	request.ratio = "train=1";
	a = run(&request);
	assert_int_equal(count_split(a, "train"), 101);
	manifest_free(a);
}

static void test_ratio_ignores_order_and_path(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .ratio = "train=0.5,val=0.5" };
	struct buf csv = BUF_INIT;
	struct err err;

	(void)state;
	many_pictures(40);
	struct manifest *a = run(&request);
	for (int i = 39; i >= 0; i--)
		assert_int_equal(buf_printf(&csv, &err, "../i/./%d.jpg,a\n", i), 0);
	scratch_write(&scratch, "c.csv", csv.data, csv.size);
	struct manifest *b = run(&request);
	assert_int_equal(b->picture_count, 40);
	for (uint32_t p = 0; p < 40; p++) {
		assert_true(hash_equal(&a->picture_hash[p], &b->picture_hash[39 - p]));
		assert_int_equal(a->picture_split[p], b->picture_split[39 - p]);
	}
	manifest_free(a);
	manifest_free(b);
	buf_free(&csv);
}

static void test_ratio_keeps_groups(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .ratio = "train=0.6,val=0.4" };
	struct buf csv = BUF_INIT;
	struct err err;
	int split_of[12];

	(void)state;
	many_pictures(60);
	assert_int_equal(buf_add_text(&csv, "image,caption,group\n", &err), 0);
	for (int i = 0; i < 60; i++)
		assert_int_equal(buf_printf(&csv, &err, "%d.jpg,a,g%d\n", i, i % 12), 0);
	scratch_write(&scratch, "c.csv", csv.data, csv.size);
	struct manifest *m = run(&request);
	assert_int_equal(m->group_count, 12);
	memset(split_of, 0xFF, sizeof(split_of));
	for (uint32_t p = 0; p < 60; p++) {
		uint32_t group = m->picture_group[p];

		assert_true(split_of[group] < 0 || split_of[group] == m->picture_split[p]);
		split_of[group] = m->picture_split[p];
	}
	assert_in_range(count_split(m, "train"), 34, 38); /* 36 within half a group */
	manifest_free(m);
	buf_free(&csv);
}

static void test_ratio_faults(void **state)
{
	static const char *const bad[] = { "", "train", "train=", "train=x", "train=0.5", "train=0.5,val=0.6", "train=0.5,train=0.5",
					   "train=1.5,val=-0.5", "train=0,val=1", "all=1", "a b=1", "train=nan", "train=0.5,,val=0.5" };
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	many_pictures(3);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		request.ratio = bad[i];
		refuses(&request, ERR_USAGE, "for example --split train=0.8,val=0.2");
	}
	request.ratio = "train=0.5,val=0.5";
	scratch_text(&scratch, "c.csv", "file,caption,split\n0.jpg,a,train\n");
	refuses(&request, ERR_FORMAT, "c.csv:2: this says split \"train\", so --split cannot be given");
}

/* --- COCO ------------------------------------------------------------------------------------------- */

static void test_coco(void **state)
{
	struct request request = { .format = "coco", .captions = { "captions_train2017.json", "captions_val2017.json" },
				   .images = { "t", "v" } };

	(void)state;
	pictures(&scratch, "t/a.jpg t/b.jpg v/c.jpg");
	scratch_text(&scratch, "captions_train2017.json",
		     "{\"info\":{\"x\":[1,{}]},\"annotations\":[{\"image_id\":2,\"id\":1,\"caption\":\"b one\"},"
		     "{\"caption\":\"a one\",\"image_id\":1,\"id\":2},{\"image_id\":2,\"id\":3,\"caption\":\"b \\u00e9\"}],"
		     "\"images\":[{\"file_name\":\"a.jpg\",\"id\":1},{\"id\":2,\"file_name\":\"b.jpg\"},"
		     "{\"id\":3,\"file_name\":\"unused.jpg\"}],\"categories\":[]}");
	scratch_text(&scratch, "captions_val2017.json",
		     "{\"images\":[{\"id\":\"1\",\"file_name\":\"c.jpg\"}],\"annotations\":[{\"image_id\":\"1\",\"caption\":\"c\"}]}");
	gives(&request, "b.jpg/train: b one | b \xC3\xA9; a.jpg/train: a one; c.jpg/val: c");
	assert_int_equal(listing_note_count(last_listing), 3); /* two splits by name, one image without a caption */
	/* samples are numbered in file order */
	struct manifest *m = run(&request);
	static const uint32_t of[] = { 0, 1, 0, 2 };
	assert_memory_equal(m->caption_picture, of, sizeof(of));
	manifest_free(m);
	/* a prefix is stronger than the name, and --split replaces the name */
	request.captions[0] = "test=captions_train2017.json";
	gives(&request, "b.jpg/test: b one | b \xC3\xA9; a.jpg/test: a one; c.jpg/val: c");
	assert_true(note_says("captions_val2017.json: split val, from the file's name") && !note_says("split train, from"));
	request.captions[0] = "captions_train2017.json";
	request.ratio = "x=1";
	gives(&request, "b.jpg/x: b one | b \xC3\xA9; a.jpg/x: a one; c.jpg/x: c");
}

static void coco_refuses(const char *text, int code, const char *want)
{
	scratch_text(&scratch, "c.json", text);
	refuses(&(struct request){ .format = "coco", .captions = { "c.json" }, .images = { "i" } }, code, want);
}

static void test_coco_faults(void **state)
{
	struct request request = { .format = "coco", .captions = { "c.json" }, .images = { "i" }, .skip = true };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
#define IMAGES "\"images\":[{\"id\":1,\"file_name\":\"a.jpg\"},{\"id\":2,\"file_name\":\"b.jpg\"}]"
	coco_refuses("", ERR_FORMAT, "c.json:1:1: ");
	coco_refuses("[]", ERR_FORMAT, "must be an object");
	coco_refuses("{}", ERR_FORMAT, "no \"images\"");
	coco_refuses("{" IMAGES "}", ERR_FORMAT, "no \"annotations\"");
	coco_refuses("{" IMAGES ",\"annotations\":[]}", ERR_MISMATCH, "no caption is left in the file");
	coco_refuses("{" IMAGES ",\"annotations\":[{\"image_id\":1}]}", ERR_FORMAT, "annotation 1 has no caption");
	coco_refuses("{" IMAGES ",\"annotations\":[{\"caption\":\"x\"}]}", ERR_FORMAT, "annotation 1 has no image_id");
	coco_refuses("{" IMAGES ",\"annotations\":[{\"image_id\":1,\"caption\":7}]}", ERR_FORMAT, "caption must be a string");
	coco_refuses("{" IMAGES ",\"annotations\":[{\"image_id\":1,\"caption\":\"x\"}", ERR_FORMAT, "the file ends");
	coco_refuses("{\"images\":[{\"id\":1,\"file_name\":\"a.jpg\"},{\"id\":1,\"file_name\":\"b.jpg\"}],\"annotations\":[]}", ERR_FORMAT,
		     "image 2: the id 1 belongs to a.jpg and to b.jpg");
	coco_refuses("{\"images\":[{\"id\":1,\"filename\":\"a.jpg\",\"sentences\":[]}]}", ERR_FORMAT, "--format karpathy");
	coco_refuses("{" IMAGES ",\"annotations\":[{\"image_id\":1,\"caption\":\"x\"},{\"image_id\":8,\"caption\":\"x\"},"
		     "{\"image_id\":9,\"caption\":\"x\"}]}", ERR_MISMATCH,
		     "2 annotations belong to pictures that its list of images lacks (image_id 8, 9)");
	coco_refuses("{" IMAGES ",\"annotations\":[{\"image_id\":8,\"caption\":\"x\"}]}", ERR_MISMATCH,
		     "1 annotation belongs to a picture that its list of images lacks (image_id 8)");
	coco_refuses("{" IMAGES ",\"annotations\":[{\"image_id\":1,\"caption\":\"x\"},{\"image_id\":8,\"caption\":\"x\"},"
		     "{\"image_id\":9,\"caption\":\"x\"}]}", ERR_MISMATCH, "2 annotations belong");
	request.skip = true;
	gives(&request, "a.jpg/train: x");
	assert_int_equal(listing_failure_count(last_listing), 2);
	coco_refuses("{" IMAGES ",\"annotations\":[{\"image_id\":1,\"caption\":\"ok\"},{\"image_id\":2,\"caption\":\"b\xE9\"}]}", ERR_FORMAT,
		     "c.json: annotation 2: the caption is no valid UTF-8 at its byte 2");
	gives(&request, "a.jpg/train: ok");
	assert_int_equal(listing_failure_count(last_listing), 1);
}

static void test_split_in_name(void **state)
{
	static const struct {
		const char *name, *split;
	} cases[] = { { "captions_val2014.json", "val" }, { "captions_test.json", "test" }, { "train_captions.json", "train" },
		      { "validation.json", "train" }, { "constrained.json", "train" }, { "all.json", "train" }, { "x-val.json", "val" } };

	(void)state;
	pictures(&scratch, "i/a.jpg");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char want[64];

		scratch_text(&scratch, cases[i].name,
			     "{\"images\":[{\"id\":1,\"file_name\":\"a.jpg\"}],\"annotations\":[{\"image_id\":1,\"caption\":\"x\"}]}");
		snprintf(want, sizeof(want), "a.jpg/%s: x", cases[i].split);
		gives(&(struct request){ .format = "coco", .captions = { cases[i].name }, .images = { "i" } }, want);
	}
}

/* --- Karpathy ------------------------------------------------------------------------------------------ */

static void test_karpathy(void **state)
{
	struct request request = { .format = "karpathy", .captions = { "d.json" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/val2014/b.jpg i/c.jpg");
	scratch_text(&scratch, "d.json",
		     "{\"images\":[{\"sentences\":[{\"raw\":\"one\",\"tokens\":[\"one\"]},{\"tokens\":[],\"raw\":\"two\"}],\"imgid\":0,"
		     "\"split\":\"train\",\"filename\":\"a.jpg\"},{\"filepath\":\"val2014\",\"filename\":\"b.jpg\",\"split\":\"restval\","
		     "\"sentences\":[{\"raw\":\"three\"}]},{\"filename\":\"c.jpg\",\"split\":\"test\",\"sentences\":[]}],\"dataset\":\"x\"}");
	gives(&request, "a.jpg/train: one | two; b.jpg/restval: three");
	assert_true(listing_note_count(last_listing) == 1 && note_says("1 image has no sentence and is left out"));
	request.ratio = "train=1";
	refuses(&request, ERR_FORMAT, "d.json: image 1: this says split \"train\", so --split cannot be given");
	request.ratio = NULL;
	request.columns = "1,2";
	refuses(&request, ERR_USAGE, "--columns is for csv and jsonl");
	request.columns = NULL;
	scratch_text(&scratch, "d.json", "{\"images\":[{\"id\":1,\"file_name\":\"a.jpg\"}],\"annotations\":[]}");
	refuses(&request, ERR_FORMAT, "--format coco");
	scratch_text(&scratch, "d.json", "{\"images\":[{\"filename\":\"a.jpg\",\"sentences\":[{\"tokens\":[]}]}]}");
	refuses(&request, ERR_FORMAT, "has no \"raw\" text");
	scratch_text(&scratch, "d.json", "{\"pictures\":[]}");
	refuses(&request, ERR_FORMAT, "no \"images\"");
	scratch_text(&scratch, "d.json", "{\"images\":[{\"filename\":\"a.jpg\",\"sentences\":[{\"raw\":\"x\"}]}]}");
	gives(&request, "a.jpg/train: x");
}

/* --- JSONL ------------------------------------------------------------------------------------------------ */

static void test_jsonl(void **state)
{
	struct request request = { .format = "jsonl", .captions = { "d.jsonl" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	scratch_text(&scratch, "d.jsonl",
		     "\xEF\xBB\xBF{\"image\":\"a.jpg\",\"caption\":\"one\",\"x\":{}}\r\n\n"
		     "{\"captions\":[\"two\",\"three\"],\"file_name\":\"b.jpg\",\"split\":\"val\",\"label\":3}\n"
		     "{\"image\":\"a.jpg\",\"text\":\"four\",\"label\":null}");
	gives(&request, "a.jpg/train: one | four; b.jpg/val#0=3: two | three");
	scratch_text(&scratch, "d.jsonl", " [{\"image\":\"a.jpg\",\"caption\":\"one\"},\n{\"image\":\"b.jpg\",\"caption\":\"two\"}]");
	gives(&request, "a.jpg/train: one; b.jpg/train: two");
	scratch_text(&scratch, "d.jsonl", "{\"image\":\"zzz\",\"pic\":\"a.jpg\",\"says\":\"one\",\"kind\":\"k\",\"label\":\"no\"}\n");
	request.columns = "pic,says";
	gives(&request, "a.jpg/train: one");
	request.columns = "pic,says,kind";
	gives(&request, "a.jpg/train#0=k: one");
	request.columns = NULL;
	scratch_text(&scratch, "d.jsonl", "{\"image\":\"a.jpg\",\"caption\":\"one\"}\n{\"image\":\"a.jpg\"}\n");
	refuses(&request, ERR_FORMAT, "d.jsonl:2:17: no \"caption\"");
	scratch_text(&scratch, "d.jsonl", "{\"caption\":\"one\"}\n");
	refuses(&request, ERR_FORMAT, "d.jsonl:1:17: no \"image\"");
	scratch_text(&scratch, "d.jsonl", "{\"image\":\"a.jpg\",\"caption\":\"one\"} x\n");
	refuses(&request, ERR_FORMAT, "d.jsonl:1:35: ");
	scratch_text(&scratch, "d.jsonl", "{\"image\":\"a.jpg\",\"caption\":[7]}\n");
	refuses(&request, ERR_FORMAT, "a caption must be a string");
	scratch_text(&scratch, "d.jsonl", "\"x\"\n");
	refuses(&request, ERR_FORMAT, "a line must be an object");
	scratch_text(&scratch, "d.jsonl", "\n");
	refuses(&request, ERR_MISMATCH, "no caption is left");
	scratch_text(&scratch, "d.jsonl", "{\"image\":\"a.jpg\",\"caption\":\"one\"}\n{\"image\":\"b.jpg\",\"caption\":\"\xFF\"}\n");
	refuses(&request, ERR_FORMAT, "d.jsonl:2: the caption is no valid UTF-8 at its byte 1");
	request.skip = true;
	gives(&request, "a.jpg/train: one");
	/* half of a surrogate pair is no character, written as an escape or as bytes */
	static const char *const lone[] = { "\\ud800", "\xED\xA0\x80" };
	for (size_t i = 0; i < ARRAY_LEN(lone); i++) {
		char text[200];

		snprintf(text, sizeof(text), "{\"image\":\"a.jpg\",\"caption\":\"one\"}\n{\"image\":\"b.jpg\",\"caption\":\"two %s\"}\n", lone[i]);
		scratch_text(&scratch, "d.jsonl", text);
		request.skip = false;
		refuses(&request, ERR_FORMAT, "d.jsonl:2: the caption has half of a surrogate pair at its byte 5 (\\ud800 in JSON)");
		request.skip = true;
		gives(&request, "a.jpg/train: one");
		assert_int_equal(listing_failure_count(last_listing), 1);
	}
	/* a zero byte in a name cannot open another file */
	scratch_text(&scratch, "d.jsonl", "{\"image\":\"a.jpg\",\"caption\":\"one\"}\n{\"image\":\"a.jpg\\u0000x\",\"caption\":\"two\"}\n");
	gives(&request, "a.jpg/train: one");
	assert_int_equal(listing_failure_count(last_listing), 1);
}

/* Numbers that were floats on their way are the whole numbers that they were. */
static void test_json_numbers(void **state)
{
	struct request request = { .format = "coco", .captions = { "c.json" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg i/7.0");
	scratch_text(&scratch, "c.json", "{\"images\":[{\"id\":5.0,\"file_name\":\"a.jpg\"},{\"id\":6,\"file_name\":\"b.jpg\"},{\"id\":6.50,"
		     "\"file_name\":\"7.0\"}],\"annotations\":[{\"image_id\":5,\"caption\":\"one\"},{\"image_id\":6.00,\"caption\":\"two\"},"
		     "{\"image_id\":6.50,\"caption\":\"three\"}]}");
	gives(&request, "a.jpg/train: one; b.jpg/train: two; 7.0/train: three");
	request.format = "jsonl";
	scratch_text(&scratch, "c.json", "{\"image\":\"a.jpg\",\"caption\":\"one\",\"label\":10.0}\n{\"image\":\"b.jpg\",\"caption\":\"two\","
		     "\"label\":10}\n{\"image\":\"7.0\",\"caption\":\"three\",\"label\":-9.0}\n");
	gives(&request, "a.jpg/train#1=10: one; b.jpg/train#1=10: two; 7.0/train#0=-9: three");
}

/* What Python writes where a table has no value, and "", say as little as null. */
static void test_json_without_a_value(void **state)
{
	struct request request = { .format = "jsonl", .captions = { "d.json" }, .images = { "i" }, .ratio = "train=0.5,val=0.5" };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg");
	scratch_text(&scratch, "d.json", "{\"image\":\"a.jpg\",\"caption\":\"one\",\"label\":NaN,\"class\":\"k\",\"group\":NaN}\n"
		     "{\"image\":\"b.jpg\",\"text\":\"two\",\"caption\":NaN,\"label\":\"\",\"group\":\"\",\"split\":NaN}\n");
	struct manifest *m = run(&request);
	assert_int_equal(count_split(m, "val"), 1); /* not one group */
	manifest_free(m);
	request.ratio = NULL;
	gives(&request, "a.jpg/train#0=k: one; b.jpg/train: two");
	scratch_text(&scratch, "d.json", "{\"image\":\"a.jpg\",\"caption\":\"one\",\"split\":\"\"}\n");
	refuses(&request, ERR_FORMAT, "\"\" cannot be a split's name");
	scratch_text(&scratch, "d.json", "{\n\"image\":\"a.jpg\",\"caption\":\"one\"}\n");
	refuses(&request, ERR_FORMAT, "d.json:1:2: the line ends where ");
	request.format = "karpathy";
	scratch_text(&scratch, "d.json", "{\"images\":[{\"filename\":\"a.jpg\",\"label\":\"\",\"class\":NaN,\"sentences\":[{\"raw\":\"one\"}]},"
		     "{\"filename\":\"b.jpg\",\"label\":NaN,\"class\":\"k\",\"group\":\"\",\"sentences\":[{\"raw\":\"two\"}]}]}");
	gives(&request, "a.jpg/train: one; b.jpg/train#0=k: two");
	request.format = "coco";
	scratch_text(&scratch, "d.json", "{\"images\":[{\"id\":NaN,\"file_name\":\"a.jpg\"}],\"annotations\":[]}");
	refuses(&request, ERR_FORMAT, "image 1 has no id");
}

/* Which key counts is a matter of the names, not of where they stand. */
static void test_jsonl_ranks_keys(void **state)
{
	struct request request = { .format = "jsonl", .captions = { "d.jsonl" }, .images = { "i" } };

	(void)state;
	pictures(&scratch, "i/a.jpg i/b.jpg i/c.jpg");
	scratch_text(&scratch, "d.jsonl",
		     "{\"image\":\"a.jpg\",\"text\":[7],\"captions\":[\"x\"],\"caption\":\"one\",\"path\":\"b.jpg\",\"class\":\"k\",\"label\":\"l\"}\n"
		     "{\"path\":\"a.jpg\",\"label\":\"l\",\"class\":{},\"caption\":[\"two\"],\"captions\":null,\"text\":\"x\""
		     ",\"file\":{},\"Image\":\"b.jpg\"}\n"
		     "{\"caption\":null,\"comment\":\"x\",\"text\":\"three\",\"path\":\"c.jpg\",\"image\":null,\"subset\":\"val\",\"split\":\"test\"}\n");
	gives(&request, "a.jpg/train#0=l: one; b.jpg/train#0=l: two; c.jpg/test: three");
	/* of one key twice nobody knows which is meant, unless neither is read */
	scratch_text(&scratch, "d.jsonl", "{\"image\":\"a.jpg\",\"x\":1,\"x\":2,\"text\":\"p\",\"text\":\"q\",\"caption\":\"one\"}\n"
		     "{\"image\":\"a.jpg\",\"caption\":\"one\",\"caption\":\"two\"}\n");
	refuses(&request, ERR_FORMAT, "d.jsonl:2:18: the key \"caption\" stands more than once");
	scratch_text(&scratch, "d.jsonl", "{\"image\":\"a.jpg\",\"caption\":\"one\",\"IMAGE\":\"b.jpg\"}\n");
	refuses(&request, ERR_FORMAT, "the key \"image\" stands more than once");
	scratch_text(&scratch, "d.jsonl", "{\"image\":\"a.jpg\",\"caption\":null}\n");
	refuses(&request, ERR_FORMAT, "no \"caption\" (it is null)");
	request.columns = "pic,says";
	scratch_text(&scratch, "d.jsonl", "[{\"pic\":\"a.jpg\",\"says\":\"one\",\"pic\":\"b.jpg\"}]");
	refuses(&request, ERR_FORMAT, "the key \"pic\" stands more than once");
	scratch_text(&scratch, "d.jsonl", "{\"pic\\u0000x\":\"b.jpg\",\"says\":\"one\",\"pic\":\"a.jpg\",\"says\\u0000\":\"two\"}\n");
	gives(&request, "a.jpg/train: one");
	/* one key may be two of them */
	request.columns = "pic,says,says";
	scratch_text(&scratch, "d.jsonl", "{\"says\":\"cat\",\"pic\":\"a.jpg\"}\n{\"pic\":\"b.jpg\",\"says\":\"dog\"}\n");
	gives(&request, "a.jpg/train#0=cat: cat; b.jpg/train#1=dog: dog");
	request.columns = "pic,says,split";
	scratch_text(&scratch, "d.jsonl", "{\"says\":\"cat\",\"pic\":\"a.jpg\",\"split\":\"val\"}\n");
	gives(&request, "a.jpg/val#0=val: cat");
}

static void test_keys_stand_once(void **state)
{
	static const struct {
		const char *format, *text, *key;
	} cases[] = {
		{ "coco", "{\"images\":[],\"annotations\":[],\"images\":[]}", "c.json:1:31: the key \"images\"" },
		{ "coco", "{\"annotations\":[],\"annotations\":[],\"images\":[]}", "\"annotations\"" },
		{ "coco", "{\"images\":[{\"id\":1,\"id\":2,\"file_name\":\"a.jpg\"}]}", "\"id\"" },
		{ "coco", "{\"images\":[{\"id\":1,\"file_name\":\"b.jpg\",\"file_name\":\"a.jpg\"}]}", "\"file_name\"" },
		{ "coco", "{\"images\":[],\"annotations\":[{\"image_id\":1,\"image_id\":2}]}", "\"image_id\"" },
		{ "coco", "{\"images\":[],\"annotations\":[{\"caption\":\"\",\"caption\":\"x\"}]}", "\"caption\"" },
		{ "karpathy", "{\"images\":[],\"images\":[]}", "\"images\"" },
		{ "karpathy", "{\"images\":[{\"filename\":\"a\",\"filename\":\"b\"}]}", "\"filename\"" },
		{ "karpathy", "{\"images\":[{\"sentences\":[],\"sentences\":[]}]}", "\"sentences\"" },
		{ "karpathy", "{\"images\":[{\"class\":1,\"class\":1}]}", "\"class\"" },
		{ "karpathy", "{\"images\":[{\"sentences\":[{\"raw\":\"\",\"raw\":\"\"}]}]}", "\"raw\"" },
	};

	(void)state;
	pictures(&scratch, "i/a.jpg");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char want[100];

		scratch_text(&scratch, "c.json", cases[i].text);
		snprintf(want, sizeof(want), "%s stands more than once", cases[i].key);
		refuses(&(struct request){ .format = cases[i].format, .captions = { "c.json" }, .images = { "i" } }, ERR_FORMAT, want);
	}
	for (int i = 0; i < 2; i++) {
		scratch_text(&scratch, "c.json", i == 0 ?
			     "{\"images\":[{\"class\":\"k\",\"label\":\"l\",\"filename\":\"a.jpg\",\"sentences\":[{\"raw\":\"x\"}]}]}" :
			     "{\"images\":[{\"label\":\"l\",\"class\":\"k\",\"filename\":\"a.jpg\",\"sentences\":[{\"raw\":\"x\"}]}]}");
		gives(&(struct request){ .format = "karpathy", .captions = { "c.json" }, .images = { "i" } }, "a.jpg/train#0=l: x");
	}
}

/* --- real files ----------------------------------------------------------------------------------------------- */

static struct manifest *run_real(const char *format, const char *const *captions, int caption_count, const char *images)
{
	struct reader_options options = { .format = format, .captions = captions, .caption_count = caption_count, .images = &images,
					  .image_count = 1 };
	struct manifest *manifest;
	struct err err;

	listing_free(last_listing);
	assert_int_equal(listing_open(&last_listing, &err), 0);
	if (listing_read(last_listing, &options, &err) != 0)
		fail_msg("%s", err.message);
	/* opening is the business of others: the path stands for the content */
	for (uint32_t i = 0; i < listing_picture_count(last_listing); i++) {
		struct hash hash;
		const char *path = listing_picture_path(last_listing, i);

		hash_bytes(&hash, path, strlen(path));
		listing_set_hash(last_listing, i, &hash);
	}
	if (listing_finish(last_listing, &manifest, &err) != 0)
		fail_msg("%s", err.message);
	return manifest;
}

static void check_real(const char *format, const char *captions, const char *images, uint32_t want_pictures, uint32_t want_captions)
{
	char captions_path[1200], images_path[1200];
	const char *file = captions_path;

	if (shared_data(captions) == NULL || shared_data(images) == NULL)
		skip();
	snprintf(captions_path, sizeof(captions_path), "%s", shared_data(captions));
	snprintf(images_path, sizeof(images_path), "%s", shared_data(images));
	struct manifest *m = run_real(format, &file, 1, images_path);
	assert_int_equal(m->picture_count, want_pictures);
	assert_int_equal(m->caption_count, want_captions);
	manifest_free(m);
}

static void test_real_rsicd(void **state)
{
	(void)state;
	check_real("karpathy", "rsicd/dataset_rsicd.json", "rsicd/images", 2185, 10925);
}

static void test_real_coco300(void **state)
{
	(void)state;
	check_real("csv", "coco300/captions.csv", "coco300/images", 1999, 1999);
}

static void test_real_flowers(void **state)
{
	(void)state;
	check_real("csv", "flowers/captions.csv", "flowers/images", 255, 255);
}

static void test_real_tiny_coco(void **state)
{
	(void)state;
	check_real("coco", "tiny_coco/annotations/captions_train2017.json", "tiny_coco/train2017", 50, 250);
	check_real("coco", "tiny_coco/annotations/captions_val2017.json", "tiny_coco/val2017", 50, 250);
}

/* COCO's validation captions at full count, with empty files as pictures. */
static void test_real_val2017(void **state)
{
	const char *source = shared_data("text/captions_val2017.json");
	struct buf json = BUF_INIT;
	struct json_reader reader;
	struct err err;
	char captions[1200], images[1200];
	const char *file = captions;

	(void)state;
	if (source == NULL)
		skip();
	snprintf(captions, sizeof(captions), "%s", source);
	assert_int_equal(fs_read(captions, (size_t)1 << 30, &json, &err), 0);
	json_reader_init(&reader, captions, json.data, json.size);
	while (json_next(&reader, &err) == 0 && reader.kind != JSON_END) {
		if (reader.kind != JSON_KEY || strcmp(reader.text.data, "file_name") != 0)
			continue;
		assert_int_equal(json_next(&reader, &err), 0);
		char name[300];
		snprintf(name, sizeof(name), "v/%s", reader.text.data);
		scratch_text(&scratch, name, "");
	}
	json_reader_free(&reader);
	buf_free(&json);
	snprintf(images, sizeof(images), "%s/v", scratch.path);
	struct manifest *m = run_real("coco", &file, 1, images);
	assert_int_equal(m->picture_count, 5000);
	assert_int_equal(m->caption_count, 25014);
	assert_string_equal(m->split_name[0], "val");
	manifest_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(test_csv_plain),
		TEST(test_csv_header),
		TEST(test_csv_header_without_captions),
		TEST(test_csv_captions_that_are_lists),
		TEST(test_tsv_captions_in_quotes),
		TEST(test_csv_columns_of_one_name),
		TEST(test_csv_labels),
		TEST(test_csv_separators),
		TEST(test_csv_many_columns),
		TEST(test_csv_columns),
		TEST(test_csv_columns_that_coincide),
		TEST(test_csv_labels_without_end),
		TEST(test_csv_faults),
		TEST(test_csv_skip),
		TEST(test_one_file_for_two_splits),
		TEST(test_csv_first_picture_missing),
		TEST(test_missing_pictures),
		TEST(test_names_of_pictures),
		TEST(test_no_files),
		TEST(test_names_that_are_none),
		TEST(test_folders_that_may_not_be_searched),
		TEST(test_files_of_others),
		TEST(test_pictures_in_folders_of_other_splits),
		TEST(test_prefixes),
		TEST(test_other_encodings),
		TEST(test_files_of_other_formats),
		TEST(test_long_numbers_as_labels),
		TEST(test_same_content),
		TEST(test_failing_pictures),
		TEST(test_limit),
		TEST(test_limit_where_pictures_are_missing),
		TEST(test_missing_beside_the_captions),
		TEST(test_limit_beyond_all),
		TEST(test_ratio),
		TEST(test_ratio_ignores_order_and_path),
		TEST(test_ratio_keeps_groups),
		TEST(test_ratio_faults),
		TEST(test_coco),
		TEST(test_coco_faults),
		TEST(test_split_in_name),
		TEST(test_karpathy),
		TEST(test_jsonl),
		TEST(test_json_numbers),
		TEST(test_json_without_a_value),
		TEST(test_jsonl_ranks_keys),
		TEST(test_keys_stand_once),
		TEST(test_real_rsicd),
		TEST(test_real_coco300),
		TEST(test_real_flowers),
		TEST(test_real_tiny_coco),
		TEST(test_real_val2017),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
