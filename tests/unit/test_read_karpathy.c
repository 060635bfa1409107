/* The Karpathy reader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/reading.h"

static void test_karpathy(void **state)
{
	struct request request = { .format = "karpathy", .captions = { "d.json" }, .images = { "i" } };

	(void)state;
	pictures("i/a.jpg i/val2014/b.jpg i/c.jpg");
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

static void test_real_rsicd(void **state)
{
	(void)state;
	check_real("karpathy", "rsicd/dataset_rsicd.json", "rsicd/images", 2185, 10925);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		READING_TEST(test_karpathy),
		READING_TEST(test_real_rsicd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
