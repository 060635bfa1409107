/* The COCO reader: images and annotations in either order, splits from a file's name, and what every fault says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "tests/support/reading.h"

static void test_coco(void **state)
{
	struct request request = { .format = "coco", .captions = { "captions_train2017.json", "captions_val2017.json" },
				   .images = { "t", "v" } };

	(void)state;
	pictures("t/a.jpg t/b.jpg v/c.jpg");
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
	struct manifest *m = read_manifest(&request);
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
	pictures("i/a.jpg i/b.jpg");
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
	pictures("i/a.jpg");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char want[64];

		scratch_text(&scratch, cases[i].name,
			     "{\"images\":[{\"id\":1,\"file_name\":\"a.jpg\"}],\"annotations\":[{\"image_id\":1,\"caption\":\"x\"}]}");
		snprintf(want, sizeof(want), "a.jpg/%s: x", cases[i].split);
		gives(&(struct request){ .format = "coco", .captions = { cases[i].name }, .images = { "i" } }, want);
	}
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
	struct manifest *m = read_real("coco", captions, images);
	assert_int_equal(m->picture_count, 5000);
	assert_int_equal(m->caption_count, 25014);
	assert_string_equal(m->split_name[0], "val");
	manifest_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		READING_TEST(test_coco),
		READING_TEST(test_coco_faults),
		READING_TEST(test_split_in_name),
		READING_TEST(test_real_tiny_coco),
		READING_TEST(test_real_val2017),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
