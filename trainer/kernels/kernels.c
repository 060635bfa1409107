#include "trainer/kernels/kernels.h"

#include <omp.h>
#include <sched.h>

#include "trainer/kernels/profile.h"

const struct kernels *kernels_reference(void)
{
	static struct kernels table;

	table = (struct kernels){ "reference", image_ops_reference(), dense_ops_reference(), vector_ops_reference(),
				  contrast_ops_reference() };
	return &table;
}

const struct kernels *kernels_fast(void)
{
	static struct kernels table;

	table = (struct kernels){ "fast", image_ops_fast(), dense_ops_fast(), vector_ops_fast(), contrast_ops_fast() };
	return profile_is_on() ? profile_wrap(&table) : &table;
}

static int cores_allowed(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return omp_get_num_procs();
	return CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
}

int kernels_set_threads(int threads)
{
	if (threads <= 0)
		threads = cores_allowed();
	omp_set_dynamic(0); /* a team of another size would change the order of sums */
	omp_set_num_threads(threads);
	dense_set_threads(threads);
	return threads;
}
