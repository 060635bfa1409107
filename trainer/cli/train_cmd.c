/* trainer --data NAME ...: training, the verb without a name. */
#include <stdio.h>

#include "shared/base/plural.h"
#include "shared/base/version.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/options.h"
#include "trainer/cli/signals.h"

static void print_result(const struct run_result *result)
{
	printf("%s: %llu step%s in %.0f s", result->dir, (unsigned long long)result->steps, plural(result->steps), result->train_seconds);
	if (result->has_val)
		printf("; val accuracy %.4f, loss %.4f", result->accuracy, result->loss);
	if (result->has_best)
		printf("; %s %.4f after step %llu%s", result->stopped_early ? "stopped early at its best," : "best", result->best_accuracy,
		       (unsigned long long)result->best_step, result->no_weights ? "" : " (best.safetensors)");
	printf("%s\n", result->no_weights ? "; no weights kept" : "");
}

int train_command(int argc, char *const argv[], struct err *err)
{
	struct train_options options;
	struct run_result result;
	bool help;
	int code = train_options_parse(&options, argc, argv, &help, err);

	if (code != 0 || help)
		return code;
	if (options.version) {
		printf("trainer " PRODUCT_VERSION "\n");
		return 0;
	}
	if ((code = log_options_apply(options.log_level, options.run.quiet, err)) != 0)
		return code;
	signals_install();
	signals_follow_parent();
	options.run.cancelled = signals_stop_asked;
	code = run_train(&options.run, &result, err);
	if (code == 0 && !options.run.dry_run && !options.run.quiet)
		print_result(&result);
	return code;
}
