/* reg/spec.h: what --reg accepts, what it means, and what its errors say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/reg/spec.h"

static struct reg_spec parsed(const char *text)
{
	struct reg_spec spec;
	struct err err = { 0 };

	if (reg_spec_parse(&spec, text, &err) != 0)
		fail_msg("%s: %s", text, err.message);
	return spec;
}

static void test_defaults(void **state)
{
	struct reg_spec s = parsed("none");

	(void)state;
	assert_false(s.dropout.on || s.l2.on || s.adv.on);
	s = parsed("dropout");
	assert_true(s.dropout.on && !s.l2.on && !s.adv.on);
	assert_true(s.dropout.probability == 0.3 && s.dropout.from_epoch == 0);
	s = parsed("l2");
	assert_true(s.l2.on && s.l2.lambda == 0.01 && s.l2.mode == L2_DECOUPLED && !s.l2.all);
	s = parsed("adv");
	assert_true(s.adv.on && s.adv.method == ADV_FGM && s.adv.targets == (ADV_TEXT | ADV_FEAT) && s.adv.relative);
	assert_true(s.adv.norm == ADV_L2 && s.adv.weight == 1.0);
}

static void test_sums_options_epochs(void **state)
{
	struct reg_spec s = parsed("dropout=0.1@3+l2=0.05:mode=coupled,on=all@2+adv:method=fgm,target=text+feat,eps=1.0,norm=linf,weight=0.5@1");

	(void)state;
	assert_true(s.dropout.on && s.dropout.probability == 0.1 && s.dropout.from_epoch == 3);
	assert_true(s.l2.on && s.l2.lambda == 0.05 && s.l2.mode == L2_COUPLED && s.l2.all && s.l2.from_epoch == 2);
	assert_true(s.adv.on && s.adv.eps == 1.0 && !s.adv.relative && s.adv.norm == ADV_LINF && s.adv.weight == 0.5);
	assert_true(s.adv.targets == (ADV_TEXT | ADV_FEAT) && s.adv.from_epoch == 1);
	/* a '+' behind a target is a target or the next term */
	s = parsed("adv:target=feat+l2");
	assert_true(s.adv.targets == ADV_FEAT && s.l2.on);
	s = parsed("adv:target=text+feat+dropout");
	assert_true(s.adv.targets == (ADV_TEXT | ADV_FEAT) && s.dropout.on);
	s = parsed("adv:target=text+feat,rel=0.25+dropout=0.5");
	assert_true(s.adv.relative && s.adv.eps == 0.25 && s.dropout.probability == 0.5);
	s = parsed("l2:mode=decoupled+dropout@2");
	assert_true(s.l2.on && s.dropout.from_epoch == 2);
	s = parsed("adv=2");
	assert_true(!s.adv.relative && s.adv.eps == 2.0);
	assert_true(reg_active(true, 2, 2) && !reg_active(true, 2, 1) && !reg_active(false, 0, 5));
}

static void test_text_reads_back(void **state)
{
	const char *const texts[] = { "none", "dropout", "l2", "adv", "l2+dropout@2", "adv:target=text,eps=1e-3+l2:mode=coupled@7",
				      "dropout=0.123456789012345+adv:target=feat,rel=3e10,norm=linf", "adv:weight=2,target=feat+text@4" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct reg_spec a = parsed(texts[i]), b;
		char once[REG_TEXT_BYTES], twice[REG_TEXT_BYTES];

		reg_spec_text(&a, once);
		b = parsed(once);
		reg_spec_text(&b, twice);
		assert_string_equal(once, twice);
		assert_true(a.dropout.probability == b.dropout.probability && a.adv.eps == b.adv.eps &&
			    a.adv.targets == b.adv.targets && a.l2.mode == b.l2.mode && a.adv.from_epoch == b.adv.from_epoch);
	}
	char text[REG_TEXT_BYTES];
	struct reg_spec s = parsed("l2+dropout@2");
	reg_spec_text(&s, text);
	assert_string_equal(text, "dropout=0.3@2+l2=0.01:mode=decoupled,on=weights");
}

static void test_errors(void **state)
{
	/* the text, and what the message must contain */
	static const char *const cases[][3] = {
		{ "", "none, dropout, l2 or adv", "at the end" },
		{ "dropuot", "'dropuot'", "dropout" },
		{ "none+l2", "none stands alone", "" },
		{ "l2+none", "none stands alone", "" },
		{ "l2+l2", "l2 stands twice", "" },
		{ "l2+", "at the end", "" },
		{ "+l2", "before +l2", "" },
		{ "dropout=1", "below 1", "not 1" },
		{ "dropout=-0.1", "at least 0", "" },
		{ "dropout=nan", "'nan'", "" },
		{ "dropout=", "a number", "" },
		{ "dropout=0.3x", "'0.3x'", "" },
		{ "dropout:q=1", "'q'", "takes p" },
		{ "dropout:p", "'p'", "p=..." },
		{ "l2=-1", "not negative", "" },
		{ "l2:mode=both", "'both'", "decoupled" },
		{ "l2:on=bias", "'bias'", "on=weights" },
		{ "l2:mode=", "a value for mode", "" },
		{ "l2:", "an option", "" },
		{ "l2@", "epoch", "" },
		{ "l2@x", "'x'", "epoch" },
		{ "l2@-1", "'-1'", "" },
		{ "l2@1.5", "'1.5'", "" },
		{ "l2@2@3", "'@3'", "" },
		{ "l2,mode=coupled", "',mode=coupled'", "':'" },
		{ "adv:method=pgd", "pgd is not available", "fgm" },
		{ "adv:method=freelb,k=3", "freelb is not available", "fgm" },
		{ "adv:method=foo", "'foo'", "fgm" },
		{ "adv:k=3", "k", "not available" },
		{ "adv:target=pixel", "'pixel'", "feat" },
		{ "adv:target=text+text", "text stands twice", "" },
		{ "adv:target=text+droput", "'droput'", "" },
		{ "adv:eps=0", "above 0", "" },
		{ "adv:eps=1,rel=1", "twice", "" },
		{ "adv=1:rel=1", "twice", "" },
		{ "adv:norm=l1", "'l1'", "linf" },
		{ "adv:foo=1", "'foo'", "weight" },
		{ "adv:target=text+feat+", "''", "target" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct reg_spec spec;
		struct err err = { 0 };

		assert_int_equal(reg_spec_parse(&spec, cases[i][0], &err), ERR_USAGE);
		for (int k = 1; k < 3; k++)
			if (strstr(err.message, cases[i][k]) == NULL)
				fail_msg("'%s': the message lacks \"%s\": %s", cases[i][0], cases[i][k], err.message);
		assert_non_null(strstr(err.message, "--reg"));
	}
}

static void test_long_input(void **state)
{
	char text[4096];
	struct reg_spec spec;
	struct err err = { 0 };

	(void)state;
	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(reg_spec_parse(&spec, text, &err), ERR_USAGE);
	memcpy(text, "adv:target=text", 15);
	for (size_t i = 15; i + 5 < sizeof(text); i += 5)
		memcpy(text + i, "+text", 6);
	assert_int_equal(reg_spec_parse(&spec, text, &err), ERR_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_sums_options_epochs),
		cmocka_unit_test(test_text_reads_back),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_long_input),
	};

	return cmocka_run_group_tests_name("reg_spec", tests, NULL, NULL);
}
