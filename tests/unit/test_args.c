#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/base/args.h"

struct values {
	bool force, force_given;
	const char *socket;
	struct args_list images;
	int64_t size, seed;
	double lr;
	uint64_t cache;
};

#define OPTION_COUNT 8

static void make_options(struct args_option options[OPTION_COUNT], struct values *v)
{
	*v = (struct values){ .size = 224, .lr = 0.5 };
	options[0] = (struct args_option){ .kind = ARGS_SECTION, .help = "General options:" };
	options[1] = (struct args_option){ "force", 'f', ARGS_FLAG, &v->force, NULL, "Go on.", 0, 0, &v->force_given };
	options[2] = (struct args_option){ "socket", 's', ARGS_TEXT, &v->socket, "PATH",
					   "Where the daemon listens. A long text that has to be wrapped because it does not "
					   "fit on one line of eighty columns.", 0, 0, NULL };
	options[3] = (struct args_option){ "images", 0, ARGS_LIST, &v->images, "[SPLIT=]DIR", "Repeatable.", 0, 0, NULL };
	options[4] = (struct args_option){ "size", 0, ARGS_INT, &v->size, "N", "Pixels.", 1, 4096, NULL };
	options[5] = (struct args_option){ "seed", 0, ARGS_INT, &v->seed, "S", "Any number.", 0, 0, NULL };
	options[6] = (struct args_option){ "lr", 0, ARGS_REAL, &v->lr, "X", "Learning rate.", 0, 0, NULL };
	options[7] = (struct args_option){ "max-cache", 0, ARGS_SIZE, &v->cache, "SIZE", "Bytes.", 0, 0, NULL };
}

static int parse(struct values *v, struct args_result *out, struct err *err, const char *line)
{
	static char text[4096];
	static char *argv[512];
	static struct args_option options[OPTION_COUNT];
	struct args_spec spec = { "demo [options] FILE...", NULL, options, OPTION_COUNT, 0, 2 };
	int argc = 0;

	make_options(options, v);
	snprintf(text, sizeof(text), "%s", line);
	for (char *p = strtok(text, " "); p != NULL; p = strtok(NULL, " "))
		argv[argc++] = strcmp(p, "EMPTY") == 0 ? (char *)"" : p;
	*err = (struct err){ 0 };
	return args_parse(&spec, argc, argv, out, err);
}

static void accepts_every_form(void **state)
{
	struct values v;
	struct args_result out;
	struct err err;

	(void)state;
	assert_int_equal(0, parse(&v, &out, &err,
				  "a --socket /s --images=x --size=64 -f --images train=y --lr -1e-3 --max-cache 1.5K --seed -7 -- --b"));
	assert_string_equal("/s", v.socket);
	assert_true(v.force && v.force_given);
	assert_int_equal(2, v.images.count);
	assert_string_equal("x", v.images.items[0]);
	assert_string_equal("train=y", v.images.items[1]);
	assert_int_equal(64, v.size);
	assert_int_equal(-7, v.seed);
	assert_true(v.lr == -1e-3);
	assert_int_equal(1536, v.cache);
	assert_int_equal(2, out.operand_count);
	assert_string_equal("a", out.operands[0]);
	assert_string_equal("--b", out.operands[1]);
	assert_false(out.help);

	assert_int_equal(0, parse(&v, &out, &err, "-s/t - -5"));
	assert_string_equal("/t", v.socket);
	assert_false(v.force || v.force_given);
	assert_int_equal(224, v.size);
	assert_int_equal(2, out.operand_count);
	assert_int_equal(0, parse(&v, &out, &err, "-s t --socket=--force"));
	assert_string_equal("--force", v.socket);
	assert_int_equal(0, parse(&v, &out, &err, "--nonsense --help"));
	assert_true(out.help);
}

static void refuses(const char *line, const char *message)
{
	struct values v;
	struct args_result out;
	struct err err;

	assert_int_equal(ERR_USAGE, parse(&v, &out, &err, line));
	assert_int_equal(ERR_USAGE, err.code);
	assert_string_equal(message, err.message);
}

static void names_what_is_wrong(void **state)
{
	(void)state;
	refuses("--sokcet x", "unknown option --sokcet (did you mean --socket?)");
	refuses("--sock=x", "unknown option --sock (did you mean --socket?)");
	refuses("--socketpath x", "unknown option --socketpath (did you mean --socket?)");
	refuses("-socket x", "unknown option -socket (did you mean --socket?)");
	refuses("--colour", "unknown option --colour; --help lists the options");
	refuses("-q", "unknown option -q; --help lists the options");
	refuses("--hlep", "unknown option --hlep (did you mean --help?)");
	refuses("--force=yes", "--force takes no value");
	refuses("--size", "--size needs a value (N)");
	refuses("--socket --force", "--socket needs a value (PATH)");
	refuses("--socket EMPTY", "--socket: expected PATH, got an empty text");
	refuses("--size 0", "--size: expected a whole number from 1 to 4096, got '0'");
	refuses("--size 4097", "--size: expected a whole number from 1 to 4096, got '4097'");
	refuses("--size 12x", "--size: expected a whole number from 1 to 4096, got '12x'");
	refuses("--seed 9223372036854775808", "--seed: expected a whole number of at most 9223372036854775807, got '9223372036854775808'");
	refuses("--seed=-9223372036854775809", "--seed: expected a whole number, got '-9223372036854775809'");
	refuses("--seed 9223372036854775808x", "--seed: expected a whole number, got '9223372036854775808x'");
	refuses("--lr nan", "--lr: expected a number such as 0.3 or 1e-4, got 'nan'");
	refuses("--lr 1e999", "--lr: expected a number such as 0.3 or 1e-4, got '1e999'");
	refuses("--max-cache 5X", "--max-cache: expected a size such as 512M, 1.5G or 2T, got '5X'");
	refuses("a b c", "unexpected argument 'c'; usage: demo [options] FILE...");
}

static void limits_lists_and_operands(void **state)
{
	char line[2048] = "";
	struct args_result out;
	struct err err;
	struct args_spec spec = { "demo FILE", NULL, NULL, 0, 1, 1 };

	(void)state;
	for (int i = 0; i <= ARGS_LIST_MAX; i++)
		strcat(line, "--images x ");
	refuses(line, "--images: given more than 64 times");
	assert_int_equal(ERR_USAGE, args_parse(&spec, 0, NULL, &out, &err));
	assert_string_equal("an argument is missing; usage: demo FILE", err.message);
}

static void size_is(const char *text, uint64_t bytes)
{
	uint64_t got = 0;
	struct err err;

	assert_int_equal(0, args_parse_size(text, &got, &err));
	assert_true(got == bytes);
}

static void parses_numbers(void **state)
{
	static const char *const bad_sizes[] = { "", "G", "-1", "1.5.2", "99999999999T", "1 G", "1GX", "18446744073709551616" };
	static const char *const bad_reals[] = { "", "0x10", "inf", " 1", "1 ", "e", "1e", "--1" };
	struct err err;
	uint64_t size;
	double real;
	int64_t whole;

	(void)state;
	size_is("0", 0);
	size_is("18446744073709551615", UINT64_MAX);
	size_is("12.5G", UINT64_C(13421772800));
	size_is("64k", 65536);
	size_is("2MiB", 2 << 20);
	size_is("3TB", UINT64_C(3) << 40);
	size_is("7b", 7);
	for (size_t i = 0; i < ARRAY_LEN(bad_sizes); i++)
		assert_int_equal(ERR_USAGE, args_parse_size(bad_sizes[i], &size, &err));
	for (size_t i = 0; i < ARRAY_LEN(bad_reals); i++)
		assert_int_equal(ERR_USAGE, args_parse_real(bad_reals[i], &real, &err));
	assert_int_equal(0, args_parse_int("-9223372036854775808", 0, 0, &whole, &err));
	assert_true(whole == INT64_MIN);
	assert_int_equal(ERR_USAGE, args_parse_int("0", 1, INT64_MAX, &whole, &err));
	assert_string_equal("expected a whole number of at least 1, got '0'", err.message);
	assert_int_equal(ERR_USAGE, args_parse_int("99999999999999999999", 0, INT64_MAX, &whole, &err));
	assert_string_equal("expected a whole number of at most 9223372036854775807, got '99999999999999999999'", err.message);
	assert_int_equal(ERR_USAGE, args_parse_int("", 0, 0, &whole, &err));
	assert_int_equal(ERR_USAGE, args_parse_int("+", 0, 0, &whole, &err));
}

static void help_is_laid_out(void **state)
{
	static const char expected[] =
		"Usage: demo [options] FILE...\n"
		"\n"
		"Does a thing.\n"
		"  demo --force x.txt\n"
		"\n"
		"General options:\n"
		"  -f, --force               Go on.\n"
		"  -s, --socket PATH         Where the daemon listens. A long text that has to be\n"
		"                            wrapped because it does not fit on one line of\n"
		"                            eighty columns.\n"
		"      --images [SPLIT=]DIR  Repeatable.\n"
		"      --size N              Pixels.\n"
		"      --seed S              Any number.\n"
		"      --lr X                Learning rate.\n"
		"      --max-cache SIZE      Bytes.\n"
		"\n"
		"  -h, --help                Print this text.\n";
	struct values v;
	struct args_option options[OPTION_COUNT];
	struct args_spec spec = { "demo [options] FILE...", "Does a thing.\n  demo --force x.txt", options, OPTION_COUNT, 0, 2 };
	char got[4096];

	(void)state;
	make_options(options, &v);
	FILE *file = tmpfile();
	assert_non_null(file);
	fflush(stdout);
	int kept = dup(STDOUT_FILENO);
	assert_true(kept >= 0 && dup2(fileno(file), STDOUT_FILENO) >= 0);
	args_print_help(&spec);
	assert_true(dup2(kept, STDOUT_FILENO) >= 0);
	close(kept);
	rewind(file);
	size_t size = fread(got, 1, sizeof(got) - 1, file);
	got[size] = '\0';
	fclose(file);
	assert_string_equal(expected, got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts_every_form),
		cmocka_unit_test(names_what_is_wrong),
		cmocka_unit_test(limits_lists_and_operands),
		cmocka_unit_test(parses_numbers),
		cmocka_unit_test(help_is_laid_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
