/* What the three formats of JSON agree in: numbers, values that say nothing, keys that stand twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/support/reading.h"

/* Numbers that were floats on their way are the whole numbers that they were. */
static void test_json_numbers(void **state)
{
	struct request request = { .format = "coco", .captions = { "c.json" }, .images = { "i" } };

	(void)state;
	pictures("i/a.jpg i/b.jpg i/7.0");
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
	pictures("i/a.jpg i/b.jpg");
	scratch_text(&scratch, "d.json", "{\"image\":\"a.jpg\",\"caption\":\"one\",\"label\":NaN,\"class\":\"k\",\"group\":NaN}\n"
		     "{\"image\":\"b.jpg\",\"text\":\"two\",\"caption\":NaN,\"label\":\"\",\"group\":\"\",\"split\":NaN}\n");
	struct manifest *m = read_manifest(&request);
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
	pictures("i/a.jpg");
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		READING_TEST(test_json_numbers),
		READING_TEST(test_json_without_a_value),
		READING_TEST(test_keys_stand_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
