/* What the checks of the attacks call suspicious: made-up accuracies of one arm, and what is said about them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "shared/base/buf.h"
#include "shared/base/mem.h"
#include "trainer/study/robust_parts.h"

struct case_of_one {
	struct study_spec *spec;
	struct robust_options options;
	struct robust_arm *arm;
	struct robust_all all;
	struct buf out;
	int failed;
};

/* Honest gradients: noise does nothing, FGSM less than PGD, all fall with epsilon. */
static int setup(void **state)
{
	static const double of_kind[ROBUST_KINDS][ROBUST_RUNGS] = {
		[ATTACK_NOISE] = { 0.9, 0.9, 0.9, 0.9, 0.9, 0.9 },
		[ATTACK_FGSM] = { 0.9, 0.5, 0.3, 0.1, 0.05, 0.05 },
		[ATTACK_PGD] = { 0.9, 0.4, 0.2, 0.05, 0, 0 },
	};
	struct case_of_one *c = mem_zalloc(sizeof(*c));

	assert_non_null(c);
	c->spec = mem_zalloc(sizeof(*c->spec));
	c->arm = mem_zalloc(sizeof(*c->arm));
	assert_true(c->spec != NULL && c->arm != NULL);
	snprintf(c->spec->arms[0].name, sizeof(c->spec->arms[0].name), "adv");
	c->options = (struct robust_options){ .spec = c->spec };
	for (int k = 0; k < ROBUST_KINDS; k++)
		for (int t = 0; t < ROBUST_TARGETS; t++)
			for (int rung = 0; rung < ROBUST_RUNGS; rung++)
				c->arm->at[k][t][rung].accuracy = of_kind[k][rung];
	c->all = (struct robust_all){ .options = &c->options, .arms = c->arm, .count = 1, .pairs = 200, .classes = 2 };
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct case_of_one *c = *state;

	buf_free(&c->out);
	mem_free(c->arm);
	mem_free(c->spec);
	mem_free(c);
	return 0;
}

static void check(struct case_of_one *c, int failed)
{
	struct err err;

	buf_free(&c->out);
	c->out = (struct buf)BUF_INIT;
	assert_int_equal(robust_add_checks(&c->all, &c->out, &c->failed, &err), 0);
	assert_int_equal(c->failed, failed);
}

static void test_honest(void **state)
{
	check(*state, 0);
}

/* One step that overshoots hides nothing where ten small ones along the same gradients get through. */
static void test_overshooting_step(void **state)
{
	struct case_of_one *c = *state;

	c->arm->at[ATTACK_FGSM][0][4].accuracy = 0.3;
	check(c, 0);
	/* Where PGD does not get through either, the rise counts: FGSM's, PGD's own, and PGD that leaves much to the end. */
	c->arm->at[ATTACK_PGD][0][4].accuracy = 0.3;
	check(c, 2);
	assert_non_null(strstr(c->out.data, "accuracy rises from 0.100 at epsilon 2/255 to 0.300 at 8/255"));
	assert_non_null(strstr(c->out.data, "accuracy rises from 0.050 at epsilon 2/255 to 0.300 at 8/255"));
}

static void test_masked_gradients(void **state)
{
	struct case_of_one *c = *state;

	/* Noise finds what gradients do not. */
	c->arm->at[ATTACK_NOISE][1][3].accuracy = 0.02;
	check(c, 1);
	assert_non_null(strstr(c->out.data, "at epsilon 0.1 pgd leaves 0.050, noise 0.020"));
	c->arm->at[ATTACK_PGD][2][ROBUST_RUNGS - 1].accuracy = 0.4;
	c->arm->harder[1].accuracy = 0.2;
	/* More: the rise to the end, FGSM below it there, not to zero, and more steps that leave more. */
	check(c, 5);
	assert_non_null(strstr(c->out.data, "to 0.400 at 64/255 and 4"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_honest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_overshooting_step, setup, teardown),
		cmocka_unit_test_setup_teardown(test_masked_gradients, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
