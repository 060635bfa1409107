/*
 * tensorboard.h - scalars for TensorBoard: `tensorboard --logdir DIR`.
 *
 * An event file is a sequence of records, each: length (u64), masked CRC-32C
 * of the length (u32), payload, masked CRC-32C of the payload (u32), all
 * little-endian. A payload is a tensorflow.Event protocol buffer, of which the
 * few fields used are encoded here:
 *
 *     Event      1 wall_time (double)  2 step (int64)  3 file_version (string)
 *                5 summary (Summary)   7 session_log (SessionLog)
 *     Summary    1 value, repeated: 1 tag (string)  2 simple_value (float)
 *     SessionLog 1 status (START = 1)
 *
 * Each process writes a file of its own. When a run goes on from an earlier
 * step, tensorboard_cut() takes what came after it out of the files of the processes
 * before, so any reader finds each step once; a SessionLog record of START makes a
 * TensorBoard that is already showing the run forget it, too.
 *
 * Threads: one caller. Ownership: opaque; NULL is a board that writes nothing.
 * Format:  tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto.
 */
#ifndef TRAINER_IO_TENSORBOARD_H
#define TRAINER_IO_TENSORBOARD_H

#include <stddef.h>
#include <stdint.h>

#include "shared/base/err.h"

struct tensorboard;

struct tensorboard_scalar {
	const char *tag; /* "train/loss" */
	double value;
};

/* Takes out of all event files in DIR what belongs to steps from next_step on, or, of tags that begin
 * with "val/", to the last step before it unless keep_last_val; a record that was cut short goes
 * too, and so does a file without any scalar. Other files are left alone. */
MUST_USE int tensorboard_cut(const char *dir, uint64_t next_step, int keep_last_val, struct err *err);

/* Makes DIR/events.out.tfevents.TIME.trainer.PID; first_step is the first that will be written. */
MUST_USE int tensorboard_open(struct tensorboard **out, const char *dir, uint64_t first_step, struct err *err);
void tensorboard_close(struct tensorboard *board); /* NULL is fine */
/* One event with all the scalars, written at once. */
MUST_USE int tensorboard_add(struct tensorboard *board, uint64_t step, const struct tensorboard_scalar *scalars, int count,
			     struct err *err);

/* Makes all events so far durable. */
MUST_USE int tensorboard_sync(struct tensorboard *board, struct err *err);

/* CRC-32C (Castagnoli), and TensorFlow's masking of it. */
uint32_t tensorboard_crc(const void *data, size_t size);
uint32_t tensorboard_masked_crc(const void *data, size_t size);

#endif
