/*
 * process.h - what OpenMP and OpenBLAS have to be told before a program starts.
 *
 * Both read their settings from the environment while they are loaded, before
 * main() runs, and neither can be told later. A program that computes calls
 * kernels_settle_process() first thing in main(): it sets what is missing and
 * starts itself again, once.
 *
 * GOMP_SPINCOUNT: an idle OpenMP thread spins for milliseconds by default. On
 * cores that are shared (the daemon decodes while the trainer computes, several
 * runs at once) it burns the time that the thread it waits for would need: a
 * step of ResNet-50 was measured to take 5 to 10 times as long. We spin for
 * some tens of microseconds, which covers the pauses between kernels, then sleep.
 *
 * OPENBLAS_CORETYPE: versions of OpenBLAS older than the processor fall back
 * to AVX2 kernels on one with AVX-512, at half the speed.
 *
 * Where the user has threads bound (OMP_PROC_BIND, OMP_PLACES), OpenMP has bound
 * the first one to a single core by then, and whoever asks how many there are,
 * or is started from it (the program itself again, a study's runs), would have
 * that core alone: it gets back those of all places.
 *
 * A variable that the user has set stays (OMP_WAIT_POLICY speaks for the spinning, too).
 */
#ifndef TRAINER_KERNELS_PROCESS_H
#define TRAINER_KERNELS_PROCESS_H

#include <stdbool.h>

/* argv as main() got it. Returns where nothing is to be set, or starting again is impossible. */
void kernels_settle_process(char **argv);

/* False where OpenBLAS runs narrower vectors than the processor has. */
bool kernels_blas_fits_processor(void);

#endif
