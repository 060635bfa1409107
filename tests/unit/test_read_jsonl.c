/* The JSONL reader: an object a line, or an array of them, and which of its keys counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/support/reading.h"

static void test_jsonl(void **state)
{
	struct request request = { .format = "jsonl", .captions = { "d.jsonl" }, .images = { "i" } };

	(void)state;
	pictures("i/a.jpg i/b.jpg");
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

/* Which key counts is a matter of the names, not of where they stand. */
static void test_jsonl_ranks_keys(void **state)
{
	struct request request = { .format = "jsonl", .captions = { "d.jsonl" }, .images = { "i" } };

	(void)state;
	pictures("i/a.jpg i/b.jpg i/c.jpg");
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		READING_TEST(test_jsonl),
		READING_TEST(test_jsonl_ranks_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
