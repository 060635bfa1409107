/* trainer reg [SPEC ...]: every regularizer with its options; or what specifications mean, written out. */
#include <stdio.h>

#include "shared/base/args.h"
#include "trainer/cli/commands.h"
#include "trainer/reg/spec.h"

enum { SPECS_MAX = 64 };

static const char usage[] = "trainer reg [SPEC ...]";
static const char description[] =
	"Lists the regularizers that --reg takes, with their options, defaults and papers. With specifications it checks them and "
	"prints each with every option written out: two mean the same exactly when these texts are equal.\n"
	"\n"
	"    trainer reg\n"
	"    trainer reg adv l2+dropout@3 adv:method=freelb,target=text,k=3";

int reg_command(int argc, char *const argv[], struct err *err)
{
	const char *socket = NULL, *cache = NULL;
	const struct args_option options[] = {
		{ .name = "socket", .kind = ARGS_TEXT, .value = &socket, .metavar = "PATH", .help = "Not used here." },
		{ .name = "cache", .kind = ARGS_TEXT, .value = &cache, .metavar = "DIR", .help = "Not used here." },
	};
	const struct args_spec spec = { usage, description, options, (int)ARRAY_LEN(options), 0, SPECS_MAX };
	struct args_result args;
	int code = args_parse(&spec, argc, argv, &args, err);

	if (code != 0)
		return code;
	if (args.help) {
		args_print_help(&spec);
		return 0;
	}
	if (args.operand_count == 0)
		reg_spec_list();
	for (int i = 0; i < args.operand_count; i++) {
		char text[REG_TEXT_BYTES];
		struct reg_spec reg;

		if ((code = reg_spec_parse(&reg, args.operands[i], err)) != 0)
			return code;
		reg_spec_text(&reg, text);
		printf("%s\n", text);
	}
	return 0;
}
