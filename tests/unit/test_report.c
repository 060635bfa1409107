/* What reports are made of: trees of JSON, escaping, numbers for people, ticks, thumbnails, the shapes of statistics at their edges. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/base/plural.h"
#include "tests/support/scratch.h"
#include "trainer/study/jpeg_write.h"
#include "trainer/study/report_text.h"
#include "trainer/study/report_tree.h"
#include "trainer/study/stats.h"
#include "trainer/study/stats_cluster.h"
#include "trainer/study/svg.h"

/* ---- escaping ---- */

static void escapes(void (*escape)(struct text *t, const char *s), const char *in, const char *want)
{
	struct err err = { 0 };
	struct text t;

	text_begin(&t, &err);
	escape(&t, in);
	assert_int_equal(text_end(&t), 0);
	assert_string_equal(t.out.data != NULL ? t.out.data : "", want);
	text_free(&t);
}

static void cut_to_three(struct text *t, const char *s)
{
	text_html_cut(t, s, 3);
}

static void test_escapes(void **state)
{
	(void)state;
	escapes(text_html, "<a href=\"x\" id='y'>&amp;\x01\n\xC3\xA9\xFF\xE2\x82",
		"&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;amp;  \xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD");
	escapes(text_html, NULL, "");
	escapes(cut_to_three, "\xC3\xA9\xE2\x98\x83" "ab", "\xC3\xA9\xE2\x98\x83" "a\xE2\x80\xA6");
	escapes(cut_to_three, "a&b", "a&amp;b");
	escapes(cut_to_three, "", "");
	escapes(text_html_name, "l2+adv_x=<1>/a", "l2+<wbr>adv_<wbr>x=&lt;1&gt;/<wbr>a");
	escapes(text_tex, "50% of {a_b} & \\ ~ ^ $ # <>|", "50\\% of \\{a\\_b\\} \\& \\textbackslash{} \\textasciitilde{} \\textasciicircum{} \\$ \\# "
							     "\\textless{}\\textgreater{}\\textbar{}");
	escapes(text_tex, "\xE2\x88\x92" "1 \xE2\x80\x93", "$-$1 --");
	escapes(text_md, "a|b *c* _d_ `e` [f](g) <h>", "a\\|b \\*c\\* \\_d\\_ \\`e\\` \\[f\\](g) &lt;h&gt;");
	escapes(text_csv, "a\"b,c\nd", "\"a\"\"b,c d\"");
	escapes(text_json, NULL, "null");
}

static void test_numbers(void **state)
{
	(void)state;
	assert_string_equal(text_points(-0.02149, 2).s, "\xE2\x88\x92" "2.15");
	assert_string_equal(text_points(0.02149, 1).s, "+2.1");
	assert_string_equal(text_points(-0.00001, 2).s, "0.00"); /* no sign where no digit shows it */
	assert_string_equal(text_percent(0.71259, 2).s, "71.26");
	assert_string_equal(text_fixed(NAN, 2).s, "\xE2\x80\x93");
	assert_string_equal(text_fixed(INFINITY, 2).s, "\xE2\x80\x93");
	assert_true(strlen(text_fixed(-1e300, 4).s) < TEXT_NUMBER_BYTES);
	assert_string_equal(text_p(0.00099).s, "< 0.001");
	assert_string_equal(text_p(0.0496).s, "0.0496");
	assert_string_equal(text_p(0.5).s, "0.50");
	assert_string_equal(text_seconds(90).s, "90.0 s");
}

static void test_base64(void **state)
{
	static const char *const want[] = { "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==" };
	struct err err = { 0 };

	(void)state;
	for (size_t n = 0; n < ARRAY_LEN(want); n++) {
		struct text t;

		text_begin(&t, &err);
		text_base64(&t, "foob", n);
		assert_int_equal(text_end(&t), 0);
		assert_string_equal(t.out.data != NULL ? t.out.data : "", want[n]);
		text_free(&t);
	}
}

/* A long piece does not fit the small buffer of text_f. */
static void test_long_format(void **state)
{
	struct err err = { 0 };
	char big[2000];
	struct text t;

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	text_begin(&t, &err);
	text_f(&t, "<%s>", big);
	text_f(&t, "%d", 7);
	assert_int_equal(text_end(&t), 0);
	assert_int_equal(t.out.size, sizeof(big) - 1 + 3);
	assert_string_equal(t.out.data + t.out.size - 3, "x>7");
	text_free(&t);
}

/* ---- trees ---- */

static int read_tree(struct tree *tree, const char *json, struct err *err)
{
	struct scratch scratch;

	scratch_open(&scratch);
	scratch_text(&scratch, "x.json", json);
	int code = tree_read(tree, scratch_path(&scratch, "x.json"), err);
	scratch_close(&scratch);
	return code;
}

static void test_tree(void **state)
{
	struct err err = { 0 };
	struct tree tree;
	const struct tree_node *list;
	const char *text;
	double real;
	int64_t count;

	(void)state;
	assert_int_equal(read_tree(&tree, "{\"a\": 1, \"b\": null, \"c\": \"x\", \"a\": 2.5, "
		"\"d\": [1, {\"e\": true}], \"n\": NaN, \"i\": 7, \"m\": -1, "
		"\"z\": 7.0, \"s\": 9223372036854775807, \"t\": 9007199254740993, \"o\": 9223372036854775808, \"x\": 1e300}", &err), 0);
	assert_int_equal(tree_real(&tree, tree.root, "a", &real, &err), 0);
	assert_true(real == 2.5); /* the last one counts */
	assert_int_equal(tree_real(&tree, tree.root, "b", &real, &err), 0);
	assert_true(isnan(real));
	assert_int_equal(tree_real(&tree, tree.root, "n", &real, &err), 0);
	assert_true(isnan(real));
	assert_int_equal(tree_text(&tree, tree.root, "c", &text, &err), 0);
	assert_string_equal(text, "x");
	assert_int_equal(tree_text(&tree, tree.root, "zz", &text, &err), 0);
	assert_null(text);
	assert_int_equal(tree_count(&tree, tree.root, "i", &count, &err), 0);
	assert_int_equal(count, 7);
	assert_int_equal(tree_count(&tree, tree.root, "zz", &count, &err), 0);
	assert_int_equal(count, -1);
	assert_int_equal(tree_count(&tree, tree.root, "z", &count, &err), 0);
	assert_int_equal(count, 7);
	assert_int_equal(tree_count(&tree, tree.root, "s", &count, &err), 0);
	assert_true(count == INT64_MAX);
	assert_int_equal(tree_count(&tree, tree.root, "t", &count, &err), 0);
	assert_true(count == 9007199254740993); /* no double */
	assert_int_equal(tree_count(&tree, tree.root, "o", &count, &err), ERR_FORMAT);
	assert_int_equal(tree_count(&tree, tree.root, "x", &count, &err), ERR_FORMAT);
	assert_int_equal(tree_branch(&tree, tree.root, "d", JSON_ARRAY_BEGIN, &list, &err), 0);
	assert_int_equal(list->count, 2);
	assert_int_equal(list->child->next->child->kind, JSON_TRUE);
	assert_int_equal(tree_count(&tree, tree.root, "a", &count, &err), ERR_FORMAT);
	assert_int_equal(tree_count(&tree, tree.root, "m", &count, &err), ERR_FORMAT);
	assert_int_equal(tree_count(&tree, tree.root, "n", &count, &err), ERR_FORMAT);
	assert_int_equal(tree_real(&tree, tree.root, "c", &real, &err), ERR_FORMAT);
	assert_non_null(strstr(err.message, "\"c\" is a text, expected a number"));
	assert_int_equal(tree_need_text(&tree, tree.root, "zz", &text, &err), ERR_FORMAT);
	tree_free(&tree);
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(read_tree(&tree, (const char *[]){ "", "[]", "{", "{} {}", "{\"a\": \"\\u0000\"}" }[i], &err), ERR_FORMAT);
}

/* ---- figures ---- */

static void test_ticks(void **state)
{
	static const struct {
		double low, high;
	} ranges[] = { { 0, 1 }, { -0.139, 0.148 }, { 0.5, 0.51 }, { -1e6, 3e6 }, { 1e-9, 2e-9 }, { -5, -4.9 } };

	(void)state;
	for (size_t r = 0; r < ARRAY_LEN(ranges); r++) {
		struct svg_scale scale = { .low = ranges[r].low, .high = ranges[r].high };
		double ticks[SVG_TICKS_MAX];
		int digits, count = svg_ticks(&scale, 5, ticks, &digits);

		assert_in_range(count, 2, 7);
		for (int i = 0; i < count; i++)
			assert_true(ticks[i] >= scale.low - 1e-12 && ticks[i] <= scale.high + 1e-6);
		for (int i = 1; i < count; i++)
			assert_true(fabs((ticks[i] - ticks[i - 1]) - (ticks[1] - ticks[0])) < 1e-6 * (ticks[1] - ticks[0]));
	}
	/* There is no half epoch. */
	struct svg_scale epochs = { .high = 1.04, .whole = true };
	double ticks[SVG_TICKS_MAX];
	int digits;
	assert_int_equal(svg_ticks(&epochs, 4, ticks, &digits), 2);
	assert_true(digits == 0 && ticks[0] == 0 && ticks[1] == 1);
	struct svg_scale none = svg_scale(NAN, 1), one = svg_scale(3, 3);
	assert_true(none.low < none.high && one.low < 3 && one.high > 3);
}

static void draws(const double *y, const double *half, const char *want)
{
	static const double x[] = { 0, 1, 2 };
	struct err err = { 0 };
	struct text t;
	struct svg_plot p = { .t = &t, .width = 20, .height = 10, .x = { .high = 2 }, .y = { .high = 1 } };

	text_begin(&t, &err);
	if (half != NULL)
		svg_band(&p, x, y, half, 3, "c");
	else
		svg_line(&p, x, y, 3, "c");
	assert_int_equal(text_end(&t), 0);
	assert_string_equal(t.out.data != NULL ? t.out.data : "", want);
	text_free(&t);
}

/* One point alone is seen too, and what is not finite is skipped. */
static void test_lines(void **state)
{
	const double some[] = { 0, NAN, 1 }, one[] = { NAN, 0.5, NAN }, none[] = { NAN, NAN, NAN }, half[] = { 0, 0.25, NAN };

	(void)state;
	draws(some, NULL, "<path class=\"line c\" d=\"M0.0 10.0L20.0 0.0\"/>");
	draws(one, NULL, "<circle class=\"dot c\" cx=\"10.0\" cy=\"5.0\" r=\"3.5\"/>");
	draws(none, NULL, "");
	draws(some, half, "<path class=\"band c\" d=\"M0.0 10.0L20.0 0.0L20.0 0.0L0.0 10.0Z\"/>");
	draws(one, half, "<path class=\"whisker thin c\" d=\"M10.0 2.5L10.0 7.5\"/>");
	draws(none, half, "");
}

static void test_plural(void **state)
{
	(void)state;
	assert_string_equal(plural(0), "s");
	assert_string_equal(plural(1), "");
	assert_string_equal(plural(2), "s");
}

static void test_jpeg(void **state)
{
	struct err err = { 0 };
	struct buf out = BUF_INIT;
	uint8_t rgb[17 * 9 * 3];

	(void)state;
	for (size_t i = 0; i < sizeof(rgb); i++)
		rgb[i] = (uint8_t)(i * 37);
	assert_int_equal(jpeg_write(rgb, 17, 9, 75, &out, &err), 0);
	assert_true(out.size > 300 && memcmp(out.data, "\xFF\xD8\xFF\xE0", 4) == 0 && memcmp(out.data + out.size - 2, "\xFF\xD9", 2) == 0);
	buf_free(&out);
}

/* ---- statistics at their edges; what they compute is held against SciPy in tests/parity/test_stats.py ---- */

static void test_statistics(void **state)
{
	const double huge[] = { 1e308, 1e308, -1e308 }, one[] = { 0.25 };
	double p[] = { 0.01, NAN, 0.04 }, out[3];
	struct err err = { 0 };

	(void)state;
	assert_int_equal(stats_mean(huge, 3, 0.95).status, STATS_NOT_FINITE);
	assert_int_equal(stats_mean(NULL, 0, 0.95).status, STATS_EMPTY);
	assert_int_equal(stats_corrected_t(one, 1, 0.25, 0.95).status, STATS_TOO_FEW);
	assert_true(isnan(stats_corrected_t(one, 1, 0.25, 0.95).p));
	stats_holm(p, 3, out);
	assert_true(fabs(out[0] - 0.02) < 1e-15 && isnan(out[1]) && fabs(out[2] - 0.04) < 1e-15);
	struct cluster_table empty = { .clusters = 0, .arms = 1 };
	struct stats_bootstrap boot;
	struct stats_permutation flip;
	assert_int_equal(stats_bootstrap(&empty, 100, 1, 0.95, &boot, NULL, &err), 0);
	assert_int_equal(boot.status, STATS_EMPTY);
	assert_int_equal(stats_permutation(&empty, 0, 100, 1, &flip, &err), 0);
	assert_int_equal(flip.status, STATS_EMPTY);
	assert_true(isnan(flip.p));
	struct stats_calibration c;
	stats_calibration_begin(&c);
	stats_calibration_add(&c, 1.0, 1); /* the last bin is closed */
	stats_calibration_end(&c);
	assert_int_equal(c.status, STATS_OK);
	assert_int_equal(c.bins[STATS_BINS - 1].count, 1);
	assert_true(c.ece == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_escapes), cmocka_unit_test(test_numbers), cmocka_unit_test(test_base64),
		cmocka_unit_test(test_long_format), cmocka_unit_test(test_tree), cmocka_unit_test(test_ticks),
		cmocka_unit_test(test_lines), cmocka_unit_test(test_plural), cmocka_unit_test(test_jpeg), cmocka_unit_test(test_statistics),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
