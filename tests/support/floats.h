/* floats.h - arrays of numbers for a test of kernels; mem_free() them. They fail the running cmocka test where memory is short. */
#ifndef TESTS_SUPPORT_FLOATS_H
#define TESTS_SUPPORT_FLOATS_H

#include <stddef.h>
#include <stdint.h>

/* n numbers, uniform in [-1, 1), different for every name. */
float *noise(size_t n, uint32_t name);
float *filled(size_t n, float value);

#endif
