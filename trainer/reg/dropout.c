#include "trainer/reg/dropout.h"

double reg_dropout_probability(const struct reg_spec *spec, uint64_t epoch)
{
	return reg_active(spec->dropout[DROP_FUSION].on, spec->dropout[DROP_FUSION].when, epoch) ? spec->dropout[DROP_FUSION].probability : 0.0;
}
