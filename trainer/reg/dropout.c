#include "trainer/reg/dropout.h"

double reg_dropout_probability(const struct reg_spec *spec, uint64_t epoch)
{
	return reg_active(spec->dropout.on, spec->dropout.from_epoch, epoch) ? spec->dropout.probability : 0.0;
}
