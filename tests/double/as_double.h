/*
 * as_double.h - put in front of the model's sources, it makes them compute in double.
 *
 * Gradients can then be held against differences to ten places, which float32
 * does not allow. Headers of the system come first: they must not be changed.
 */
#ifndef TESTS_DOUBLE_AS_DOUBLE_H
#define TESTS_DOUBLE_AS_DOUBLE_H

#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define float double
#define expf exp
#define expm1f expm1
#define log1pf log1p
#define logf log
#define sqrtf sqrt
#define erff erf
#define tanhf tanh
#define fabsf fabs
#define fmaxf fmax
#define fminf fmin
#define powf pow
#define cosf cos
#define sinf sin

#endif
