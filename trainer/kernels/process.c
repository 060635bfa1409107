#include "trainer/kernels/process.h"

#include <cblas.h>
#include <limits.h>
#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/check.h"

/* About 50 microseconds. */
static const char SPIN_COUNT[] = "3000";

bool kernels_blas_fits_processor(void)
{
#if defined(__x86_64__)
	static const char *const wide[] = { "SkylakeX", "Cooperlake", "SapphireRapids", "Sapphirerapids" };

	if (!__builtin_cpu_supports("avx512f"))
		return true;
	for (size_t i = 0; i < ARRAY_LEN(wide); i++)
		if (strcmp(openblas_get_corename(), wide[i]) == 0)
			return true;
	return false;
#else
	return true;
#endif
}

/* Returns whether the environment has changed. */
static bool set_missing(const char *name, const char *value)
{
	return getenv(name) == NULL && setenv(name, value, 0) == 0;
}

/* The cores of all of OpenMP's places for the first thread, which is bound to the first place by now. */
static void unbind(void)
{
	int places = omp_get_num_places(), cores[CPU_SETSIZE];
	cpu_set_t all;

	CPU_ZERO(&all);
	for (int place = 0; place < places; place++) {
		int count = omp_get_place_num_procs(place);

		if (count > CPU_SETSIZE)
			return;
		omp_get_place_proc_ids(place, cores);
		for (int i = 0; i < count; i++)
			if (cores[i] < CPU_SETSIZE)
				CPU_SET(cores[i], &all);
	}
	if (places > 0)
		(void)sched_setaffinity(0, sizeof(all), &all); /* where it fails, the program is slower, but right */
}

void kernels_settle_process(char **argv)
{
	char path[PATH_MAX];
	bool changed = false;
	ssize_t length;

	unbind();
	if (getenv("OMP_WAIT_POLICY") == NULL)
		changed |= set_missing("GOMP_SPINCOUNT", SPIN_COUNT);
	if (!kernels_blas_fits_processor())
		changed |= set_missing("OPENBLAS_CORETYPE", "SkylakeX");
	if (!changed)
		return;
	length = readlink("/proc/self/exe", path, sizeof(path) - 1);
	if (length < 0)
		return;
	path[length] = '\0';
	execv(path, argv); /* returns only where it failed: then the program is slower, but right */
}
