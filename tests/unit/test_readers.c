/* What all readers of caption files share: pictures that are searched for, prefixes and splits, files of other formats and encodings. */
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

#include "tests/support/reading.h"

static void test_missing_pictures(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i", "j" } };

	(void)state;
	pictures("i/a.jpg j/b.jpg");
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

/* Numbered pictures have the same captions in every split's folder. */
static void test_one_file_for_two_splits(void **state)
{
	struct request request = { .format = "csv", .captions = { "train=c.csv", "val=c.csv" }, .images = { "train=i", "val=k" } };

	(void)state;
	pictures("i/a.jpg k/a.jpg");
	scratch_text(&scratch, "c.csv", "a.jpg,one\n");
	gives(&request, "a.jpg/train: one; a.jpg/val: one");
}

/* Names with a number behind them are one picture, missing or not; without --images each file is searched for beside itself. */
static void test_missing_beside_the_captions(void **state)
{
	struct request request = { .format = "csv", .captions = { "i/c.csv", "j/c.csv" } };

	(void)state;
	pictures("i/a.jpg j/b.jpg");
	scratch_text(&scratch, "i/c.csv", "a.jpg#0,1\nx.jpg#0,2\nx.jpg#1,3\n");
	scratch_text(&scratch, "j/c.csv", "b.jpg#0,4\n");
	refuses(&request, ERR_NOTFOUND, "i/c.csv:2: 1 of 3 pictures is missing: x.jpg#0; looked in ");
	refuses(&request, ERR_NOTFOUND, "/i (names are taken from column 1");
	request.skip = true;
	gives(&request, "a.jpg/train: 1; b.jpg/train: 4");
	assert_int_equal(listing_failure_count(last_listing), 1);
}

static void test_names_of_pictures(void **state)
{
	char text[2000];
	struct request request = { .format = "csv", .captions = { "i/c.csv" } };

	(void)state;
	pictures("i/a.jpg i/sub/b.jpg k=v/c.jpg");
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
	pictures("i/a.jpg i/d.jpg/x");
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
	pictures("i/a.jpg i/x.jpg");
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
	pictures("i/a.jpg i/sub/b.jpg j/a.jpg");
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
	pictures("i/a.jpg i/private.jpg i/secret/b.jpg i/open/c.jpg");
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
	pictures("sub/b.jpg i/a.jpg");
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
	pictures("i/a.jpg k/b.jpg");
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
	pictures("i/a.jpg");
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
	pictures("i/a.jpg");
	for (size_t file = 0; file < ARRAY_LEN(files); file++) {
		scratch_text(&scratch, "c.txt", files[file].bytes);
		for (size_t format = 0; format < ARRAY_LEN(formats); format++)
			if (format != file)
				refuses(&(struct request){ .format = formats[format], .captions = { "c.txt" }, .images = { "i" } }, ERR_FORMAT,
					files[file].seems);
	}
	/* What only seems damaged is no other format. */
	scratch_text(&scratch, "c.txt", "{\"images\": [{\"id\": 1, \"file_na");
	assert_int_equal(try_read(&(struct request){ .format = "coco", .captions = { "c.txt" }, .images = { "i" } }, &manifest, &err), ERR_FORMAT);
	assert_non_null(strstr(err.message, "a string that never ends"));
	assert_null(strstr(err.message, "--format"));
}

/* Classes are ranked by value, however long the numbers are. */
static void test_long_numbers_as_labels(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	pictures("i/a.jpg i/b.jpg i/c.jpg i/d.jpg i/e.jpg i/f.jpg");
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
	pictures("i/a.jpg i/b.jpg");
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
	pictures("i/a.jpg i/b.jpg i/c.jpg");
	scratch_text(&scratch, "c.csv", "c.jpg,1\nb.jpg,2\na.jpg,3\nc.jpg,4\n");
	refuses(&request, ERR_FORMAT, "b.jpg: not a JPEG (and 1 more picture fails); mend");
	request.skip = true;
	gives(&request, "c.jpg/train: 1 | 4");
	assert_int_equal(listing_failure_count(last_listing), 2);
	assert_non_null(strstr(listing_failure_at(last_listing, 0).source, "i/b.jpg"));
	assert_string_equal(listing_failure_at(last_listing, 1).reason, "not a JPEG");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		READING_TEST(test_missing_pictures),
		READING_TEST(test_one_file_for_two_splits),
		READING_TEST(test_missing_beside_the_captions),
		READING_TEST(test_names_of_pictures),
		READING_TEST(test_no_files),
		READING_TEST(test_names_that_are_none),
		READING_TEST(test_folders_that_may_not_be_searched),
		READING_TEST(test_files_of_others),
		READING_TEST(test_pictures_in_folders_of_other_splits),
		READING_TEST(test_prefixes),
		READING_TEST(test_other_encodings),
		READING_TEST(test_files_of_other_formats),
		READING_TEST(test_long_numbers_as_labels),
		READING_TEST(test_same_content),
		READING_TEST(test_failing_pictures),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
