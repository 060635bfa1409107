/* train/about.h: names of classes in a model's description, and how two lists of them are told apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/ok.h"
#include "trainer/train/about.h"

static const struct about_model model = { .task = TASK_CLASSIFY, .image_size = 64, .vocab_size = 100, .classes = 3, .features = 8 };

/* Through the text that a checkpoint carries; `text` gets it too unless NULL. */
static struct about_classes written_and_read(const struct about_classes *classes, struct buf *text)
{
	struct about_classes again;
	struct about_model read;
	struct buf own = BUF_INIT;
	struct json_reader reader;

	OK(about_model_write(&model, classes, &own, err));
	json_reader_init(&reader, "text", own.data, own.size);
	OK(about_classes_read(&again, &reader, err));
	json_reader_free(&reader);
	json_reader_init(&reader, "text", own.data, own.size);
	OK(about_model_read(&read, &reader, err));
	json_reader_free(&reader);
	assert_int_equal(read.classes, model.classes);
	if (text != NULL)
		OK(buf_add(text, own.data, own.size, err));
	buf_free(&own);
	return again;
}

static struct about_classes classes_of(const char *const *names, uint32_t count)
{
	struct about_classes out;

	OK(about_classes_set(&out, names, count, err));
	assert_true(out.known);
	return out;
}

static void test_same_names_do_not_differ(void **state)
{
	static const char *const names[] = { "airport", "bea\"ch", "f\xc3\xb6hn" };
	struct about_classes classes = classes_of(names, 3), again = written_and_read(&classes, NULL);
	char text[ABOUT_DIFFERENCE_BYTES];

	(void)state;
	assert_true(again.known);
	assert_int_equal(again.names.size, classes.names.size);
	assert_memory_equal(again.names.data, classes.names.data, classes.names.size);
	assert_false(about_classes_differ(&again, &classes, text));
	about_classes_free(&again);
	about_classes_free(&classes);
}

static void test_the_first_difference_is_named(void **state)
{
	static const char *const one[] = { "airport", "beach", "pond" }, *const other[] = { "airport", "desert", "zoo" };
	struct about_classes a = classes_of(one, 3), b = classes_of(other, 3), fewer = classes_of(one, 2);
	char text[ABOUT_DIFFERENCE_BYTES];

	(void)state;
	assert_true(about_classes_differ(&a, &b, text));
	assert_string_equal(text, "class 1 is 'beach' there and 'desert' here");
	assert_true(about_classes_differ(&a, &fewer, text));
	about_classes_free(&a);
	about_classes_free(&b);
	about_classes_free(&fewer);
}

/* Of many long names the hash alone is kept, which still tells them apart. */
static void test_long_lists_are_told_apart_by_their_hash(void **state)
{
	enum { COUNT = 200, BYTES = 128 };
	static char texts[COUNT][BYTES];
	const char *names[COUNT];
	struct about_classes a, again, b;
	char text[ABOUT_DIFFERENCE_BYTES];
	struct buf said = BUF_INIT;

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		snprintf(texts[i], BYTES, "%0*d", BYTES - 1, i);
		names[i] = texts[i];
	}
	a = classes_of(names, COUNT);
	again = written_and_read(&a, &said);
	assert_true(said.size < ABOUT_CLASSES_BYTES);
	assert_false(about_classes_differ(&again, &a, text));
	texts[COUNT - 1][0] = '1';
	b = classes_of(names, COUNT);
	assert_true(about_classes_differ(&again, &b, text));
	buf_free(&said);
	about_classes_free(&a);
	about_classes_free(&again);
	about_classes_free(&b);
}

/* As checkpoints of older versions and of other tasks. */
static void test_nothing_said_is_no_difference(void **state)
{
	static const char *const names[] = { "airport", "beach", "pond" };
	struct about_classes none = { .known = false }, again = written_and_read(&none, NULL), here = classes_of(names, 3);
	char text[ABOUT_DIFFERENCE_BYTES];

	(void)state;
	assert_false(again.known);
	assert_false(about_classes_differ(&again, &here, text));
	assert_false(about_classes_differ(&here, &again, text));
	about_classes_free(&here);
}

static void test_damaged_names_are_refused(void **state)
{
	static const char *const texts[] = { "{\"class_names\": 3}", "{\"class_names\": [3]}", "{\"class_hash\": \"12\"}", "{\"class_names\": [\"a\"" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct about_classes classes;
		struct json_reader reader;
		struct err err;

		json_reader_init(&reader, "text", texts[i], strlen(texts[i]));
		assert_int_not_equal(about_classes_read(&classes, &reader, &err), 0);
		assert_false(classes.known);
		json_reader_free(&reader);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_names_do_not_differ),
		cmocka_unit_test(test_the_first_difference_is_named),
		cmocka_unit_test(test_long_lists_are_told_apart_by_their_hash),
		cmocka_unit_test(test_nothing_said_is_no_difference),
		cmocka_unit_test(test_damaged_names_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
