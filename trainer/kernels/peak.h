/*
 * peak.h - what this machine can do at best, measured: the figures that a profile's rates are shares of.
 *
 * The arithmetic peak is that of fused multiply-adds on registers alone, in the
 * widest vectors of the processor, on all threads at once. The memory's is that of
 * reading an array much larger than the caches.
 *
 * Threads: one caller; the OpenMP team works inside. Takes about seconds_each for each measurement.
 */
#ifndef TRAINER_KERNELS_PEAK_H
#define TRAINER_KERNELS_PEAK_H

/* Memory that measuring takes. */
enum { PEAK_READ_BYTES = 64 << 20 };

/* fp32 operations a second (2 a multiply-add), the best of rounds within that time. */
double peak_fma_flops(double seconds_each);
/* Bytes a second; 0 where there is no memory for it. */
double peak_read_bytes(double seconds_each);

#endif
