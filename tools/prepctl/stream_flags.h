/* stream_flags.h - the options of verbs that read batches as a trainer would. */
#ifndef TOOLS_PREPCTL_STREAM_FLAGS_H
#define TOOLS_PREPCTL_STREAM_FLAGS_H

#include "shared/client/client.h"
#include "tools/prepctl/prepctl.h"

struct stream_flags {
	struct prepctl_common common;
	const char *split, *order, *vocab, *exif;
	int64_t batch_size, seed, epoch, max_len, size, world, rank;
	bool training, exif_apply;
};

#define STREAM_FLAGS_INIT \
	{ .split = "train", .order = "train", .exif = "ignore", .batch_size = 32, .max_len = 64, .size = 224, .world = 1 }

#define STREAM_FLAGS(o) \
	{ .name = "split", .kind = ARGS_TEXT, .value = &(o)->split, .metavar = "S", \
	  .help = "A split, several joined by '+', all, or a fold (all~fold=2/5, all~rest=2/5). Default train." }, \
	{ .name = "batch-size", .kind = ARGS_INT, .value = &(o)->batch_size, .metavar = "N", .min = 1, .max = 1 << 16, \
	  .help = "Samples in the batch, over all ranks. Default 32." }, \
	{ .name = "seed", .kind = ARGS_INT, .value = &(o)->seed, .metavar = "S", .min = 0, .max = INT64_MAX, \
	  .help = "Seed of the order and of the choice of captions. Default 0." }, \
	{ .name = "epoch", .kind = ARGS_INT, .value = &(o)->epoch, .metavar = "E", .min = 0, .max = UINT32_MAX, \
	  .help = "Which epoch, from 0. Default 0." }, \
	{ .name = "order", .kind = ARGS_TEXT, .value = &(o)->order, .metavar = "train|eval", \
	  .help = "train: pictures permuted, one caption each, as in training. eval: every caption in the data set's order. " \
		  "Default train, for every split." }, \
	{ .name = "max-len", .kind = ARGS_INT, .value = &(o)->max_len, .metavar = "N", .min = 2, .max = 1 << 16, \
	  .help = "Longest caption in tokens, with [CLS] and [SEP]. Default 64." }, \
	{ .name = "size", .kind = ARGS_INT, .value = &(o)->size, .metavar = "N", .min = 1, .max = 2048, \
	  .help = "Picture size in pixels. Default 224." }, \
	{ .name = "vocab", .kind = ARGS_TEXT, .value = &(o)->vocab, .metavar = "NAME", \
	  .help = "A registered vocabulary. Default: the data set's own." }, \
	{ .name = "exif", .kind = ARGS_TEXT, .value = &(o)->exif, .metavar = "ignore|apply", \
	  .help = "Turn pictures by their EXIF orientation. Default ignore." }, \
	{ .name = "world", .kind = ARGS_INT, .value = &(o)->world, .metavar = "W", .min = 1, .max = 1 << 16, \
	  .help = "Ranks that share each batch. Default 1." }, \
	{ .name = "rank", .kind = ARGS_INT, .value = &(o)->rank, .metavar = "R", .min = 0, .max = 1 << 16, \
	  .help = "Whose part of the batch. Default 0." }

MUST_USE int stream_flags_check(struct stream_flags *flags, struct err *err);
/* slots and wait_s as in struct stream_options. */
MUST_USE int stream_flags_open(const struct stream_flags *flags, const char *dataset, const char *verb, uint32_t slots,
			       double wait_s, struct stream **out, struct err *err);

#endif
