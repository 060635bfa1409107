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
	assert_false(s.dropout[0].on || s.l2.on || s.adv.on);
	s = parsed("dropout");
	assert_true(s.dropout[0].on && !s.l2.on && !s.adv.on);
	assert_true(s.dropout[0].probability == 0.3 && s.dropout[0].when.from_epoch == 0);
	s = parsed("l2");
	assert_true(s.l2.on && s.l2.lambda == 0.01 && s.l2.mode == L2_DECOUPLED && !s.l2.all);
	s = parsed("adv");
	assert_true(s.adv.on && s.adv.method == ADV_FGM && s.adv.targets == (ADV_TEXT | ADV_FEAT) && s.adv.relative);
	assert_true(s.adv.norm == ADV_L2 && s.adv.weight == 1.0 && s.adv.eps == 0.1 && s.adv.warmup == 4 && !s.adv.warmup_steps);
	/* A size that was asked for is that size from the start. */
	s = parsed("adv:target=text");
	assert_true(s.adv.eps == 0.1 && s.adv.warmup == 4);
	s = parsed("adv:rel=0.1");
	assert_true(s.adv.eps == 0.1 && s.adv.warmup == 0);
	s = parsed("adv=0.1");
	assert_true(s.adv.eps == 0.1 && !s.adv.relative && s.adv.warmup == 0);
	s = parsed("noise:eps=0.1,warmup=2");
	assert_true(s.adv.warmup == 2);
}

static void test_sums_options_epochs(void **state)
{
	struct reg_spec s = parsed("dropout=0.1@3+l2=0.05:mode=coupled,on=all@2+adv:method=fgm,target=text+feat,eps=1.0,norm=linf,weight=0.5@1");

	(void)state;
	assert_true(s.dropout[0].on && s.dropout[0].probability == 0.1 && s.dropout[0].when.from_epoch == 3);
	assert_true(s.l2.on && s.l2.lambda == 0.05 && s.l2.mode == L2_COUPLED && s.l2.all && s.l2.when.from_epoch == 2);
	assert_true(s.adv.on && s.adv.eps == 1.0 && !s.adv.relative && s.adv.norm == ADV_LINF && s.adv.weight == 0.5);
	assert_true(s.adv.targets == (ADV_TEXT | ADV_FEAT) && s.adv.when.from_epoch == 1);
	/* a '+' behind a target is a target or the next term */
	s = parsed("adv:target=feat+l2");
	assert_true(s.adv.targets == ADV_FEAT && s.l2.on);
	s = parsed("adv:target=text+feat+dropout");
	assert_true(s.adv.targets == (ADV_TEXT | ADV_FEAT) && s.dropout[0].on);
	s = parsed("adv:target=text+feat,rel=0.25+dropout=0.5");
	assert_true(s.adv.relative && s.adv.eps == 0.25 && s.dropout[0].probability == 0.5);
	s = parsed("l2:mode=decoupled+dropout@2");
	assert_true(s.l2.on && s.dropout[0].when.from_epoch == 2);
	s = parsed("adv=2");
	assert_true(!s.adv.relative && s.adv.eps == 2.0);
	assert_true(reg_active(true, (struct reg_window){ 2, 0 }, 2) && !reg_active(true, (struct reg_window){ 2, 0 }, 1));
	assert_true(!reg_active(false, (struct reg_window){ 0, 0 }, 5));
	s = parsed("l2@1-3");
	assert_true(!reg_active(s.l2.on, s.l2.when, 0) && reg_active(s.l2.on, s.l2.when, 1) && reg_active(s.l2.on, s.l2.when, 2) &&
		    !reg_active(s.l2.on, s.l2.when, 3));
}

static void test_text_reads_back(void **state)
{
	const char *const texts[] = { "none", "dropout", "l2", "adv", "l2+dropout@2", "adv:target=text,eps=1e-3+l2:mode=coupled@7",
				      "dropout=0.123456789012345+adv:target=feat,rel=3e10,norm=linf", "adv:weight=2,target=feat+text@4",
				      "dropout=0.1:at=bert.hidden+head@2-5+dropout+smooth=0.2+mixup+depth=0.3:at=text+rdrop=2@1",
				      "sam:mode=asam+early=7@2", "adv:method=freelb,k=4,target=fused+pixel,norm=linf,eps=0.1,every=3,warmup=1.5",
				      "adv:method=villa,kl=0.5,through=adv,warmup=200steps,init=random", "noise=0.5:target=text",
				      "adv:method=smart", "adv:method=free,k=5,step=0.5", "l2@0-4" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct reg_spec a = parsed(texts[i]), b;
		char once[REG_TEXT_BYTES], twice[REG_TEXT_BYTES];

		reg_spec_text(&a, once);
		b = parsed(once);
		reg_spec_text(&b, twice);
		assert_string_equal(once, twice);
		assert_true(a.dropout[0].probability == b.dropout[0].probability && a.adv.eps == b.adv.eps &&
			    a.adv.targets == b.adv.targets && a.l2.mode == b.l2.mode && a.adv.when.from_epoch == b.adv.when.from_epoch);
	}
	char text[REG_TEXT_BYTES];
	struct reg_spec s = parsed("l2+dropout@2");
	reg_spec_text(&s, text);
	assert_string_equal(text, "dropout=0.3@2+l2=0.01:mode=decoupled,on=weights");
	s = parsed("noise:target=text+dropout=0.1:at=head+dropout@0-3+early");
	reg_spec_text(&s, text);
	assert_string_equal(text, "dropout=0.3@0-3+dropout=0.1:at=head+early=3+adv:method=noise,target=text,rel=0.1,norm=l2,weight=1,warmup=4");
	s = parsed("adv:method=freelb,k=4,target=text,warmup=20steps");
	reg_spec_text(&s, text);
	assert_string_equal(text, "adv:method=freelb,target=text,rel=0.1,norm=l2,k=4,step=0.5,init=0,warmup=20steps");
}

static void test_length_of_a_term(void **state)
{
	static const struct {
		const char *text;
		size_t bytes;
	} cases[] = {
		{ "none", 4 }, { "", 0 }, { "l2+dropout@2", 2 }, { "dropout:at=fusion+head+l2", 22 }, { "adv:target=text+feat,rel=0.1@2-3+noise", 32 },
		{ "depth:at=image+text+label-smoothing=0.1", 19 }, { "l2=0.1+", 7 }, { "dropout:at=bert.hidden+bert.attention", 37 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_int_equal(reg_term_length(cases[i].text), cases[i].bytes);
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
		{ "dropout:q=1", "'q'", "takes p and at" },
		{ "dropout:p", "'p'", "p=..." },
		{ "l2=-1", "at least 0", "not -1" },
		{ "l2:mode=both", "'both'", "decoupled" },
		{ "l2:on=bias", "'bias'", "weights or all" },
		{ "l2:mode=", "a value for mode", "" },
		{ "l2:", "an option", "" },
		{ "l2@", "epoch", "" },
		{ "l2@x", "'x'", "epoch" },
		{ "l2@-1", "'-1'", "" },
		{ "l2@1.5", "'1.5'", "" },
		{ "l2@2@3", "'@3'", "" },
		{ "l2,mode=coupled", "',mode=coupled'", "':'" },
		{ "adv:method=fgm,k=3", "no option k", "pgd, freelb" },
		{ "adv:method=freelb,weight=2", "no option weight", "fgm" },
		{ "adv:method=freelb,k=1", "from 2 to", "'1'" },
		{ "adv:method=smart,init=0", "random start", "" },
		{ "adv:method=pgd,k=2,init=random", "no pass to climb in", "3" },
		{ "adv:method=free+sam", "choose one", "" },
		{ "adv:method=free+rdrop", "choose one", "" },
		{ "rdrop+adv:method=freelb,init=random", "no clean pass", "init=zero" },
		{ "adv:warmup=-1", "at least 0", "-1" },
		{ "adv:warmup=xsteps", "a number", "" },
		{ "adv:every=0", "from 1 to", "" },
		{ "adv+noise", "stands twice", "noise is adv:method=noise" },
		{ "noise:method=fgm", "leave the method out", "" },
		{ "noise:k=3", "no option k", "" },
		{ "dropout+dropout=0.1", "twice at fusion", "" },
		{ "dropout:at=fusion+dropout:at=head+fusion", "twice at fusion", "" },
		{ "dropout:at=nowhere", "'nowhere'", "bert.hidden" },
		{ "dropout:at=head+head", "head stands twice", "" },
		{ "smooth=1", "below 1", "" },
		{ "mixup=0", "above 0", "" },
		{ "depth:at=fusion", "'fusion'", "image or text" },
		{ "rdrop=0", "above 0", "" },
		{ "sam:mode=max", "'max'", "asam" },
		{ "early=0", "whole number", "" },
		{ "l2@3-3", "never work", "" },
		{ "l2@3-", "'3-'", "" },
		{ "l2:mode=coupled,mode=coupled", "mode of l2 stands twice", "" },
		{ "l2=1:lambda=2", "lambda of l2 stands twice", "" },
		{ "adv:method=foo", "'foo'", "fgm, pgd" },
		{ "adv:k=3", "k", "belongs to" },
		{ "adv:target=pixels", "'pixels'", "feat" },
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

/* A message is one line, and shows which byte is wrong; the rest of a text stays as it is. */
static void test_control_characters(void **state)
{
	static const char *const cases[][2] = {
		{ "l2\n", "--reg l2\\n: 'l2\\n' is no regularizer" },
		{ "\n", "--reg \\n: '\\n' is no" },
		{ "dropout=0.3\r", "'0.3\\r'" },
		{ "l2:mode=\x1b[2J", "'\\x1b[2J' is no choice" },
		{ "l2:\x7f=1", "no option '\\x7f'" },
		{ "l2@1\t", "not '1\\t'" },
		{ "adv:target=text+\xc2\x9b" "2J", "'\\x9b2J'" },
		{ "l2;\xc3\xa9\xc2\xa0", "'l2;\xc3\xa9\xc2\xa0'" },
	};
	char text[400];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct reg_spec spec;
		struct err err = { 0 };

		assert_int_equal(reg_spec_parse(&spec, cases[i][0], &err), ERR_USAGE);
		if (strstr(err.message, cases[i][1]) == NULL)
			fail_msg("the message lacks \"%s\": %s", cases[i][1], err.message);
		for (const char *at = err.message; *at != '\0'; at++)
			assert_true((unsigned char)*at >= ' ' && *at != 0x7F);
	}
	/* Four times as long as it is: the reason is still there. */
	struct reg_spec spec;
	struct err err = { 0 };

	memset(text, 1, sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(reg_spec_parse(&spec, text, &err), ERR_USAGE);
	assert_non_null(strstr(err.message, "too long"));
	memcpy(text, "l2:", 3);
	text[50] = '\0';
	assert_int_equal(reg_spec_parse(&spec, text, &err), ERR_USAGE);
	assert_non_null(strstr(err.message, "mode"));
}

static void text_at(const struct reg_spec *spec, uint64_t epoch, const char *expected)
{
	char text[REG_TEXT_BYTES];
	struct reg_spec now;

	reg_spec_at(spec, epoch, &now);
	reg_spec_text(&now, text);
	assert_string_equal(text, expected);
}

/* Every term and place has its own epochs; a term that begins with the last one or later is named. */
static void test_windows(void **state)
{
	char text[REG_TEXT_BYTES];
	struct reg_spec spec;
	struct err err = { 0 };

	(void)state;
	assert_int_equal(reg_spec_parse(&spec, "dropout=0.5@1-2+dropout=0.2:at=head@5+early=2+mixup=0.4@2-7", &err), 0);
	assert_int_equal(reg_spec_next(&spec, 0), 1);
	assert_int_equal(reg_spec_next(&spec, 1), 2);
	assert_int_equal(reg_spec_next(&spec, 2), 5);
	assert_int_equal(reg_spec_next(&spec, 5), 7);
	assert_int_equal(reg_spec_next(&spec, 7), 0);
	text_at(&spec, 0, "early=2");
	text_at(&spec, 1, "dropout=0.5+early=2");
	text_at(&spec, 3, "mixup=0.4+early=2");
	text_at(&spec, 6, "dropout=0.2:at=head+mixup=0.4+early=2");
	text_at(&spec, 7, "dropout=0.2:at=head+early=2");
	assert_false(reg_spec_too_late(&spec, 6, text));
	assert_true(reg_spec_too_late(&spec, 5, text));
	assert_string_equal(text, "dropout=0.2:at=head@5");
	assert_true(reg_spec_too_late(&spec, 1, text));
	assert_string_equal(text, "dropout=0.5@1-2");
	assert_int_equal(reg_spec_parse(&spec, "none", &err), 0);
	assert_int_equal(reg_spec_next(&spec, 0), 0);
	assert_false(reg_spec_too_late(&spec, 0, text));
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
		cmocka_unit_test(test_length_of_a_term), cmocka_unit_test(test_errors),
		cmocka_unit_test(test_windows), cmocka_unit_test(test_control_characters), cmocka_unit_test(test_long_input),
	};

	return cmocka_run_group_tests_name("reg_spec", tests, NULL, NULL);
}
