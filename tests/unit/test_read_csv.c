/* The CSV reader: separators and quotes, headers and columns, what may be a label, and what every fault says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/reading.h"

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
	pictures("i/a.jpg i/b.jpg i/sub/c.jpg");
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

static void test_csv_header(void **state)
{
	(void)state;
	pictures("i/a.jpg i/b.jpg");
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

/* Nothing else is taken for a caption where a header names the pictures' column. */
static void test_csv_header_without_captions(void **state)
{
	(void)state;
	pictures("i/a.jpg i/b.jpg");
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
	pictures("i/a.jpg i/b.jpg");
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
	pictures("i/a.jpg i/b.jpg i/c.jpg");
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
	pictures("i/a.jpg i/b.jpg");
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
	pictures("i/a.jpg i/b.jpg");
	scratch_text(&scratch, "i/c.jpg", "another");
	csv_gives("image,caption,label\na.jpg,x, 9\nb.jpg,y,10 \nc.jpg,z, 9 \n",
		  "a.jpg/train#0=9: x; b.jpg/train#1=10: y; c.jpg/train#0=9: z");
	csv_gives("image,caption,label\na.jpg,x,2.0\nb.jpg,y,10.00\nc.jpg,z,-1.0\n",
		  "a.jpg/train#1=2: x; b.jpg/train#2=10: y; c.jpg/train#0=-1: z");
	csv_gives("image,caption,label\na.jpg,x,2.50\nb.jpg,y,.0\nc.jpg,z,2.\n",
		  "a.jpg/train#2=2.50: x; b.jpg/train#0=.0: y; c.jpg/train#1=2.: z");
}

static void test_csv_separators(void **state)
{
	(void)state;
	pictures("i/a.jpg i/b.jpg");
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
	pictures("i/a.jpg");
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
	pictures("i/a.jpg i/b.jpg");
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
	pictures("i/a.jpg i/b.jpg");
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
	pictures("i/a.jpg");
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
	manifest_free(read_manifest(&request));
	free(text);
}

static void test_csv_faults(void **state)
{
	(void)state;
	pictures("i/a.jpg i/b.jpg");
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

static void test_csv_skip(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .skip = true };
	struct listing_failure failure;

	(void)state;
	pictures("i/a.jpg i/b.jpg");
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

/* Without a header, a first picture that is missing must not turn its row into one. */
static void test_csv_first_picture_missing(void **state)
{
	static const char *const rows[] = { "gone.jpg,hello", "7,hello,gone.JPEG", "gone.mpo#0\thello", "gone.jpe ; hello" };
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	pictures("i/a.jpg i/b.jpg");
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		READING_TEST(test_csv_plain),
		READING_TEST(test_csv_header),
		READING_TEST(test_csv_header_without_captions),
		READING_TEST(test_csv_captions_that_are_lists),
		READING_TEST(test_tsv_captions_in_quotes),
		READING_TEST(test_csv_columns_of_one_name),
		READING_TEST(test_csv_labels),
		READING_TEST(test_csv_separators),
		READING_TEST(test_csv_many_columns),
		READING_TEST(test_csv_columns),
		READING_TEST(test_csv_columns_that_coincide),
		READING_TEST(test_csv_labels_without_end),
		READING_TEST(test_csv_faults),
		READING_TEST(test_csv_skip),
		READING_TEST(test_csv_first_picture_missing),
		READING_TEST(test_real_coco300),
		READING_TEST(test_real_flowers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
