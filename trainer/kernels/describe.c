/* What besides the input decides the bits of a result, as one line. */
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "trainer/kernels/gemm.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/row_ops.h"
#include "trainer/kernels/winograd.h"

void kernels_describe(char out[KERNELS_TEXT_BYTES])
{
	/* These change which kernels the libraries choose, or how they cut products into blocks. */
	static const char *const variables[] = { "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA" };
	bool winograd = kernels_fast()->image == image_ops_gemm() && winograd_is_allowed();
	bool own = kernels_fast()->image == image_ops_gemm();
	size_t at = (size_t)snprintf(out, KERNELS_TEXT_BYTES, "images by %s%s%s%s, products by %s%s %s, rows %s, %d threads", kernels_fast()->image->name,
				     own ? "" : " ", own ? "" : image_library_version(), winograd ? " and Winograd 2x2" : "",
				     gemm_is_chosen() ? "own products, else " : "", openblas_get_config(), openblas_get_corename(), row_ops()->name,
				     omp_get_max_threads());

	for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]) && at < KERNELS_TEXT_BYTES; i++) {
		const char *value = getenv(variables[i]);

		if (value != NULL)
			at += (size_t)snprintf(out + at, KERNELS_TEXT_BYTES - at, ", %s=%s", variables[i], value);
	}
}
