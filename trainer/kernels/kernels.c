#include "trainer/kernels/kernels.h"

#include <omp.h>
#include <sched.h>
#include <string.h>

#include "shared/base/log.h"
#include "trainer/kernels/image_rows.h"
#include "trainer/kernels/profile.h"

const struct kernels *kernels_reference(void)
{
	static struct kernels table;

	table = (struct kernels){ "reference", image_ops_reference(), dense_ops_reference(), vector_ops_reference(),
				  contrast_ops_reference(), reg_ops_reference() };
	return &table;
}

static bool in_bf16;

/* NULL: nothing. */
static const char *missing_instructions(void)
{
#if defined(__x86_64__)
	static const char message[] = "this processor has no AVX512_BF16 instructions (lscpu lists avx512_bf16 where it has them)";

	__builtin_cpu_init();
	return image_rows_bf16() == NULL ? message : NULL;
#else
	return "bf16 needs a processor with AVX512_BF16";
#endif
}

int kernels_check_precision(const char *precision, struct err *err)
{
	const char *missing;

	if (strcmp(precision, "fp32") == 0)
		return 0;
	if (strcmp(precision, "bf16") != 0)
		return err_set(err, ERR_USAGE, "--precision: '%s' is no precision; choose fp32 or bf16", precision);
	missing = missing_instructions();
	if (missing != NULL)
		return err_set(err, ERR_UNSUPPORTED, "--precision bf16: %s; use --precision fp32", missing);
	if (image_ops_bf16() == NULL || dense_ops_bf16() == NULL)
		return err_set(err, ERR_UNSUPPORTED,
			       "--precision bf16: this trainer was built without oneDNN (release 2 or 3); install libdnnl-dev and build again, or use "
			       "--precision fp32");
	return 0;
}

void kernels_set_precision(const char *precision)
{
	in_bf16 = strcmp(precision, "bf16") == 0;
}

const struct kernels *kernels_fast(void)
{
	static struct kernels table;

	if (in_bf16)
		table = (struct kernels){ "bf16", image_ops_bf16(), dense_ops_bf16(), vector_ops_fast(), contrast_ops_fast(), reg_ops_fast() };
	else
		table = (struct kernels){ "fast", image_ops_fast(), dense_ops_fast(), vector_ops_fast(), contrast_ops_fast(), reg_ops_fast() };
	return profile_is_on() ? profile_wrap(&table) : &table;
}

static int cores_allowed(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return omp_get_num_procs();
	return CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
}

/* OpenBLAS and oneDNN wait for ever for the threads of a team that OpenMP made smaller than they asked for. */
static int team_allowed(void)
{
	return omp_get_max_active_levels() < 1 ? 1 : omp_get_thread_limit();
}

int kernels_set_threads(int threads)
{
	int most = team_allowed();

	if (threads > most)
		log_warn("%d threads: OMP_THREAD_LIMIT or OMP_MAX_ACTIVE_LEVELS in the environment allow %d; computing with that", threads, most);
	if (threads <= 0)
		threads = cores_allowed();
	if (threads > most)
		threads = most;
	omp_set_dynamic(0); /* a team of another size would change the order of sums */
	omp_set_num_threads(threads);
	dense_set_threads(threads);
	return threads;
}
