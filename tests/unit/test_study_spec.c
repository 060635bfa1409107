/* What is written of a study is read again as the same, however its options' values were spelled. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "tests/support/scratch.h"
#include "trainer/study/spec.h"

static struct study_spec first, second;

static void resolve(struct study_spec *spec, const char *path)
{
	struct err err = { .message = "" };

	study_spec_init(spec);
	if (study_spec_read(spec, path, &err) != 0 || study_spec_resolve(spec, &err) != 0)
		fail_msg("%s", err.message);
}

static void goes_round(const struct scratch *folder, const char *value)
{
	char text[512];
	struct buf out = BUF_INIT;
	struct err err = { .message = "" };

	snprintf(text, sizeof(text), "{\"data\": \"d\", \"arms\": [\"none\", {\"reg\": \"l2\", \"options\": {\"momentum\": \"%s\"}}], \"threads\": 1, "
		 "\"options\": {\"lr\": \"%s\", \"vocab\": \"%s\"}}", value, value, value);
	scratch_text(folder, "start.json", text);
	resolve(&first, scratch_path(folder, "start.json"));
	assert_string_equal(study_options_get(&first.common, "lr"), value);
	assert_int_equal(study_spec_write(&first, &out, &err), 0);
	assert_int_equal(buf_add_text(&out, "\n}\n", &err), 0);
	scratch_write(folder, "written.json", out.data, out.size);
	resolve(&second, scratch_path(folder, "written.json"));
	if (study_spec_same(&first, &second, "study", &err) != 0)
		fail_msg("%s: %s", value, err.message);
	buf_free(&out);
}

/* What C's reader of numbers takes and JSON's grammar does not has to become a text. */
static void test_values_go_round(void **state)
{
	static const char *const values[] = { "0.5", "5", "0", "1e-3", "1E+2", "-0.25", "-0", "5.", "1.e-3", ".5", "-.5", "05", "-05", "00.5", "0e5",
					      "0x10", "1e", "e5", "+5", "1.5.2", "-", "5 ", "inf", "nan", "" };
	struct scratch folder;

	(void)state;
	scratch_open(&folder);
	for (size_t i = 0; i < ARRAY_LEN(values); i++)
		goes_round(&folder, values[i]);
	scratch_close(&folder);
}

/* Arms whose texts are longer than a name and differ in their ends alone have folders of their own, the same ones each time. */
static void test_long_arms_stay_two(void **state)
{
	static const char list[] = "none,adv:method=pgd,target=text+feat+fused+pixel,rel=0.125,norm=linf,k=5,step=0.3333333,init=0.25,weight=0.75,every=3,"
				   "warmup=200steps+dropout=0.1:at=head,adv:method=pgd,target=text+feat+fused+pixel,rel=0.125,norm=linf,k=5,step=0.3333333,"
				   "init=0.25,weight=0.75,every=3,warmup=200steps+dropout=0.2:at=head";
	struct err err = { .message = "" };
	char again[STUDY_NAME_BYTES];

	(void)state;
	study_spec_init(&first);
	snprintf(first.data, sizeof(first.data), "d");
	if (study_spec_add_arms(&first, list, &err) != 0 || study_spec_resolve(&first, &err) != 0)
		fail_msg("%s", err.message);
	assert_int_equal(first.arm_count, 3);
	assert_int_equal(strlen(first.arms[1].name), STUDY_NAME_BYTES - 1);
	assert_memory_equal(first.arms[1].name, first.arms[2].name, 100);
	study_arm_name(first.arms[1].reg, again);
	assert_string_equal(again, first.arms[1].name);
	assert_string_not_equal(again, first.arms[2].name);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_values_go_round), cmocka_unit_test(test_long_arms_stay_two) };

	return cmocka_run_group_tests_name("study_spec", tests, NULL, NULL);
}
